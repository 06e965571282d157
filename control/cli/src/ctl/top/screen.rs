//! The screen of `top`: several views, each a table of rates between two samples.

use std::{cmp::Ordering, collections::BTreeMap};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell as TableCell, Paragraph, Row as TableRow, Table},
};

use crate::ctl::show::{carried, short, state};
use vswitch_model::api::{
    Direction, Network, Port, PortState, Stats, Status, Traffic, counters::NetworkStats,
};

/// A sample of the daemon's state.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The state of the daemon.
    pub status: Status,
    /// The networks.
    pub networks: Vec<Network>,
    /// The ports, peers among them.
    pub ports: Vec<Port>,
    /// The counters.
    pub stats: Stats,
}

/// The views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Ports,
    Networks,
    Workers,
    Drops,
}

const VIEWS: [(View, &str); 4] = [
    (View::Ports, "Ports"),
    (View::Networks, "Networks"),
    (View::Workers, "Workers"),
    (View::Drops, "Drops"),
];

/// Columns of [`Screen::ports`], [`Screen::networks`] and [`Screen::drops`] that may ask for attention.
const STATE: usize = 2;
const PORT_DROPS: usize = 7;
const NETWORK_DROPS: usize = 4;
const DROP_RATE: usize = 3;

/// Blanks between two columns, if there is room.
const SPACING: u16 = 2;

/// Minimum number of letters of a shortened text.
const SHORTEST: u16 = 8;

/// A cell: text is sorted ascending, numbers descending.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cell {
    Text(String),
    Number(u64),
}

/// The state of the display.
#[derive(Debug)]
pub struct Screen {
    before: Sample,
    now: Sample,
    view: View,
    /// The sort column of each view.
    sort: [usize; VIEWS.len()],
    reversed: bool,
    filter: String,
    /// Whether keys go to the filter.
    typing: bool,
    scroll: usize,
    paused: bool,
    /// Why there was no sample when it was due; the last one is shown.
    missed: Option<String>,
    done: bool,
}

impl Screen {
    /// Creates a screen that shows the ports; rates are zero until the first [`Screen::update`].
    pub fn new(first: Sample) -> Self {
        Self {
            before: first.clone(),
            now: first,
            view: View::Ports,
            // The busiest rows come first.
            sort: [4, 2, 1, 3],
            reversed: false,
            filter: String::new(),
            typing: false,
            scroll: 0,
            paused: false,
            missed: None,
            done: false,
        }
    }

    /// Adds the next sample. After a restart of the daemon its counters begin again, and rates with the next sample but one.
    pub fn update(&mut self, next: Sample) {
        let is_new_daemon = next.status.pid != self.now.status.pid;
        self.before = std::mem::replace(&mut self.now, next);
        if is_new_daemon {
            self.before = self.now.clone();
        }
        self.missed = None;
    }

    /// Notes that there was no sample, and why.
    pub fn miss(&mut self, why: String) {
        self.missed = Some(why);
    }

    /// Whether the user has quit.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the display is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Handles a key.
    pub fn press(&mut self, key: KeyEvent) {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            self.done = true;
        } else if self.typing {
            self.type_filter(key.code);
        } else {
            self.command(key.code);
        }
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            _ => {}
        }
        self.scroll = 0;
    }

    fn command(&mut self, key: KeyCode) {
        let columns = self.table().0.len();
        let view = self.view as usize;
        match key {
            KeyCode::Char('q') => self.done = true,
            KeyCode::Tab => self.look_at((view + 1) % VIEWS.len()),
            KeyCode::BackTab => self.look_at((view + VIEWS.len() - 1) % VIEWS.len()),
            KeyCode::Char(digit @ '1'..='4') => self.look_at(digit as usize - '1' as usize),
            KeyCode::Right => self.sort[view] = (self.sort[view] + 1) % columns,
            KeyCode::Left => self.sort[view] = (self.sort[view] + columns - 1) % columns,
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Down => self.scroll += 1,
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += 10,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
    }

    fn look_at(&mut self, view: usize) {
        self.view = VIEWS[view].0;
        self.scroll = 0;
    }

    /// Draws the screen for any size.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, views, body, help] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.headline(head.width)), head);
        let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        let (mut header, rows) = self.sorted();
        let room = usize::from(body.height).saturating_sub(1);
        self.scroll = self.scroll.min(rows.len().saturating_sub(room));
        let shown = &rows[self.scroll..];
        let (widths, spacing) = fit(&header, shown, body.width);
        let sort = self.sort[self.view as usize];
        let hidden = header.get(sort).copied().filter(|_| sort >= widths.len());
        header.truncate(widths.len());
        frame.render_widget(Paragraph::new(self.tabs(hidden)), views);
        let titles = header.iter().enumerate().map(|(column, title)| {
            let number = matches!(rows.first().map(|row| &row[column]), Some(Cell::Number(_)));
            let style = if column == sort { Modifier::REVERSED } else { Modifier::BOLD };
            cell((*title).to_owned(), number, widths[column]).style(Style::new().add_modifier(style))
        });
        let lines = shown.iter().map(|row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (it, width))| {
                let cell = match it {
                    Cell::Text(text) => cell(shortened(text, *width), false, *width),
                    Cell::Number(number) => cell(short(*number), true, *width),
                };
                if self.urgency(column, it) > 0 { cell.style(alarm) } else { cell }
            });
            TableRow::new(cells)
        });
        let constraints = widths.iter().map(|width| Constraint::Length(*width));
        let table = Table::new(lines, constraints).header(TableRow::new(titles)).column_spacing(spacing);
        frame.render_widget(table, body);
        frame.render_widget(Paragraph::new(self.help(help.width)), help);
    }

    /// How much a cell asks for attention: a port that is down most, then frames that are being dropped.
    fn urgency(&self, column: usize, cell: &Cell) -> u8 {
        match (self.view, column, cell) {
            (View::Ports, STATE, Cell::Text(text)) if text == state(PortState::Down) => 2,
            (View::Ports, PORT_DROPS, Cell::Number(1..)) => 1,
            (View::Networks, NETWORK_DROPS, Cell::Number(1..)) => 1,
            (View::Drops, DROP_RATE, Cell::Number(1..)) => 1,
            _ => 0,
        }
    }

    fn headline(&self, width: u16) -> String {
        if let Some(why) = &self.missed {
            return shortened(&format!("NO ANSWER, trying again: {why}"), width);
        }
        let Status { name, ports, ports_up, networks, macs, .. } = &self.now.status;
        let sum = |traffic: fn(&Port) -> Traffic| {
            let all = |sample: &Sample| -> (u64, u64) {
                let each = sample.ports.iter().map(traffic);
                each.fold((0, 0), |(frames, bytes), it| (frames + it.frames, bytes + it.bytes))
            };
            let (before, now) = (all(&self.before), all(&self.now));
            (self.per_second(now.0, before.0), self.per_second(now.1, before.1).saturating_mul(8))
        };
        let (frames, bits) = sum(|port| port.rx);
        let paused = if self.paused { "  PAUSED" } else { "" };
        let rates = format!("{} frames/s, {} bit/s{paused}", short(frames), short(bits));
        let long =
            format!("{name}: {ports_up} of {ports} ports up, {networks} networks, {macs} addresses; {rates}");
        if long.chars().count() <= usize::from(width) {
            return long;
        }
        format!("{name}: {ports_up}/{ports} up; {rates}")
    }

    /// `hidden` is the column that rows are sorted by, if there is no room for it.
    fn tabs(&self, hidden: Option<&str>) -> Line<'_> {
        let mut spans = Vec::new();
        for (number, (view, name)) in VIEWS.iter().enumerate() {
            let style = if *view == self.view { Modifier::REVERSED } else { Modifier::empty() };
            spans.push(Span::styled(format!(" {} {name} ", number + 1), Style::new().add_modifier(style)));
        }
        if self.typing || !self.filter.is_empty() {
            let cursor = if self.typing { "_" } else { "" };
            spans.push(Span::raw(format!("  filter: {}{cursor}", self.filter)));
        }
        spans.extend(hidden.map(|title| Span::raw(format!("  by {title}"))));
        Line::from(spans)
    }

    /// The longest text that fits.
    fn help(&self, width: u16) -> &'static str {
        let texts: &[_] = if self.typing {
            &["type what rows must contain; Enter keeps it, Esc clears it", "Enter keeps, Esc clears"]
        } else {
            &[
                "Tab/1-4 view  ←→ sort by  r reverse  / filter  ↑↓ scroll  space pause  q quit",
                "Tab view  ←→ sort  r reverse  / filter  ↑↓ scroll  q quit",
                "Tab ←→ r / ↑↓ space, q quit",
            ]
        };
        let fits = |text: &&&str| text.chars().count() <= usize::from(width);
        texts.iter().find(fits).or_else(|| texts.last()).copied().unwrap_or_default()
    }

    /// The rows that match the filter, in order.
    fn sorted(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        let (header, mut rows) = self.table();
        let wanted = self.filter.to_lowercase();
        let holds = |it: &Cell| matches!(it, Cell::Text(text) if text.to_lowercase().contains(&wanted));
        rows.retain(|row| wanted.is_empty() || row.iter().any(holds));
        let column = self.sort[self.view as usize];
        let urgency =
            |row: &[Cell]| row.iter().enumerate().map(|(column, cell)| self.urgency(column, cell)).max();
        rows.sort_by(|a, b| {
            let order = order(&a[column], &b[column]);
            let order = if self.reversed { order.reverse() } else { order };
            urgency(b).cmp(&urgency(a)).then(order)
        });
        (header, rows)
    }

    fn table(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        match self.view {
            View::Ports => self.ports(),
            View::Networks => self.networks(),
            View::Workers => self.workers(),
            View::Drops => self.drops(),
        }
    }

    fn ports(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        let before: BTreeMap<_, _> = self.before.ports.iter().map(|port| (&port.name, port)).collect();
        let row = |port: &Port| {
            let old = before.get(&port.name);
            let (rx, tx) = old.map_or_else(Default::default, |old| (old.rx, old.tx));
            let dropped = |port: &Port| port.drops.iter().map(|drop| drop.frames).sum::<u64>();
            vec![
                Cell::Text(port.name.to_string()),
                Cell::Text(format!("{} {}", port.kind, carried(port))),
                Cell::Text(state(port.state).into()),
                self.rate(port.rx.frames, rx.frames),
                self.bits(port.rx.bytes, rx.bytes),
                self.rate(port.tx.frames, tx.frames),
                self.bits(port.tx.bytes, tx.bytes),
                self.rate(dropped(port), old.map_or(0, |old| dropped(old))),
                Cell::Number(port.macs.into()),
            ]
        };
        let header = vec!["PORT", "KIND", "STATE", "RX/s", "RX bit/s", "TX/s", "TX bit/s", "DROPS/s", "MACS"];
        (header, self.now.ports.iter().map(row).collect())
    }

    fn networks(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        let before: BTreeMap<_, _> = self.before.stats.networks.iter().map(|it| (&it.network, it)).collect();
        let macs: BTreeMap<_, _> = self.now.networks.iter().map(|it| (&it.spec.name, it)).collect();
        let row = |network: &NetworkStats| {
            let old = before.get(&network.network);
            let rate =
                |count: fn(&NetworkStats) -> u64| self.rate(count(network), old.map_or(0, |old| count(old)));
            let known = macs.get(&network.network);
            vec![
                Cell::Text(network.network.to_string()),
                rate(|it| it.frames),
                self.bits(network.bytes, old.map_or(0, |old| old.bytes)),
                rate(|it| it.flooded),
                rate(|it| it.dropped),
                rate(|it| it.learned),
                rate(|it| it.moved),
                Cell::Number(known.map_or(0, |it| it.ports.len() as u64)),
                Cell::Number(known.map_or(0, |it| it.macs.into())),
            ]
        };
        let header =
            vec!["NETWORK", "FRAMES/s", "bit/s", "FLOOD/s", "DROPS/s", "LEARN/s", "MOVE/s", "PORTS", "MACS"];
        (header, self.now.stats.networks.iter().map(row).collect())
    }

    fn workers(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        let rows = self.now.stats.workers.iter().enumerate().map(|(index, worker)| {
            let old = self.before.stats.workers.get(index);
            let load = |sample: &Sample| sample.stats.loads.get(index).cloned().unwrap_or_default();
            let (before, now) = (load(&self.before), load(&self.now));
            let turns = worker.turns - old.map_or(0, |old| old.turns).min(worker.turns);
            let frames = worker.frames - old.map_or(0, |old| old.frames).min(worker.frames);
            let wakeups = now.wakeups - before.wakeups.min(now.wakeups);
            let busy = now.busy_ns.sum - before.busy_ns.sum.min(now.busy_ns.sum);
            vec![
                Cell::Text(worker.id.to_string()),
                Cell::Number(busy / (self.millis() * 10_000)),
                self.rate(frames, 0),
                self.rate(wakeups, 0),
                Cell::Number(frames.checked_div(turns).unwrap_or(0)),
                Cell::Number((busy / 1000).checked_div(turns).unwrap_or(0)),
                Cell::Number(worker.ports.into()),
            ]
        });
        let header = vec!["WORKER", "BUSY %", "FRAMES/s", "WAKE-UPS/s", "FRAMES/TURN", "µs/TURN", "PORTS"];
        (header, rows.collect())
    }

    fn drops(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        let all = |sample: &Sample| -> BTreeMap<(String, String), (Direction, u64)> {
            let drops = sample.ports.iter().flat_map(|port| &port.drops);
            drops.map(|it| ((it.port.to_string(), it.reason.clone()), (it.direction, it.frames))).collect()
        };
        let before = all(&self.before);
        let rows = all(&self.now).into_iter().map(|(key, (direction, frames))| {
            let old = before.get(&key).map_or(0, |(_, frames)| *frames);
            vec![
                Cell::Text(key.0),
                Cell::Text(direction.to_string()),
                Cell::Text(key.1),
                self.rate(frames, old),
                Cell::Number(frames),
            ]
        });
        (vec!["PORT", "DIR", "REASON", "FRAMES/s", "FRAMES"], rows.collect())
    }

    fn rate(&self, now: u64, before: u64) -> Cell {
        Cell::Number(self.per_second(now, before))
    }

    fn bits(&self, now: u64, before: u64) -> Cell {
        Cell::Number(self.per_second(now, before).saturating_mul(8))
    }

    /// A counter that went back, because its port was created anew, counts from zero.
    fn per_second(&self, now: u64, before: u64) -> u64 {
        if self.before.stats.at_ms == self.now.stats.at_ms {
            return 0;
        }
        now.checked_sub(before).unwrap_or(now).saturating_mul(1000) / self.millis()
    }

    fn millis(&self) -> u64 {
        self.now.stats.at_ms.saturating_sub(self.before.stats.at_ms).max(1)
    }
}

fn order(a: &Cell, b: &Cell) -> Ordering {
    match (a, b) {
        (Cell::Number(a), Cell::Number(b)) => b.cmp(a),
        (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
        (Cell::Text(_), Cell::Number(_)) => Ordering::Less,
        (Cell::Number(_), Cell::Text(_)) => Ordering::Greater,
    }
}

/// The width of each column, and the number of blanks between two. To fit into `room`, first the blanks are reduced,
/// then texts are shortened, the longest most, then columns are omitted, the last ones first.
fn fit(header: &[&str], rows: &[Vec<Cell>], room: u16) -> (Vec<u16>, u16) {
    let mut widths: Vec<_> =
        header.iter().enumerate().map(|(column, title)| width(title, column, rows)).collect();
    let needed = |widths: &[u16], spacing: u16| {
        let blanks = spacing * u16::try_from(widths.len().saturating_sub(1)).unwrap_or(u16::MAX);
        widths.iter().fold(blanks, |sum, width| sum.saturating_add(*width))
    };
    if needed(&widths, SPACING) <= room {
        return (widths, SPACING);
    }
    let is_text = |column: usize| matches!(rows.first().map(|row| &row[column]), Some(Cell::Text(_)));
    while needed(&widths, 1) > room {
        let texts =
            widths.iter_mut().enumerate().filter(|(column, width)| is_text(*column) && **width > SHORTEST);
        let Some((_, longest)) = texts.max_by_key(|(_, width)| **width) else { break };
        *longest -= 1;
    }
    while needed(&widths, 1) > room {
        widths.pop();
    }
    (widths, 1)
}

/// The text, without its middle if it does not fit: names often differ in their ends.
fn shortened(text: &str, width: u16) -> String {
    let (length, width) = (text.chars().count(), usize::from(width));
    if length <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let tail = room / 2;
    text.chars().take(room - tail).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

/// The width that a column needs for its content.
fn width(title: &str, column: usize, rows: &[Vec<Cell>]) -> u16 {
    let longest = rows.iter().map(|row| match &row[column] {
        Cell::Text(text) => text.chars().count(),
        Cell::Number(number) => short(*number).len(),
    });
    let longest = longest.max().unwrap_or(0).max(title.chars().count());
    u16::try_from(longest).unwrap_or(u16::MAX)
}

/// Text left-aligned, numbers right-aligned.
fn cell(text: String, number: bool, width: u16) -> TableCell<'static> {
    let width = usize::from(width);
    TableCell::from(if number { format!("{text:>width$}") } else { text })
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use vswitch_model::{
        LimitSpec, Mtu,
        api::{
            Drop, Fates, Worker,
            counters::{Histogram, Load},
        },
    };

    fn port(name: &str, kind: &str, frames: u64) -> Port {
        Port {
            name: name.parse().unwrap(),
            id: 0,
            declared: true,
            network: Some("blue".parse().unwrap()),
            trunk: vec![],
            mirror: None,
            kind: kind.into(),
            device: "eth0".into(),
            netns: None,
            state: PortState::Up,
            reason: None,
            warnings: vec![],
            mtu: Mtu::DEFAULT,
            offload: vswitch_model::Offloads::On,
            limit: LimitSpec::default(),
            guard: None,
            isolated: false,
            acceleration: None,
            worker: 0,
            macs: 3,
            rx: Traffic { frames, bytes: frames * 1000, super_frames: 0 },
            tx: Traffic::default(),
            fates: Fates::default(),
            drops: vec![Drop {
                port: name.parse().unwrap(),
                direction: Direction::Tx,
                reason: "FULL_RING".into(),
                frames: frames / 10,
                hint: String::new(),
            }],
        }
    }

    fn sample(at_ms: u64, frames: u64) -> Sample {
        let network: Network = serde_json::from_value(serde_json::json!({
            "name": "blue", "scope": "local", "declared": true, "ports": ["web", "db"], "macs": 6,
        }))
        .unwrap();
        let counted = NetworkStats {
            network: "blue".parse().unwrap(),
            frames,
            bytes: frames * 1000,
            super_frames: 0,
            unicast: frames,
            flooded: 0,
            answered: 0,
            waiting: 0,
            dropped: 0,
            learned: 0,
            moved: 0,
            unlearned: 0,
        };
        let busy_ns = Histogram { buckets: vec![], sum: frames * 1000 };
        let load = Load { worker: 0, wakeups: frames / 10, busy_ns, ..Load::default() };
        Sample {
            status: serde_json::from_value(serde_json::json!({
                "name": "host1", "version": "0.1.0", "pid": 1, "uptime_s": 1, "config": null, "networks": 1,
                "ports": 2, "ports_up": 2, "macs": 6, "mac_limit": 10, "workers": [],
            }))
            .unwrap(),
            networks: vec![network],
            ports: vec![port("web", "tap", frames), port("db", "veth", frames * 2)],
            stats: Stats {
                at_ms,
                networks: vec![counted],
                workers: vec![Worker { id: 0, ports: 2, turns: frames / 20, frames }],
                loads: vec![load],
                ..Stats::default()
            },
        }
    }

    fn screen() -> Screen {
        let mut screen = Screen::new(sample(1000, 0));
        screen.update(sample(3000, 200_000));
        screen
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn press(screen: &mut Screen, keys: &str) {
        keys.chars().for_each(|letter| screen.press(KeyEvent::from(KeyCode::Char(letter))));
    }

    #[test]
    fn ports_fit_eighty_columns_with_the_busiest_first() {
        let expected = [
            "host1: 2 of 2 ports up, 1 networks, 6 addresses; 300k frames/s, 2.40G bit/s",
            " 1 Ports  2 Networks  3 Workers  4 Drops",
            "PORT  KIND       STATE  RX/s  RX bit/s  TX/s  TX bit/s  DROPS/s  MACS",
            "db    veth blue  up     200k     1.60G     0         0    20.0k     3",
            "web   tap blue   up     100k      800M     0         0    10.0k     3",
            "",
            "Tab/1-4 view  ←→ sort by  r reverse  / filter  ↑↓ scroll  space pause  q quit",
        ];
        assert_eq!(drawn(&mut screen(), 80, 7), expected);
    }

    #[test]
    fn keys_choose_view_order_and_rows() {
        let mut screen = screen();
        press(&mut screen, "r");
        assert!(drawn(&mut screen, 80, 7)[3].starts_with("web"), "the least busy first");
        press(&mut screen, "r/TAP");
        screen.press(KeyEvent::from(KeyCode::Enter));
        let lines = drawn(&mut screen, 80, 7);
        assert!(lines[1].ends_with("filter: TAP") && lines[3].starts_with("web") && lines[4].is_empty());
        screen.press(KeyEvent::from(KeyCode::Esc));
        screen.press(KeyEvent::from(KeyCode::Tab));
        assert!(
            drawn(&mut screen, 80, 7)[3].starts_with("blue         100k   800M"),
            "{:?}",
            drawn(&mut screen, 80, 7)
        );
        press(&mut screen, "3");
        // 200 ms of 2 s at work, for 20,000 wake-ups and 10,000 turns.
        assert_eq!(
            drawn(&mut screen, 80, 7)[3],
            "0           10      100k       10.0k           20       20      2"
        );
        press(&mut screen, "4");
        assert!(
            drawn(&mut screen, 80, 7)[3].starts_with("db    tx   FULL_RING     20.0k"),
            "{:?}",
            drawn(&mut screen, 80, 7)
        );
        press(&mut screen, " ");
        assert!(screen.is_paused() && drawn(&mut screen, 90, 7)[0].ends_with("PAUSED"));
        press(&mut screen, "q");
        assert!(screen.is_done());
    }

    /// Long names are truncated, and the numbers stay visible.
    #[test]
    fn a_narrow_terminal_keeps_what_matters() {
        let mut next = sample(3000, 200_000);
        next.ports[0].kind = "packet".into();
        next.ports[0].name = "a-container-with-a-long-name".parse().unwrap();
        let mut screen = Screen::new(sample(1000, 0));
        screen.update(next);
        let lines = drawn(&mut screen, 60, 20);
        let expected =
            ["host1: 2/2 up; 300k frames/s, 2.40G bit/s", " 1 Ports  2 Networks  3 Workers  4 Drops"];
        assert_eq!(lines[0], expected[0]);
        assert_eq!(lines[1], expected[1]);
        assert!(lines[2].starts_with("PORT") && lines[2].ends_with("DROPS/s"), "{lines:?}");
        assert!(lines[4].starts_with("a-co…ame pack…lue"), "{lines:?}");
        assert_eq!(lines[19], "Tab view  ←→ sort  r reverse  / filter  ↑↓ scroll  q quit");
        // Sorted by a column that is not visible.
        (0..4).for_each(|_| screen.press(KeyEvent::from(KeyCode::Right)));
        assert!(drawn(&mut screen, 60, 20)[1].ends_with("4 Drops   by MACS"), "{lines:?}");
        assert!(drawn(&mut screen, 80, 24)[2].ends_with("MACS"));
    }

    #[test]
    fn what_is_down_or_drops_frames_comes_first_whatever_the_order() {
        let quiet = |frames| {
            let mut sample = sample(1000 + frames / 100, frames);
            sample.ports.iter_mut().for_each(|port| port.drops.clear());
            sample
        };
        let mut screen = Screen::new(quiet(0));
        let mut next = quiet(200_000);
        next.ports[0].drops = port("web", "tap", 1000).drops;
        next.ports.push(port("gone", "tap", 0));
        next.ports[2].state = PortState::Down;
        screen.update(next);
        let order = |screen: &mut Screen| {
            let lines = drawn(screen, 80, 7);
            lines[3..6].iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(order(&mut screen), ["gone", "web", "db"]);
        press(&mut screen, "r");
        assert_eq!(order(&mut screen), ["gone", "web", "db"]);
    }

    #[test]
    fn it_goes_on_after_a_restart_of_the_daemon() {
        let mut screen = screen();
        screen.miss("cannot connect".into());
        let lines = drawn(&mut screen, 80, 7);
        assert!(lines[0].starts_with("NO ANSWER, trying again: cannot connect"), "{lines:?}");
        assert!(lines[3].starts_with("db"), "what was is still shown");
        let mut next = sample(10, 50);
        next.status.pid = 2;
        screen.update(next);
        let lines = drawn(&mut screen, 80, 7);
        assert!(lines[0].ends_with("0 frames/s, 0 bit/s"), "{lines:?}");
    }

    #[test]
    fn names_are_shortened_in_the_middle() {
        assert_eq!(shortened("container-of-web-17", 9), "cont…b-17");
        assert_eq!((shortened("web", 3).as_str(), shortened("webs", 1).as_str()), ("web", "…"));
        assert_eq!(shortened("webs", 0), "…");
    }

    #[test]
    fn it_draws_on_any_size_and_scrolls_to_the_end() {
        let mut screen = screen();
        for (width, height) in [(1, 1), (10, 3), (40, 4), (200, 60)] {
            drawn(&mut screen, width, height);
        }
        assert_eq!(drawn(&mut screen, 40, 4)[2], "PORT KIND     STATE RX/s RX bit/s TX/s", "what fits");
        (0..9).for_each(|_| screen.press(KeyEvent::from(KeyCode::PageDown)));
        assert!(drawn(&mut screen, 80, 5)[3].starts_with("web"), "the last row is in view");
        screen.press(KeyEvent::from(KeyCode::Home));
        assert!(drawn(&mut screen, 80, 5)[3].starts_with("db"));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        screen.press(control_c);
        assert!(screen.is_done());
    }
}
