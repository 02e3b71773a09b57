//! The screens, drawn into memory and compared with those beside this file: `UPDATE=1 cargo test -p umemd screen`
//! writes them.

use std::{ffi::OsStr, fs, path::Path, sync::Arc};

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    observe::{self, Observation, fixture, fixture_one_frame_short, fixture_with_kernel},
    page_pool::{self, DevicePools, PoolJson, Reason, Source},
};

fn draw(model: &Model, palette: Palette, (width, height): (u16, u16)) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(model, palette, frame)).unwrap();
    terminal
}

fn text(model: &Model, size: (u16, u16)) -> String {
    let terminal = draw(model, Palette::plain(), size);
    let buffer = terminal.backend().buffer();
    let line = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..size.1).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

#[track_caller]
fn assert_screen(name: &str, screen: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/screens").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, screen).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        screen, expected,
        "{name} is not what it was; `UPDATE=1 cargo test -p umemd screen` writes it"
    );
}

/// A second later: traffic, and a burst that was lost.
fn later(mut observation: Observation) -> Status {
    observation.at += Duration::from_secs(1);
    for queue in &mut observation.devices[0].queues {
        let snapshot = &mut queue.snapshot;
        snapshot.traffic.rx_packets += 50_000;
        snapshot.traffic.rx_bytes += 50_000 * 60;
        snapshot.pool.alloc.fast += 49_000;
        snapshot.pool.alloc.refill += 16;
        snapshot.pool.recycle.cached += 48_000;
        snapshot.pool.recycle.ring += 1_000;
        snapshot.places.slab -= 200;
        snapshot.places.user += 200;
        snapshot.held += 200;
    }
    observation.devices[0].queues[1].xsk.as_mut().unwrap().rx_dropped += 1234;
    if let Some(kernel) = &mut observation.devices[0].kernel {
        // None, if the kernel is silent.
        if let Some(counters) = kernel.page_pool.pools.first_mut().and_then(|pool| pool.counters.as_mut()) {
            counters.alloc_fast = counters.alloc_fast.map(|count| count + 99_000);
            counters.recycle_cached = counters.recycle_cached.map(|count| count + 90_000);
            counters.recycle_ring = counters.recycle_ring.map(|count| count + 5_000);
        }
    }
    Status::of(&observation)
}

fn model(observation: impl Fn() -> Observation) -> Model {
    let mut model = Model::new("http://127.0.0.1:19478", Status::of(&observation()));
    model.see(Ok(later(observation())));
    model
}

#[test]
fn what_the_kernel_does_not_tell_is_no_number() {
    let untold = || {
        let mut observation = fixture_with_kernel();
        let kernel = observation.devices[0].kernel.as_mut().unwrap();
        for counters in kernel.page_pool.pools.iter_mut().filter_map(|pool| pool.counters.as_mut()) {
            counters.alloc_slow = None;
        }
        observation.orphans = kernel.page_pool.pools[1..].to_vec();
        observation
    };
    let screen = text(&model(untold), (80, 24));
    let row =
        |name: &str| screen.lines().find_map(|line| line.split_once(name)).unwrap().1.split_whitespace();
    assert_eq!(row(" slow ").collect::<Vec<_>>(), ["0", "-"], "{screen}");
    assert_eq!(row(" full ").collect::<Vec<_>>(), ["0", "0"], "{screen}");
    assert!(screen.contains("page_pools of interfaces that are gone: 1, "), "{screen}");
}

#[test]
fn screen_of_both_recyclers() {
    assert_screen("both.txt", &text(&model(fixture_with_kernel), (80, 24)));
}

#[test]
fn screen_of_one_queue() {
    let mut model = model(fixture_with_kernel);
    model.next();
    assert_screen("queue.txt", &text(&model, (80, 24)));
}

#[test]
fn a_broken_law_is_in_the_first_line_whatever_else_is_wrong() {
    let first = |observation: &dyn Fn() -> Observation, palette| {
        let terminal = draw(&model(observation), palette, (80, 24));
        let buffer = terminal.backend().buffer();
        let line: String = (0..80).map(|x| buffer[(x, 0)].symbol()).collect();
        (line, buffer[(13, 0)].fg)
    };
    let (holds, good) = first(&fixture, Palette::coloured());
    assert!(holds.starts_with("umemd 0.1.0  law holds  up 2 s"), "{holds}");
    let broken = || {
        let mut observation = fixture_one_frame_short();
        observation.devices[0].queues[0].steered = false;
        observation
    };
    let (broken, bad) = first(&broken, Palette::coloured());
    assert!(broken.starts_with("umemd 0.1.0  LAW BROKEN  up 2 s"), "{broken}");
    assert_ne!(good, bad, "in another colour");
}

/// With a kernel that tells nothing of its pools, for this reason.
fn silent(reason: Reason) -> Observation {
    let mut observation = fixture_with_kernel();
    let kernel = observation.devices[0].kernel.as_mut().unwrap();
    kernel.page_pool = DevicePools { source: Source::None(reason), pools: Vec::new() };
    observation
}

#[test]
fn screen_of_a_silent_kernel_and_an_agent_that_went_away() {
    let mut model = model(|| silent(Reason::KernelTooOld));
    let source = io::Error::from(io::ErrorKind::ConnectionRefused);
    model.see(Err(ClientError::Unreachable {
        at: "http://127.0.0.1:19478".into(),
        flag: "--listen",
        source,
    }));
    assert_screen("silent.txt", &text(&model, (80, 24)));
}

#[test]
fn why_the_kernel_is_silent_can_be_read_to_the_end() {
    let failed = Reason::Failed("Operation not permitted (os error 1)".into());
    for reason in
        [Reason::KernelWithoutStats, Reason::Unlisted, Reason::DriverSilent, Reason::KernelTooOld, failed]
    {
        let text = text(&model(|| silent(reason.clone())), (80, 24));
        let column = |line: &str| line.chars().skip(33 + 21).collect::<String>();
        let shown: Vec<String> = text.lines().skip(3).take(10).map(column).collect();
        let shown = shown.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(shown, format!("kernel: not available, {reason}"), "{text}");
    }
    // What is too long for it, and in too narrow a terminal, is elsewhere.
    let long = || silent(Reason::Failed("word ".repeat(80)));
    assert!(text(&model(long), (80, 24)).contains("umemd pagepool says"));
    assert!(text(&model(|| silent(Reason::KernelTooOld)), (60, 20)).contains("page-"));
}

#[test]
fn whose_the_kernels_numbers_are_is_said() {
    let of = |model: &Model| text(model, (80, 24)).lines().nth(3).unwrap().to_owned();
    let two = || {
        let mut observation = fixture_with_kernel();
        let mut other = observation.devices[0].clone();
        Arc::make_mut(&mut other.info).name = "eth1".into();
        other.kernel = silent(Reason::DriverSilent).devices.remove(0).kernel;
        observation.devices.push(other);
        observation
    };
    let mut model = model(two);
    assert!(of(&model).ends_with(" kernel, 1 of 2"), "{}", of(&model));
    model.next();
    assert!(of(&model).ends_with(" kernel, all queues"), "{}", of(&model));
}

#[test]
fn counters_that_somebody_tells_of_only_now_are_no_rate() {
    let mut model = model(|| silent(Reason::DriverSilent));
    let mut observation = fixture_with_kernel();
    observation.at += Duration::from_secs(2);
    model.see(Ok(Status::of(&observation)));
    assert_eq!(model.rate(|view| Some(view.kernel.as_ref()?.get("alloc_fast"))), 0);
}

#[test]
fn screen_of_an_interface_that_is_away() {
    let mut model = model(fixture_with_kernel);
    let mut observation = fixture_with_kernel();
    observation.at += Duration::from_secs(2);
    let device = &mut observation.devices[0];
    observation.leaving = device.queues.drain(..1).collect();
    device.queues.clear();
    (device.kernel, device.away) = (None, Some("eth0 was removed".into()));
    model.see(Ok(Status::of(&observation)));
    assert_screen("away.txt", &text(&model, (80, 24)));
}

#[test]
fn screen_of_a_wide_terminal() {
    assert_screen("wide.txt", &text(&model(fixture_with_kernel), (120, 30)));
}

/// With so many queues, the second of which is not steered.
fn many(queues: u32) -> Observation {
    let mut observation = fixture_with_kernel();
    let device = &mut observation.devices[0];
    let one = device.queues[1].clone();
    device.queues.extend((2..queues).map(|queue| observe::QueueView { queue, ..one.clone() }));
    device.queues[1].steered = false;
    observation
}

#[test]
fn screen_of_the_queues_where_there_is_room_for_them_or_the_bars() {
    let mut model = model(|| many(12));
    press(&mut model, KeyEvent::new(KeyCode::Char('t'), KeyModifiers::NONE));
    let screen = text(&model, (80, 24));
    assert_screen("table.txt", &screen);
    assert!(screen.contains("eth0/1 ") && screen.contains("UNSTEERED"), "{screen}");
    assert!(!screen.contains("both recyclers") && screen.contains("t bars"), "{screen}");
    // A higher terminal has both, whatever was asked.
    let high = text(&model, (80, 40));
    assert!(
        high.contains("both recyclers") && high.contains("eth0/1 ") && !high.contains("t bars"),
        "{high}"
    );
    model.turn();
    assert!(text(&model, (80, 24)).contains("t table"));
}

#[test]
fn screen_of_more_queues_than_lines() {
    let mut model = model(|| many(12));
    for _ in 0..8 {
        model.next();
    }
    let screen = text(&model, (80, 32));
    assert_screen("many.txt", &screen);
    assert!(screen.contains(" queues 5 to 10 of 12, 6 not shown; lost since they were opened "), "{screen}");
    // One that is chosen is always there, and no line is empty.
    for chosen in 0..=12 {
        let screen = text(&model, (80, 32));
        assert_eq!(
            screen.lines().filter(|line| line.contains("  eth0/") || line.contains("> eth0/")).count(),
            6
        );
        let shown = screen.lines().find_map(|line| line.split_once("> eth0/"));
        assert_eq!(shown.is_none(), model.view().title == "all queues", "{chosen}: {screen}");
        model.next();
    }
}

#[test]
fn the_list_of_queues_takes_no_line_that_others_want() {
    let lines = |height| {
        let screen = text(&model(|| many(12)), (80, height));
        screen.lines().filter(|line| line.starts_with("  eth0/")).count()
    };
    assert_eq!([24, 26, 27, 30, 38, 50].map(lines), [0, 0, 1, 4, 12, 12]);
    // A list of one queue alone is shown too, as what it lost is nowhere else by queue.
    let one = || {
        let mut observation = fixture_with_kernel();
        observation.devices[0].queues.truncate(2);
        observation
    };
    assert!(text(&model(one), (80, 27)).contains("  eth0/0 "));
}

#[test]
fn a_queue_that_is_not_steered_is_named() {
    let several = || {
        let mut observation = many(4);
        observation.devices[0].queues[3].steered = false;
        observation
    };
    let screen = text(&model(several), (80, 40));
    assert!(
        screen.contains("eth0 queues 1, 3 are not steered: their traffic goes to the stack\n"),
        "{screen}"
    );
    let screen = text(&model(|| many(2)), (80, 40));
    assert!(screen.contains("eth0 queue 1 is not steered: its traffic goes to the stack\n"), "{screen}");
    let row = screen.lines().find(|line| line.starts_with("  eth0/1 ")).unwrap();
    assert!(row.ends_with(" 1,234 UNSTEERED"), "{row}");
    let row = screen.lines().find(|line| line.starts_with("  eth0/0 ")).unwrap();
    assert!(row.ends_with(" 0 LEAK"), "{row}");
    let failed = || {
        let mut observation = many(2);
        observation.devices[0].queues[1].failed = true;
        observation
    };
    let screen = text(&model(failed), (80, 40));
    let row = screen.lines().find(|line| line.starts_with("  eth0/1 ")).unwrap();
    assert!(row.ends_with(" 1,234 PANICKED"), "{row}");
}

#[test]
fn no_more_is_recycled_than_was_taken() {
    let mut model = model(fixture_with_kernel);
    let mut status = model.status().clone();
    status.at_s += 1.0;
    // A burst of the second before comes home in this one.
    for queue in &mut status.devices[0].queues {
        queue.counters.add("alloc_fast", 100);
        queue.counters.add("recycle_cached", 150);
    }
    model.see(Ok(status));
    assert_eq!(model.recycled(|view| Some(view.ours.clone())), Some(1.0));
    assert_eq!(model.queue_rows()[0].recycled, Some(1.0));
}

#[test]
fn a_terminal_that_is_too_small_is_told() {
    let model = model(fixture_with_kernel);
    assert!(text(&model, (40, 24)).contains("q quits"));
    for (width, height) in [(1, 1), (60, 20), (79, 21), (300, 100)] {
        text(&model, (width, height));
    }
}

#[test]
fn without_colours_there_are_none() {
    use ratatui::style::Color;
    let colours = |palette| {
        let terminal = draw(&model(fixture_with_kernel), palette, (80, 24));
        let cells = terminal.backend().buffer().content();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(Palette::plain()), 0);
    assert!(colours(Palette::coloured()) > 0);
}

#[test]
fn no_color_takes_them_away_unless_it_is_empty() {
    let has_colours = |value: Option<&str>| format!("{:?}", Palette::of(value.map(OsStr::new)));
    assert_eq!(has_colours(None), format!("{:?}", Palette::coloured()));
    assert_eq!(has_colours(Some("")), format!("{:?}", Palette::coloured()));
    for value in ["1", "0", "false"] {
        assert_eq!(has_colours(Some(value)), format!("{:?}", Palette::plain()), "{value}");
    }
}

#[test]
fn keys_do_what_the_last_line_says() {
    let mut model = model(fixture_with_kernel);
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    assert_eq!(model.view().title, "all queues");
    press(&mut model, key(KeyCode::Right));
    assert_eq!(model.view().title, "eth0 queue 0");
    press(&mut model, key(KeyCode::Left));
    press(&mut model, key(KeyCode::Left));
    assert_eq!(model.view().title, "eth0 queue 1");
    press(&mut model, key(KeyCode::Right));
    assert_eq!(model.view().title, "all queues");

    for (there, back) in [(KeyCode::Down, KeyCode::Up), (KeyCode::Char('j'), KeyCode::Char('k'))] {
        press(&mut model, key(there));
        press(&mut model, key(there));
        assert_eq!(model.view().title, "eth0 queue 1", "{there}");
        press(&mut model, key(back));
        assert_eq!(model.view().title, "eth0 queue 0", "{back}");
        press(&mut model, key(back));
    }

    press(&mut model, key(KeyCode::Char('p')));
    let shown = model.status().clone();
    model.see(Ok(Status::of(&fixture())));
    assert_eq!(*model.status(), shown, "what is held does not change");
    press(&mut model, key(KeyCode::Char('p')));
    model.see(Ok(Status::of(&fixture())));
    assert_ne!(*model.status(), shown);

    press(&mut model, key(KeyCode::Char('q')));
    assert!(!model.is_running());
}

#[test]
fn keys_that_go_down_a_list_are_named_where_there_is_one() {
    let keys = |queues, paused, palette| {
        let mut model = model(|| many(queues));
        if paused {
            model.pause();
        }
        let terminal = draw(&model, palette, (80, 24));
        let buffer = terminal.backend().buffer();
        (0..80).map(|x| buffer[(x, 23)].symbol()).collect::<String>()
    };
    for palette in [Palette::plain(), Palette::coloured()] {
        for paused in [false, true] {
            let line = keys(2, paused, palette);
            assert!(line.starts_with("q quit   ← → ↑ ↓ j k queue   t table   p "), "{line}");
            assert!(line.ends_with(" http://127.0.0.1:19478"), "{line}");
            assert_eq!(line.contains("PAUSED"), paused, "{line}");
        }
    }
    let mut one = model(fixture_with_kernel);
    let mut status = one.status().clone();
    status.devices[0].queues.truncate(1);
    one.see(Ok(status));
    let screen = text(&one, (80, 24));
    assert!(screen.contains("\nq quit   ← → queue   p pause "), "{screen}");
}

#[test]
fn pools_that_cannot_end_are_told_with_their_pages_and_their_age() {
    let told = |count: usize, pages: Option<u64>, detached_s: u64, size| {
        let mut model = model(fixture_with_kernel);
        let mut status = model.status().clone();
        let pools = &mut status.devices[0].page_pool.as_mut().unwrap().pools;
        let stalled = PoolJson { inflight_pages: pages, detached_s: Some(detached_s), ..pools[1].clone() };
        assert!(stalled.stalled, "{stalled:?}");
        pools.truncate(1);
        pools.extend(vec![stalled; count]);
        model.see(Ok(status));
        let screen = text(&model, size);
        let right = screen.lines().map(|line| line.chars().skip(33).collect::<String>());
        right.filter(|told| told.contains("stalled")).collect::<Vec<_>>().join("")
    };
    assert_eq!(told(1, Some(6), 200, (80, 24)), "1 kernel pool stalled for 200 s, 6 pages");
    assert_eq!(told(2, Some(6), 200, (80, 24)), "2 kernel pools stalled for 200 s, 12 pages");
    assert_eq!(told(1, None, 200, (80, 24)), "1 kernel pool stalled for 200 s");
    assert_eq!(told(1, Some(6), 200, (120, 30)), "1 kernel pool stalled for 200 s, 6 pages (umemd pagepool)");
    let many = told(12, Some(100_000), 604_800, (80, 24));
    assert_eq!(many, "kernel: 12 stalled, 604,800 s, 1,200,000 pages");
    assert_eq!(told(0, None, 0, (80, 24)), "");
}

#[test]
fn an_agent_started_anew_has_no_rates_yet() {
    let mut model = model(fixture_with_kernel);
    assert_eq!(model.rate(|view| Some(view.traffic.get("rx_packets"))), 100_000);
    model.see(Ok(Status::of(&fixture_with_kernel())));
    assert_eq!(model.rate(|view| Some(view.traffic.get("rx_packets"))), 0);

    let mut status = model.status().clone();
    (status.at_s, status.pid) = (status.at_s + 1.0, status.pid + 1);
    status.devices[0].queues[0].traffic.add("rx_packets", 1_000);
    model.see(Ok(status));
    assert_eq!(model.rate(|view| Some(view.traffic.get("rx_packets"))), 0, "one that lives for longer");
}

#[test]
fn a_queue_or_a_pool_that_began_anew_says_nothing_about_the_others() {
    let mut model = model(fixture_with_kernel);
    let mut status = model.status().clone();
    status.at_s += 1.0;
    let device = &mut status.devices[0];
    device.queues[0].traffic = [("rx_packets", 7)].into_iter().collect();
    device.queues[1].traffic.add("rx_packets", 30_000);
    let pools = device.page_pool.as_mut().unwrap();
    let mut busy = pools.pools[0].counters.unwrap();
    busy.recycle_ring = busy.recycle_ring.map(|count| count + 100);
    pools.pools[0].counters = Some(busy);
    // Of the one that was there only what came since; of a new one all.
    pools.pools[1] = PoolJson {
        pool: "10".into(),
        counters: Some(page_pool::fixture::counters()),
        ..pools.pools[1].clone()
    };
    model.see(Ok(status));
    assert_eq!(model.rate(|view| Some(view.traffic.get("rx_packets"))), 30_007);
    assert_eq!(model.rate(|view| Some(view.kernel.as_ref()?.get("recycle_ring"))), 100 + 250);
}

#[test]
fn what_is_lost_is_the_same_as_elsewhere() {
    let (then, now, told) = crate::drops::example::read();
    let mut model = Model::new("", then);
    model.see(Ok(now));
    assert_eq!(model.lost().next_back(), Some(told.lost));
    let screen = text(&model, (80, 40));
    let title = format!(" lost per second, up to {}; nic {} ", told.lost, told.nic);
    assert!(screen.contains(&title), "{screen}");
}

#[test]
fn what_the_default_drops_is_lost() {
    let mut model = model(fixture_with_kernel);
    let mut status = model.status().clone();
    status.at_s += 1.0;
    let row = status.devices[0].drops.iter_mut().find(|row| row.cause == "unmatched_dropped").unwrap();
    row.count += 55;
    assert_eq!(status.devices[0].lost() - model.status().devices[0].lost(), 55);
    model.see(Ok(status));
    assert_eq!(model.lost().next_back(), Some(55));
}
