//! Reads the database in a separate process.
//!
//! redb may panic on a damaged file, and a release build aborts on any panic: the service manager would restart it into the
//! same abort for ever. So the daemon starts its own program again, passes the open file as standard input, and reads [`lines`]
//! from its standard output. The child works on a copy in memory and writes nothing. However it ends, the daemon has either
//! everything or the reason why not. The program is started by its open file (`/proc/self/exe`), so this works in a static
//! build, in a chroot, and after the program was replaced or deleted.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{
    database::{self, Snapshot},
    file,
    lines::{self, Header},
};

/// The argument that makes the program read a database.
pub(super) const FLAG: &str = "--read-store";

/// Time limit of a child. A store with 10,000 endpoints takes a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Memory limit of a child in bytes: an invalid length must not use up the host's memory.
const MEMORY: u64 = 8 << 30;

/// Maximum length of a reason in bytes.
const REASON: usize = 300;

/// Runs the child: reads a database from standard input and writes it as lines.
pub fn read_to_stdout() -> ExitCode {
    // Every outcome is reported by the exit status.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
    let outcome = file::read(&mut io::stdin().lock()).map_err(redb::Error::Io);
    let outcome = outcome.and_then(|bytes| database::read(&bytes)).and_then(|snapshot| Ok(tell(&snapshot)?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(snapshot: &Snapshot) -> io::Result<()> {
    let Snapshot { version, id, revision, content } = snapshot;
    let rows = content.changes();
    let mut text = lines::header(Header { store: *version, id: *id, revision: *revision, rows: rows.len() });
    rows.for_each(|row| text.push_str(&lines::change(*revision, &[row])));
    io::stdout().lock().write_all(text.as_bytes())
}

/// Reads the database in `file` by way of `program`. The inner error says why it is not valid.
///
/// # Errors
/// The program cannot be started.
pub(super) fn read(program: &Path, file: File, limit: Duration) -> io::Result<Result<Snapshot, String>> {
    let deadline = Instant::now() + limit;
    let mut command = Command::new(program);
    command.arg(FLAG).env_clear().stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (out, reason) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let patience = || deadline.saturating_duration_since(Instant::now());
    // Both end with the child.
    let output = out.recv_timeout(patience());
    let status = end(&mut child, deadline)?;
    let rows = lines::read(&output.unwrap_or_default());
    if let Some(Header { store: version, id, revision, .. }) = rows.header
        && rows.is_complete()
        && !rows.is_torn
    {
        return Ok(Ok(Snapshot { version, id, revision, content: rows.content() }));
    }
    let Some(status) = status else {
        return Ok(Err(format!("reading it takes more than {} s", limit.as_secs())));
    };
    let reason = reason.recv_timeout(patience()).unwrap_or_default();
    Ok(Err(last_words(&reason, status)))
}

/// Collects the output of a pipe until it ends.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            // An error ends the output; a dropped receiver no longer waits.
            let _ = sender.send(file::read(&mut pipe).unwrap_or_default());
        });
    }
    receiver
}

/// Waits for the child's end. At the deadline it is killed, and there is no status.
fn end(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The reason of a child that ended early: its message on one line.
fn last_words(reason: &[u8], status: ExitStatus) -> String {
    let text = String::from_utf8_lossy(reason);
    // redb's prefix for most errors.
    let text = text.strip_prefix("DB corrupted: ").unwrap_or(&text);
    // A panic takes several lines, the last of which is a hint for developers.
    let said: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with("note:")).collect();
    let said: String = said.join(" ").chars().filter(|it| !it.is_control()).take(REASON).collect();
    match said.as_str() {
        "" => format!("reading it ended with {status}"),
        said => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::OpenOptionsExt};

    use super::*;

    /// Has a shell script in the place of the program read a database.
    fn read_by(script: &str, limit: Duration) -> Result<Snapshot, String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let mut file = File::options().write(true).create_new(true).mode(0o700).open(&program).unwrap();
        write!(file, "#!/bin/sh\n{script}\n").unwrap();
        drop(file);
        fs::write(folder.path().join("database"), "some bytes").unwrap();
        loop {
            let database = File::open(folder.path().join("database")).unwrap();
            match read(&program, database, limit) {
                // Another test's child has the script open still, to be written.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                result => return result.unwrap(),
            }
        }
    }

    #[test]
    fn however_it_ends_there_is_everything_or_a_reason() {
        let patience = Duration::from_secs(20);
        let whole = lines::of_content(7, 3, &Default::default());
        let (line, half) = (whole.trim_end(), &whole[..whole.len() - 2]);
        let snapshot =
            read_by(&format!("[ $1 = {FLAG} ] && [ \"$(cat)\" = 'some bytes' ] && echo '{line}'"), patience);
        assert_eq!(snapshot.map(|snapshot| (snapshot.id, snapshot.revision)), Ok((Some(7), 3)));
        // Whatever happens after everything was told does not matter.
        assert!(read_by(&format!("echo '{line}'; kill -ABRT $$"), patience).is_ok());
        for (script, reason) in [
            ("kill -ABRT $$", "signal: 6 (SIGABRT)"),
            ("exit 0", "exit status: 0"),
            (
                "echo panicked at x.rs: >&2; echo 'not so' >&2; echo note: run with >&2; kill -ABRT $$",
                "panicked at x.rs: not so",
            ),
            ("echo DB corrupted: a page >&2; exit 1", "a page"),
            (&format!("printf %s '{half}'"), "exit status: 0"),
            ("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", "exit status: 0"),
        ] {
            let why = read_by(script, patience).unwrap_err();
            assert!(why.ends_with(reason) && why.len() <= REASON, "{script}: {why}");
        }
        let why = read_by("exec sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(why.contains("takes more than"), "{why}");
    }
}
