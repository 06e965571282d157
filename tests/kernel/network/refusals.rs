//! Refused commands, in Docker's words.

use vswitch_tests::{Netns, Vswitchd, net};

use super::{connect, network, refused};

#[test]
fn what_is_used_or_not_ours_is_not_removed() {
    let switch = Vswitchd::start(&net().network("declared").subnet("10.7.0.0/24"));
    let web = Netns::new("web");
    for text in ["blue", "red", "green"] {
        network(&switch, &format!("create --label color={text} {text}"));
    }
    connect(&switch, "blue", &web, &[]);
    switch.ctl(&["port", "add", "lone", "--network", "red"]);
    for (arguments, code, sentence) in [
        ("rm host", 5, "host is a pre-defined network and cannot be removed"),
        ("rm bridge", 5, "bridge is a pre-defined network and cannot be removed"),
        ("rm none", 5, "none is a pre-defined network and cannot be removed"),
        ("rm nope", 4, "network nope not found"),
        ("inspect nope", 4, "network nope not found"),
        ("rm red", 1, "network red is in use by port lone: remove them first"),
        (
            "rm declared",
            1,
            "network declared is declared in the configuration file: remove it there and reload",
        ),
        ("create none", 5, "operation is not permitted on predefined none network"),
        ("create blue", 1, "network with name blue already exists"),
        ("create --driver host x", 5, "only one instance of \"host\" network is allowed"),
        (
            "create --driver uplink --scope global x",
            1,
            "networks of driver uplink are local, not global: omit --scope",
        ),
        ("create --ip-range 10.3.0.0/25 x", 1, "every ip-range or gateway must have a corresponding subnet"),
        ("create --subnet 10.3.0.0/24 --gateway 10.4.0.1 x", 1, "no matching subnet for gateway 10.4.0.1"),
        ("update --opt vni=7 blue", 1, "network blue: vni cannot change while the network lives"),
        ("disconnect blue nobody", 4, "container nobody is not connected to network blue"),
        (
            "disconnect host nobody",
            5,
            "container cannot be disconnected from host network or connected to host network",
        ),
        ("ls --filter colour=red", 1, "invalid filter 'colour'"),
    ] {
        let (got, said) = refused(&switch, arguments);
        assert!(got == code && said.starts_with(sentence), "{arguments}: {got} {said}");
    }
    let (code, said) = refused(&switch, "rm blue");
    assert_eq!(code, 5);
    assert_eq!(
        said,
        format!("error while removing network: network blue has active endpoints ({})", web.name())
    );
    let place = format!("netns:{}", web.name());
    for (network, part) in [
        ("host", "container cannot be disconnected from host network or connected to host network"),
        (
            "none",
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
    ] {
        assert_eq!(refused(&switch, &format!("connect {network} {place}")), (5, part.to_owned()));
    }
    assert_eq!(refused(&switch, "connect blue netns:vt-kernel-none").0, 4);
    assert_eq!(refused(&switch, "connect blue web").0, 2, "a bare name is no sandbox");

    assert_eq!(network(&switch, "ls --filter dangling=true --format {{.Name}}"), "declared\ngreen\nred\n");
    assert_eq!(
        network(&switch, "ls --filter label=color=blue --format {{.Name}}:{{.Driver}}"),
        "blue:bridge\n"
    );
    assert_eq!(network(&switch, "ls --filter type=builtin -q --no-trunc").lines().count(), 2);
    assert_eq!(network(&switch, "prune --force --filter label!=color=green"), "");
    assert_eq!(network(&switch, "prune --force"), "Deleted Networks:\ngreen\n\n");
    assert_eq!(network(&switch, "ls --filter type=custom --format {{.Name}}"), "blue\ndeclared\nred\n");
    let id = network(&switch, "ls --filter name=blue -q");
    assert_eq!(network(&switch, &format!("inspect --format {{{{.Name}}}} {}", id.trim())), "blue\n");
}
