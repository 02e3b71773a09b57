//! The rigs: machine, network hardware and modules of each.

use std::fmt::Write as _;

use super::qemu::Machine;
use crate::cli::Kernel;

/// A machine with network hardware, as far as it is built here.
#[derive(Debug)]
pub(crate) struct Rig {
    /// Its name on the command line, and for the guest.
    pub(crate) name: &'static str,
    pub(crate) machine: Machine,
    pub(crate) hardware: Hardware,
    /// The modules to load, in order; what they depend on comes by itself.
    pub(crate) modules: &'static [&'static str],
    /// The kernels to run it on if none is asked for.
    pub(crate) kernels: &'static [Kernel],
    /// Others that it runs on, each in minutes: when asked for, or for all.
    pub(crate) more_kernels: &'static [Kernel],
    /// Seconds that a guest may take, on a machine that is busy with something else.
    pub(crate) patience: u64,
}

impl Rig {
    /// Whether its checks are for this kernel, too.
    pub(crate) fn knows(&self, kernel: Kernel) -> bool {
        self.kernels.contains(&kernel) || self.more_kernels.contains(&kernel)
    }
}

/// What frames come in by.
#[derive(Debug)]
pub(crate) enum Hardware {
    /// Registers that board-device models, behind nodes of the device tree.
    Model(Model),
    /// Two of QEMU's own PCI devices of this kind, on one hub.
    Qemu(&'static str),
    /// Nothing but what the kernel makes itself: veth pairs.
    None,
}

/// NICs of a SoC.
#[derive(Debug)]
pub(crate) struct Model {
    /// The kind that board-device models.
    pub(crate) kind: &'static str,
    /// How many of them, each a PCI device from slot 1 on.
    pub(crate) slots: u32,
    /// The nodes of the device tree.
    pub(crate) nodes: fn() -> String,
    /// Where the kernel puts the BARs: slot and address. The nodes say the same, and the guest checks it.
    pub(crate) bars: &'static [(u32, u32)],
}

/// The first SPI of the GICv2m frame, and how many of them each slot has.
const FIRST_SPI: u32 = 48;
const SPIS_PER_SLOT: u32 = 16;

/// Armada 3720 as on the EspressoBIN: NETA without buffer manager, one interrupt. Two pairs: one joined by a wire,
/// the other by a switch chip that tags.
pub(crate) const MVNETA: Rig = Rig {
    name: "mvneta",
    machine: Machine { cpu: "cortex-a53", cpus: 1, memory: 512 },
    hardware: Hardware::Model(Model { kind: "neta", slots: 4, nodes: mvneta_nodes, bars: &MVNETA_BARS }),
    modules: &["fixed_phy", "mvneta", "8021q", "xsk_diag"],
    kernels: &[Kernel::Trixie],
    more_kernels: &[Kernel::Newest],
    patience: 900,
};
const MVNETA_BARS: [(u32, u32); 4] = [(1, 0x1000_0000), (2, 0x1000_4000), (3, 0x1000_8000), (4, 0x1000_c000)];

/// Armada 8040 as on the MacchiatoBIN: two CP110, each with a PPv2.2 and two ports in use, an interrupt per port and
/// CPU. XDP wants no more than four CPUs.
pub(crate) const MVPP2: Rig = Rig {
    name: "mvpp2",
    machine: Machine { cpu: "cortex-a72", cpus: 2, memory: 1024 },
    hardware: Hardware::Model(Model {
        kind: "pp2",
        slots: MVPP2_SLOTS,
        nodes: mvpp2_nodes,
        bars: &MVPP2_BARS,
    }),
    modules: &["fixed_phy", "mvpp2", "xsk_diag"],
    kernels: &[Kernel::Trixie],
    more_kernels: &[Kernel::Newest],
    patience: 900,
};
const MVPP2_SLOTS: u32 = 2;
const MVPP2_BARS: [(u32, u32); 4] = [(1, 0x1000_0000), (2, 0x1010_0000), (1, 0x1020_0000), (2, 0x1021_0000)];

/// Intel's 82576: of what QEMU emulates the one whose driver has zero-copy, since Linux 6.14.
pub(crate) const IGB: Rig = Rig {
    name: "igb",
    machine: Machine { cpu: "cortex-a53", cpus: 1, memory: 512 },
    hardware: Hardware::Qemu("igb"),
    modules: &["igb", "xsk_diag"],
    kernels: &[Kernel::Newest],
    more_kernels: &[Kernel::Trixie],
    patience: 900,
};

/// A virtual machine's own NIC.
pub(crate) const VIRTIO: Rig = Rig {
    name: "virtio",
    machine: Machine { cpu: "cortex-a53", cpus: 1, memory: 512 },
    hardware: Hardware::Qemu("virtio-net-pci"),
    modules: &["virtio_net", "xsk_diag"],
    kernels: &[Kernel::Newest],
    more_kernels: &[Kernel::Trixie],
    patience: 900,
};

/// No hardware: the end-to-end tests, on kernels old and new.
pub(crate) const E2E: Rig = Rig {
    name: "e2e",
    machine: Machine { cpu: "cortex-a72", cpus: 2, memory: 1024 },
    hardware: Hardware::None,
    modules: &[
        "veth",
        "tun",
        "bridge",
        "bonding",
        "8021q",
        "xsk_diag",
        "sch_tbf",
        "sch_ingress",
        "cls_u32",
        "act_mirred",
    ],
    kernels: &[Kernel::Bookworm, Kernel::Trixie, Kernel::Newest],
    more_kernels: &[],
    patience: 2400,
};

/// The hardware address of a port.
fn mac(port: u32) -> String {
    format!("[02 00 00 00 4e {:02x}]", port + 1)
}

/// An interrupt of a slot's: an edge.
fn interrupt(slot: u32, line: u32) -> String {
    format!("0 {} 1", FIRST_SPI + SPIS_PER_SLOT * (slot - 1) + line)
}

fn mvneta_nodes() -> String {
    let mut nodes = String::new();
    for (slot, address) in MVNETA_BARS {
        let _ = write!(
            nodes,
            "
	ethernet@{address:x} {{
		compatible = \"marvell,armada-3700-neta\";
		reg = <0 {address:#x} 0 0x4000>;
		interrupts = <{}>;
		clocks = <&{{/apb-pclk}}>;
		phy-mode = \"rgmii-id\";
		local-mac-address = {};
		fixed-link {{
			speed = <1000>;
			full-duplex;
		}};
	}};
",
            interrupt(slot, 0),
            mac(slot - 1),
        );
    }
    nodes
}

/// Interrupts of a port that the model has; and those that the driver wants to see in the tree, whatever it uses.
const LINES_PER_PORT: u32 = 5;
const HIFS: u32 = 9;

fn mvpp2_nodes() -> String {
    let mut nodes = String::new();
    for slot in 1..=MVPP2_SLOTS {
        let [processor, macs] = [0, 2].map(|at| MVPP2_BARS[at + slot as usize - 1].1);
        let port = |id: u32, gop: u32, mode: &str, speed: u32| {
            let line =
                |hif: u32| if hif < LINES_PER_PORT { id * LINES_PER_PORT + hif } else { SPIS_PER_SLOT - 1 };
            let interrupts: Vec<String> =
                (0..HIFS).map(|hif| format!("<{}>", interrupt(slot, line(hif)))).collect();
            let names: Vec<String> = (0..HIFS).map(|hif| format!("\"hif{hif}\"")).collect();
            format!(
                "
		ethernet-port@{id} {{
			reg = <{id}>;
			port-id = <{id}>;
			gop-port-id = <{gop}>;
			phy-mode = \"{mode}\";
			local-mac-address = {};
			interrupts = {};
			interrupt-names = {};
			fixed-link {{
				speed = <{speed}>;
				full-duplex;
			}};
		}};
",
                mac(2 * (slot - 1) + id),
                interrupts.join(", "),
                names.join(", "),
            )
        };
        let clock = "<&{/apb-pclk}>";
        let _ = write!(
            nodes,
            "
	ethernet@{processor:x} {{
		compatible = \"marvell,armada-7k-pp22\";
		reg = <0 {processor:#x} 0 0x100000>, <0 {macs:#x} 0 0xb000>;
		clocks = {clock}, {clock}, {clock}, {clock}, {clock};
		clock-names = \"pp_clk\", \"gop_clk\", \"mg_clk\", \"mg_core_clk\", \"axi_clk\";
		dma-coherent;
		#address-cells = <1>;
		#size-cells = <0>;
{}{}	}};
",
            port(0, 0, "10gbase-r", 10_000),
            port(1, 2, "rgmii-id", 1000),
        );
    }
    nodes
}
