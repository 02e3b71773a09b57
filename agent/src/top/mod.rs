//! `umemd top`: a running agent, live in a terminal.

mod draw;
mod model;

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, Sender},
    task::Poll,
    thread,
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Shows the agent at `target` until a key or a signal ends it; the terminal is as before then, whatever happened.
/// Returns the number of the signal, if it was one.
///
/// # Errors
///
/// If the agent does not answer at first, or the terminal cannot be drawn on. An agent that goes away later is
/// waited for.
pub fn run(target: Target) -> anyhow::Result<Option<u8>> {
    if !io::stdout().is_terminal() {
        anyhow::bail!(
            "umemd top draws on a terminal, and standard output is none; umemd status --json says the same"
        );
    }
    let mut model = Model::new(&target.to_string(), client::status(&target)?);
    let (sender, news) = mpsc::channel();
    end_at_signals(sender.clone())?;
    ask_again_and_again(target, sender);
    let palette = Palette::from_environment();
    let mut screen = Screen::open()?;
    while model.is_running() {
        while let Ok(news) = news.try_recv() {
            match news {
                News::Status(status) => model.see(status),
                News::Signal(number) => return Ok(Some(number)),
            }
        }
        screen.terminal.draw(|frame| draw::draw(&model, palette, frame))?;
        if event::poll(TICK)?
            && let Event::Key(key) = event::read()?
        {
            press(&mut model, key);
        }
    }
    Ok(None)
}

/// The terminal while it is ours. Given back when dropped, and by ratatui's own hook before a panic is told.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> io::Result<Self> {
        // What failed halfway is undone too.
        ratatui::try_init().map(|terminal| Self { terminal }).inspect_err(|_| drop(ratatui::try_restore()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to be given back.
        drop(ratatui::try_restore());
    }
}

/// What happens beside keys.
enum News {
    /// The agent answered, or did not.
    Status(Result<Status, ClientError>),
    /// We are to end.
    Signal(u8),
}

/// Listens for what would end us in the middle of a drawing: SIGINT (as Ctrl-C it is a key here), SIGTERM, and
/// SIGHUP when the connection of the terminal is closed.
fn end_at_signals(news: Sender<News>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _context = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| (signal(kind), kind.as_raw_value() as u8))
            .into_iter()
            .map(|(signal, number)| signal.map(|signal| (signal, number)))
            .collect::<io::Result<Vec<_>>>()?
    };
    thread::spawn(move || {
        let any = std::future::poll_fn(|context| {
            let came =
                |(signal, number): &mut (Signal, u8)| signal.poll_recv(context).is_ready().then_some(*number);
            signals.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
        });
        // Nobody listens any more if we are ending anyway.
        let _ = news.send(News::Signal(runtime.block_on(any)));
    });
    Ok(())
}

/// On a thread of its own, so that keys are answered while the agent is not.
fn ask_again_and_again(target: Target, news: Sender<News>) {
    thread::spawn(move || {
        loop {
            thread::sleep(PERIOD);
            if news.send(News::Status(client::status(&target))).is_err() {
                return;
            }
        }
    });
}

fn press(model: &mut Model, key: KeyEvent) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => model.quit(),
        KeyCode::Char('q') | KeyCode::Esc => model.quit(),
        KeyCode::Right | KeyCode::Down | KeyCode::Char('l' | 'j') | KeyCode::Tab => model.next(),
        KeyCode::Left | KeyCode::Up | KeyCode::Char('h' | 'k') | KeyCode::BackTab => model.previous(),
        KeyCode::Char('p' | ' ') => model.pause(),
        KeyCode::Char('t') => model.turn(),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
