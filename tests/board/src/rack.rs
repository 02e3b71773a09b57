//! [`Rack`]: NICs in their slots, each with its QEMU device, and the cables between them. One thread, one loop.

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    cable::Cables,
    nic::Nic,
    vfio_user::{Connection, Error},
};

/// `MSI_SETSPI_NS` of the GICv2m frame of QEMU's machine `virt`: writing a number raises that interrupt.
const GICV2M_SETSPI: u64 = 0x0802_0040;

/// The first number that is an SPI of the GICv2m frame.
pub const FIRST_INTID: u32 = 80;

/// Interrupts that each slot has: of the 64 of the frame.
pub const INTIDS_PER_SLOT: u32 = 16;

/// One NIC and who uses it.
struct Slot {
    nic: Box<dyn Nic>,
    connection: Connection,
    /// Lines that were asserted when last looked at.
    asserted: u64,
    open: bool,
}

/// NICs and cables.
pub struct Rack {
    slots: Vec<Slot>,
    cables: Cables,
}

impl Rack {
    /// With a NIC for each connected QEMU device, in order.
    pub fn new(nics: impl IntoIterator<Item = (Box<dyn Nic>, UnixStream)>, cables: Cables) -> Self {
        let slot = |(nic, stream): (Box<dyn Nic>, UnixStream)| {
            let connection = Connection::new(stream, nic.bars());
            Slot { nic, connection, asserted: 0, open: true }
        };
        Self { slots: nics.into_iter().map(slot).collect(), cables }
    }

    /// Serves until QEMU has closed every connection.
    ///
    /// # Errors
    ///
    /// When a connection ends in another way.
    pub fn run(&mut self) -> Result<(), Error> {
        while self.slots.iter().any(|slot| slot.open) {
            for index in self.ready()? {
                let Slot { nic, connection, open, .. } = &mut self.slots[index];
                match connection.serve(nic.as_mut()) {
                    Err(Error::Closed) => *open = false,
                    served => served?,
                }
                self.carry();
                self.interrupt()?;
            }
        }
        Ok(())
    }

    /// Waits for a message, and says from which slots.
    fn ready(&self) -> Result<Vec<usize>, Error> {
        let open: Vec<usize> = (0..self.slots.len()).filter(|index| self.slots[*index].open).collect();
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|index| PollFd::from_borrowed_fd(self.slots[*index].connection.as_fd(), PollFlags::IN))
            .collect();
        poll(&mut fds, None).map_err(|errno| Error::Io(io::Error::from(errno)))?;
        Ok(open
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(index, _)| *index)
            .collect())
    }

    /// Carries frames that were sent to the other end of their cable; where there is none they are lost.
    fn carry(&mut self) {
        for from in 0..self.slots.len() {
            while let Some((port, frame)) = self.slots[from].nic.take_sent() {
                if let Some((to, port)) = self.cables.other_end((from, port))
                    && let Some(Slot { nic, connection, .. }) = self.slots.get_mut(to)
                {
                    nic.receive(port, &frame, &connection.memory);
                }
            }
        }
    }

    /// Raises an interrupt for every line that was not asserted before. An edge is enough: each of these drivers
    /// masks in its handler and unmasks when it has done, and what came meanwhile is an edge then.
    fn interrupt(&mut self) -> Result<(), Error> {
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.open) {
            let now = slot.nic.interrupts();
            let mut risen = now & !slot.asserted;
            slot.asserted = now;
            while risen != 0 {
                let line = risen.trailing_zeros();
                risen &= risen - 1;
                let intid = FIRST_INTID + INTIDS_PER_SLOT * index as u32 + line;
                slot.connection.write_bus(GICV2M_SETSPI, intid)?;
            }
        }
        Ok(())
    }
}
