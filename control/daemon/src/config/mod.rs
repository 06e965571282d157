//! Reads `net.toml` and reports all its errors at once.
//!
//! In three steps: the text is parsed into a tree with positions (`toml`); the tree becomes a [`Config`], with every error
//! collected (`declare`, over `reader`); and the whole is checked against the [rules], which objects of the API must obey as
//! well. Text that is not TOML is reported alone, because its meaning would be a guess.

mod declare;
mod reader;
mod report;

use std::{fs, io, path::Path};

use toml::de::DeTable;

pub use self::report::{ConfigError, ConfigErrors};
use self::{reader::Table, report::Report};
use vswitch_model::{
    Carries, Config, PortSpec,
    rules::{self, Index, Location},
};

/// Reads and checks a file.
///
/// # Errors
/// All errors of the file, or why it cannot be read.
pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigErrors> {
    let path = path.as_ref();
    let source = fs::read_to_string(path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file: create it, or name another".into(),
            io::ErrorKind::PermissionDenied => "cannot be read: allow this user to read it".into(),
            io::ErrorKind::InvalidData => "is not UTF-8: save it as UTF-8".into(),
            _ => format!("cannot be read: {error}"),
        };
        ConfigErrors(vec![ConfigError { file: path.into(), line: None, path: String::new(), what }])
    })?;
    parse(path, &source)
}

/// Checks a text; `file` is its name in errors.
///
/// # Errors
/// All errors of the text.
pub fn parse(file: impl AsRef<Path>, source: &str) -> Result<Config, ConfigErrors> {
    let file = file.as_ref();
    let mut report = Report::new(source);
    let (tree, errors) = DeTable::parse_recoverable(source);
    if !errors.is_empty() {
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start.min(source.len()));
            report.fault_at(String::new(), offset, format!("is not valid TOML: {}", error.message()));
        }
        return report.finish(file, Config::default());
    }
    let config = declare::config(Table::root(&mut report, tree.get_ref()));
    obey(&config, &mut report);
    reach_collectors(&config, &mut report);
    report.finish(file, config)
}

/// Checks `config` against the rules. Faults that follow from a value that could not be read are not reported.
fn obey(config: &Config, report: &mut Report<'_>) {
    let networks: Vec<_> = config.networks.iter().collect();
    let ports: Vec<_> = config.ports.iter().collect();
    for fault in rules::check(&networks, &ports) {
        let follows = fault.with.is_some_and(|with| report.is_faulty(&path(&ports, with)));
        let at = path(&ports, fault.at);
        if !follows && !report.is_faulty(&at) {
            report.fault(at, fault.what);
        }
    }
}

/// Reports collectors of a file without a tunnel. An object of the API may wait for one, but the file declares everything.
fn reach_collectors(config: &Config, report: &mut Report<'_>) {
    if config.ports.iter().any(|port| port.device.endpoint().is_some()) {
        return;
    }
    for (index, port) in config.ports.iter().enumerate() {
        if port.device.collector().is_some() {
            let what = "a collector is reached through the tunnel, and there is no [vxlan]: add it";
            report.fault(format!("port[{index}].kind"), what);
        }
    }
}

/// The path of a key in the file. Tunnel ports follow all others, peers first.
fn path(ports: &[&PortSpec], location: Location) -> String {
    let Index::Port(index) = location.object else { return location.to_string() };
    let device = &ports[index].device;
    if device.endpoint().is_some() {
        return format!("vxlan.{}", location.field());
    }
    if device.peer().is_none() {
        return location.to_string();
    }
    let others = ports.iter().take_while(|port| !matches!(port.carries, Carries::Tunnel { .. })).count();
    format!("vxlan.peer[{}].{}", index - others, location.field())
}

#[cfg(test)]
mod tests;
