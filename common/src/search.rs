//! The search for the first rule that matches, at a cost that does not grow with the number of rules.
//!
//! Tuple-space search: entries whose masks are alike form a [`Shape`], and within a shape the masked key is
//! looked up in a hash table. Shapes lie in the order of their best rule, so the search ends where no shape
//! behind can have a better rule than the one found.
//!
//! The tables are of our own making rather than the kernel's hash maps: an array map is reached without a
//! call, three words are hashed faster than a map's key of any length, and an entry is half a cache line.
//! Each key has two slots that it may be in (a cuckoo table), so that a look-up takes at most two.
//!
//! Everything is there twice: the generation in force, and the one to come.

use crate::decision::{Action, Decision};
use crate::key::{Key, MAX_TAGS, WORDS, field};
use crate::maps::{MAX_RULES, MAX_SHAPES};
use crate::packet::{View, parse};

/// Words of a table's unit: what an entry holds, and three words of its key.
pub const UNIT_WORDS: usize = 4;
/// A part of a table.
pub type Unit = [u64; UNIT_WORDS];
/// Words of a key that fit into one unit.
pub const NARROW: usize = 3;
/// Units of an entry whose shape asks for more than those words.
pub const WIDE_UNITS: u32 = 3;

/// One generation of rules: its shapes, and what becomes of frames without a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// The shapes for frames that are read behind so many VLAN tags.
    pub depths: [Depth; MAX_TAGS + 1],
    /// 1 if frames without a rule are dropped; else they are the stack's.
    pub drop: u32,
    /// Nothing.
    pub unused: u32,
    /// 0, which the verifier does not know: see `forget`.
    pub zero: u64,
}

/// Shapes that lie one behind the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// The place of the first one. Kept, since the verifier would learn too much from a sum of counts.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// Entries with one mask.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// What is looked at.
    pub mask: Key,
    /// Where the hash begins; another one if with this one not every key finds a slot.
    pub seed: u64,
    /// The first unit of its table, counted over both generations.
    pub first: u32,
    /// Slots of its table.
    pub slots: u32,
    /// The first rule that has an entry here.
    pub best: u32,
    /// 1 if an entry takes [`WIDE_UNITS`] units, 0 if it takes one.
    pub wide: u32,
}

// Shared with the kernel's side: no hole may hide in them.
const _: () = assert!(size_of::<Set>() == 40 && size_of::<Shape>() == 88 && size_of::<Unit>() == 32);

impl Shape {
    /// The two units at which the entry with this masked key begins, if there is one.
    #[must_use]
    pub fn places(&self, masked: &Key) -> [u32; 2] {
        let [a, b, c, rest @ ..] = masked.words;
        let narrow = self.hash([a, b, c]);
        if self.wide == 0 {
            self.slots_of(narrow, 1)
        } else {
            self.slots_of(hash_rest(narrow, rest), WIDE_UNITS)
        }
    }

    #[inline(always)]
    fn hash(&self, [a, b, c]: [u64; NARROW]) -> u64 {
        mix(mix(mix(self.seed, a), b), c)
    }

    #[inline(always)]
    fn slots_of(&self, hash: u64, stride: u32) -> [u32; 2] {
        // Once more: what differs only in the last word's upper bytes has not reached the lower half yet, and the two
        // slots would go together.
        let hash = mix(hash, 0);
        let slot = |half: u64| ((half * u64::from(self.slots)) >> 32) as u32;
        let place = |slot: u32| self.first.wrapping_add(slot.wrapping_mul(stride));
        [place(slot(hash >> 32)), place(slot(hash & 0xffff_ffff))]
    }
}

#[inline(always)]
fn hash_rest(hash: u64, [d, e, f, g, h]: [u64; WORDS - NARROW]) -> u64 {
    mix(mix(mix(mix(mix(hash, d), e), f), g), h)
}

/// Multiply and fold, so that every bit of the word reaches both halves of the hash.
#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

/// A rule as a table's entry knows it: its place in the order, its counter, its action, in one word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit(u64);

impl Hit {
    /// No rule; an empty slot as well, since it has not `TAKEN`.
    pub const NONE: Self = Self(0xffff);
    /// There is an entry in this slot.
    const TAKEN: u64 = 1 << 63;
    const LIMITED: u64 = 1 << 40;
    const TRUNCATED: u64 = (field::TRUNCATED as u64) << 16;
    const MALFORMED: u64 = (field::MALFORMED as u64) << 16;

    /// The rule at this place; `limited` if not every queue steers it.
    #[must_use]
    pub const fn new(rule: u16, counter: u16, action: Action, limited: bool) -> Self {
        let action = match action {
            Action::Redirect => 0,
            Action::Pass => 1,
            Action::Drop => 2,
        };
        let limited = if limited { Self::LIMITED } else { 0 };
        Self(rule as u64 | (counter as u64) << 16 | action << 32 | limited | Self::TAKEN)
    }

    /// This one, if it is no rule, and what is wrong with the frame.
    #[inline(always)]
    const fn noting(self, fields: u32) -> Self {
        Self(self.0 | (fields as u64) << 16 & (Self::TRUNCATED | Self::MALFORMED))
    }

    /// The same: see [`forget`].
    #[inline(always)]
    const fn forgotten(self, zero: u64) -> Self {
        Self(forget(self.0, zero))
    }

    /// The word in a unit.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Its place in the order of rules.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// Its counters.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    #[inline(always)]
    const fn action(self) -> Action {
        match (self.0 >> 32) as u8 {
            0 => Action::Redirect,
            1 => Action::Pass,
            _ => Action::Drop,
        }
    }

    #[inline(always)]
    const fn is_limited(self) -> bool {
        self.0 & Self::LIMITED != 0
    }

    /// Whether there is one.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 & Self::TAKEN != 0
    }
}

/// One generation of tables: of the kernel's maps in the program, of memory on the host.
pub trait Tables {
    /// Its head.
    fn set(&self) -> Option<&Set>;
    /// The shape at this place in the order.
    fn shape(&self, place: u32) -> Option<&Shape>;
    /// A unit, counted over both generations.
    fn unit(&self, place: u32) -> Option<&Unit>;
    /// The queues that steer the rule at this place, a bit each.
    fn queues(&self, rule: u32) -> u64;
}

/// What becomes of a frame, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why it goes where it goes. Whether a steered one finds a socket shows only when it is redirected.
    pub decision: Decision,
    /// The rule that matched, or [`Hit::NONE`]: no `Option`, of which LLVM makes reads of what is not there, and the
    /// verifier has none of that.
    pub hit: Hit,
}

impl Verdict {
    /// The place of the rule that matched; `None` if none did.
    #[must_use]
    pub const fn rule(&self) -> Option<u32> {
        if self.hit.is_some() { Some(self.hit.rule()) } else { None }
    }
}

/// Judges a frame that a queue received: the first rule that matches decides, else the default action.
#[inline(always)]
pub fn judge<T: Tables, V: View + ?Sized>(tables: &T, frame: &V, queue: u32) -> Verdict {
    let Some(set) = tables.set() else {
        return Verdict { decision: Decision::Unmatched, hit: Hit::NONE };
    };
    let [plain, tagged, double_tagged] = &set.depths;
    let mut hit = at_depth::<0, T, V>(tables, frame, plain, Hit::NONE, set.zero);
    // Nothing is read behind tags that no rule asks for.
    if tagged.count != 0 {
        hit = at_depth::<1, T, V>(tables, frame, tagged, hit, set.zero);
    }
    if double_tagged.count != 0 {
        hit = at_depth::<2, T, V>(tables, frame, double_tagged, hit, set.zero);
    }
    let decision = if hit.is_some() { by_rule(tables, hit, queue) } else { by_default(hit, set.drop != 0) };
    Verdict { decision, hit }
}

/// Reads a frame behind so many tags, and searches for it. A call of its own, and so with a stack of its own: the
/// program has 512 bytes for all that it calls.
#[inline(never)]
fn at_depth<const TAGS: usize, T: Tables, V: View + ?Sized>(
    tables: &T,
    frame: &V,
    depth: &Depth,
    best: Hit,
    zero: u64,
) -> Hit {
    let mut key = parse::<TAGS, V>(frame).key;
    key.words = key.words.map(|word| forget(word, zero));
    // What is wrong with the frame is what is wrong with its headers, behind tags that are there.
    let tags = field::TAG * ((1 << TAGS) - 1);
    let is_read = key.fields() & tags == tags;
    let best = if is_read && !best.is_some() { best.noting(key.fields()) } else { best };
    search(tables, &key, depth, best.forgotten(zero), zero).forgotten(zero)
}

/// The same, for all but the verifier: to it, this is some number from here on, whichever way led here. Otherwise it
/// would walk what follows once for each of these ways.
#[inline(always)]
const fn forget(word: u64, zero: u64) -> u64 {
    word ^ zero
}

/// The better of `best` and the first rule with an entry for this key in the shapes of this depth.
#[inline(always)]
fn search<T: Tables>(tables: &T, key: &Key, depth: &Depth, mut best: Hit, zero: u64) -> Hit {
    // Two bounds: the constant one is for the verifier.
    for place in 0..MAX_SHAPES {
        if place >= depth.count {
            break;
        }
        let Some(shape) = tables.shape(depth.first + place) else { break };
        if shape.best >= best.rule() {
            break;
        }
        // No table has an entry for a frame that lacks what its shape asks for.
        let asked = shape.mask.fields();
        if key.fields() & asked != asked {
            continue;
        }
        let found = look_up(tables, shape, key).forgotten(zero);
        // An empty slot may look like the key of all zeros, but is no rule.
        if found.is_some() && found.rule() < best.rule() {
            best = found;
        }
    }
    best
}

/// The entry for this key. Narrow and wide shapes go ways of their own, which the verifier follows one by one.
#[inline(always)]
fn look_up<T: Tables>(tables: &T, shape: &Shape, key: &Key) -> Hit {
    let [k0, k1, k2, k3, k4, k5, k6, k7] = key.words;
    let [m0, m1, m2, m3, m4, m5, m6, m7] = shape.mask.words;
    let narrow = [k0 & m0, k1 & m1, k2 & m2];
    let hash = shape.hash(narrow);
    if shape.wide == 0 {
        let [one, other] = shape.slots_of(hash, 1);
        let hit = narrow_entry(tables, one, narrow);
        if hit.is_some() { hit } else { narrow_entry(tables, other, narrow) }
    } else {
        let rest = [k3 & m3, k4 & m4, k5 & m5, k6 & m6, k7 & m7];
        let [one, other] = shape.slots_of(hash_rest(hash, rest), WIDE_UNITS);
        let hit = wide_entry(tables, one, narrow, rest);
        if hit.is_some() { hit } else { wide_entry(tables, other, narrow, rest) }
    }
}

/// What this unit holds, if it is for this masked key.
#[inline(always)]
fn narrow_entry<T: Tables>(tables: &T, place: u32, [a, b, c]: [u64; NARROW]) -> Hit {
    let Some([hit, x, y, z]) = tables.unit(place) else { return Hit::NONE };
    if (x ^ a) | (y ^ b) | (z ^ c) == 0 { Hit(*hit) } else { Hit::NONE }
}

/// What the units from this one on hold, if it is for this masked key.
#[inline(always)]
fn wide_entry<T: Tables>(
    tables: &T,
    place: u32,
    narrow: [u64; NARROW],
    [d, e, f, g, h]: [u64; WORDS - NARROW],
) -> Hit {
    let hit = narrow_entry(tables, place, narrow);
    if !hit.is_some() {
        return hit;
    }
    let Some([v, w, x, y]) = tables.unit(place + 1) else { return Hit::NONE };
    let Some([z, ..]) = tables.unit(place + 2) else { return Hit::NONE };
    if (v ^ d) | (w ^ e) | (x ^ f) | (y ^ g) | (z ^ h) == 0 { hit } else { Hit::NONE }
}

#[inline(always)]
fn by_rule<T: Tables>(tables: &T, hit: Hit, queue: u32) -> Decision {
    match hit.action() {
        Action::Redirect if !hit.is_limited() => Decision::Steered,
        Action::Redirect => {
            let steers = queue < u64::BITS && tables.queues(hit.rule()) >> queue & 1 != 0;
            if steers { Decision::Steered } else { Decision::OtherQueue }
        }
        Action::Pass => Decision::Passed,
        Action::Drop => Decision::Dropped,
    }
}

#[inline(always)]
fn by_default(none: Hit, drop: bool) -> Decision {
    let [malformed, truncated, unmatched] = if drop {
        [Decision::MalformedDropped, Decision::TruncatedDropped, Decision::UnmatchedDropped]
    } else {
        [Decision::Malformed, Decision::Truncated, Decision::Unmatched]
    };
    if none.0 & Hit::MALFORMED != 0 {
        malformed
    } else if none.0 & Hit::TRUNCATED != 0 {
        truncated
    } else {
        unmatched
    }
}

const _: () = assert!(MAX_RULES < 0xffff, "a rule's place is below that of no rule");

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya::Pod vouches for the layout of map values")]

    use super::{Set, Shape};

    // SAFETY:
    // - Any bytes are a valid value: all fields are integers.
    // - No uninitialised byte is read: `repr(C)`, and the sizes asserted above leave no room for a hole.
    unsafe impl aya::Pod for Set {}
    // SAFETY: as for `Set`.
    unsafe impl aya::Pod for Shape {}
}
