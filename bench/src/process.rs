//! Child programs: each is bounded in time, and none outlives the bench.

use std::{
    fs::File,
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};

use crate::{
    error::{Doing, Error, Result},
    interrupt,
};

/// Time limit between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A running program. Dropping it ends the program; so does any end of the bench.
///
/// The kernel reacts to the end of the *thread* that started it, so start programs from the main thread.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
    output: Option<[JoinHandle<String>; 2]>,
}

impl Process {
    /// Starts a program and captures its output.
    ///
    /// # Errors
    /// Fails when the program cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::fed(command, Stdio::null())
    }

    /// The same with standard input.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn fed(command: &mut Command, input: impl Into<Stdio>) -> Result<Self> {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Self::spawn(command)?;
        let read = process.child.stdout.take().zip(process.child.stderr.take());
        process.output = read.map(|(out, err)| [collect(out), collect(err)]);
        Ok(process)
    }

    /// Starts a program that runs until it is dropped, with its output in `log`.
    ///
    /// Its standard input is open and silent, because some programs exit at its end.
    ///
    /// # Errors
    /// Fails when the program cannot be started or the log not be written.
    pub fn serve(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).doing("create a log")?;
        command.stdin(Stdio::piped()).stdout(file.try_clone().doing("share a log")?).stderr(file);
        Self::spawn(command)
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let line = line(command);
        let die_with_parent = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
        // Safe code has no way to run something between fork and exec. The closure makes one prctl call: it
        // neither allocates nor takes a lock, which is what the child of a threaded process must not do.
        #[expect(unsafe_code, reason = "CommandExt::pre_exec is unsafe to call")]
        // SAFETY: see above.
        let child = unsafe { command.pre_exec(die_with_parent) }.spawn();
        let child = child.doing(&format!("start `{line}`"))?;
        Ok(Self { child, line, output: None })
    }

    /// Its process id. `ip netns exec` execs the program, so this is the program itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end and returns the standard output.
    ///
    /// # Errors
    /// Fails if the program does, with its output; after `limit`, ending the program; and on Ctrl-C.
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().doing("wait for a program")? {
                break status;
            }
            interrupt::check()?;
            if Instant::now() >= end {
                return Err(Error::Timeout { command: self.line.clone(), limit });
            }
            self.await_end(interrupt::POLL)?;
        };
        let [out, err] = match self.output.take() {
            Some(readers) => readers.map(|reader| reader.join().unwrap_or_default()),
            None => Default::default(),
        };
        if status.success() {
            return Ok(out);
        }
        let message = if err.trim().is_empty() { tail(&out) } else { tail(&err) };
        Err(Error::Command { command: self.line.clone(), status: status.to_string(), message })
    }

    /// Waits until it ends, without delay, or until `limit` has passed.
    fn await_end(&self, limit: Duration) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        let end = pidfd_open(pid, PidfdFlags::empty()).doing("watch a program")?;
        let limit = Timespec::try_from(limit).ok();
        match poll(&mut [PollFd::new(&end, PollFlags::IN)], limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).doing("wait for a program"),
        }
    }

    /// Resident memory of the program in bytes: `VmRSS` of `/proc/PID/status`.
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        // It may end between the check and the signal; it is not reaped yet, so the id is still its own.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + GRACE;
        while !self.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// As [`Process::finish`], with ten seconds of time.
pub fn run(command: &mut Command) -> Result<String> {
    Process::start(command)?.finish(Duration::from_secs(10))
}

/// Runs a command line of words without spaces, such as `run_line("ip link show")`.
///
/// # Errors
/// As [`run`].
pub fn run_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    run(Command::new(words.next().unwrap_or_default()).args(words))
}

/// Whether a program of this name is in one of the folders of `PATH`.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // The output read before an error is still the best available message.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last lines of a program's output.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_why() {
        let failed = run(Command::new("sh").args(["-c", "echo reason >&2; exit 3"]));
        let message = failed.expect_err("it exits with 3").to_string();
        assert!(message.contains("reason") && message.contains('3'), "{message}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let sleeper = Process::start(Command::new("sleep").arg("60")).unwrap();
        let pid = sleeper.pid();
        assert!(matches!(sleeper.finish(Duration::from_millis(50)), Err(Error::Timeout { .. })));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
