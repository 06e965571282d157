//! Captures to files, pipes and lines.

use std::{
    fs::{self, File},
    io::BufReader,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use pcap_file::pcapng::{Block, PcapNgReader};
use vswitch_tests::{
    eventually,
    raw::{BROADCAST, EXPERIMENT, frame},
    tcp, within,
};

use super::{DB, Office, WEB};

/// Fields of every frame of a file, as tshark decodes them.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    fields_of(reading(file, fields).spawn().expect("tshark is installed"))
}

/// A tshark command that prints these fields of every frame of a file; `-` is standard input.
fn reading(file: &Path, fields: &[&str]) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a tshark and parses its output.
fn fields_of(tshark: Child) -> Vec<Vec<String>> {
    let output = tshark.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn wireshark_reads_interfaces_directions_and_why_a_frame_died() {
    let office = Office::start();
    let file = office.file("all.pcapng");
    let capture = office.capture(&["capture", "-w", file.to_str().unwrap()]);
    let [web, alone] = [&office.web, &office.alone].map(|netns| netns.raw("eth0"));
    web.send(&frame(BROADCAST, WEB, EXPERIMENT, b"to everybody"));
    alone.send(&frame(BROADCAST, [2, 0x42, 10, 9, 0, 4], EXPERIMENT, b"to nobody"));
    eventually("all was captured", || {
        (office.switch.ctl(&["capture", "--ls"])[0]["frames"] == 3).then_some(())
    });
    let (_, said) = capture.stop();
    assert!(said.contains("3 frames captured, 0 lost"), "{said}");
    let fields = ["frame.interface_name", "frame.packet_flags_direction", "frame.comment", "eth.type"];
    let mut frames = tshark(&file, &fields);
    frames.sort();
    let hint = "dropped: NO_RECEIVER: the network has no other port: attach one";
    let expected = [
        ["alone", "0x00000001", hint, "0x88b5"],
        ["db", "0x00000002", "", "0x88b5"],
        ["web", "0x00000001", "", "0x88b5"],
    ];
    assert_eq!(frames, expected.map(|frame| frame.map(str::to_owned).to_vec()));
    assert_eq!(office.switch.ctl(&["capture", "--ls"]).as_array().unwrap().len(), 0, "it has ended");
}

#[test]
fn what_is_wanted_is_picked_and_told_in_lines() {
    let office = Office::start();
    let arp =
        office.capture(&["capture", "--filter", "arp", "--port", "web", "--direction", "rx", "-c", "1"]);
    let drops = office.capture(&["capture", "--drops", "-c", "1"]);
    let red = office.capture(&["capture", "--network", "red", "-c", "1"]);
    office.web.reaches("10.9.0.3");
    let (lines, _) = arp.wait();
    assert!(
        lines.contains(
            " web rx 02:42:0a:09:00:02 > ff:ff:ff:ff:ff:ff, ARP who-has 10.9.0.3 tell 10.9.0.2, 42 bytes"
        ),
        "{lines}"
    );
    office.alone.raw("eth0").send(&frame(BROADCAST, DB, EXPERIMENT, b"to nobody"));
    for capture in [drops, red] {
        let (lines, _) = capture.wait();
        assert!(lines.contains(" alone rx ") && lines.contains("\n    dropped: NO_RECEIVER: "), "{lines}");
    }
    let (code, why) = office.switch.refusal(&["capture", "--filter", "tcp prot 80"]);
    assert_eq!(code, 1);
    assert!(why.contains("the filter \"tcp prot 80\" is invalid"), "{why}");
    assert_eq!(office.switch.refusal(&["capture", "--port", "nobody"]).0, 4);
}

#[test]
fn a_pipe_and_a_ring_of_files() {
    let office = Office::start();
    let ring = office.file("ring.pcapng");
    let files = office.capture(&["capture", "-w", ring.to_str().unwrap(), "--rotate", "1,2"]);
    let mut pipe = office.capture(&["capture", "-w", "-", "--snaplen", "60", "--filter", "tcp", "-c", "100"]);
    let mut reader = reading(Path::new("-"), &["frame.cap_len", "frame.len"]);
    let reader = reader.stdin(pipe.0.stdout.take().unwrap()).spawn().unwrap();
    tcp::exchange(&office.web, &office.db, "10.9.0.3", 4_000_000, 1 << 16);
    pipe.wait();
    let frames = fields_of(reader);
    assert_eq!(frames.len(), 100);
    assert!(frames.iter().all(|frame| frame[0] == "60" && frame[1] != "60"), "{frames:?}");
    files.stop();
    let names = fs::read_dir(office.switch.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut numbers: Vec<u32> =
        names.filter_map(|name| name.to_str()?.strip_prefix("ring.pcapng.")?.parse().ok()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
    assert!(numbers[0] > 0, "the first is gone");
    for number in numbers {
        let part = office.file(&format!("ring.pcapng.{number}"));
        let ports: Vec<_> = tshark(&part, &["frame.interface_name"]).concat();
        assert!(!ports.is_empty() && ports.iter().all(|port| port == "web" || port == "db"));
    }
}

/// A capture loses none of a million frames while the disk keeps up: the file holds all that the switch received.
#[test]
fn a_million_frames() {
    const FRAMES: u64 = 1_000_000;
    let office = Office::start();
    let file = office.file("million.pcapng");
    let arguments = ["capture", "--port", "web", "--direction", "rx", "--filter", "ether proto 0x88b5"];
    let to = ["--snaplen", "64", "--buffer", "64", "-w", file.to_str().unwrap()];
    let capture = office.capture(&[&arguments[..], &to].concat());
    let heard = || office.switch.port("web")["rx"]["frames"].as_u64().unwrap();
    // The container was announced when it was attached.
    let announced = heard();
    let received = || heard() - announced;
    let (web, enough) = (office.web.raw("eth0"), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Frames refused by the interface do not matter: sequence numbers only have to increase.
            for number in (0_u64..).take_while(|_| !enough.load(Relaxed)) {
                let _ = web.try_send(&frame(DB, WEB, EXPERIMENT, &number.to_be_bytes()));
            }
        });
        within(Duration::from_secs(120), "the switch has received a million", || {
            (received() >= FRAMES).then_some(())
        });
        enough.store(true, Relaxed);
    });
    // Twice the same: the interface has a queue from which more may come.
    let mut before = 0;
    let all = eventually("the switch has seen the last", || {
        let frames = office.switch.ctl(&["capture", "--ls"])[0]["frames"].as_u64().unwrap();
        let is_last = frames == received() && frames == std::mem::replace(&mut before, frames);
        is_last.then_some(frames)
    });
    let (_, said) = capture.stop();
    assert!(said.contains(&format!("{all} frames captured, 0 lost")), "{said}");
    assert_eq!(count(&file), all);
}

/// Counts the frames of a pcapng file and checks that sequence numbers increase.
fn count(file: &Path) -> u64 {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(file).unwrap())).unwrap();
    let (mut count, mut last) = (0, None);
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let number = packet.data[14..22].first_chunk().copied().map(u64::from_be_bytes);
            assert!(number > last, "{number:?} after {last:?}");
            (count, last) = (count + 1, number);
        }
    }
    count
}

/// A capture ends by itself when its reader or the daemon goes away.
#[test]
fn captures_end_with_their_readers_and_with_the_daemon() {
    let mut office = Office::start();
    let mut gone = office.capture(&["capture", "-w", "-"]);
    gone.0.kill().unwrap();
    gone.0.wait().unwrap();
    eventually("the capture has ended", || {
        office.switch.ctl(&["capture", "--ls"]).as_array().unwrap().is_empty().then_some(())
    });
    let capture = office.capture(&["capture", "-w", "-"]);
    assert!(office.switch.stop().success());
    capture.wait();
}
