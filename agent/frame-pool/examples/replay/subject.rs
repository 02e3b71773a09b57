//! The pool under test, driven by the operations of a trace.
//!
//! A handle of the trace is a bundle of references. Where it is the only right to its frame it is turned
//! into the frame before it is put, so that both ways home are compared.

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use frame_pool::{
    Counting, Frame, FrameId, FrameLayout, FramePin, FramePool, FrameRef, MAX_REFS, MemoryProvider, Phase,
    PoolConfig, RETRY_INTERVAL, Recycler,
};
use serde_json::{Map, Value, json};

use crate::{
    allocator::PageAllocator,
    fields::{field, flag, handles, number, optional, size, text},
    trace::Fault,
};

/// Pages that a trace can have at once: 4 GiB of them. A page allocator has no such limit, a UMEM has.
const FRAMES: u32 = 1 << 20;

pub(crate) struct Subject {
    pool: FramePool,
    recycler: Recycler,
    allocator: Arc<PageAllocator>,
    /// What the header says of the pool, and the operation that makes it says again.
    parameters: Vec<(&'static str, Value)>,
    created: bool,
    handles: HashMap<String, FrameRef>,
    made: usize,
    /// References of the handles on a frame, all together, where there are any.
    user_refs: HashMap<FrameId, u32>,
    /// Foreign references by page, which outlive the frame's stay in the pool.
    pins: HashMap<u64, Vec<FramePin>>,
    now: Duration,
    /// Operations since the references of all handles were last compared.
    unchecked: usize,
}

/// Whether the kernel of this version counts fragments the old way.
fn counting(kernel: &str) -> Result<Counting, Fault> {
    let mut parts = kernel.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (6, 13) => Ok(Counting::Before6_13),
        (Some(Ok(_)), Some(Ok(_))) => Ok(Counting::Current),
        _ => Err(Fault::Format(format!("`{kernel}` is not a kernel version"))),
    }
}

impl Subject {
    pub(crate) fn new(header: &Map<String, Value>) -> Result<Self, Fault> {
        if number::<u8>(header, "order")? != 0 {
            return Err(Fault::Format("a frame is one chunk: only traces of order 0 can be replayed".into()));
        }
        let layout = FrameLayout::new(number(header, "page_size")?, FRAMES)
            .map_err(|error| Fault::Format(error.to_string()))?;
        for size in ["cache_size", "cache_refill"] {
            if !(1..=FRAMES).contains(&number(header, size)?) {
                return Err(Fault::Format(format!("`{size}` is not from 1 to {FRAMES}")));
            }
        }
        let cap = optional(header, "page_cap")?;
        let allocator = PageAllocator::new(layout, cap, number(header, "local_nid")?);
        let config = PoolConfig {
            ring_size: number(header, "pool_size")?,
            cache_size: number(header, "cache_size")?,
            refill: number(header, "cache_refill")?,
            nid: number(header, "nid")?,
            frag_align: number(header, "frag_align")?,
            counting: counting(&text(header, "kernel")?)?,
            first_count: number(header, "counter_init")?,
            ..PoolConfig::default()
        };
        let pool = FramePool::new(config, Arc::clone(&allocator));
        let mut parameters = Vec::new();
        for name in ["pool_size", "order", "nid"] {
            parameters.push((name, field(header, name)?.clone()));
        }
        Fault::compare("ring_size", field(header, "ring_size")?, &json!(pool.ring_size()))?;
        Ok(Self {
            recycler: pool.recycler(),
            pool,
            allocator,
            parameters,
            created: false,
            handles: HashMap::new(),
            made: 0,
            user_refs: HashMap::new(),
            pins: HashMap::new(),
            now: Duration::ZERO,
            unchecked: 0,
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        self.pool.phase()
    }

    /// Performs the operation of a line; its outputs and the state after it.
    pub(crate) fn perform(&mut self, line: &Map<String, Value>) -> Result<Map<String, Value>, Fault> {
        self.now += RETRY_INTERVAL;
        let mut out = Map::new();
        let mut say = |name: &str, value: Value| out.insert(name.to_owned(), value);
        let op = text(line, "op")?;
        match op.as_str() {
            "create" if self.created => return Err(Fault::Format("a trace has one pool".into())),
            "create" => self.create(line)?,
            _ if !self.created => return Err(Fault::Format("the first operation is not `create`".into())),
            "alloc" => {
                let frame = self.pool.alloc();
                let bundle = frame.map(|frame| self.recycler.share(frame, 1).expect("it is this pool's"));
                say("page", bundle.as_ref().map_or(Value::Null, |it| json!(self.allocator.page(it.id()))));
                say("ret", bundle.map_or(Value::Null, |bundle| json!(self.new_handle(bundle))));
            }
            "frag_alloc" => match self.pool.alloc_frag(size(line)?) {
                Some(piece) => {
                    say("page", json!(self.allocator.page(piece.right.id())));
                    say("offset", json!(piece.offset));
                    say("ret", json!(self.new_handle(piece.right)));
                }
                None => {
                    ["ret", "page", "offset"].map(|name| say(name, Value::Null)).into_iter().for_each(drop)
                }
            },
            "put" | "unref" => {
                let n = if op == "put" { 1 } else { number(line, "n")? };
                let bundle = self.take(&text(line, "h")?, n)?;
                let id = bundle.id();
                say("page", json!(self.allocator.page(id)));
                let direct = flag(line, "direct")?;
                match (self.recycler.unshare(bundle), direct) {
                    (Ok(frame), true) => self.pool.put_direct(frame),
                    (Ok(frame), false) => self.recycler.put(frame),
                    (Err(bundle), true) => self.pool.put_ref_direct(bundle),
                    (Err(bundle), false) => self.recycler.put_ref(bundle),
                }
                say("refs", json!(self.user_refs(id)));
            }
            "put_bulk" => {
                let direct = flag(line, "direct")?;
                let (mut bundles, mut refused) = (Vec::new(), None);
                for handle in handles(line)? {
                    match self.take(handle, 1) {
                        Ok(bundle) => bundles.push(bundle),
                        Err(fault) => refused = Some(fault),
                    }
                }
                let pages: Vec<_> = bundles.iter().map(|bundle| self.allocator.page(bundle.id())).collect();
                say("pages", json!(pages));
                self.put_bulk(bundles, direct);
                if let Some(fault) = refused {
                    return Err(fault);
                }
            }
            "fragment" | "ref" => {
                let (n, name) = (number(line, "n")?, text(line, "h")?);
                let id = self.handle(&name)?.id();
                if op == "ref" {
                    self.charge(&name, n)?
                } else {
                    self.fragment(&name, n)?
                }
                say("page", json!(self.allocator.page(id)));
                say("refs", json!(self.user_refs(id)));
            }
            "get_page" => {
                let bundle = self.handles.get(&text(line, "h")?).ok_or_else(Fault::no_handle)?;
                let page = self.allocator.page(bundle.id());
                let pins = self.pins.entry(page).or_default();
                pins.push(self.recycler.pin(bundle).ok_or_else(|| Fault::Refused("too many pins".into()))?);
                say("page", json!(page));
                say("foreign", json!(pins.len()));
            }
            "put_page" => {
                let pins = self.pins.entry(number(line, "page")?).or_default();
                let pin =
                    pins.pop().ok_or_else(|| Fault::Refused("the page has no foreign reference".into()))?;
                self.recycler.unpin(pin).expect("it is this pool's");
                say("foreign", json!(pins.len()));
            }
            "set_pfmemalloc" => {
                let bundle = self.handles.get(&text(line, "h")?).ok_or_else(Fault::no_handle)?;
                self.recycler.set_pfmemalloc(bundle);
                say("page", json!(self.allocator.page(bundle.id())));
            }
            "update_nid" => self.pool.update_nid(number(line, "nid")?),
            "set_alloc_nid" => self.allocator.ledger().alloc_nid = optional(line, "nid")?,
            "set_local_nid" => self.allocator.ledger().local_nid = number(line, "nid")?,
            "set_page_cap" => self.allocator.ledger().page_cap = optional(line, "cap")?,
            "destroy" => drop(self.pool.destroy(self.now)),
            "retry" => drop(self.pool.retry(self.now)),
            _ => return Err(Fault::Format(format!("operation `{op}` is unknown"))),
        }
        if self.allocator.ledger().exhausted {
            return Err(Fault::Format(format!("the trace has more than {FRAMES} pages at once")));
        }
        self.state(line, &mut out);
        self.check_laws()?;
        Ok(out)
    }

    /// The pool was made by the header; its operation must say the same.
    fn create(&mut self, line: &Map<String, Value>) -> Result<(), Fault> {
        for (input, made) in &self.parameters {
            Fault::compare(input, field(line, input)?, made)?;
        }
        self.created = true;
        Ok(())
    }

    /// Whether the pool was made.
    pub(crate) fn is_created(&self) -> bool {
        self.created
    }

    /// Gives everything back and destroys the pool: whatever the trace was, no frame is lost.
    pub(crate) fn end(mut self) -> Result<(), Fault> {
        self.check_references()?;
        self.handles.into_values().for_each(|bundle| self.recycler.put_ref(bundle));
        for pin in self.pins.into_values().flatten() {
            self.recycler.unpin(pin).expect("it is this pool's");
        }
        for _ in 0..2 {
            self.now += RETRY_INTERVAL;
            let _ = self.pool.destroy(self.now);
        }
        Fault::compare("(inflight at the end)", &json!(0), &json!(self.pool.inflight()))?;
        Fault::compare("(slab at the end)", &json!(FRAMES), &json!(self.allocator.free()))
    }

    /// `page_pool_ref_page()`.
    fn charge(&mut self, name: &str, n: u32) -> Result<(), Fault> {
        let recycler = self.recycler.clone();
        let bundle = self.handle(name)?;
        if !recycler.charge(bundle, n) {
            return Err(Fault::Refused(format!("{name} cannot have {n} more references")));
        }
        let id = bundle.id();
        *self.user_refs.entry(id).or_default() += n;
        Ok(())
    }

    /// `page_pool_fragment_page()`: of the sole reference to its page.
    fn fragment(&mut self, name: &str, n: u32) -> Result<(), Fault> {
        let bundle = self.handles.remove(name).ok_or_else(Fault::no_handle)?;
        if n == 0 || n > MAX_REFS || self.recycler.ref_count(&bundle) > 1 {
            self.handles.insert(name.to_owned(), bundle);
            return Err(Fault::Refused(format!("{name} cannot be made {n} references")));
        }
        let id = bundle.id();
        let bundle = match self.recycler.unshare(bundle) {
            Ok(frame) => self.recycler.share(frame, n).expect("it is this pool's, and n was checked"),
            // Its page is pinned: nobody has the sole right, but references can be added.
            Err(mut bundle) => {
                self.recycler.charge(&mut bundle, n - 1);
                bundle
            }
        };
        self.handles.insert(name.to_owned(), bundle);
        self.user_refs.insert(id, n);
        Ok(())
    }

    /// Puts as frames, if all of them can be, or else as references.
    fn put_bulk(&mut self, bundles: Vec<FrameRef>, direct: bool) {
        let rights: Vec<_> = bundles.into_iter().map(|bundle| self.recycler.unshare(bundle)).collect();
        if rights.iter().all(Result::is_ok) {
            let mut frames: Vec<Frame> = rights.into_iter().flatten().collect();
            if direct {
                self.pool.put_direct_bulk(&mut frames)
            } else {
                self.recycler.put_bulk(&mut frames)
            }
            return;
        }
        let share = |frame| self.recycler.share(frame, 1).expect("it is this pool's");
        let mut bundles: Vec<_> = rights.into_iter().map(|right| right.map_or_else(|it| it, share)).collect();
        if direct {
            self.pool.put_refs_direct_bulk(&mut bundles);
        } else {
            self.recycler.put_refs_bulk(&mut bundles);
        }
    }

    fn new_handle(&mut self, bundle: FrameRef) -> String {
        let name = format!("h{}", self.made);
        self.made += 1;
        *self.user_refs.entry(bundle.id()).or_default() += bundle.count();
        self.handles.insert(name.clone(), bundle);
        name
    }

    fn handle(&mut self, name: &str) -> Result<&mut FrameRef, Fault> {
        self.handles.get_mut(name).ok_or_else(Fault::no_handle)
    }

    /// Takes `n` references out of a handle, which dies with its last one.
    fn take(&mut self, name: &str, n: u32) -> Result<FrameRef, Fault> {
        let handle = self.handle(name)?;
        let bundle = match handle.split(n) {
            Some(bundle) => bundle,
            None if handle.count() == n => self.handles.remove(name).ok_or_else(Fault::no_handle)?,
            None => return Err(Fault::Refused(format!("{name} has fewer than {n} references"))),
        };
        match self.user_refs(bundle.id()) - n {
            0 => self.user_refs.remove(&bundle.id()),
            left => self.user_refs.insert(bundle.id(), left),
        };
        Ok(bundle)
    }

    fn user_refs(&self, id: FrameId) -> u32 {
        self.user_refs.get(&id).copied().unwrap_or(0)
    }

    /// The state fields of a trace's line; the contents of cache and ring only if the line has them.
    fn state(&mut self, line: &Map<String, Value>, out: &mut Map<String, Value>) {
        let (stats, places) = (self.pool.stats(), self.pool.places());
        let (alloc, recycle) = (stats.alloc, stats.recycle);
        let pages = |ids: &mut dyn Iterator<Item = FrameId>| -> Vec<u64> {
            ids.map(|id| self.allocator.page(id)).collect()
        };
        if line.contains_key("cache_ids") {
            out.insert("cache_ids".into(), json!(pages(&mut self.pool.cache_frames())));
        }
        if line.contains_key("ring_ids") {
            out.insert("ring_ids".into(), json!(pages(&mut self.pool.ring_frames())));
        }
        let frag = self.pool.frag_page().map_or(
            Value::Null,
            |page| json!({"page": self.allocator.page(page.id), "off": page.offset, "users": page.users}),
        );
        let phase = match self.pool.phase() {
            Phase::Live => "live",
            Phase::Draining => "draining",
            Phase::Freed => "freed",
        };
        let mut ledger = self.allocator.ledger();
        let (released, disconnected) = (mem::take(&mut ledger.released), mem::take(&mut ledger.disconnected));
        let state = json!({
            "alloc": {
                "fast": alloc.fast,
                "slow": alloc.slow,
                "slow_high_order": alloc.slow_high_order,
                "empty": alloc.empty,
                "refill": alloc.refill,
                "waive": alloc.waive,
            },
            "recycle": {
                "cached": recycle.cached,
                "cache_full": recycle.cache_full,
                "ring": recycle.ring,
                "ring_full": recycle.ring_full,
                "released_refcnt": recycle.released_refcnt,
            },
            "hold": self.pool.hold(),
            "release": self.pool.release(),
            "inflight": self.pool.inflight(),
            "cache": places.cache,
            "ring": places.ring,
            "ring_stale": self.pool.ring_stale(),
            "frag": frag,
            "phase": phase,
            "released": released,
            "disconnected": disconnected,
        });
        if let Value::Object(state) = state {
            out.extend(state);
        }
    }

    /// What holds after every operation, whatever the trace says: the places add up, what is out is what
    /// handles and the fragment allocator have, and the pool counts the references that the handles hold.
    ///
    /// The last is looked at as often as there are handles, so that a trace takes time by its length only.
    fn check_laws(&mut self) -> Result<(), Fault> {
        let (places, frag) = (self.pool.places(), self.pool.frag_page());
        Fault::compare("(sum of places)", &json!(FRAMES), &json!(places.total()))?;
        Fault::compare("(slab)", &json!(self.allocator.free()), &json!(places.slab))?;
        let idle_frag = frag.is_some_and(|page| self.user_refs(page.id) == 0);
        let out = self.user_refs.len() + usize::from(idle_frag);
        Fault::compare("(out)", &json!(out), &json!(places.out))?;
        self.unchecked += 1;
        if self.unchecked >= self.handles.len() { self.check_references() } else { Ok(()) }
    }

    fn check_references(&mut self) -> Result<(), Fault> {
        self.unchecked = 0;
        let frag = self.pool.frag_page();
        for handle in self.handles.values() {
            let bias = frag.filter(|page| page.id == handle.id()).map_or(0, |page| MAX_REFS - page.users);
            let counted = self.recycler.ref_count(handle) - bias;
            Fault::compare("(references)", &json!(self.user_refs(handle.id())), &json!(counted))?;
        }
        Ok(())
    }
}
