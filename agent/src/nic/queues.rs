//! Which receive queues an interface has.

use super::{Link, NicError};
use crate::sys::ethtool;

/// Most queues of one interface that the XDP program's socket map has slots for.
pub(super) const MAX_QUEUES: u32 = umemd_common::maps::MAX_QUEUES;

/// How many receive queues of `link` are active: they are numbered from 0.
///
/// `ETHTOOL_GCHANNELS` tells (a combined channel receives too). Drivers without it, mvneta and mvpp2 among
/// them, have what the kernel allocated: `IFLA_NUM_RX_QUEUES`.
fn active_queues(link: &Link) -> Result<u32, NicError> {
    match ethtool::channels(&link.name) {
        Ok(channels) if channels.combined + channels.rx > 0 => Ok(channels.combined + channels.rx),
        Ok(_) => Ok(link.rx_queues),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(link.rx_queues),
        Err(source) => Err(NicError::Kernel { what: "its channels (ETHTOOL_GCHANNELS)", source }),
    }
}

/// The queues to serve: those asked for, if they exist; else `only`, if there is but one that receives; else all.
pub fn choose(link: &Link, asked: Option<&[u32]>, only: Option<u32>) -> Result<Vec<u32>, NicError> {
    let active = active_queues(link)?;
    let name = &link.name;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_one_queue() {
        let links = super::super::links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(choose(lo, None, None).unwrap(), [0]);
        let error = choose(lo, Some(&[3]), None).unwrap_err().to_string();
        assert_eq!(error, "lo has no queue 3; it has 1 active receive queue, number 0");
    }
}
