//! The web page in a real browser on a real switch: what users see and do.
//!
//! Screenshots are kept in `target/web/`.

use std::{fs, path::PathBuf};

use rustix::process::Signal;
use vswitch_tests::{
    Browser, Config, Netns, Vswitchd, net,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use crate::pair::Pair;

const PAGE: &str = "http://127.0.0.1:9478/";
/// Keys of `[api]`.
const WEB: &str = "web = \"127.0.0.1:9478\"";

/// Facts about the page, as JavaScript expressions.
const PORTS: &str = "document.querySelectorAll('#picture [role=option]').length";
const NO_OVERFLOW: &str = "document.documentElement.scrollWidth <= innerWidth";

/// A host with networks blue and red on a trunk that is down.
fn networks(blue: &str) -> Config {
    let config = net().switch("name = \"host1\"").api(WEB);
    let config = config.network("blue").keys(blue).network("red").keys("vlan = 20");
    config.trunk("uplink", "eth1", "trunk = [\"blue\", \"red\"]").within("blue")
}

fn start() -> Pair {
    Pair::start(&networks("vlan = 10"))
}

/// Opens the page and waits for the first three ports.
fn browse(host: &Netns) -> Browser {
    let mut browser = Browser::start(host);
    browser.resize(1280, 800, false);
    browser.visit(PAGE);
    browser.sees(&format!("{PORTS} === 3"));
    browser
}

/// Path of a screenshot.
fn artefact(name: &str) -> PathBuf {
    // target/<profile>/deps/<test>
    let folder = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("web");
    fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{name}.png"))
}

/// The text of an element, as a JavaScript expression.
fn text(id: &str) -> String {
    format!("document.getElementById('{id}').textContent")
}

#[test]
fn a_person_sees_ports_come_and_go_and_finds_an_address() {
    let Pair { switch, web, db } = &start();
    let mut browser = browse(&switch.host);
    web.reaches("10.9.0.2");
    browser.sees(&format!("{} === 'host1' && {} === '1 trouble'", text("host"), text("state")));
    browser.sees("document.querySelector('#warnings li.bad button').textContent === 'uplink'");
    browser.sees(&format!("{} === '2 of 3 up'", text("fact-ports")));
    browser.sees("document.querySelector('.bead.down')?.dataset.key === 'uplink'");

    // Rates: the values are not zero, and the plot has a line.
    let _flood = Flood::start(web, "10.9.0.2");
    browser.sees("document.querySelector('#bits .line.in')?.getAttribute('d')?.includes('L')");
    browser.sees("parseFloat(document.querySelector('#bits .reading b').textContent) > 0");

    // Ports are added, fail and are removed, and the page announces it.
    switch.ctl(&["port", "add", "job", "--network", "red"]);
    browser.sees(&format!("{PORTS} === 4 && {}.includes('job appeared')", text("news")));
    switch.host.ip("link add eth1 type veth peer name eth1p");
    switch.host.ip("link set eth1 up");
    browser.sees("document.querySelectorAll('.bead.down').length === 0");
    browser.sees(&format!("{}.includes('uplink is up')", text("news")));
    browser.sees(&format!("{} === 'forwarding'", text("state")));
    browser.picture(&artefact("desktop-light"));
    switch.ctl(&["port", "del", "job"]);
    browser.sees(&format!("{PORTS} === 3 && {}.includes('job is gone')", text("news")));

    // The MAC table, by keyboard only.
    browser.press("/");
    browser.type_in("db");
    browser.sees("[...document.querySelectorAll('#fdb tbody tr')].map((row) => row.children[3].textContent).join() === 'db'");
    for _ in 0..2 {
        browser.press("Escape");
    }
    browser.press("/");
    browser.look("document.activeElement.select()");
    browser.type_in("0A09.0000 blue");
    browser.press("Enter");
    browser.sees("[...document.querySelectorAll('#fdb tbody tr')].map((row) => row.children[0].textContent).join() === '02:42:0a:09:00:00'");
    browser.sees(&format!("{}.startsWith('1 of ')", text("fdb-count")));

    // The picture, by keyboard: select the second port, then all again.
    browser.press("Escape");
    browser.press("t");
    browser.press("ArrowRight");
    browser.press("Enter");
    browser.sees("location.hash === '#port=web'");
    browser.sees("document.querySelector('.bead[aria-selected=true]')?.dataset.key === 'web'");
    browser.sees(&format!("{} === 'web'", text("chosen-name")));
    browser.picture(&artefact("desktop-chosen"));
    browser.press("Escape");
    browser.sees("document.getElementById('chosen').hidden");

    // Drops come with an explanation.
    let broken = frame(BROADCAST, [1, 0, 0, 0, 0, 1], EXPERIMENT, b"from a group");
    web.raw("eth0").send(&broken);
    let reason = "[...document.querySelectorAll('#drops .drops > li')].find((it) => it.querySelector('code').textContent === 'MAC_INVALID_SOURCE')";
    browser.sees(&format!("{reason}?.querySelector('p').textContent.includes('group or zero address')"));
    browser.sees(&format!("{reason}.querySelector('.where').textContent === 'web in 1'"));

    // A phone in dark mode.
    browser.prefer("dark");
    browser.picture(&artefact("desktop-dark"));
    for width in [390, 360] {
        browser.resize(width, 844, true);
        browser.sees(NO_OVERFLOW);
        browser.picture(&artefact(&format!("phone-{width}-dark")));
        // Ports are added and removed here as well.
        switch.ctl(&["port", "add", "late", "--network", "blue"]);
        browser.sees(&format!("{PORTS} === 4 && {}.includes('late appeared')", text("news")));
        browser.sees(NO_OVERFLOW);
        browser.picture(&artefact(&format!("phone-{width}-appeared")));
        switch.ctl(&["port", "del", "late"]);
        browser.sees(&format!("{PORTS} === 3 && {}.includes('late is gone')", text("news")));
    }
    browser.prefer("light");
    browser.picture(&artefact("phone-360-light"));
    assert_eq!(browser.complaints(), [""; 0], "the console is empty");
    assert!(db.pings("10.9.0.1"));
}

/// The first steps of an empty switch, and then who has which address.
#[test]
fn an_empty_switch_says_what_to_do_and_containers_are_found_by_address() {
    let web = Netns::new("web");
    let config = net().switch("name = \"host1\"").api(WEB).keys("[dns]\nenabled = true");
    let switch = Vswitchd::start(&config);
    let mut browser = Browser::start(&switch.host);
    browser.resize(1440, 900, false);
    browser.visit(PAGE);
    browser.sees("document.getElementById('first-steps')?.hidden === false");
    browser.sees(&format!("{} === 'forwarding' && {} === '0'", text("state"), text("fact-networks")));
    browser.sees("document.querySelectorAll('#picture .head').length === 0");
    browser.picture(&artefact("empty"));

    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "-o", "icc=false", "blue"]);
    let netns = format!("netns:{}", web.name());
    let connect = ["network", "connect", "--ip", "10.9.0.106", "-p", "8080:80", "--rx-limit", "10Mbit/s"];
    switch.ctl(&[&connect[..], &["blue", &netns]].concat());
    browser.sees("document.getElementById('first-steps').hidden");
    browser.sees("document.querySelector('#picture .head').textContent.includes('10.9.0.0/24 by 10.9.0.1')");
    browser.press("/");
    browser.type_in("10.9.0.106");
    browser.sees("[...document.querySelectorAll('#fdb tbody tr')].map((row) => row.children[1].textContent).join() === '10.9.0.106'");
    browser.press("Escape");
    browser.press("n");
    browser.type_in("10.9.0.106");
    browser.sees("[...document.querySelectorAll('#names tbody tr')].map((row) => row.children[1].textContent).join() === 'blue'");
    browser.press("Escape");
    browser.press("p");
    browser.type_in("8080:80/tcp");
    browser.sees("[...document.querySelectorAll('#ports tbody tr')].map((row) => row.children[2].textContent).join() === '10.9.0.106'");
    browser.press("Escape");
    browser.visit(&format!("{PAGE}#port={}.blue", web.name()));
    let facts = text("facts");
    for part in ["10.9.0.106 (endpoint ", "8080:80/tcp", "rx 10 Mbit/s", "Guardon", "icc=false"] {
        browser.sees(&format!("{facts}.includes('{part}')"));
    }
    browser.sees(&format!("/^\\d+ %/.test({})", text("fact-workers")));
    for width in [1440, 2560] {
        browser.resize(width, 900, false);
        browser.sees(NO_OVERFLOW);
        browser.picture(&artefact(&format!("addresses-{width}")));
    }
    browser.resize(390, 844, true);
    browser.sees(NO_OVERFLOW);
    browser.picture(&artefact("addresses-390"));
    assert_eq!(browser.complaints(), [""; 0], "the console is empty");
}

#[test]
fn two_hundred_ports_stay_apart_and_readable() {
    let pair = start();
    let mut browser = browse(&pair.switch.host);
    let mut config =
        networks("vlan = 10\nvni = 4096").vxlan("10.8.0.1").peer("10.8.0.2").keys("name = \"host2\"");
    for number in 0..200 {
        let network = if number % 3 == 0 { "red" } else { "blue" };
        config = config.keys(&format!(
            "[[port]]\nname = \"container-{number}\"\nnetwork = \"{network}\"\nkind = \"tap\"\nifname = \"t{number}\""
        ));
    }
    pair.switch.host.ip("addr add 10.8.0.1/32 dev lo");
    pair.configure(&config);
    pair.switch.ctl(&["reload"]);
    browser.sees(&format!("{PORTS} === 205"));
    // The endpoint and its peer are on a wire of their own.
    browser.sees("document.querySelectorAll('.wire.tunnel').length === 1");
    browser.sees(
        "document.querySelector('[data-key=host2]').getAttribute('aria-label') === 'host2, peer, up, blue'",
    );
    // Shapes do not overlap, names do not overflow, and no two names look the same.
    let apart = "(() => {
        const beads = [...document.querySelectorAll('.bead')];
        const bodies = beads.map((bead) => bead.querySelector('.body').getBoundingClientRect());
        const width = document.querySelector('#picture svg').getBoundingClientRect().right;
        const overlap = bodies.some((a, i) => a.right > width + 1 || bodies.some((b, j) => i < j &&
            a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
        const spilt = beads.some((bead, i) => bead.querySelector('.label').getBoundingClientRect().right > bodies[i].right);
        const names = new Set(beads.map((bead) => bead.querySelector('.label').textContent));
        return !overlap && !spilt && names.size === beads.length;
    })()";
    for (name, width, height, phone) in
        [("desktop", 1280, 800, false), ("phone", 390, 844, true), ("narrow", 360, 640, true)]
    {
        browser.resize(width, height, phone);
        browser.sees(NO_OVERFLOW);
        browser.sees(apart);
        browser.picture(&artefact(&format!("{name}-200-ports")));
    }
    assert_eq!(browser.complaints(), [""; 0], "the console is empty");
}

/// Contrast of 4.5:1 for text and 3:1 for graphics (WCAG 2.2, 1.4.3 and 1.4.11), each colour on both backgrounds; and a
/// visible focus.
#[test]
fn everybody_can_read_it_and_get_everywhere() {
    let pair = start();
    let mut browser = browse(&pair.switch.host);
    let faint = "(() => {
        const probe = document.body.appendChild(document.createElement('i'));
        const luminance = (name) => {
            probe.style.color = `var(--${name})`;
            const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map((it) => it / 255)
                .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const drawn = ['edge', ...[0, 1, 2, 3, 4, 5, 6, 7].map((number) => `net${number}`)];
        const written = ['ink', 'quiet', 'accent', 'in', 'out', 'good', 'bad'];
        const faint = [...drawn.map((name) => [name, 3]), ...written.map((name) => [name, 4.5])].filter(([name, least]) =>
            ['surface', 'ground'].some((ground) => contrast(luminance(name), luminance(ground)) < least));
        probe.remove();
        return faint.map(([name]) => name).join();
    })()";
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_eq!(browser.look(faint), "", "too faint in {scheme}");
    }
    // Tab visits everything once, from top to bottom, with a visible focus.
    let mut way = Vec::new();
    for _ in 0..60 {
        browser.press("Tab");
        let here = browser.look(
            "(() => {
                const it = document.activeElement;
                if (it === document.body) return '';
                const ring = it.closest('.bead') ? getComputedStyle(it.querySelector('.body')).strokeWidth === '3px' : getComputedStyle(it).outlineStyle !== 'none';
                return `${it.id || it.getAttribute('role') || it.className || it.textContent}${it.matches(':focus-visible') && ring ? '' : ' unseen'}`;
            })()",
        );
        let here = here.as_str().unwrap().to_owned();
        if here.is_empty() || way.first() == Some(&here) {
            break;
        }
        way.push(here);
    }
    assert!(way.iter().all(|it| !it.ends_with("unseen")), "{way:?}");
    let stops = ["skip", "freeze", "show-help", "option", "port-filter", "fdb-search"];
    let places: Vec<_> = stops.iter().map(|stop| way.iter().position(|it| it == stop)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{stops:?} in {way:?}");
    assert_eq!(way.iter().filter(|it| *it == "option").count(), 1, "all ports are one stop: {way:?}");
    // Elements without text have a name.
    let nameless = "[...document.querySelectorAll('button, input, a, [role=option], [role=img], [role=region]')]
        .filter((it) => !it.textContent.trim() && !it.getAttribute('aria-label') && !it.getAttribute('aria-labelledby')).length";
    assert_eq!(browser.look(nameless), 0);
    // The list of keys opens and closes by keyboard.
    browser.press("?");
    browser.sees("document.getElementById('help').open");
    browser.picture(&artefact("keys"));
    browser.press("Escape");
    browser.sees("!document.getElementById('help').open");
    assert_eq!(browser.complaints(), [""; 0], "the console is empty");
}

#[test]
fn a_daemon_that_is_gone_is_told_and_found_again() {
    let mut pair = start();
    let mut browser = browse(&pair.switch.host);
    assert_eq!(browser.complaints(), [""; 0], "the console is empty");
    pair.switch.stop();
    browser.sees(&format!("!document.getElementById('banner').hidden && {} === 'no answer'", text("state")));
    browser.sees(&format!("{}.includes('does not answer')", text("banner")));
    browser.picture(&artefact("desktop-no-answer"));
    pair.switch.run();
    browser.sees(&format!("document.getElementById('banner').hidden && {} === '1 trouble'", text("state")));
    browser.sees(&format!("{PORTS} === 3"));
    // The listen address cannot change without a restart, and neither can the socket.
    pair.switch.configure(&net().switch("name = \"host1\""));
    pair.switch.signal(Signal::HUP);
    pair.switch.logs(&["reload refused", "web"]);
}

/// Flood pings (ping -f) until drop.
struct Flood(std::process::Child);

impl Flood {
    fn start(from: &Netns, to: &str) -> Self {
        let mut ping = std::process::Command::new("ping");
        ping.args(["-f", "-q", "-s", "1200", to]).stdout(std::process::Stdio::null());
        Self(from.run(|| ping.spawn().unwrap()))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
