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
