//! What the agent says over HTTP.

use std::{fmt, time::Duration};

use hyper::{StatusCode, body::Bytes};

use super::{
    Agent,
    device::Device,
    group::Group,
    look::{FOR_SCRAPES, FOR_VIEWS},
};
use crate::{
    metrics::{self, Answer},
    observe::Observation,
    status::Status,
};

impl Agent {
    /// The HTTP pages.
    pub(super) async fn page(&self, path: &str) -> Option<Answer> {
        let page = match path {
            "/" => Answer {
                status: StatusCode::OK,
                content_type: "text/html; charset=utf-8",
                body: metrics::PAGE.into(),
            },
            "/metrics" => {
                self.costly_page("/metrics", FOR_SCRAPES, metrics::CONTENT_TYPE, metrics::render).await
            }
            "/status" => {
                let json = |observation| Ok(Status::of(&observation).json());
                self.costly_page("/status", FOR_VIEWS, "application/json", json).await
            }
            "/healthz" => {
                let failed = self.sick("is served by nobody: its handler panicked", |device| {
                    device.failed_queues().collect()
                });
                health(self.sick("makes no turns", |device| device.stalled_queues().collect()) + &failed)
            }
            "/readyz" => {
                let unsteered = |device: &Device| device.unsteered_queues().collect();
                health(self.sick("does not get its traffic", unsteered) + &self.away())
            }
            _ => return None,
        };
        Some(page)
    }

    /// A page of all that can be said; what the kernel says may have such an age.
    async fn costly_page(
        &self,
        path: &'static str,
        age: Duration,
        content_type: &'static str,
        make: fn(Observation) -> Result<String, fmt::Error>,
    ) -> Answer {
        match self.flight.page(path, async || make(self.observe_all(age).await).map(Bytes::from)).await {
            Ok(body) => Answer { status: StatusCode::OK, content_type, body },
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// A line for each queue that is not as it should be.
    fn sick(&self, what: &str, sick: impl Fn(&Device) -> Vec<u32>) -> String {
        let mut lines = String::new();
        for group in &self.groups {
            group.with(|open| {
                for device in &open.devices {
                    for queue in sick(device) {
                        lines.push_str(&format!("{} queue {queue} {what}\n", device.info().name));
                    }
                }
            });
        }
        lines
    }

    /// A line for each interface that is away: one that waits for it is not ready, and well.
    fn away(&self) -> String {
        let away = self.groups.iter().flat_map(Group::away);
        away.map(|(info, why)| format!("{} is away: {why}\n", info.name)).collect()
    }
}

/// `ok`, or 503 and what is wrong.
fn health(wrong: String) -> Answer {
    if wrong.is_empty() {
        Answer::text(StatusCode::OK, "ok\n")
    } else {
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Instant};

    use tokio::{
        sync::Notify,
        task::{LocalSet, yield_now},
        time::timeout,
    };

    use super::*;
    use crate::{
        config,
        control::{crew, group::Common, socket::Respond as _},
        protocol::Request,
    };

    /// More than a page takes that waits for nothing: it is there at once.
    const MOMENT: Duration = Duration::from_millis(20);

    /// An agent that serves no interface.
    fn agent() -> Agent {
        let config = config::fixture();
        let hire = crew::built_in(&config.handler);
        Agent::new(Common::new(config, hire, None, Instant::now()), Vec::new())
    }

    #[test]
    fn of_what_costs_something_one_is_made_at_a_time_and_the_rest_waits_for_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (agent, done) = (Rc::new(agent()), Rc::new(Notify::new()));
            let other = tokio::task::spawn_local({
                let (agent, done) = (Rc::clone(&agent), Rc::clone(&done));
                async move {
                    let make = async || {
                        done.notified().await;
                        Ok(Bytes::new())
                    };
                    agent.flight.page("another", make).await
                }
            });
            yield_now().await;
            let mut waiting = Vec::new();
            for path in metrics::PAGES {
                match timeout(MOMENT, agent.page(path)).await {
                    Ok(page) => assert_eq!(page.expect("a page").status, StatusCode::OK, "{path}"),
                    Err(_) => waiting.push(path),
                }
            }
            assert_eq!(waiting, ["/metrics", "/status"]);
            let told = timeout(MOMENT, agent.respond(Request::Status)).await;
            assert!(told.is_err(), "over the control socket it costs the same: {told:?}");

            done.notify_one();
            assert!(other.await.unwrap().is_ok());
            for path in waiting {
                assert_eq!(agent.page(path).await.expect("a page").status, StatusCode::OK, "{path}");
            }
            assert!(agent.respond(Request::Status).await.contains("\"devices\""));
        });
    }
}
