//! The screens, drawn into memory and compared with those beside this file: `UPDATE=1 cargo test -p umemd screen`
//! writes them.

use std::{fs, path::Path};

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::observe::{Observation, fixture, fixture_with_kernel};

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
        let counters = kernel.page_pool.pools[0].counters.as_mut().unwrap();
        counters.alloc_fast = counters.alloc_fast.map(|count| count + 99_000);
        counters.recycle_cached = counters.recycle_cached.map(|count| count + 90_000);
        counters.recycle_ring = counters.recycle_ring.map(|count| count + 5_000);
    }
    Status::of(&observation)
}

fn model(observation: impl Fn() -> Observation) -> Model {
    let mut model = Model::new("http://127.0.0.1:19478", Status::of(&observation()));
    model.see(Ok(later(observation())));
    model
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
fn screen_of_a_silent_kernel_and_an_agent_that_went_away() {
    let mut model = model(fixture);
    let source = io::Error::from(io::ErrorKind::ConnectionRefused);
    model.see(Err(ClientError::Unreachable {
        at: "http://127.0.0.1:19478".into(),
        flag: "--listen",
        source,
    }));
    assert_screen("silent.txt", &text(&model, (80, 24)));
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
fn an_agent_started_anew_has_no_rates_yet() {
    let mut model = model(fixture_with_kernel);
    assert_eq!(model.rate(|view| view.traffic.get("rx_packets")), 100_000);
    model.see(Ok(Status::of(&fixture_with_kernel())));
    assert_eq!(model.rate(|view| view.traffic.get("rx_packets")), 0);
}
