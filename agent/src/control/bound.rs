//! [`Bound`]: the sockets of one worker, in the mode that was planned for them.

use std::sync::Arc;

use frame_pool::FrameLayout;

use super::plan::Plan;
use crate::{
    config::{BindMode, RunConfig},
    numa::Nodes,
    xsk::{self, OpenError, Request, RingSizes, SocketHandle, UmemFrames, UmemRequest, XskPort},
};

type Sockets = Vec<(XskPort, SocketHandle)>;

/// The sockets of one worker, all on one UMEM.
pub(super) struct Bound {
    pub(super) sockets: Sockets,
    pub(super) huge_pages: bool,
    /// Where that UMEM lies.
    pub(super) nodes: Nodes,
    /// Whether packets may take several frames.
    pub(super) multi_buffer: bool,
    pub(super) rings: RingSizes,
}

/// Binds one queue of each interface, in the mode planned; or in copy mode, said aloud, if zero-copy was nobody's
/// wish but the table's. Waits, if it `may_wait`, for a queue that is not free yet.
///
/// One UMEM, however often its sockets are refused: a second one could be more than may be pinned, as the first is
/// unpinned some time later. But libxdp binds the first socket of a UMEM once (`xsk_socket__delete()` leaves it as it is).
pub(super) fn bind(
    config: &RunConfig,
    plans: &[Plan],
    queues: &[u32],
    may_wait: bool,
) -> Result<Bound, OpenError> {
    let rings = RingSizes::new(config.layout, plans.len() as u32, config.rings);
    let (mut frames, mut huge_pages) = umem(config, plans, queues, rings)?;
    let (planned, asked) = plans[0].bind;
    let bound = match sockets(plans, queues, &frames, rings, planned, |_| may_wait) {
        Err((refused, error))
            if planned == BindMode::ZeroCopy && !asked && !matches!(error, OpenError::Busy { .. }) =>
        {
            log::warn!(
                "{error}: {} should have zero-copy and gets copy mode; --zerocopy makes this an error, --copy no \
                 warning",
                plans[refused].facts.driver
            );
            if plans.len() > 1 || matches!(error, OpenError::WrongMode { .. }) {
                drop(frames);
                (frames, huge_pages) = umem(config, plans, queues, rings)?;
            }
            // What was bound is closed since this moment: those queues are free soon.
            sockets(plans, queues, &frames, rings, BindMode::Copy, |index| may_wait || index <= refused)
        }
        result => result,
    };
    let (sockets, multi_buffer) = bound.map_err(|(_, error)| error)?;
    Ok(Bound { sockets, huge_pages, nodes: Nodes::of(frames.address()), multi_buffer, rings })
}

/// Sockets on these frames, one for a queue of each interface, and whether their packets may take several frames; or which
/// of them was refused, and why. `waits` says for which a queue that is not free yet is waited for.
fn sockets(
    plans: &[Plan],
    queues: &[u32],
    frames: &Arc<UmemFrames>,
    rings: RingSizes,
    bind: BindMode,
    waits: impl Fn(usize) -> bool,
) -> Result<(Sockets, bool), (usize, OpenError)> {
    // Planned for all of them alike.
    let mut multi_buffer = plans[0].multi_buffer;
    let mut sockets = Sockets::new();
    for (index, (plan, queue)) in plans.iter().zip(queues).enumerate() {
        let open = |multi_buffer| {
            let interface = &plan.link.name;
            let max_fragments = plan.max_fragments(bind);
            let request =
                Request { interface, queue: *queue, frames, rings, bind, multi_buffer, max_fragments };
            if waits(index) { xsk::patiently(|| xsk::open(request)) } else { xsk::open(request) }
        };
        // A second one has to be as the first.
        let does_without = sockets.is_empty() && plan.does_without_multi_buffer;
        let (socket, several) =
            several_frames_or_one(multi_buffer, does_without, open).map_err(|error| (index, error))?;
        multi_buffer = several;
        sockets.push(socket);
    }
    Ok((sockets, multi_buffer))
}

/// Opens a socket for packets in several frames, if those are wanted; or without them, said aloud, where the kernel
/// refuses that and it `does_without`. What it got, and whether it takes several.
fn several_frames_or_one<T>(
    wanted: bool,
    does_without: bool,
    open: impl Fn(bool) -> Result<T, OpenError>,
) -> Result<(T, bool), OpenError> {
    match open(wanted) {
        Err(error @ OpenError::NoMultiBuffer { .. }) if does_without => {
            let opened = open(false)?;
            log::warn!("{error}; it does without");
            Ok((opened, false))
        }
        result => Ok((result?, wanted)),
    }
}

/// The UMEM of these queues, and whether it is in huge pages.
fn umem(
    config: &RunConfig,
    plans: &[Plan],
    queues: &[u32],
    rings: RingSizes,
) -> Result<(Arc<UmemFrames>, bool), OpenError> {
    // Two sides take turns in one UMEM: twice the frames, for twice the rings.
    let count = config.layout.chunk_count() * queues.len() as u32;
    let layout = FrameLayout::new(config.layout.chunk_size(), count).unwrap_or(config.layout);
    let request = UmemRequest {
        interface: &plans[0].link.name,
        queue: queues[0],
        layout,
        headroom: plans[0].headroom,
        huge_pages: config.huge_pages,
        rings,
    };
    match xsk::umem(request) {
        Err(error @ OpenError::NoHugePages { .. }) => {
            log::warn!("{error}; it gets ordinary pages");
            Ok((xsk::umem(UmemRequest { huge_pages: false, ..request })?, false))
        }
        result => Ok((result?, config.huge_pages)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_packets_take_one_frame_only_those_that_fit_are_served() {
        // Linux before 6.6.
        let open = |several: bool| match several {
            true => Err(OpenError::NoMultiBuffer { interface: "eth0".into(), queue: 0, why: "EINVAL" }),
            false => Ok(()),
        };
        assert!(matches!(several_frames_or_one(true, true, open), Ok(((), false))));
        let refused = several_frames_or_one(true, false, open);
        assert!(matches!(refused, Err(OpenError::NoMultiBuffer { .. })), "{refused:?}");
        assert!(matches!(several_frames_or_one(true, true, |_| Ok(())), Ok(((), true))));
        // A driver without zero-copy says of several frames the same as of one.
        let open = |several: bool| match several {
            true => open(true),
            false => Err(OpenError::NoZeroCopy { interface: "eth0".into(), queue: 0 }),
        };
        let refused = several_frames_or_one(true, true, open);
        assert!(matches!(refused, Err(OpenError::NoZeroCopy { .. })), "{refused:?}");
        let busy = |_| Err::<(), _>(OpenError::Busy { interface: "eth0".into(), queue: 0 });
        assert!(matches!(several_frames_or_one(true, true, busy), Err(OpenError::Busy { .. })));
    }
}
