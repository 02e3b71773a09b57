//! What a driver may do otherwise than one expects, and what each such thing is called.

/// Something about a driver, and how it is known.
#[derive(Clone, Copy, Debug)]
pub struct Quirk {
    /// What.
    pub kind: Kind,
    /// Where it is known from: a file of the kernel's, or somebody who met it.
    pub source: &'static str,
    /// The first version of Linux that has it no more.
    pub until: Option<(u32, u32)>,
}

/// What a driver does otherwise than one expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Attaching and detaching a program closes and opens the port: the link goes down for a moment. Replacing a
    /// program does not.
    Bounces,
    /// And so do all other ports of the same packet processor.
    BouncesSiblings,
    /// The driver's page_pool counters start anew at each attach.
    CountersReset,
    /// The driver's page_pool counters cannot be seen anywhere.
    NoPagePoolCounters,
    /// All frames arrive on queue 0 of a chip with one of these `compatible` in the device tree, whatever number of queues
    /// the interface has.
    OneQueue(&'static [&'static str]),
    /// A program is refused above this MTU.
    MtuLimit(u32),
    /// A program that does not take packets in several buffers is.
    MtuLimitOfOneBuffer(u32),
    /// Above this MTU, also of a sibling port, the driver gives up the pools that its XDP needs, without a word and
    /// with the program attached.
    MtuTakesPools(u32),
    /// On more possible CPUs than this the driver refuses XDP.
    CpuLimit(u32),
    /// If the device tree gives it a hardware buffer manager, the driver refuses XDP.
    NoBufferManager,
    /// Unless flows are hashed (`ethtool -K X rxhash on`), all frames arrive on queue 0.
    HashSpreads,
    /// It polls one queue per CPU, those with the lowest numbers. With fewer CPUs than queues, the table that spreads
    /// flows is not of the numbers that these have ([`Facts::table_is_of_queues`](super::Facts::table_is_of_queues)).
    PollsQueuesPerCpu,
    /// It tells AF_XDP sockets no NAPI of its queues (`xdp_rxq_info_reg`): busy polling does nothing.
    NoNapi,
    /// Zero-copy wants so many bytes of headroom in each frame, for a header of the device's, and a device that the
    /// kernel reaches through an IOMMU.
    ZeroCopyHeadroom(u32),
    /// Zero-copy fills whole KiB of a frame, which in one of 2048 bytes is one.
    ZeroCopyWholeKib,
    /// Two queues are made of each: those for zero-copy have the upper half of the numbers.
    ZeroCopyQueuesAbove,
    /// The program has to be attached before a socket is bound.
    AttachBeforeBind,
    /// Without frames on the fill ring at bind the driver's queue stops for good.
    FillBeforeBind,
    /// Packets in several buffers get mixed up: a program without fragments is right.
    FragmentsBroken,
    /// The program runs on its members. Frames are of their queues then, and a socket that is bound to it gets none.
    RunsOnMembers,
    /// It is a port of a switch, whose frames come by the conduit: native XDP is there.
    BehindConduit,
    /// Its members send and receive in its place: frames come in by each of them.
    HasMembers,
    /// Its frames come from its ports, where the outer VLAN tag is taken away.
    TagsEndAtPorts,
    /// The other end may leave VLAN tags beside the frame.
    TagsComeBeside,
    /// It has no channels, and so always the queues that it was made with.
    NoChannels,
    /// With separate channels for receiving and sending it takes no program.
    CombinedChannels,
    /// It needs as many channels to send by for a program as it has: with more than half of all it takes none, and says
    /// that it runs none.
    HalfOfChannels,
    /// A program for packets in several buffers cannot take the place of one for packets in one buffer, nor the other
    /// way round: one has to be detached before the other is attached.
    VariantsDoNotSwap,
}

impl Kind {
    /// What it is called behind the driver's name in [`Finding::id`](super::Finding::id). Scripts know these names:
    /// they stay.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Bounces => "link-bounce",
            Self::BouncesSiblings => "sibling-bounce",
            Self::CountersReset => "counter-reset",
            Self::NoPagePoolCounters => "no-page-pool-counters",
            Self::OneQueue(_) => "one-queue",
            Self::MtuLimit(_) => "mtu",
            Self::MtuLimitOfOneBuffer(_) => "mtu-of-one-buffer",
            Self::MtuTakesPools(_) => "mtu-takes-pools",
            Self::CpuLimit(_) => "cpus",
            Self::NoBufferManager => "buffer-manager",
            Self::HashSpreads => "no-hash",
            Self::PollsQueuesPerCpu => "queues-per-cpu",
            Self::NoNapi => "no-napi",
            Self::ZeroCopyHeadroom(_) => "zero-copy-headroom",
            Self::ZeroCopyWholeKib => "zero-copy-whole-kib",
            Self::ZeroCopyQueuesAbove => "zero-copy-queues",
            Self::AttachBeforeBind => "attach-before-bind",
            Self::FillBeforeBind => "fill-before-bind",
            Self::FragmentsBroken => "fragments",
            Self::RunsOnMembers => "runs-on-members",
            Self::BehindConduit => "behind-conduit",
            Self::HasMembers => "members",
            Self::TagsEndAtPorts => "tags-end-at-ports",
            Self::TagsComeBeside => "tags-beside",
            Self::NoChannels => "no-channels",
            Self::CombinedChannels => "separate-channels",
            Self::HalfOfChannels => "half-of-channels",
            Self::VariantsDoNotSwap => "variants",
        }
    }
}
