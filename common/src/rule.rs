//! What a steering rule is in map form, and how the first that matches is found.

use crate::decision::Decision;
use crate::packet::{Key, field};

/// A rule: the frames whose key, seen through `mask`, is `value`.
///
/// Mask and value lie apart, so that rules of one mask shape can share a hash table keyed by `value`.
///
/// # Invariants
///
/// `value` has no bit that `mask` does not have; such a rule would match nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The bits that are looked at.
    pub mask: Key,
    /// What they have to be.
    pub value: Key,
}

// The layout is shared with the kernel's side: no hole may hide in it.
const _: () = assert!(size_of::<Key>() == 12 && size_of::<Rule>() == 24);

impl Rule {
    /// The rule that matches every frame.
    pub const ALL: Self = {
        let nothing =
            Key { fields: 0, ether_proto: 0, src_port: 0, dst_port: 0, ip_proto: 0, fragment_proto: 0 };
        Self { mask: nothing, value: nothing }
    };

    /// Whether a frame with this key is matched.
    #[inline(always)]
    #[must_use]
    pub const fn matches(&self, key: &Key) -> bool {
        let Self { mask, value } = self;
        // Without a branch per field: the verifier walks each path of each rule.
        let differs = ((key.fields & mask.fields) ^ value.fields)
            | ((key.ether_proto & mask.ether_proto) ^ value.ether_proto) as u32
            | ((key.src_port & mask.src_port) ^ value.src_port) as u32
            | ((key.dst_port & mask.dst_port) ^ value.dst_port) as u32
            | ((key.ip_proto & mask.ip_proto) ^ value.ip_proto) as u32
            | ((key.fragment_proto & mask.fragment_proto) ^ value.fragment_proto) as u32;
        differs == 0
    }
}

/// Judges a frame by the rules in their order: [`Decision::Steered`] if one matches, else why none did.
///
/// The default action is to pass: a frame without a rule is the stack's. Whether a steered frame finds a
/// socket shows only when it is redirected.
#[inline(always)]
pub fn decide<'a>(key: &Key, rules: impl IntoIterator<Item = &'a Rule>) -> Decision {
    for rule in rules {
        if rule.matches(key) {
            return Decision::Steered;
        }
    }
    if key.fields & field::MALFORMED != 0 {
        Decision::Malformed
    } else if key.fields & field::TRUNCATED != 0 {
        Decision::Truncated
    } else {
        Decision::Unmatched
    }
}

/// The kernel's maps take bytes: says that these types are nothing but bytes.
#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya::Pod vouches for the layout of map values")]

    use super::Rule;

    // SAFETY:
    // - Any bytes are a valid value: all fields are integers.
    // - No uninitialised byte is read: `repr(C)`, and the sizes asserted above leave no room for a hole.
    unsafe impl aya::Pod for Rule {}
}
