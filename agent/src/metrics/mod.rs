//! What Prometheus scrapes: an [`Observation`](crate::observe::Observation) as OpenMetrics text, over HTTP.

mod http;
mod openmetrics;
mod tree;

pub use http::{Answer, bind, serve};
pub use openmetrics::{CONTENT_TYPE, render};
