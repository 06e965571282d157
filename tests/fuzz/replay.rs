//! Replays the kept inputs of the fuzz targets: findings, and the seeds that the fuzzer starts from.
//!
//! `tests/fuzz/README.md` says how to add one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use vswitch_tests::{
    fuzz::{TARGETS, Target},
    pattern::Pattern,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Prints the input if `target` panics.
struct Input(String);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", self.0);
        }
    }
}

/// Runs `target` on all inputs kept for it, and on some pseudo-random ones.
fn replay(name: &str, target: Target) {
    for kept in ["findings", "seeds"] {
        for path in files(&folder().join(kept).join(name)) {
            let data = fs::read(&path).expect("a readable file");
            let _input = Input(path.display().to_string());
            target(&data);
        }
    }
    for seed in 0..64_u64 {
        let len = usize::try_from(seed * 16).expect("short");
        let _input = Input(format!("Pattern({seed}).make(0, {len})"));
        target(&Pattern(seed).make(0, len));
    }
}

#[test]
fn every_target_holds_for_what_is_kept() {
    for (name, target) in TARGETS {
        replay(name, target);
    }
}

/// An input in a misnamed folder would never run; nor would a target without a binary.
#[test]
fn every_folder_and_every_program_has_a_target() {
    let names = |folder: &Path| -> Vec<String> {
        let entries =
            fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable"));
        let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
        names.sort();
        names.iter().map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
    };
    let targets = TARGETS.map(|(name, _)| name.to_owned());
    assert_eq!(names(&folder().join("targets")), targets);
    for kept in ["findings", "seeds"] {
        let folders = names(&folder().join(kept));
        assert!(!folders.is_empty() && folders.iter().all(|name| targets.contains(name)), "{folders:?}");
    }
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("the manifest is there");
    let programs = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/"));
    let mut programs: Vec<_> = programs.map(|rest| rest.trim_end_matches(".rs\"")).collect();
    programs.sort_unstable();
    assert_eq!(programs, targets);
}
