//! [`Flight`]: pages that cost something, one at a time.

use std::time::Instant;

use tokio::sync::Mutex;

use super::Answer;

/// The pages made last. Whoever asks while one is being made gets the next one, and so do all who ask by then: however
/// many there are, no more than one is being made, and nobody gets one that was begun before he asked.
#[derive(Debug, Default)]
pub struct Flight(Mutex<Vec<Made>>);

#[derive(Debug)]
struct Made {
    path: String,
    begun: Instant,
    answer: Answer,
}

impl Flight {
    /// The page at `path`, by `make` unless somebody began to make it after this was called.
    pub async fn page(&self, path: &str, make: impl AsyncFnOnce() -> Answer) -> Answer {
        let asked = Instant::now();
        let mut pages = self.0.lock().await;
        let place = pages.iter().position(|made| made.path == path);
        if let Some(made) = place.map(|place| &pages[place])
            && made.begun >= asked
        {
            return made.answer.clone();
        }
        let begun = Instant::now();
        let answer = make().await;
        if let Some(place) = place {
            pages.swap_remove(place);
        }
        pages.push(Made { path: path.to_owned(), begun, answer: answer.clone() });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc, time::Duration};

    use hyper::StatusCode;
    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn those_who_ask_at_once_get_one_page_that_is_younger_than_their_question() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (flight, made) = (Rc::new(Flight::default()), Rc::new(Cell::new(0)));
            let ask = |path: &'static str| {
                let (flight, made) = (Rc::clone(&flight), Rc::clone(&made));
                tokio::task::spawn_local(async move {
                    let page = async || {
                        made.set(made.get() + 1);
                        let number = made.get();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        assert_eq!(made.get(), number, "one is in flight");
                        Answer::text(StatusCode::OK, format!("{path} {number}"))
                    };
                    flight.page(path, page).await.body
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
