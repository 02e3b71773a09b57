//! [`Flight`]: what costs something to tell, one at a time, over HTTP or on the control socket.

use std::{fmt, time::Instant};

use hyper::body::Bytes;
use tokio::sync::Mutex;

/// What is told, or that it could not be written.
pub(super) type Page = Result<Bytes, fmt::Error>;

/// The pages made last. Whoever asks while one is being made gets the next one, and so do all who ask by then: however
/// many there are, no more than one is being made, and nobody gets one that was begun before he asked.
#[derive(Debug, Default)]
pub(super) struct Flight(Mutex<Vec<Made>>);

#[derive(Debug)]
struct Made {
    name: &'static str,
    begun: Instant,
    page: Page,
}

impl Flight {
    /// The page of this name, by `make` unless somebody began to make it after this was called.
    pub(super) async fn page(&self, name: &'static str, make: impl AsyncFnOnce() -> Page) -> Page {
        let asked = Instant::now();
        let mut pages = self.0.lock().await;
        let place = pages.iter().position(|made| made.name == name);
        if let Some(made) = place.map(|place| &pages[place])
            && made.begun >= asked
        {
            return made.page.clone();
        }
        let begun = Instant::now();
        let page = make().await;
        if let Some(place) = place {
            pages.swap_remove(place);
        }
        pages.push(Made { name, begun, page: page.clone() });
        page
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc, time::Duration};

    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn those_who_ask_at_once_get_one_page_that_is_younger_than_their_question() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (flight, made) = (Rc::new(Flight::default()), Rc::new(Cell::new(0)));
            let ask = |name: &'static str| {
                let (flight, made) = (Rc::clone(&flight), Rc::clone(&made));
                tokio::task::spawn_local(async move {
                    let page = async || {
                        made.set(made.get() + 1);
                        let number = made.get();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        assert_eq!(made.get(), number, "one is in flight");
                        Ok(format!("{name} {number}").into())
                    };
                    flight.page(name, page).await.unwrap()
                })
            };
            let first = ask("/metrics");
            tokio::time::sleep(Duration::from_millis(5)).await;
            // The first one's page is older than these questions.
            let later: Vec<_> = (0..50).map(|_| ask("/metrics")).collect();
            let other = ask("/status");
            assert_eq!(first.await.unwrap(), "/metrics 1");
            for page in later {
                assert_eq!(page.await.unwrap(), "/metrics 2");
            }
            assert_eq!(other.await.unwrap(), "/status 3");
            assert_eq!(ask("/metrics").await.unwrap(), "/metrics 4");
        });
    }
}
