//! Any text as `net.toml`: it is accepted, or refused with errors at lines that exist, and both deterministically.

use crate::control::config;

/// Parses the longest valid UTF-8 prefix of `data`.
pub fn config(data: &[u8]) {
    let text = data.utf8_chunks().next().map_or("", |chunk| chunk.valid());
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
}
