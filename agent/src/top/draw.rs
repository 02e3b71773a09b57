//! The screen: made for 80 columns and 24 lines, and for terminals without colours. In higher ones there is a list of
//! the queues, too; in others it takes the place of the bars, if asked to.

use std::{env, ffi::OsStr};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Sparkline, Wrap},
};

use super::model::{Model, View};
use crate::{
    counts::Counts,
    report::numbers::{counted, decimal, percent, thousands},
    status::{DeviceStatus, Status},
};

/// Less than this shows nothing of use.
const SMALLEST: (u16, u16) = (60, 20);
/// What all but the queues' list wants.
const HEIGHT: u16 = 24;
/// Lines of a list that are no queue: its title, and the names of its columns.
const LIST_HEAD: u16 = 2;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    colours: bool,
}

impl Palette {
    /// None if `NO_COLOR` is set and not empty (no-color.org).
    pub fn from_environment() -> Self {
        Self::of(env::var_os("NO_COLOR").as_deref())
    }

    /// The same, given its value.
    pub(super) fn of(no_color: Option<&OsStr>) -> Self {
        Self { colours: no_color.is_none_or(OsStr::is_empty) }
    }

    /// None.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colours: false }
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn coloured() -> Self {
        Self { colours: true }
    }

    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn quiet(self) -> Style {
        self.colour(Color::DarkGray)
    }

    fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn good(self) -> Style {
        self.colour(Color::Green)
    }
}

/// Draws everything.
pub(super) fn draw(model: &Model, palette: Palette, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("umemd top wants {} columns and {} lines; q quits", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let view = model.view();
    let below = list_height(area.height, model.queues());
    // Of one queue the bars say more.
    let either = below == 0 && model.queues() > 1;
    let [head, middle, list, sparks, drops, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(12),
        Constraint::Length(below),
        Constraint::Length(3),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(area);
    let [left, right] = Layout::horizontal([Constraint::Length(33), Constraint::Min(27)]).areas(middle);
    frame.render_widget(head_lines(model, &view, palette), head);
    if either && model.lists() {
        queue_list(model, palette, frame, middle);
    } else {
        places(&view, palette, frame, left);
        recyclers(model, &view, palette, frame, right);
    }
    if below > 0 {
        queue_list(model, palette, frame, list);
    }
    sparklines(model, palette, frame, sparks);
    drop_rows(model, palette, frame, drops);
    frame.render_widget(key_line(model, palette, keys.width, either), keys);
}

fn head_lines(model: &Model, view: &View, palette: Palette) -> Paragraph<'static> {
    let status = model.status();
    let devices: Vec<String> = status
        .devices
        .iter()
        .map(|d| match &d.away {
            Some(_) => format!("{} (AWAY)", d.device),
            None => {
                let bind = if d.copy { "copy" } else { "zero-copy" };
                format!("{} ({}, {}, {bind})", d.device, d.driver, d.mode)
            }
        })
        .collect();
    let silence;
    let (law, style) = if let Some(since) = model.silent_since() {
        silence = format!("NO ANSWER for {} s", thousands(since.elapsed().as_secs()));
        (silence.as_str(), palette.bad())
    } else if !status.conserved {
        ("LAW BROKEN", palette.bad())
    } else if status.devices.iter().any(|device| device.away.is_some()) {
        ("AWAY", palette.bad())
    } else if !view.steered {
        ("NOT STEERED", palette.bad())
    } else {
        ("law holds", palette.good())
    };
    let traffic = |name| model.rate(|view| Some(view.traffic.get(name)));
    let first = Line::from(vec![
        Span::styled(format!("umemd {}  ", status.version), Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(format!("{law}  "), style),
        Span::raw(format!("up {} s  {}", thousands(status.at_s as u64), devices.join(" "))),
    ]);
    let second = Line::from(format!(
        "rx {}pps {}bit/s  tx {}pps {}bit/s  recycled {}",
        decimal(traffic("rx_packets") as f64),
        decimal(traffic("rx_bytes") as f64 * 8.0),
        decimal(traffic("tx_packets") as f64),
        decimal(traffic("tx_bytes") as f64 * 8.0),
        percent(model.recycled(|view| Some(view.ours.clone()))),
    ));
    Paragraph::new(vec![first, second])
}

fn titled<'a>(title: impl Into<Line<'a>>, palette: Palette) -> Block<'a> {
    Block::new().borders(Borders::TOP).border_style(palette.quiet()).title(title)
}

fn places(view: &View, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let block = titled(format!(" {}: {} frames ", view.title, thousands(view.total)), palette);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let room = usize::from(inside.width).saturating_sub(22);
    let line = |(place, frames): (&str, u64)| {
        let colour = match place {
            "slab" => Color::DarkGray,
            "cache" | "ring" => Color::Blue,
            "user" => Color::Yellow,
            "fill" | "kernel" => Color::Green,
            "rx" | "tx" | "completion" => Color::Magenta,
            _ => Color::Red,
        };
        Line::from(vec![
            Span::raw(format!("{place:11} {:>8} ", thousands(frames))),
            Span::styled(bar(frames, view.total, room), palette.colour(colour)),
        ])
    };
    frame.render_widget(Paragraph::new(view.frames.iter().map(line).collect::<Vec<_>>()), inside);
}

/// The rows of both recyclers: a name, and the counters that it adds up.
const ROWS: [(&str, &str); 8] = [
    ("fast", "alloc_fast"),
    ("refill", "alloc_refill"),
    ("slow", "alloc_slow"),
    ("cached", "recycle_cached"),
    ("ring", "recycle_ring"),
    ("full", "recycle_ring_full"),
    ("released", "recycle_released_refcnt"),
    ("empty", "alloc_empty"),
];

fn recyclers(model: &Model, view: &View, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let block = titled(" both recyclers, per second ", palette);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let rate = |side: fn(&View) -> Option<&Counts>, counter: &str| {
        // Where nobody tells, there is no rate either.
        side(view)?.told(counter)?;
        Some(model.rate(|view| side(view).map(|counts| counts.get(counter))))
    };
    let rows = ROWS.map(|(name, counter)| {
        (name, rate(|v| Some(&v.ours), counter), rate(|v| v.kernel.as_ref(), counter))
    });
    let most = rows.iter().flat_map(|(_, ours, kernels)| [*ours, *kernels]).flatten().max().unwrap_or(0);
    // What the names and our numbers leave is for bars and for the kernel's side.
    let left = usize::from(inside.width).saturating_sub(8 + 12);
    let room = match &view.kernel {
        Some(_) => left.saturating_sub(12) / 2,
        None => left.saturating_sub(REASON),
    };
    let side = |count: Option<u64>, colour| {
        let bar = bar(count.unwrap_or(0), most, room);
        [
            Span::raw(format!(" {:>10} ", count.map_or_else(|| "-".to_owned(), thousands))),
            Span::styled(format!("{bar:room$}"), palette.colour(colour)),
        ]
    };
    let row =
        |name: &str, ours: &str, kernels: &str| format!("{name:8} {ours:>10} {:room$} {kernels:>10}", "");
    let title = if view.kernel.is_some() { kernels_title(view) } else { String::new() };
    let mut lines = vec![Line::styled(row("", "umemd", &title), palette.quiet())];
    for (name, ours, kernels) in rows {
        let mut spans = vec![Span::raw(format!("{name:8}"))];
        spans.extend(side(ours, Color::Blue));
        if view.kernel.is_some() {
            spans.extend(side(kernels, Color::Green));
        }
        lines.push(Line::from(spans));
    }
    let recycled = |side: fn(&View) -> Option<Counts>| percent(model.recycled(side));
    let kernels = if view.kernel.is_some() { recycled(|v| v.kernel.clone()) } else { String::new() };
    lines.push(Line::from(row("recycled", &recycled(|v| Some(v.ours.clone())), &kernels)));
    lines.extend(stalled(view, usize::from(inside.width)).map(|told| Line::styled(told, palette.bad())));
    frame.render_widget(Paragraph::new(lines), inside);
    if view.kernel.is_none() {
        // Where its numbers would be.
        let x = inside.x + (8 + 12 + room + 1) as u16;
        let place = Rect { x, width: inside.right().saturating_sub(x), height: 10, ..inside };
        let lines = reason(view, usize::from(place.width), usize::from(place.height));
        let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(text).style(palette.quiet()), place.intersection(inside));
    }
}

/// The kernel's pools that cannot end, in one line of that width: how many, the pages that somebody keeps of them, and for
/// how long of the one that waits longest.
fn stalled(view: &View, width: usize) -> Option<String> {
    let pools = view.stalled.len();
    // Not told of one, it is not told of all together.
    let pages = view.stalled.iter().map(|pool| pool.inflight_pages).sum::<Option<u64>>();
    let pages = pages.map_or_else(String::new, |pages| format!(", {}", counted(pages, "page")));
    let oldest = thousands(view.stalled.iter().filter_map(|pool| pool.detached_s).max()?);
    let told = format!("{} stalled for {oldest} s{pages}", counted(pools as u64, "kernel pool"));
    let short = format!("kernel: {pools} stalled, {oldest} s{pages}");
    let fits = |text: &String| text.chars().count() <= width;
    [format!("{told} (umemd pagepool)"), told].into_iter().find(fits).or(Some(short))
}

/// Columns for the reason why the kernel says nothing, its margin included: `CONFIG_PAGE_POOL_STATS),` is not to be
/// broken, and at 80 columns there are no more.
const REASON: usize = 27;

/// Whose numbers the kernel's are: it has pools of its own for each queue, and does not always say for which.
fn kernels_title(view: &View) -> String {
    let (told, all) = view.kernel_of;
    if view.one_queue {
        "kernel, all queues".to_owned()
    } else if told < all {
        format!("kernel, {told} of {all}")
    } else if view.kernel_unlisted {
        "kernel, by ethtool only".to_owned()
    } else {
        "kernel".to_owned()
    }
}

/// Why the kernel says nothing, in lines of that width; what does not fit, `umemd pagepool` tells.
fn reason(view: &View, width: usize, height: usize) -> Vec<String> {
    let why = view.kernel_silent.as_deref().unwrap_or("not asked");
    let fits =
        |lines: &Vec<String>| lines.len() <= height && lines.iter().all(|line| line.chars().count() <= width);
    [format!("kernel: not available, {why}").as_str(), "kernel: not available; umemd pagepool says why"]
        .map(|text| fill(text, width))
        .into_iter()
        .find(fits)
        // In less than 80 columns.
        .unwrap_or_else(|| {
            ["kernel", "n/a:", "umemd", "page-", "pool", "says", "why"].map(str::to_owned).to_vec()
        })
}

/// Breaks a text between words. A word that is longer than a line has one of its own.
fn fill(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// As much as the queues want, and a higher terminal than the usual one has; none, if that is not one row.
fn list_height(height: u16, queues: usize) -> u16 {
    let room = height.saturating_sub(HEIGHT);
    let wanted = u16::try_from(queues).unwrap_or(u16::MAX).saturating_add(LIST_HEAD);
    if queues == 0 || room <= LIST_HEAD { 0 } else { room.min(wanted) }
}

fn queue_list(model: &Model, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let rows = model.queue_rows();
    let room = usize::from(area.height.saturating_sub(LIST_HEAD));
    // The chosen one is in the middle, unless that would leave lines empty.
    let chosen = rows.iter().position(|row| row.chosen).unwrap_or(0);
    let first = chosen.saturating_sub(room / 2).min(rows.len().saturating_sub(room));
    let beyond = rows.len().saturating_sub(room);
    let title = if beyond == 0 {
        " queues; lost since they were opened ".to_owned()
    } else {
        format!(
            " queues {} to {} of {}, {beyond} not shown; lost since they were opened ",
            first + 1,
            first + room,
            rows.len()
        )
    };
    let block = titled(title, palette);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let line = |name: &str, mode: &str, [received, sent, recycled, lost]: [&str; 4]| {
        format!("{name:19} {mode:9} {received:>9} {sent:>9} {recycled:>9} {lost:>9} ")
    };
    let head = line("  queue", "mode", ["rx pps", "tx pps", "recycled", "lost"]);
    let mut lines = vec![Line::styled(head, palette.quiet())];
    for row in rows.iter().skip(first).take(room) {
        let lost = row.lost.map_or_else(|| "-".to_owned(), short);
        let (received, sent) = (decimal(row.received), decimal(row.sent));
        let numbers = [received.trim_end(), sent.trim_end(), &percent(row.recycled), &lost];
        let mark = if row.chosen { "> " } else { "  " };
        let style = if row.chosen { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        lines.push(Line::from(vec![
            Span::styled(line(&format!("{mark}{}", row.name), &row.mode, numbers), style),
            Span::styled(row.alarm.unwrap_or_default(), palette.bad()),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), inside);
}

/// A count in nine columns: to the last digit while there is room for it.
fn short(count: u64) -> String {
    if count < 10_000_000 { thousands(count) } else { decimal(count as f64) }
}

fn sparklines(model: &Model, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let [left, right] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(area);
    let mut draw = |title: &str, beside: &str, values: Vec<u64>, area: Rect, colour| {
        let most = thousands(values.iter().copied().max().unwrap_or(0));
        let block = titled(format!(" {title}, up to {most}{beside} "), palette);
        frame.render_widget(
            Sparkline::default().block(block).data(values).style(palette.colour(colour)),
            area,
        );
    };
    // The newest on the right.
    let width = |area: Rect| usize::from(area.width);
    let newest = |values: &mut dyn DoubleEndedIterator<Item = u64>, width: usize| {
        let mut newest: Vec<u64> = values.rev().take(width).collect();
        newest.resize(width, 0);
        newest.reverse();
        newest
    };
    let by_nic = model.lost_by_nic();
    let nic = if by_nic > 0 { format!("; nic {}", thousands(by_nic)) } else { String::new() };
    draw("received per second", "", newest(&mut model.received(), width(left)), left, Color::Blue);
    draw("lost per second", &nic, newest(&mut model.lost(), width(right)), right, Color::Red);
}

fn drop_rows(model: &Model, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let block =
        titled(" where packets got lost (nic: also before us); `umemd drops` says what to do ", palette);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let mut rows: Vec<_> = model
        .status()
        .devices
        .iter()
        .flat_map(|device| device.drops.iter().map(|row| (device.device.as_str(), row)))
        .filter(|(_, row)| row.lost && row.count > 0)
        .collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.count));
    let troubles = model.error().map(str::to_owned).into_iter().chain(troubles(model.status()));
    let mut lines: Vec<Line<'_>> = troubles
        .flat_map(|trouble| fill(&trouble, usize::from(inside.width)))
        .map(|line| Line::styled(line, palette.bad()))
        .collect();
    lines.extend(rows.iter().map(|(device, row)| {
        Line::from(format!("{device:15} {:9} {:32} {:>16}", row.layer, row.cause, thousands(row.count)))
    }));
    if lines.is_empty() {
        lines.push(Line::styled("nothing was lost", palette.good()));
    }
    let room = usize::from(inside.height);
    if lines.len() > room && room > 0 {
        let more = lines.len() + 1 - room;
        lines.truncate(room - 1);
        lines.push(Line::styled(format!("and {more} lines more: umemd status, umemd drops"), palette.bad()));
    }
    frame.render_widget(Paragraph::new(lines), inside);
}

/// Queues whose socket the program does not find, in one line however many they are.
fn unsteered(device: &DeviceStatus) -> Option<String> {
    let queues = device.queues.iter().filter(|queue| !queue.steered);
    let numbers: Vec<String> = queues.map(|queue| queue.queue.to_string()).collect();
    let (queues, their) = match numbers.len() {
        0 => return None,
        1 => ("queue", "is not steered: its"),
        _ => ("queues", "are not steered: their"),
    };
    Some(format!("{} {queues} {} {their} traffic goes to the stack", device.device, numbers.join(", ")))
}

/// What is worse than lost packets: interfaces that are away, queues that are the stack's, and frames that do not come
/// back.
fn troubles(status: &Status) -> Vec<String> {
    let away = status
        .devices
        .iter()
        .filter_map(|device| device.away.as_ref().map(|why| format!("{} is away: {why}", device.device)));
    let unsteered = status.devices.iter().filter_map(unsteered);
    let leaks = status.holders().filter(|(.., holder)| holder.leaked > 0);
    away.chain(unsteered)
        .chain(leaks.map(|(device, queue, holder)| holder.told(device, queue)))
        .chain(status.orphans_told())
        .collect()
}

fn key_line(model: &Model, palette: Palette, width: u16, either: bool) -> Paragraph<'static> {
    // They do the same; of more queues than one is a list that one goes down.
    let down = if model.queues() > 1 { "\u{2191} \u{2193} j k " } else { "" };
    let pause = if model.is_paused() { "p go on   PAUSED" } else { "p pause" };
    let list = match (either, model.lists()) {
        (false, _) => "",
        (true, false) => "t table   ",
        (true, true) => "t bars   ",
    };
    let keys = format!("q quit   \u{2190} \u{2192} {down}queue   {list}{pause}");
    let room = usize::from(width).saturating_sub(keys.chars().count() + 3);
    let end: String = model.url().chars().take(room).collect();
    Paragraph::new(Line::styled(format!("{keys}   {end:>room$}"), palette.quiet()))
}

/// `part` of `whole` in eighths of a column; something is never nothing.
fn bar(part: u64, whole: u64, columns: usize) -> String {
    const EIGHTHS: [char; 8] =
        [' ', '\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}'];
    if part == 0 || whole == 0 || columns == 0 {
        return String::new();
    }
    let eighths = (part.min(whole) as f64 / whole as f64 * columns as f64 * 8.0).round().max(1.0) as usize;
    let mut text = "\u{2588}".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8]);
    }
    text
}
