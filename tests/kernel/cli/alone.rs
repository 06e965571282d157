//! vswitchctl without a daemon.

use std::fs;

use vswitch_tests::{Netns, Vswitchd, net};

#[test]
fn without_a_daemon_the_sentence_says_so() {
    let mut switch = Vswitchd::start(&net());
    switch.kill();
    for arguments in [&["status"][..], &["port", "ls"], &["attach", "--pid", "1", "blue"], &["reload"]] {
        let (code, sentence) = switch.refusal(arguments);
        assert_eq!(code, 3, "{arguments:?}: {sentence}");
        assert!(sentence.contains("it ended unexpectedly, see its log"), "{sentence}");
    }
    switch.run();
    assert_eq!(switch.ctl(&["status"])["ports"], 0, "a socket left behind is in nobody's way");
    assert!(switch.stop().success());
    let (code, sentence) = switch.refusal(&["status"]);
    assert_eq!(code, 3);
    assert!(
        sentence.contains("vswitchd is not running at") && sentence.contains("start it with"),
        "{sentence}"
    );
    for arguments in [&["frobnicate"][..], &[], &["port"], &["status", "--colour"]] {
        assert_eq!(switch.refusal(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn help_completions_and_manual_need_no_daemon() {
    let switch = Vswitchd::prepare(Netns::new("host"), &net());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = switch.try_ctl(&["completions", shell]);
        assert!(output.code == 0 && output.stdout.contains("vswitchctl"), "{shell}: {}", output.stderr);
    }
    let page = switch.try_ctl(&["man"]);
    assert!(page.code == 0 && page.stdout.contains(".TH vswitchctl"), "{}", page.stdout);
    let folder = switch.folder().join("man");
    assert_eq!(switch.try_ctl(&["man", folder.to_str().unwrap()]).code, 0);
    for page in ["vswitchctl.1", "vswitchctl-attach.1", "vswitchctl-port.1", "vswitchctl-port-add.1"] {
        assert!(fs::read_to_string(folder.join(page)).unwrap().contains(".SH"), "{page}");
    }
    assert!(switch.try_ctl(&["attach", "--help"]).stdout.contains("Example"));
    assert_eq!(
        switch.try_ctl(&["--version"]).stdout.trim(),
        format!("vswitchctl {}", env!("CARGO_PKG_VERSION"))
    );
}
