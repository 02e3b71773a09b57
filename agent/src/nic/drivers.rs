//! What is known of drivers that the kernel does not tell, or tells too late: one table, each row with its source.
//! What its quirks mean for an interface is in [`super::quirks`].

use super::quirks::{Kind, Quirk};
use crate::{config::BindMode, ebpf::Mode};

/// Whether a driver is asked for zero-copy if the user asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Since this version of Linux: `ndo_bpf` knows `XDP_SETUP_XSK_POOL`.
    Since(u32, u32),
    /// It can, and is slower or less reliable by it.
    Avoid,
    /// It cannot.
    Never,
}

/// One driver, by the name that ethtool shows (`ETHTOOL_GDRVINFO`).
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// Its name.
    pub name: &'static str,
    /// Whether to ask for zero-copy.
    pub zero_copy: ZeroCopy,
    /// Where that is known from.
    pub source: &'static str,
    /// What else it does otherwise than one expects.
    pub quirks: &'static [Quirk],
}

impl Driver {
    const fn with(self, quirks: &'static [Quirk]) -> Self {
        Self { quirks, ..self }
    }
}

/// The row of a driver.
pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}

/// Whether a driver has a quirk of such a kind.
pub fn has(name: &str, is: impl Fn(Kind) -> bool) -> bool {
    source_of(name, is).is_some()
}

/// How it is known that a driver has a quirk of such a kind, if it has.
pub fn source_of(name: &str, is: impl Fn(Kind) -> bool) -> Option<&'static str> {
    find(name)?.quirks.iter().find(|quirk| is(quirk.kind)).map(|quirk| quirk.source)
}

/// A driver that is not in here is asked for copy mode, which all have.
pub const DRIVERS: &[Driver] = &[
    driver(
        "bnxt_en",
        ZeroCopy::Never,
        "drivers/net/ethernet/broadcom/bnxt/bnxt_xdp.c: bnxt_xdp, XDP_SETUP_PROG only, up to 7.3",
    )
    .with(&[
        quirk(Kind::Bounces, "bnxt_xdp.c: bnxt_xdp_set, bnxt_close_nic; also where one program replaces another"),
        quirk(Kind::MtuLimitOfOneBuffer(3502), "bnxt.h: BNXT_MAX_PAGE_MODE_MTU, of pages of 4 KiB"),
        quirk(Kind::CombinedChannels, "bnxt_xdp.c: \"channels must be combined to support XDP\""),
    ]),
    driver("bonding", ZeroCopy::Never, "drivers/net/bonding/bond_main.c: bond_xdp, XDP_SETUP_PROG only").with(&[
        quirk(Kind::RunsOnMembers, "bond_main.c: bond_xdp_set; net/xdp/xsk.c: xsk_rcv_check"),
        quirk(Kind::HasMembers, "bond_main.c: bond_handle_frame"),
        quirk(Kind::TagsEndAtPorts, "net/core/dev.c: __netif_receive_skb_core"),
    ]),
    driver("bridge", ZeroCopy::Never, "net/bridge/br_device.c: br_netdev_ops, no ndo_bpf, up to 7.3")
        .with(&[quirk(Kind::TagsEndAtPorts, "net/core/dev.c: __netif_receive_skb_core")]),
    driver("dsa", ZeroCopy::Never, "net/dsa/user.c: dsa_user_netdev_ops, no ndo_bpf, up to 7.3")
        .with(&[quirk(Kind::BehindConduit, "net/dsa/user.c: dsa_user_netdev_ops, no ndo_bpf")]),
    // Amazon's own driver has the same name, and since its 2.17 no such limit: it says that it runs programs.
    driver("ena", ZeroCopy::Avoid, "amzn/amzn-drivers#221: half as fast as copy mode, and resets the device")
        .with(&[
            quirk(Kind::Bounces, "drivers/net/ethernet/amazon/ena/ena_xdp.c: ena_xdp_set, ena_down"),
            quirk(Kind::HalfOfChannels, "ena_xdp.h: ena_xdp_legal_queue_count, 2 * queues <= max_num_io_queues"),
        ]),
    driver("fec", ZeroCopy::Since(7, 3), "drivers/net/ethernet/freescale/fec_main.c: in 7.3, not in 6.12"),
    driver("gve", ZeroCopy::Since(6, 4), "drivers/net/ethernet/google/gve/gve_main.c")
        .with(&[quirk(Kind::AttachBeforeBind, "EmbarkStudios/quilkin 6e878b34a")]),
    // Both know zero-copy (i40e_xsk.c since 4.20, ice_xsk.c since 5.5), and look at the fill ring at bind, when ours
    // is empty: libxdp hands it out at bind, and not before.
    driver("i40e", ZeroCopy::Avoid, "anza-xyz/agave#6836: a queue without frames at bind stays silent").with(&[
        quirk(Kind::FragmentsBroken, "anza-xyz/agave xdp-ebpf: carries a program without fragments for it"),
        quirk(Kind::MtuLimitOfOneBuffer(3046), "i40e_main.c: i40e_xdp_setup, I40E_RXBUFFER_3072 less its header pad"),
        quirk(Kind::FillBeforeBind, "anza-xyz/agave#6836"),
    ]),
    driver("ice", ZeroCopy::Avoid, "anza-xyz/agave#6836: a queue without frames at bind stays silent")
        .with(&[quirk(Kind::FillBeforeBind, "anza-xyz/agave#6836")]),
    // Seen on Linux 7.3: of a frame of 2048 bytes it fills 1024, and drops what is longer; 4096 hold a packet.
    driver("igb", ZeroCopy::Avoid, "seen in the board rig, Linux 7.3: packets above 1024 bytes are dropped")
        .with(&[
            quirk(Kind::Bounces, "drivers/net/ethernet/intel/igb/igb_main.c: igb_xdp_setup"),
            quirk(Kind::ZeroCopyWholeKib, "igb_main.c: igb_setup_srrctl, SRRCTL.BSIZEPACKET"),
        ]),
    driver("igc", ZeroCopy::Since(5, 14), "drivers/net/ethernet/intel/igc/igc_xdp.c").with(&[
        Quirk {
            kind: Kind::Bounces,
            source: "igc_xdp.c: igc_xdp_set_prog, igc_close, up to be324b790368; it stops and starts rings since",
            until: Some((6, 15)),
        },
        quirk(Kind::MtuLimit(1500), "igc_xdp.c: \"Jumbo frames not supported\""),
    ]),
    driver("ixgbe", ZeroCopy::Avoid, "anza-xyz/agave#13054: an X550 froze every two days, fine in copy mode"),
    driver(
        "mlx5_core",
        ZeroCopy::Since(6, 1),
        "drivers/net/ethernet/mellanox/mlx5/core/en/xsk, since 5.3; its queues count from 0 since 3db4c85cde7a",
    )
    .with(&[Quirk {
        until: Some((6, 1)),
        ..quirk(Kind::ZeroCopyQueuesAbove, "VPP's af_xdp plugin: \"mlx5 needs twice the queues\"")
    }]),
    driver(
        "mvneta",
        ZeroCopy::Never,
        "drivers/net/ethernet/marvell/mvneta.c: XDP_SETUP_PROG only, up to 7.3",
    )
    .with(&[
        quirk(Kind::Bounces, "drivers/net/ethernet/marvell/mvneta.c: mvneta_xdp_setup"),
        quirk(Kind::CountersReset, "mvneta.c: mvneta_create_page_pool, at each open"),
        quirk(
            Kind::OneQueue(&["marvell,armada-3700-neta", "marvell,armada-ac5-neta"]),
            "mvneta.c: neta_armada3700, rxq_def; of an Alleycat5, too: mvneta_probe",
        ),
        quirk(Kind::MtuLimitOfOneBuffer(3520), "mvneta.c: MVNETA_MAX_RX_BUF_SIZE"),
        quirk(Kind::NoChannels, "mvneta.c: mvneta_eth_tool_ops, no get_channels"),
        quirk(Kind::NoNapi, "mvneta.c: mvneta_create_page_pool, NAPI 0"),
        quirk(Kind::NoBufferManager, "mvneta.c: \"Hardware Buffer Management not supported on XDP\""),
    ]),
    driver("mvpp2", ZeroCopy::Never, "drivers/net/ethernet/marvell/mvpp2: XDP_SETUP_PROG only, up to 7.3")
        .with(&[
            quirk(Kind::Bounces, "drivers/net/ethernet/marvell/mvpp2/mvpp2_main.c: mvpp2_xdp_setup"),
            quirk(Kind::BouncesSiblings, "mvpp2_main.c: mvpp2_check_pagepool_dma"),
            quirk(Kind::NoPagePoolCounters, "mvpp2_main.c: no page_pool_get_stats, no netdev in its pools"),
            quirk(Kind::MtuLimit(1640), "mvpp2_main.c: \"Per CPU Pools required for XDP\""),
            quirk(Kind::MtuTakesPools(1640), "mvpp2_main.c: mvpp2_change_mtu, mvpp2_bm_switch_buffers"),
            quirk(
                Kind::PollsQueuesPerCpu,
                "mvpp2_main.c: mvpp2_multi_queue_vectors_init; mvpp2_cls.c: mvpp22_rxfh_indir",
            ),
            quirk(Kind::HashSpreads, "mvpp2_main.c: NETIF_F_RXHASH, off at first; mvpp22_port_rss_enable"),
            quirk(Kind::NoChannels, "mvpp2_main.c: mvpp2_eth_tool_ops, no get_channels"),
            quirk(Kind::NoNapi, "mvpp2_main.c: mvpp2_rxq_init, NAPI 0"),
            quirk(Kind::CpuLimit(4), "mvpp2_main.c: \"XDP_TX needs two TX queues per CPU\""),
        ]),
    driver("st_gmac", ZeroCopy::Since(5, 13), "drivers/net/ethernet/stmicro/stmmac/stmmac_xdp.c").with(&[
        quirk(Kind::Bounces, "stmmac_xdp.c: stmmac_xdp_set_prog"),
        quirk(Kind::MtuLimit(1500), "stmmac_xdp.c: \"Jumbo frames not supported\""),
    ]),
    driver("team", ZeroCopy::Never, "drivers/net/team: team_netdev_ops, no ndo_bpf, up to 7.3").with(&[
        quirk(Kind::HasMembers, "drivers/net/team: team_handle_frame"),
        quirk(Kind::TagsEndAtPorts, "net/core/dev.c: __netif_receive_skb_core"),
    ]),
    driver("tun", ZeroCopy::Never, "drivers/net/tun.c: XDP_SETUP_PROG only, up to 7.3"),
    // Other drivers look at the new program, and refuse one that the MTU is too long for. This one lowers the other
    // end's greatest MTU when the first program comes, and raises it only when the last one goes; it has no link to
    // bounce.
    driver("veth", ZeroCopy::Never, "drivers/net/veth.c: XDP_SETUP_PROG only, up to 7.3").with(&[
        quirk(Kind::VariantsDoNotSwap, "veth.c: veth_xdp_set"),
        quirk(Kind::TagsComeBeside, "veth.c: VETH_FEATURES, NETIF_F_HW_VLAN_CTAG_TX"),
    ]),
    // It announces zero-copy once it also sends so; 6.11 and 6.12 receive only, and answer EOPNOTSUPP to a bind.
    driver("virtio_net", ZeroCopy::Since(6, 13), "drivers/net/virtio_net.c: NETDEV_XDP_ACT_XSK_ZEROCOPY")
        .with(&[quirk(Kind::ZeroCopyHeadroom(12), "virtio_net.c: virtnet_xsk_pool_enable")]),
];

const fn driver(name: &'static str, zero_copy: ZeroCopy, source: &'static str) -> Driver {
    Driver { name, zero_copy, source, quirks: &[] }
}

const fn quirk(kind: Kind, source: &'static str) -> Quirk {
    Quirk { kind, source, until: None }
}

/// How to bind a socket to an interface of `driver` if nobody says, on a Linux of this version.
///
/// In `skb` mode the program runs behind the driver, so that there is nothing for it to write into.
pub fn default_bind(driver: &str, mode: Mode, linux: (u32, u32)) -> BindMode {
    match find(driver).map(|known| known.zero_copy) {
        Some(ZeroCopy::Since(major, minor)) if mode == Mode::Native && linux >= (major, minor) => {
            BindMode::ZeroCopy
        }
        _ => BindMode::Copy,
    }
}

/// How many bytes of headroom each frame must have for zero-copy.
pub fn zero_copy_headroom(driver: &str) -> u32 {
    let wanted = |quirk: &Quirk| match quirk.kind {
        Kind::ZeroCopyHeadroom(bytes) => Some(bytes),
        _ => None,
    };
    find(driver).and_then(|known| known.quirks.iter().find_map(wanted)).unwrap_or(0)
}

/// The version of the running kernel, as `uname` tells it.
pub fn linux_version() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy())
}

/// The first two numbers; 0 where there is none.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_nobody_twice() {
        assert!(DRIVERS.is_sorted_by(|a, b| a.name < b.name));
        let quirks = || DRIVERS.iter().flat_map(|driver| driver.quirks);
        let sources = DRIVERS.iter().map(|driver| driver.source).chain(quirks().map(|quirk| quirk.source));
        assert!(sources.into_iter().all(|source| !source.is_empty()));
    }

    #[test]
    fn who_is_unknown_or_too_old_gets_copy_mode() {
        let bind = |driver, linux| default_bind(driver, Mode::Native, linux);
        assert_eq!(bind("gve", (6, 12)), BindMode::ZeroCopy);
        assert_eq!(bind("mlx5_core", (6, 0)), BindMode::Copy, "it would bind the queues of the lower half");
        assert_eq!(bind("mlx5_core", (6, 1)), BindMode::ZeroCopy);
        assert_eq!(bind("igc", (5, 13)), BindMode::Copy);
        assert_eq!(bind("igc", (5, 14)), BindMode::ZeroCopy);
        assert_eq!(bind("igc", (7, 0)), BindMode::ZeroCopy);
        assert_eq!(bind("virtio_net", (6, 12)), BindMode::Copy);
        assert_eq!(bind("virtio_net", (6, 13)), BindMode::ZeroCopy);
        for driver in ["veth", "mvneta", "mvpp2", "ixgbe", "bnxt_en", "", "nobody"] {
            assert_eq!(bind(driver, (9, 9)), BindMode::Copy, "{driver}");
        }
        assert_eq!(default_bind("gve", Mode::Skb, (6, 12)), BindMode::Copy);
        assert_eq!(["virtio_net", "ice", ""].map(zero_copy_headroom), [12, 0, 0]);
    }

    #[test]
    fn nobody_gets_a_zero_copy_that_is_known_to_fail() {
        let fails = |quirk: &&Quirk| {
            matches!(quirk.kind, Kind::FillBeforeBind | Kind::ZeroCopyWholeKib | Kind::ZeroCopyQueuesAbove)
        };
        for driver in DRIVERS {
            for quirk in driver.quirks.iter().filter(fails) {
                let last = quirk.until.map_or((99, 0), |(major, minor)| (major, minor - 1));
                assert_eq!(default_bind(driver.name, Mode::Native, last), BindMode::Copy, "{}", driver.name);
            }
        }
    }

    #[test]
    fn versions_are_read_from_whatever_a_distribution_makes_of_them() {
        assert_eq!(version("6.12.107+deb13-arm64"), (6, 12));
        assert_eq!(version("7.3-rc1"), (7, 3));
        assert_eq!(version("odd"), (0, 0));
    }
}
