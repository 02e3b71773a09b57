//! What a loop over packets needs of a [`Vec`].

use std::mem;

/// [`Vec::push`] for a vector that has room, in a loop: if nothing takes its address, not even to grow it, its
/// length stays in a register.
#[inline]
pub(crate) fn push<T>(to: &mut Vec<T>, item: T) {
    #[cold]
    fn grow<T>(mut to: Vec<T>, item: T) -> Vec<T> {
        to.push(item);
        to
    }
    if to.len() < to.capacity() {
        to.push(item);
    } else {
        *to = grow(mem::take(to), item);
    }
}
