//! One condition on a frame, in the form in which it is looked up.

use crate::key::{Key, WORDS};

/// An entry: the frames whose key, seen through `mask`, is `value`.
///
/// # Invariants
///
/// `value` has no bit that `mask` does not have; such an entry would match nothing. What it asks for has its bit of
/// [`Key::fields`] in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The bits that are looked at.
    pub mask: Key,
    /// What they have to be.
    pub value: Key,
}

impl Rule {
    /// The entry that matches every frame.
    pub const ALL: Self = Self { mask: Key { words: [0; WORDS] }, value: Key { words: [0; WORDS] } };

    /// Whether a frame with this key is matched.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        key.zip(&self.mask, |key, mask| key & mask) == self.value
    }
}
