//! What Prometheus scrapes: an [`Observation`](crate::observe::Observation) as OpenMetrics text, over HTTP.

#[cfg(test)]
mod golden;
mod http;
mod openmetrics;
mod page;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod reference;
mod series;
mod tree;

#[cfg(test)]
pub(crate) use http::PAGES;
pub use http::{Answer, Hosts, Requests, bind, serve};
pub use openmetrics::{CONTENT_TYPE, render};
pub use page::PAGE;
