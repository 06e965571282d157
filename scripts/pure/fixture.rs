//! One of each violation of purity: scripts/check-pure tests its checks on this file first.

use std::{
    fs,
    net::UdpSocket,
    process::Command,
    thread,
    time::{Duration, Instant},
};

unsafe extern "C" {
    safe fn getpid() -> i32;
}

/// Visible in the compiled code.
pub fn compiled(path: &str) -> bool {
    let started = Instant::now();
    let file = fs::File::open(path).is_ok();
    let socket = UdpSocket::bind("[::1]:0").is_ok();
    let variable = std::env::var_os("PATH").is_some();
    thread::sleep(Duration::ZERO);
    let child = Command::new("true").spawn().is_ok();
    println!("{file} {socket} {variable} {child} {}", getpid());
    started.elapsed() > Duration::ZERO
}

/// Compiled where it is used, so visible in the source only.
pub fn generic<T: From<Instant>>(path: &str) -> (T, usize) {
    (T::from(Instant::now()), fs::read(path).map_or(0, |bytes| bytes.len()))
}
