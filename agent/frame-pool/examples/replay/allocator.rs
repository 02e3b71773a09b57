//! The page allocator of the recording, as a provider: it gives each frame a new page id each time it is
//! delivered, stops at a cap, and has NUMA nodes.

use std::sync::{Arc, Mutex, MutexGuard};

use frame_pool::{Frame, FrameId, FrameLayout, MemoryProvider, RefTable, UmemProvider};

/// What the allocator did, and what it is told to do.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) page_cap: Option<u64>,
    pub(crate) alloc_nid: Option<i32>,
    pub(crate) local_nid: i32,
    /// Page ids that left the pool's accounting since they were last taken, in order.
    pub(crate) disconnected: Vec<u64>,
    /// Page ids that came back to the allocator since they were last taken, in order.
    pub(crate) released: Vec<u64>,
    /// Whether it was asked for more frames than the UMEM has left, as a page allocator never is.
    pub(crate) exhausted: bool,
    next_page: u64,
    /// By frame: the page that it is at present, its node, and whether it has left the pool.
    pages: Box<[Page]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    id: u64,
    nid: i32,
    detached: bool,
}

#[derive(Debug)]
pub(crate) struct PageAllocator {
    slab: Arc<UmemProvider>,
    ledger: Mutex<Ledger>,
}

impl PageAllocator {
    pub(crate) fn new(layout: FrameLayout, page_cap: Option<u64>, local_nid: i32) -> Arc<Self> {
        let ledger = Ledger {
            page_cap,
            alloc_nid: None,
            local_nid,
            disconnected: Vec::new(),
            released: Vec::new(),
            exhausted: false,
            next_page: 0,
            pages: vec![Page::default(); layout.chunk_count() as usize].into(),
        };
        Arc::new(Self { slab: UmemProvider::new(layout), ledger: Mutex::new(ledger) })
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic happens under this lock")
    }

    /// The page that a frame is at present.
    pub(crate) fn page(&self, id: FrameId) -> u64 {
        self.ledger().pages[id.index()].id
    }
}

impl MemoryProvider for PageAllocator {
    fn refs(&self) -> &Arc<RefTable> {
        self.slab.refs()
    }

    fn alloc_bulk(&self, frames: &mut Vec<Frame>, n: usize, nid: i32) -> usize {
        let mut ledger = self.ledger();
        let left = ledger.page_cap.map_or(u64::MAX, |cap| cap.saturating_sub(ledger.next_page));
        let n = n.min(left as usize);
        let got = self.slab.alloc_bulk(frames, n, nid);
        ledger.exhausted |= got < n;
        let nid = ledger.alloc_nid.unwrap_or(nid);
        for frame in &frames[frames.len() - got..] {
            let id = ledger.next_page;
            ledger.pages[frame.id().index()] = Page { id, nid, detached: false };
            ledger.next_page += 1;
        }
        got
    }

    fn release(&self, frames: &mut dyn Iterator<Item = Frame>) {
        self.slab.release(&mut frames.inspect(|frame| {
            let mut ledger = self.ledger();
            let page = ledger.pages[frame.id().index()];
            if !page.detached {
                ledger.disconnected.push(page.id);
            }
            ledger.released.push(page.id);
        }));
    }

    fn detached(&self, frame: FrameId) {
        let mut ledger = self.ledger();
        let page = &mut ledger.pages[frame.index()];
        page.detached = true;
        let id = page.id;
        ledger.disconnected.push(id);
    }

    fn free(&self) -> u32 {
        self.slab.free()
    }

    fn has_nodes(&self) -> bool {
        true
    }

    fn node_of(&self, frame: FrameId) -> i32 {
        self.ledger().pages[frame.index()].nid
    }

    fn local_node(&self) -> i32 {
        self.ledger().local_nid
    }
}
