//! What CONTRIBUTING.md says of the sources is true.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Paths of all Rust sources below `folder`, from the root of the repository, without what is built or hidden.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).expect("a readable folder") {
        let entry = entry.expect("a readable folder");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = folder.join(&name);
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if entry.file_type().expect("a readable folder").is_dir() {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path.to_str().expect("a name in UTF-8").to_owned());
        }
    }
    found
}

/// Whether `source` has an unsafe block, function, implementation, trait, extern block or attribute; comments do not count.
fn has_unsafe(source: &str) -> bool {
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.match_indices("unsafe").any(|(at, word)| {
            let (before, after) = (&code[..at], code[at + word.len()..].trim_start());
            let begins = !before.ends_with(|it: char| it.is_alphanumeric() || it == '_');
            let follows = ["{", "fn ", "impl ", "impl<", "trait ", "extern ", "("];
            begins && follows.iter().any(|next| after.starts_with(next))
        })
    })
}

/// The names in backquotes of the list that begins with `marker` and ends with its bullet: files by the end of their path, and
/// folders, which end in a slash.
fn listed(text: &str, marker: &str) -> Vec<String> {
    let (_, list) = text.split_once(marker).expect("the list is there");
    let list = list.split("\n- ").next().unwrap_or_default();
    let quoted = list.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.ends_with(".rs") || name.ends_with('/')).map(str::to_owned).collect()
}

fn names(entry: &str, path: &str) -> bool {
    if entry.ends_with('/') { path.starts_with(entry) } else { Path::new(path).ends_with(entry) }
}

#[test]
fn only_the_listed_files_have_unsafe_code() {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).expect("the file is there");
    let listed = listed(&text, "Only these files have any:");
    let mut found = sources(Path::new(""));
    found.retain(|path| has_unsafe(&fs::read_to_string(root().join(path)).expect("a readable source")));
    found.sort();
    let missing: Vec<_> =
        found.iter().filter(|path| !listed.iter().any(|entry| names(entry, path))).collect();
    assert!(missing.is_empty(), "CONTRIBUTING.md does not list {missing:?}");
    let idle: Vec<_> = listed.iter().filter(|entry| !found.iter().any(|path| names(entry, path))).collect();
    assert!(idle.is_empty(), "CONTRIBUTING.md lists {idle:?}, but of {found:?} none is meant");
}

#[test]
fn unsafe_code_is_told_from_talk_of_it() {
    // The word is put in here, so that this file has none itself.
    let has = |line: &str| has_unsafe(&line.replace("WORD", "unsafe"));
    for code in
        ["let x = WORD { f() };", "pub WORD fn f() {", "WORD impl Send for X {}", "#[WORD(no_mangle)]"]
    {
        assert!(has(code), "{code}");
    }
    for talk in
        ["// WORD { f() }", "#![deny(WORD_code)]", "#[expect(WORD_code, reason = \"x\")]", "fn is_WORD() {"]
    {
        assert!(!has(talk), "{talk}");
    }
}
