//! The report as a file with every sample, for other statistics.

use std::{fs, path::Path};

use crate::{
    error::{Doing, Result},
    report::Report,
};

/// Writes the report, creating the folder if missing.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn save(report: &Report, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).doing("describe the report")?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).doing("make the folder of the report")?;
    }
    fs::write(path, text + "\n").doing(&format!("write {}", path.display()))
}

/// Reads a report that [`save`] wrote.
///
/// # Errors
/// Fails if the file is missing or not a report.
pub fn load(path: &Path) -> Result<Report> {
    let what = format!("read {}", path.display());
    let text = fs::read_to_string(path).doing(&what)?;
    serde_json::from_str(&text).doing(&what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::drifting;

    #[test]
    fn a_report_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results/wire.json");
        save(&drifting(), &path).unwrap();
        assert_eq!(load(&path).unwrap(), drifting());
        assert!(load(folder.path()).unwrap_err().to_string().contains("read"));
    }
}
