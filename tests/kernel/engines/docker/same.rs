//! The same commands, once with Docker's own driver and once with ours: their answers differ by the driver's name alone.
//!
//! The list follows what moby's `integration/network` and docker-py's `api_network_test` and `models_networks_test` ask for. What we
//! print otherwise on purpose is not in it: `docker port`, which shows its own drivers' alone, sentences of our own for refusals that
//! Docker leaves to the driver, and the default route that Docker 20.10 has in internal networks, where it leads nowhere.

use vswitch_tests::{Engine, Netns, Output, Vswitchd, net};

const COMMANDS: &str = include_str!("same.txt");

#[test]
fn commands_are_answered_as_with_dockers_bridge() {
    let switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let far = Netns::new("far");
    switch.host.ip(&format!("link add wan type veth peer name wan netns {}", far.name()));
    for (netns, own) in [(&switch.host, 1), (&far, 2)] {
        netns.ip(&format!("addr add 192.0.2.{own}/24 dev wan"));
        netns.ip("link set wan up");
    }
    switch.host.ip("route add default via 192.0.2.2");
    let engine = Engine::start(&switch);
    let commands: Vec<_> =
        COMMANDS.lines().filter(|line| !(line.is_empty() || line.starts_with('#'))).collect();
    let answers = |driver: &str| -> Vec<_> {
        let answer = |line: &&str| {
            let line = line.replace("DRIVER", driver);
            plain(&engine.try_docker(&words(&line)), driver)
        };
        commands.iter().map(answer).collect()
    };
    let (theirs, ours) = (answers("bridge"), answers("vswitch"));
    let is_done =
        |line: &str| commands.iter().zip(&ours).any(|(it, (code, _))| it.starts_with(line) && *code == 0);
    assert!(is_done("exec ann ping") && is_done("exec ann wget"), "{ours:?}");
    let differs = |((line, theirs), ours)| {
        (theirs != ours).then(|| format!("docker {line}\n  bridge: {theirs:?}\n  vswitch: {ours:?}"))
    };
    let different: Vec<_> = commands.iter().zip(&theirs).zip(&ours).filter_map(differs).collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    super::nothing_is_left(&switch);
}

/// The words of a command; a `--format` takes the rest.
fn words(line: &str) -> Vec<&str> {
    let (plain, format) = line.split_once(" --format ").map_or((line, None), |(plain, it)| (plain, Some(it)));
    let format = format.into_iter().flat_map(|it| ["--format", it]);
    plain.split_whitespace().chain(format).collect()
}

/// An exit code and the lines printed, without what is different each time: ids, times, numbers of interfaces, and the order of
/// networks, which is random.
fn plain(output: &Output, driver: &str) -> (i32, Vec<String>) {
    // Docker says which of a plugin's calls was refused.
    let printed = format!("{}{}", output.stdout, output.stderr)
        .replace("NetworkDriver.ProgramExternalConnectivity: ", "");
    // The client reports a container that ends while it is being started.
    let noise = ["round-trip ", "time=\""];
    let lines = printed.lines().filter(|line| !noise.iter().any(|it| line.starts_with(it)));
    let mut lines: Vec<_> =
        lines.map(|line| line.split(' ').map(|word| plain_word(word, driver)).collect()).collect();
    lines.sort();
    (output.code, lines)
}

fn plain_word(word: &str, driver: &str) -> String {
    let is_number =
        |text: &str| text.strip_suffix(':').is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    if is_number(word) || word.starts_with("time=") {
        return String::new();
    }
    let is_id =
        |part: &str| [12, 64].contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let between = |character: char| !character.is_ascii_alphanumeric();
    let parts = word.replace(&format!(":{driver}:"), ":DRIVER:");
    let parts = parts.split_inclusive(between).map(|part| {
        let id = part.trim_end_matches(between);
        if is_id(id) { part.replace(id, "ID") } else { part.to_owned() }
    });
    parts.chain([" ".to_owned()]).collect()
}
