//! Round-trip times of small UDP datagrams, in microseconds: in both directions, through both stacks.
//!
//! *Idle* is ping-pong: the next datagram leaves when the previous one has returned. *Under load* sends one per
//! millisecond regardless of replies, so that a long queue affects all the pings it delays and not only one (avoiding
//! coordinated omission).
//!
//! Pinger and echo run on different CPUs if there are two. Without pinning, the scheduler sometimes places both on one,
//! which makes the kernel bridge a function call: it measured 6 or 86 µs from one round to the next.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    error::{Doing, Error, Result},
    interrupt,
    lab::Lab,
    probes::iperf::{Streams, number, whole_seconds},
    report::{Better, Figure, Reading},
};

const PORT: u16 = 7010;
const INTERVAL: Duration = Duration::from_millis(1);
/// A ping that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);
/// The content of uncounted pings: no ping has this number, and none departs this late.
const FIRST: [u8; 8] = [u8::MAX; 8];
/// Longer times are recorded as this, in nanoseconds: a minute.
const HIGHEST: u64 = 60_000_000_000;
/// Time of the bulk stream before the first ping, and after the last.
const RAMP: Duration = Duration::from_millis(500);

/// Ping-pong between idle containers.
pub(super) fn idle(lab: &Lab, time: Duration) -> Result<Vec<Reading>> {
    let pings = between(lab, |socket| ping_pong(socket, time))?;
    pings.readings("rtt.idle", "RTT idle")
}

/// Pings beside one bulk TCP stream in the same direction, whose rate is reported too.
pub(super) fn loaded(lab: &Lab, time: Duration, control: &str) -> Result<Vec<Reading>> {
    let whole = Duration::from_secs(whole_seconds(time + 2 * RAMP));
    let bulk = Streams::start(lab, 1, whole, &["-C", control])?;
    interrupt::sleep(RAMP)?;
    let pings = between(lab, |socket| every_interval(socket, time))?;
    let mut gbits = 0.0;
    for result in bulk.finish()? {
        gbits += number(&result, "/sum_received/bits_per_second")? / 1e9;
    }
    let mut readings = pings.readings("rtt.loaded", "RTT loaded")?;
    let beside = Figure::new("rtt.loaded.bulk", "  TCP meanwhile", "Gbit/s", Better::Higher);
    readings.push(beside.is(gbits));
    Ok(readings)
}

/// The round-trip times in nanoseconds, and the number of lost pings.
#[derive(Debug)]
struct Pings {
    times: Histogram<u64>,
    sent: u64,
}

impl Pings {
    fn new() -> Self {
        let times = Histogram::new_with_bounds(1, HIGHEST, 3).expect("the bounds and three digits are legal");
        Self { times, sent: 0 }
    }

    fn record(&mut self, time: Duration) {
        self.times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn readings(&self, key: &str, label: &str) -> Result<Vec<Reading>> {
        if self.times.is_empty() {
            return Err(Error::NotReady { what: "an answered ping".to_owned(), limit: LOST });
        }
        let percentile = |rank: f64| self.times.value_at_quantile(rank / 100.0) as f64 / 1e3;
        let figure = |rank: u8| {
            let (key, label) = (format!("{key}.p{rank}"), format!("{label} p{rank}"));
            Figure::new(key, label, "µs", Better::Lower)
        };
        let lost = Figure::new(format!("{key}.lost"), format!("{label} lost"), "%", Better::Lower);
        let missing = self.sent.saturating_sub(self.times.len()) as f64;
        Ok(vec![
            figure(50).headline(key == "rtt.idle").is(percentile(50.0)),
            figure(99).headline(key == "rtt.loaded").is(percentile(99.0)),
            lost.is(missing / self.sent as f64 * 100.0),
        ])
    }
}

/// Runs `ping` on a socket of container a that is connected to an echo in b.
fn between(lab: &Lab, ping: impl FnOnce(&UdpSocket) -> Result<Pings> + Send) -> Result<Pings> {
    let address = (lab.b.address, PORT);
    let echo = lab.b.namespace.enter(|| UdpSocket::bind(address))?.doing("bind the echo")?;
    let pinger = lab.a.namespace.enter(|| UdpSocket::bind((lab.a.address, 0)))?.doing("bind the pinger")?;
    pinger.connect(address).doing("address the pinger")?;
    with_echo(&echo, || {
        first_answer(&pinger)?;
        ping(&pinger)
    })
}

/// Runs `act` on a thread of the first CPU, while a thread of the last CPU answers datagrams to `echo`.
fn with_echo<T: Send>(echo: &UdpSocket, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    echo.set_read_timeout(Some(interrupt::POLL)).doing("prepare the echo")?;
    let allowed = sched_getaffinity(None).doing("ask for our CPUs")?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let first = cpus.next().unwrap_or(0);
    let last = cpus.next_back().unwrap_or(first);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echoing = scope.spawn(|| {
            pin(last)?;
            let mut bytes = [0; 64];
            while !stop.load(Relaxed) {
                if let Ok((length, from)) = echo.recv_from(&mut bytes) {
                    let _ = echo.send_to(&bytes[..length], from); // the pinger counts losses
                }
            }
            Ok::<_, Error>(())
        });
        // A separate thread, because anything started later from this one would inherit its CPU.
        let pinging = scope.spawn(|| pin(first).and_then(|()| act()));
        let done = pinging.join();
        stop.store(true, Relaxed);
        echoing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Pins the calling thread, and those it starts, to one CPU.
fn pin(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).doing("pin a thread")
}

/// Pings until an answer arrives, so that neither ARP nor the queues of an earlier load are measured.
fn first_answer(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(5 * interrupt::POLL)).doing("prepare the pinger")?;
    interrupt::wait_for("an answered ping", 10 * LOST, || {
        let _ = socket.send(&FIRST);
        answered(socket, FIRST).then_some(())
    })
}

fn ping_pong(socket: &UdpSocket, time: Duration) -> Result<Pings> {
    socket.set_read_timeout(Some(LOST)).doing("prepare the pinger")?;
    let mut pings = Pings::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt::check()?;
        let number = pings.sent.to_le_bytes();
        pings.sent += 1;
        let start = Instant::now();
        socket.send(&number).doing("ping")?;
        if answered(socket, number) {
            pings.record(start.elapsed());
        }
    }
    Ok(pings)
}

/// Waits for the answer with this number, skipping late ones.
fn answered(socket: &UdpSocket, number: [u8; 8]) -> bool {
    let mut got = [0; 8];
    while socket.recv(&mut got).is_ok() {
        if got == number {
            return true;
        }
    }
    false
}

fn every_interval(socket: &UdpSocket, time: Duration) -> Result<Pings> {
    socket.set_read_timeout(Some(interrupt::POLL)).doing("prepare the pinger")?;
    let start = Instant::now();
    let sending = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut pings = Pings::new();
            let mut last = Instant::now();
            // Pings in flight after the last one has left get the time after which a ping is lost.
            while sending.load(Relaxed) || last.elapsed() < LOST {
                let mut departed = [0; 8];
                if socket.recv(&mut departed).is_ok() {
                    last = Instant::now();
                    let departed = Duration::from_nanos(u64::from_le_bytes(departed));
                    // None for a late answer to an uncounted ping.
                    start.elapsed().checked_sub(departed).into_iter().for_each(|time| pings.record(time));
                }
            }
            pings
        });
        let sent = send_every_interval(socket, start, time);
        sending.store(false, Relaxed);
        let mut pings = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        pings.sent = sent?;
        Ok(pings)
    })
}

/// Sends a ping that carries its time of departure, in nanoseconds since `start`, at each interval.
fn send_every_interval(socket: &UdpSocket, start: Instant, time: Duration) -> Result<u64> {
    let mut sent = 0;
    let mut next = start;
    while start.elapsed() < time {
        interrupt::check()?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += INTERVAL;
        let departed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // A full queue is a lost ping, which is counted.
        let _ = socket.send(&departed.to_le_bytes());
        sent += 1;
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_loopback(ping: impl FnOnce(&UdpSocket) -> Result<Pings> + Send) -> Pings {
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let pinger = UdpSocket::bind("127.0.0.1:0").unwrap();
        pinger.connect(echo.local_addr().unwrap()).unwrap();
        with_echo(&echo, || ping(&pinger)).unwrap()
    }

    #[test]
    fn every_ping_over_loopback_comes_back() {
        for pings in [
            over_loopback(|socket| ping_pong(socket, Duration::from_millis(50))),
            over_loopback(|socket| every_interval(socket, Duration::from_millis(50))),
        ] {
            assert!(pings.sent > 0 && pings.times.len() == pings.sent, "{pings:?}");
            assert!(pings.times.min() > 0);
        }
    }

    #[test]
    fn readings_are_microseconds_and_percent() {
        let mut pings = Pings { sent: 200, ..Pings::new() };
        (0..100).for_each(|_| pings.record(Duration::from_micros(50)));
        let readings = pings.readings("rtt.idle", "RTT idle").unwrap();
        assert!((readings[0].value - 50.0).abs() < 0.1);
        assert_eq!(readings[2].value, 50.0);
    }
}
