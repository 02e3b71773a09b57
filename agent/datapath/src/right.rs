//! [`Right`]: how a frame that is to be sent is held.

use frame_pool::{Frame, FrameAddr, FrameId, FramePool, FrameRef, Ledger, Lent, PoolTag, Recycler, Settled};

mod sealed {
    pub trait Sealed {}
    impl Sealed for frame_pool::Frame {}
    impl Sealed for frame_pool::FrameRef {}
}

/// How a frame that is to be sent is held: as a [`Frame`] by the sole holder, or as a [`FrameRef`] by one
/// of several. Sending reads the bytes as any other holder does.
pub trait Right: sealed::Sealed + Sized {
    /// Whether it is a [`Frame`].
    const IS_SOLE: bool;

    /// The frame's name.
    fn id(&self) -> FrameId;

    /// The pool that the right must go back to.
    fn home(&self) -> PoolTag;

    /// Exchanges rights, each with what is to be done with its name, for the frames' names, to be put on the
    /// TX ring.
    fn lend_each<T>(
        ledger: &mut Ledger,
        rights: impl ExactSizeIterator<Item = (T, Self)>,
        each: impl FnMut(T, FrameId),
    );

    /// Exchanges the completion ring's entries for the rights; the ledger counts those that it refuses.
    fn settle_all<D>(
        ledger: &mut Ledger,
        entries: &[D],
        addr_of: impl Fn(&D) -> FrameAddr,
        rights: &mut Vec<Self>,
    );

    /// Brings all of them home to their owner, who is the caller; leaves the vector empty.
    fn put_direct_bulk(pool: &mut FramePool, rights: &mut Vec<Self>);

    /// Brings all of them home to somebody else; leaves the vector empty.
    fn put_bulk(recycler: &Recycler, rights: &mut Vec<Self>);
}

impl Right for Frame {
    const IS_SOLE: bool = true;

    #[inline]
    fn id(&self) -> FrameId {
        self.id()
    }

    #[inline]
    fn home(&self) -> PoolTag {
        self.home()
    }

    #[inline]
    fn lend_each<T>(
        ledger: &mut Ledger,
        rights: impl ExactSizeIterator<Item = (T, Self)>,
        each: impl FnMut(T, FrameId),
    ) {
        ledger.lend_each(Lent::Tx, rights, each);
    }

    #[inline]
    fn settle_all<D>(
        ledger: &mut Ledger,
        entries: &[D],
        addr_of: impl Fn(&D) -> FrameAddr,
        rights: &mut Vec<Self>,
    ) {
        debug_assert!(entries.len() <= rights.capacity() - rights.len(), "what has no room would stay lent");
        let (mut rest, mut before) = (entries, rights.len());
        while ledger.settle_bulk(Lent::Tx, rest, &addr_of, rights).is_err() {
            // Behind the one that was refused.
            rest = &rest[rights.len() - before + 1..];
            before = rights.len();
        }
    }

    #[inline]
    fn put_direct_bulk(pool: &mut FramePool, rights: &mut Vec<Self>) {
        pool.put_direct_bulk(rights);
    }

    fn put_bulk(recycler: &Recycler, rights: &mut Vec<Self>) {
        recycler.put_bulk(rights);
    }
}

impl Right for FrameRef {
    const IS_SOLE: bool = false;

    #[inline]
    fn id(&self) -> FrameId {
        self.id()
    }

    #[inline]
    fn home(&self) -> PoolTag {
        self.home()
    }

    #[inline]
    fn lend_each<T>(
        ledger: &mut Ledger,
        rights: impl ExactSizeIterator<Item = (T, Self)>,
        mut each: impl FnMut(T, FrameId),
    ) {
        for (rest, right) in rights {
            each(rest, right.id());
            // It is one reference, of this UMEM and lent nowhere: anything else would be a bug of ours, and
            // the frame then stays out, which the places show.
            let _ = ledger.lend_ref(right);
        }
    }

    #[inline]
    fn settle_all<D>(
        ledger: &mut Ledger,
        entries: &[D],
        addr_of: impl Fn(&D) -> FrameAddr,
        rights: &mut Vec<Self>,
    ) {
        for entry in entries {
            match ledger.settle_any(Lent::Tx, addr_of(entry)) {
                Ok(Settled::Shared(reference)) => rights.push(reference),
                // Who lends references lends nothing else; it stays lent.
                Ok(Settled::Sole(frame)) => {
                    ledger.lend(frame, Lent::Tx);
                }
                Err(_) => {}
            }
        }
    }

    fn put_direct_bulk(pool: &mut FramePool, rights: &mut Vec<Self>) {
        pool.put_refs_direct_bulk(rights);
    }

    fn put_bulk(recycler: &Recycler, rights: &mut Vec<Self>) {
        recycler.put_refs_bulk(rights);
    }
}
