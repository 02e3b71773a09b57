//! [`Rack`]: NICs in their slots, each with its QEMU device, and the cables between them. One thread, one loop.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixListener,
    },
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
    user: User,
    /// Lines that were asserted when last looked at.
    asserted: u64,
}

/// QEMU connects its devices one by one, and talks to the first before it connects the second.
enum User {
    Expected(UnixListener),
    Here(Box<Connection>),
    Gone,
}

impl AsFd for User {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Expected(listener) => listener.as_fd(),
            Self::Here(connection) => connection.as_fd(),
            Self::Gone => unreachable!("a slot whose user has gone is not waited for"),
        }
    }
}

/// NICs and cables.
pub struct Rack {
    slots: Vec<Slot>,
    cables: Cables,
}

impl Rack {
    /// With a NIC for whoever connects to each socket, in order.
    pub fn new(nics: impl IntoIterator<Item = (Box<dyn Nic>, UnixListener)>, cables: Cables) -> Self {
        let slot = |(nic, listener)| Slot { nic, user: User::Expected(listener), asserted: 0 };
        Self { slots: nics.into_iter().map(slot).collect(), cables }
    }

    /// Serves until everyone has come and gone.
    ///
    /// # Errors
    ///
    /// When a connection ends in another way.
    pub fn run(&mut self) -> Result<(), Error> {
        loop {
            let ready = self.ready()?;
            if ready.is_empty() {
                return Ok(());
            }
            for index in ready {
                let Slot { nic, user, .. } = &mut self.slots[index];
                match user {
                    User::Expected(listener) => {
                        let (stream, _) = listener.accept()?;
                        *user = User::Here(Box::new(Connection::new(stream, nic.bars())));
                    }
                    User::Here(connection) => match connection.serve(nic.as_mut()) {
                        Err(Error::Closed) => *user = User::Gone,
                        served => served?,
                    },
                    User::Gone => {}
                }
                self.carry();
                self.interrupt()?;
            }
        }
    }

    /// Waits for something to do, and says in which slots; in none if everyone has gone.
    fn ready(&self) -> Result<Vec<usize>, Error> {
        let here = |index: &usize| !matches!(self.slots[*index].user, User::Gone);
        let open: Vec<usize> = (0..self.slots.len()).filter(here).collect();
        if open.is_empty() {
            return Ok(open);
        }
        let mut fds: Vec<PollFd<'_>> =
            open.iter().map(|index| PollFd::new(&self.slots[*index].user, PollFlags::IN)).collect();
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
                if let Some(((to, port), frame)) = self.cables.carry((from, port), frame)
                    && let Some(Slot { nic, user: User::Here(connection), .. }) = self.slots.get_mut(to)
                {
                    nic.receive(port, &frame, &connection.memory);
                }
            }
        }
    }

    /// Raises an interrupt for every line that was not asserted before. An edge is enough: each of these drivers
    /// masks in its handler and unmasks when it has done, and what came meanwhile is an edge then.
    fn interrupt(&mut self) -> Result<(), Error> {
        for (index, Slot { nic, user, asserted }) in self.slots.iter_mut().enumerate() {
            let User::Here(connection) = user else { continue };
            let now = nic.interrupts();
            let mut risen = now & !*asserted;
            *asserted = now;
            while risen != 0 {
                let line = risen.trailing_zeros();
                risen &= risen - 1;
                let intid = FIRST_INTID + INTIDS_PER_SLOT * index as u32 + line;
                match connection.write_bus(GICV2M_SETSPI, intid) {
                    // Its last message has been read, or will be: then it is gone.
                    Err(Error::Closed) => break,
                    written => written?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        io::Read as _,
        os::unix::net::UnixStream,
        rc::Rc,
        thread,
    };

    use super::*;
    use crate::{cable, memory::GuestMemory};

    /// What a test holds of a NIC in the rack: its lines, what it sends, what it received.
    #[derive(Clone, Default)]
    struct Wires {
        lines: Rc<Cell<u64>>,
        sent: Rc<RefCell<Vec<Vec<u8>>>>,
        received: Rc<RefCell<Vec<Vec<u8>>>>,
    }

    impl Nic for Wires {
        fn bars(&self) -> &'static [u32] {
            &[16]
        }
        fn read(&mut self, _: usize, _: u32) -> u32 {
            0
        }
        fn write(&mut self, _: usize, _: u32, _: u32, _: &GuestMemory) {}
        fn receive(&mut self, _: usize, frame: &[u8], _: &GuestMemory) {
            self.received.borrow_mut().push(frame.to_vec());
        }
        fn take_sent(&mut self) -> Option<(usize, Vec<u8>)> {
            Some((0, self.sent.borrow_mut().pop()?))
        }
        fn interrupts(&self) -> u64 {
            self.lines.get()
        }
        fn reset(&mut self) {}
    }

    /// A rack with two NICs on a cable; QEMU's ends, and the wires.
    fn rack() -> (Rack, [UnixStream; 2], [Wires; 2]) {
        let wires = [(); 2].map(|()| Wires::default());
        let pairs = [(); 2].map(|()| UnixStream::pair().unwrap());
        let slots = pairs.iter().zip(&wires).map(|((_, ours), wires)| Slot {
            nic: Box::new(wires.clone()),
            user: User::Here(Box::new(Connection::new(ours.try_clone().unwrap(), &[16]))),
            asserted: 0,
        });
        let cables = Cables::new([((0, 0), (1, 0), cable::Kind::Plain)]);
        let rack = Rack { slots: slots.collect(), cables };
        (rack, pairs.map(|(qemu, _)| qemu), wires)
    }

    /// The interrupts that QEMU was told of: the last word of each message of 36 bytes.
    fn raised(mut qemu: &UnixStream) -> Vec<u32> {
        qemu.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        let _ = qemu.read_to_end(&mut bytes);
        assert_eq!(bytes.len() % 36, 0, "whole messages");
        bytes
            .as_chunks::<36>()
            .0
            .iter()
            .map(|message| u32::from_le_bytes(*message.last_chunk().unwrap()))
            .collect()
    }

    #[test]
    fn a_line_is_raised_when_it_rises_and_not_while_it_stays() {
        let (mut rack, qemu, wires) = rack();
        let mut after = |slot: usize, lines| {
            wires[slot].lines.set(lines);
            rack.interrupt().unwrap();
            raised(&qemu[slot])
        };
        assert_eq!(after(0, 0b101), [80, 82]);
        assert_eq!(after(0, 0b101), [0; 0]);
        assert_eq!(after(0, 0b110), [81], "another one");
        assert_eq!(after(0, 0), [0; 0]);
        assert_eq!(after(0, 0b100), [82], "again");
        assert_eq!(after(1, 0b1), [96], "each slot has lines of its own");
    }

    #[test]
    fn frames_go_to_the_other_end_and_get_lost_where_nobody_is() {
        let (mut rack, _qemu, wires) = rack();
        wires[0].sent.borrow_mut().push(vec![7; 60]);
        rack.carry();
        assert_eq!(*wires[1].received.borrow(), [vec![7; 60]]);
        rack.slots[1].user = User::Gone;
        wires[0].sent.borrow_mut().push(vec![8; 60]);
        rack.carry();
        assert_eq!((wires[1].received.borrow().len(), wires[0].sent.borrow().len()), (1, 0));
    }

    #[test]
    fn a_rack_that_everybody_has_left_ends() {
        let folder = std::env::temp_dir().join(format!("umemd-rack-{}", std::process::id()));
        let listener = UnixListener::bind(&folder).unwrap();
        let nic: Box<dyn Nic> = Box::new(Wires::default());
        let mut rack = Rack::new([(nic, listener)], Cables::default());
        let path = folder.clone();
        let qemu = thread::spawn(move || drop(UnixStream::connect(path).unwrap()));
        let ended = rack.run();
        qemu.join().unwrap();
        std::fs::remove_file(&folder).unwrap();
        ended.unwrap();
    }
}
