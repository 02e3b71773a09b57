//! The boards: machine, models, device tree and modules of each.

use std::fmt::Write as _;

use super::qemu::Machine;

/// A board, as far as it is built here.
#[derive(Debug)]
pub(crate) struct Rig {
    /// Its name on the command line, and for the guest.
    pub(crate) name: &'static str,
    pub(crate) machine: Machine,
    /// The kind of NIC that board-device models.
    pub(crate) model: &'static str,
    /// How many of them, each a PCI device from slot 1 on.
    pub(crate) slots: u32,
    /// The modules to load, in order; what they depend on comes by itself.
    pub(crate) modules: &'static [&'static str],
    /// The nodes of the device tree.
    pub(crate) nodes: fn() -> String,
    /// Where the kernel puts the BARs: slot and address. The nodes say the same, and the guest checks it.
    pub(crate) bars: &'static [(u32, u32)],
    /// Seconds that a guest may take, on a machine that is busy with something else.
    pub(crate) patience: u64,
}

/// The first SPI of the GICv2m frame, and how many of them each slot has.
const FIRST_SPI: u32 = 48;
const SPIS_PER_SLOT: u32 = 16;

/// Armada 3720 as on the EspressoBIN: NETA without buffer manager, one interrupt.
pub(crate) const MVNETA: Rig = Rig {
    name: "mvneta",
    machine: Machine { cpu: "cortex-a53", cpus: 1, memory: 512 },
    model: "neta",
    slots: 2,
    modules: &["fixed_phy", "mvneta", "xsk_diag"],
    nodes: mvneta_nodes,
    bars: &[(1, 0x1000_0000), (2, 0x1000_4000)],
    patience: 240,
};

/// The hardware address of a port: the guest's checks know it too.
fn mac(port: u32) -> String {
    format!("[02 00 00 00 4e {:02x}]", port + 1)
}

/// An interrupt of a slot's: an edge.
fn interrupt(slot: u32, line: u32) -> String {
    format!("0 {} 1", FIRST_SPI + SPIS_PER_SLOT * (slot - 1) + line)
}

fn mvneta_nodes() -> String {
    let mut nodes = String::new();
    for (slot, address) in MVNETA.bars {
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
            interrupt(*slot, 0),
            mac(slot - 1),
        );
    }
    nodes
}
