//! `umemd top`: a running agent, live in a terminal.

mod draw;
mod model;

use std::{
    io,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

pub use draw::Palette;
pub use model::Model;

use crate::{
    client::{self, ClientError, Target},
    status::Status,
};

/// How often the agent is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a key may go unnoticed.
const TICK: Duration = Duration::from_millis(50);

/// Shows the agent at `target` until a key ends it; the terminal is as before then, whatever happened.
///
/// # Errors
///
/// If the agent does not answer at first, or the terminal cannot be drawn on. An agent that goes away later is
/// waited for.
pub fn run(target: Target) -> anyhow::Result<()> {
    let mut model = Model::new(&target.to_string(), client::status(&target)?);
    let statuses = ask_again_and_again(target);
    let palette = Palette::from_environment();
    let mut terminal = ratatui::try_init()?;
    let ended = (|| {
        while model.is_running() {
            while let Ok(status) = statuses.try_recv() {
                model.see(status);
            }
            terminal.draw(|frame| draw::draw(&model, palette, frame))?;
            if event::poll(TICK)?
                && let Event::Key(key) = event::read()?
            {
                press(&mut model, key);
            }
        }
        io::Result::Ok(())
    })();
    ratatui::try_restore()?;
    Ok(ended?)
}

/// On a thread of its own, so that keys are answered while the agent is not.
fn ask_again_and_again(target: Target) -> Receiver<Result<Status, ClientError>> {
    let (sender, statuses) = mpsc::channel();
    thread::spawn(move || {
        loop {
            thread::sleep(PERIOD);
            if sender.send(client::status(&target)).is_err() {
                return;
            }
        }
    });
    statuses
}

fn press(model: &mut Model, key: KeyEvent) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => model.quit(),
        KeyCode::Char('q') | KeyCode::Esc => model.quit(),
        KeyCode::Right | KeyCode::Char('l') | KeyCode::Tab => model.next(),
        KeyCode::Left | KeyCode::Char('h') | KeyCode::BackTab => model.previous(),
        KeyCode::Char('p' | ' ') => model.pause(),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
