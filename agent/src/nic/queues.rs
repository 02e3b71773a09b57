//! Which queues an interface has.

use super::{Link, NicError, netdev};
use crate::sys::ethtool::{self, Channels};

/// Most queues of one interface that the XDP program's socket map has slots for.
pub(super) const MAX_QUEUES: u32 = umemd_common::maps::MAX_QUEUES;

/// How many queues of an interface are active: they are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    name: String,
    rx: u32,
    tx: u32,
    /// Whether somebody told: of an interface that is down only a driver with channels does, and before Linux 6.8 no
    /// other one ever.
    pub told: bool,
}

impl Active {
    /// `ETHTOOL_GCHANNELS` tells (a combined channel does both). Of drivers without it, mvneta and mvpp2 among them,
    /// and of a tun that nobody has open, the kernel does (Linux 6.8). Else there is only what was allocated, which may
    /// be more: 256 of a tun.
    pub fn of(link: &Link) -> Result<Self, NicError> {
        let active = |(rx, tx), told| Self { name: link.name.clone(), rx, tx, told };
        match ethtool::channels(&link.name) {
            Ok(Channels { rx, tx, combined }) if rx + combined > 0 => {
                return Ok(active((rx + combined, tx + combined), true));
            }
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(source) => {
                return Err(NicError::Kernel { what: "its channels (ETHTOOL_GCHANNELS)", source });
            }
        }
        let in_use = netdev::queues_in_use(link.index);
        let in_use = in_use.map_err(|source| NicError::Kernel { what: "its queues (queue-get)", source })?;
        Ok(active(in_use.unwrap_or((link.rx_queues, link.tx_queues)), in_use.is_some()))
    }

    /// How many receive; where nobody [`told`](Self::told), how many were allocated.
    #[must_use]
    pub fn receiving(&self) -> u32 {
        self.rx
    }

    /// The queues to serve: those asked for, if they exist; else `only`, if there is but one that receives; else all.
    pub fn choose(&self, asked: Option<&[u32]>, only: Option<u32>) -> Result<Vec<u32>, NicError> {
        let Self { name, rx: active, .. } = self;
        let active = *active;
        let Some(asked) = asked else {
            if let Some(queue) = only {
                return Ok(vec![queue]);
            }
            if active > MAX_QUEUES {
                log::warn!(
                    "{name} has {active} queues, and the XDP program places for {MAX_QUEUES}: what arrives on the \
                     others goes to the stack"
                );
            }
            return Ok((0..active.min(MAX_QUEUES)).collect());
        };
        for queue in asked.iter().copied() {
            if queue >= active {
                return Err(NicError::NoSuchQueue { name: name.clone(), queue, active });
            }
            if queue >= MAX_QUEUES {
                return Err(NicError::QueueTooHigh { name: name.clone(), queue });
            }
        }
        Ok(asked.to_vec())
    }

    /// Those that nothing can be sent on, because the interface has fewer queues to send than to receive: the kernel
    /// takes nothing off their TX rings, and does not say so (`__xsk_generic_xmit()`).
    pub fn mute(&self, queues: &[u32]) -> impl Iterator<Item = u32> {
        let active = self.tx;
        queues.iter().copied().filter(move |queue| *queue >= active)
    }

    /// Refuses queues of which some are [`mute`](Self::mute).
    pub fn refuse_mute(&self, queues: &[u32]) -> Result<(), NicError> {
        match self.mute(queues).next() {
            Some(queue) => Err(NicError::MuteQueue { name: self.name.clone(), queue, active: self.tx }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_one_queue() {
        let links = super::super::links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        let lo = Active::of(lo).unwrap();
        assert_eq!(lo.choose(None, None).unwrap(), [0]);
        let error = lo.choose(Some(&[3]), None).unwrap_err().to_string();
        assert_eq!(error, "lo has no queue 3; it has 1 active receive queue, number 0");
        lo.refuse_mute(&[0]).unwrap();
        assert_eq!(lo.mute(&[0, 1, 2]).collect::<Vec<_>>(), [1, 2]);
        let error = lo.refuse_mute(&[0, 1]).unwrap_err().to_string();
        assert!(
            error.starts_with("lo cannot send on queue 1; it has 1 active transmit queue, number 0"),
            "{error}"
        );
    }
}
