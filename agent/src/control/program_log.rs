//! `--log-program`: what the XDP program logs appears among the agent's own log lines.

use std::time::Duration;

use crate::ebpf::ProgramLog;

/// Forwards as long as it is polled. A look ten times a second is enough for a person who reads along, and
/// registering the ring's descriptor with tokio would take unsafe code.
pub(super) async fn forward(mut log: ProgramLog) {
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        look.tick().await;
        log.flush();
    }
}
