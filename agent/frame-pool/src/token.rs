//! `Token`: a frame given away as a number, to another process or through an interface that carries
//! integers only. What comes back is not believed.
//!
//! The kernel's nearest relative is io_uring's zero-copy receive, which hands buffers to user space and
//! takes their numbers back through a ring: a number out of range, of another pool, or of a buffer that
//! is not out is skipped, so that a faulty user hurts only itself. So it is here: one bit per frame says
//! whether it was given away as a number, and a number is exchanged for the frame once.

use std::{error, fmt};

use crate::{
    Frame, FrameId, FramePool, PoolTag, Recycler,
    shared::{Shared, count},
    sync::{AtomicU32, Ordering},
};

/// The number of a frame that was given away: its pool's tag in the upper half, its index in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    fn new(id: FrameId, home: PoolTag) -> Self {
        Self(u64::from(home.number()) << 32 | u64::from(id.0))
    }
}

/// Why a number is not exchanged for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadToken {
    /// It is of another pool (`foreign_put`).
    Foreign,
    /// The UMEM has no such frame (`bad_addr`).
    OutOfRange,
    /// The frame is not out as a number: it came back twice, or never was given away (`double_put`).
    NotOut,
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "the token is of another pool",
            Self::OutOfRange => "the token names no frame of the UMEM",
            Self::NotOut => "the token's frame is not out: it came back twice, or was never given away",
        })
    }
}

impl error::Error for BadToken {}

/// One bit per frame: whether it is out as a number. None at all if the pool has no use for numbers.
#[derive(Debug)]
pub(crate) struct TokenBits(Box<[AtomicU32]>);

impl TokenBits {
    pub(crate) fn new(frames: u32) -> Self {
        Self((0..frames.div_ceil(u32::BITS)).map(|_| AtomicU32::new(0)).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn word_and_bit(&self, id: FrameId) -> Option<(&AtomicU32, u32)> {
        Some((self.0.get(id.index() / 32)?, 1 << (id.0 % 32)))
    }

    fn set(&self, id: FrameId) {
        if let Some((word, bit)) = self.word_and_bit(id) {
            // Release, for the one that takes the bit: the bytes were written before.
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Whether the bit was set. Of several that take one, one succeeds.
    fn take(&self, id: FrameId) -> bool {
        self.word_and_bit(id).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }
}

impl Shared {
    fn redeem(&self, token: Token) -> Result<Frame, BadToken> {
        let (home, index) = ((token.0 >> 32) as u32, token.0 as u32);
        if home != self.tag.number() {
            count(&self.counters.foreign_put, 1);
            return Err(BadToken::Foreign);
        }
        if index >= self.refs.layout().chunk_count() {
            count(&self.counters.bad_addr, 1);
            return Err(BadToken::OutOfRange);
        }
        if !self.tokens.take(FrameId(index)) {
            count(&self.counters.double_put, 1);
            return Err(BadToken::NotOut);
        }
        self.counters.held.fetch_sub(1, Ordering::Relaxed);
        Ok(Frame::of(FrameId(index), self.tag))
    }
}

impl FramePool {
    /// Gives a frame away as a number.
    ///
    /// # Errors
    ///
    /// The frame, if the pool was made without [`PoolConfig::tokens`](crate::PoolConfig::tokens); or as
    /// [`give`](Self::give) does: a number holds a frame as a [`HeldFrame`](crate::HeldFrame) does, and
    /// counts against the same limit.
    pub fn give_token(&mut self, frame: Frame) -> Result<Token, Frame> {
        if frame.is_of(self.tag()) && !self.shared.tokens.is_empty() && self.may_hold() {
            self.shared.tokens.set(frame.id());
            Ok(Token::new(frame.id(), self.tag()))
        } else {
            Err(frame)
        }
    }
}

impl Recycler {
    /// Exchanges a number for the frame that was given away as it. Nothing about the number is believed.
    ///
    /// # Errors
    ///
    /// [`BadToken`]; each is counted by the pool.
    pub fn redeem(&self, token: Token) -> Result<Frame, BadToken> {
        self.shared.redeem(token)
    }
}

#[cfg(all(test, not(frame_pool_loom)))]
mod tests {
    use super::*;
    use crate::{FrameLayout, PoolConfig, UmemProvider};

    #[test]
    fn a_number_is_exchanged_once_and_only_by_its_own_pool() {
        let provider = UmemProvider::new(FrameLayout::new(4096, 200).unwrap());
        let config = PoolConfig { tokens: true, ..PoolConfig::default() };
        let mut pool = FramePool::new(config, provider.clone());
        let other = FramePool::new(PoolConfig::default(), provider);
        let (given, kept) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        let id = given.id();
        let token = pool.give_token(given).unwrap();
        let recycler = pool.recycler();

        assert_eq!(other.recycler().redeem(token), Err(BadToken::Foreign));
        assert_eq!(recycler.redeem(Token(token.0 + 200)), Err(BadToken::OutOfRange));
        assert_eq!(recycler.redeem(Token(token.0 | 0xffff_ffff)), Err(BadToken::OutOfRange));
        assert_eq!(recycler.redeem(Token::new(kept.id(), pool.tag())), Err(BadToken::NotOut));
        assert_eq!(pool.held(), 1);
        assert_eq!(recycler.redeem(token).unwrap().id(), id);
        assert_eq!(recycler.redeem(token), Err(BadToken::NotOut));

        let extras = pool.stats().extras;
        assert_eq!((extras.foreign_put, extras.bad_addr, extras.double_put, pool.held()), (0, 2, 2, 0));
        assert_eq!(other.stats().extras.foreign_put, 1);
    }
}
