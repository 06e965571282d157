//! Reads `net.toml` and says everything that is wrong with it at once.
//!
//! Three steps: the text becomes a tree that knows its places (`toml`), the tree becomes a
//! [`Config`] while every error is collected (`declare`, over `reader`), and the whole is held
//! against the [rules], which the API's objects must obey as well. Text that is no TOML is reported
//! before anything else: what it means would be a guess.

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
/// Everything that is wrong with it, or that it cannot be read.
pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigErrors> {
    let path = path.as_ref();
    let source = fs::read_to_string(path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file: create it, or name another".into(),
            io::ErrorKind::PermissionDenied => "must not be read: allow this user to read it".into(),
            io::ErrorKind::InvalidData => "is no UTF-8 text: save it as UTF-8".into(),
            _ => format!("cannot be read: {error}"),
        };
        ConfigErrors(vec![ConfigError { file: path.into(), line: None, path: String::new(), what }])
    })?;
    parse(path, &source)
}

/// Checks a text; `file` is how errors call it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: impl AsRef<Path>, source: &str) -> Result<Config, ConfigErrors> {
    let file = file.as_ref();
    let mut report = Report::new(source);
    let (tree, errors) = DeTable::parse_recoverable(source);
    if !errors.is_empty() {
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start.min(source.len()));
            report.fault_at(String::new(), offset, format!("is no TOML: {}", error.message()));
        }
        return report.finish(file, Config::default());
    }
    let config = declare::config(Table::root(&mut report, tree.get_ref()));
    obey(&config, &mut report);
    reach_collectors(&config, &mut report);
    report.finish(file, config)
}

/// Holds `config` against the rules. A value that could not be read accuses nobody else.
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

/// Refuses collectors where there is no tunnel to them. What the API made may wait for one, but a file tells of all there is.
fn reach_collectors(config: &Config, report: &mut Report<'_>) {
    if config.ports.iter().any(|port| port.device.endpoint().is_some()) {
        return;
    }
    for (index, port) in config.ports.iter().enumerate() {
        if port.device.collector().is_some() {
            let what = "a collector is sent to by the tunnel, and there is none: write [vxlan]";
            report.fault(format!("port[{index}].kind"), what);
        }
    }
}

/// Where a key stands in the file. Tunnel ports stand behind all others, peers first.
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
