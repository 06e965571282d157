//! Any text as `net.toml`: it is taken or refused with places that exist, and is judged the same twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitch_daemon::config;

fuzz_target!(|text: &str| {
    let first = config::parse("net.toml", text);
    assert_eq!(first.is_ok(), config::parse("net.toml", text).is_ok());
    if let Err(errors) = first {
        assert!(!errors.0.is_empty(), "a refusal says why");
        let lines = text.split('\n').count();
        for error in &errors.0 {
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            assert!(!error.what.is_empty());
        }
    }
});
