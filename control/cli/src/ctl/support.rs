//! `vswitchctl support`: what a bug report needs, in one archive.
//!
//! What cannot be had is a line in the archive, not a failure: a daemon that does not answer is what many reports are about.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use tokio::{process::Command, time::timeout};

use super::done;
use crate::client::{Client, ClientError};
use vswitch_model::Error;

/// What the API is asked: the file's name in the archive, and the path.
const ANSWERS: [(&str, &str); 11] = [
    ("status.json", "/v1/status"),
    ("networks.json", "/v1/networks"),
    ("endpoints.json", "/v1/endpoints"),
    ("ports.json", "/v1/ports"),
    ("tunnel.json", "/v1/tunnel"),
    ("fdb.json", "/v1/fdb"),
    ("stats.json", "/v1/stats"),
    ("drops.json", "/v1/drops"),
    ("captures.json", "/v1/captures"),
    ("events.jsonl", "/v1/events"),
    ("log.json", "/v1/log"),
];

/// What this host is asked: the file's name, and the command.
const COMMANDS: [(&str, &[&str]); 12] = [
    ("host/uname.txt", &["uname", "-a"]),
    ("host/systemd.txt", &["systemctl", "status", "--no-pager", "--full", "vswitchd"]),
    ("host/journal.txt", &["journalctl", "--no-pager", "--unit", "vswitchd", "--lines", "2000"]),
    ("host/unit.txt", &["systemctl", "cat", "--no-pager", "vswitchd"]),
    ("host/links.txt", &["ip", "-details", "-statistics", "link"]),
    ("host/addresses.txt", &["ip", "address"]),
    ("host/routes.txt", &["ip", "route", "show", "table", "all"]),
    ("host/routes6.txt", &["ip", "-6", "route", "show", "table", "all"]),
    ("host/namespaces.txt", &["ip", "netns", "list-id"]),
    ("host/table.txt", &["nft", "list", "table", "inet", "vswitch"]),
    ("host/chains.txt", &["nft", "list", "chains"]),
    ("host/sysctl.txt", &["sysctl", "net.core", "net.ipv4.ip_forward", "net.ipv4.conf", "net.ipv6.conf.all"]),
];

/// What is read of this host.
const FILES: [&str; 6] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/modules",
    "/proc/meminfo",
    "/proc/net/softnet_stat",
    "/proc/self/mountinfo",
];

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keys of a configuration whose values must not leave the host. net.toml has none today.
const SECRETS: [&str; 5] = ["secret", "password", "passphrase", "token", "private"];

pub(super) async fn support(
    client: &Client,
    output: Option<&Path>,
    json: bool,
) -> Result<String, ClientError> {
    let now = SystemTime::now();
    let stamp = humantime::format_rfc3339_seconds(now).to_string().replace([':', '-'], "");
    let folder = format!("vswitch-support-{stamp}");
    let mut archive = Tar { folder: folder.clone(), time: now, bytes: Vec::new() };
    let version = format!("vswitchctl {}\n", env!("CARGO_PKG_VERSION"));
    archive.add("version.txt", version.as_bytes());
    for (name, path) in ANSWERS {
        match client.raw(path).await {
            Ok(answer) => archive.add(name, &answer),
            Err(error) => archive.add(name, format!("{error}\n").as_bytes()),
        }
    }
    let config = match client.status().await {
        Ok(status) => status.config,
        Err(_) => Some("/etc/vswitch/net.toml".into()),
    };
    if let Some(config) = config {
        let text =
            std::fs::read_to_string(&config).map_or_else(|error| error.to_string(), |text| redact(&text));
        archive.add("net.toml", format!("# {}\n{text}", config.display()).as_bytes());
    }
    for (name, command) in COMMANDS {
        archive.add(name, &run(command).await);
    }
    for path in FILES {
        let text = std::fs::read(path).unwrap_or_else(|error| error.to_string().into_bytes());
        archive.add(&format!("host{path}"), &text);
    }
    let bytes = archive.finish();
    if output == Some(Path::new("-")) {
        io::stdout().lock().write_all(&bytes).map_err(Error::from)?;
        return Ok(String::new());
    }
    let path = output.map_or_else(|| PathBuf::from(format!("{folder}.tar")), Path::to_path_buf);
    write(&path, &bytes)
        .map_err(|error| Error::new(error.kind().into(), format!("{}: {error}", path.display())))?;
    Ok(done(
        json,
        format_args!(
            "{} written, for you alone to read: it has names and addresses, read it before you publish it",
            path.display()
        ),
    ))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// What a command prints, or why it did not run.
async fn run(command: &[&str]) -> Vec<u8> {
    let [program, arguments @ ..] = command else { return Vec::new() };
    let mut child = Command::new(program);
    let output = child.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    match timeout(PATIENCE, output).await {
        Ok(Ok(output)) => [output.stdout, output.stderr].concat(),
        Ok(Err(error)) => format!("{program}: {error}\n").into_bytes(),
        Err(_) => format!("{program} took longer than {} s\n", PATIENCE.as_secs()).into_bytes(),
    }
}

/// A configuration without the values of secret keys.
fn redact(text: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((key, _)) if SECRETS.iter().any(|secret| key.to_lowercase().contains(secret)) => {
            format!("{key}= \"(removed)\"\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// An archive as of tar(5), format ustar: files of one folder.
struct Tar {
    folder: String,
    time: SystemTime,
    bytes: Vec<u8>,
}

impl Tar {
    const BLOCK: usize = 512;

    fn add(&mut self, name: &str, content: &[u8]) {
        let mut header = [0; Self::BLOCK];
        let seconds = self.time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let name = format!("{}/{name}", self.folder);
        // Offsets of `struct posix_header`: name, mode, uid, gid, size, mtime, then the sum over all with spaces in its place.
        for (at, field) in [
            (0, name.as_str()),
            (100, "0000600\0"),
            (108, "0000000\0"),
            (116, "0000000\0"),
            (124, &format!("{:011o}\0", content.len())),
            (136, &format!("{seconds:011o}\0")),
            (148, "        "),
            (156, "0"),
            (257, "ustar\x0000"),
        ] {
            header[at..at + field.len()].copy_from_slice(field.as_bytes());
        }
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(Self::BLOCK), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        // Two empty blocks.
        self.bytes.resize(self.bytes.len() + 2 * Self::BLOCK, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_one_that_tar_reads() {
        let mut archive = Tar { folder: "report".into(), time: SystemTime::now(), bytes: Vec::new() };
        archive.add("host/a.txt", b"one\n");
        archive.add("empty", b"");
        archive.add("block", &[b'x'; 512]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), archive.finish()).unwrap();
        let tar = |arguments: &[&str]| {
            let output = std::process::Command::new("tar")
                .args(arguments)
                .arg("-f")
                .arg(file.path())
                .output()
                .unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(tar(&["-t"]), "report/host/a.txt\nreport/empty\nreport/block\n");
        assert_eq!(tar(&["-x", "-O"]), format!("one\n{}", "x".repeat(512)));
    }

    #[test]
    fn secrets_stay_here() {
        let text = "[seal]\nprivate_key = \"abc\"\nname = \"x\"\n";
        assert_eq!(redact(text), "[seal]\nprivate_key = \"(removed)\"\nname = \"x\"\n");
    }
}
