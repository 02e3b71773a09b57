//! [`Bound`]: the sockets of one worker, in the mode that was planned for them.

use frame_pool::FrameLayout;

use super::plan::Plan;
use crate::{
    config::{BindMode, RunConfig},
    xsk::{self, OpenError, Request, RingSizes, SocketHandle, UmemRequest, XskPort},
};

/// The sockets of one worker, all on one UMEM.
pub(super) struct Bound {
    pub(super) sockets: Vec<(XskPort, SocketHandle)>,
    pub(super) huge_pages: bool,
    pub(super) rings: RingSizes,
}

/// Binds one queue of each interface, in the mode planned; or in copy mode, said aloud, if zero-copy was nobody's
/// wish but the table's.
pub(super) fn bind(config: &RunConfig, plans: &[Plan], queues: &[u32]) -> Result<Bound, OpenError> {
    let (planned, asked) = plans[0].bind;
    match bind_as(config, plans, queues, planned) {
        Err(error) if planned == BindMode::ZeroCopy && !asked && !matches!(error, OpenError::Busy { .. }) => {
            log::warn!(
                "{error}: {} should have zero-copy and gets copy mode; --zerocopy makes this an error, --copy no \
                 warning",
                plans[0].driver
            );
            bind_as(config, plans, queues, BindMode::Copy)
        }
        result => result,
    }
}

fn bind_as(config: &RunConfig, plans: &[Plan], queues: &[u32], bind: BindMode) -> Result<Bound, OpenError> {
    let rings = RingSizes::new(config.layout, config.rings);
    // Two sides take turns in one UMEM: twice the frames, for twice the rings.
    let count = config.layout.chunk_count() * queues.len() as u32;
    let layout = FrameLayout::new(config.layout.chunk_size(), count).unwrap_or(config.layout);
    let mut request = UmemRequest {
        interface: &plans[0].link.name,
        queue: queues[0],
        layout,
        headroom: plans[0].headroom,
        huge_pages: config.huge_pages,
        rings,
    };
    let frames = match xsk::umem(request) {
        Err(error @ OpenError::NoHugePages { .. }) => {
            log::warn!("{error}; it gets ordinary pages");
            request.huge_pages = false;
            xsk::umem(request)
        }
        result => result,
    }?;
    let sockets = plans.iter().zip(queues).map(|(plan, queue)| {
        let Plan { link, multi_buffer, .. } = plan;
        let multi_buffer = *multi_buffer;
        xsk::open(Request {
            interface: &link.name,
            queue: *queue,
            frames: &frames,
            rings,
            bind,
            multi_buffer,
        })
    });
    Ok(Bound { sockets: sockets.collect::<Result<_, _>>()?, huge_pages: request.huge_pages, rings })
}
