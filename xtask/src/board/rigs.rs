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

/// Armada 8040 as on the MacchiatoBIN: two CP110, each with a PPv2.2 and two ports in use, an interrupt per port and
/// CPU. XDP wants no more than four CPUs.
pub(crate) const MVPP2: Rig = Rig {
    name: "mvpp2",
    machine: Machine { cpu: "cortex-a72", cpus: 2, memory: 1024 },
    model: "pp2",
    slots: 2,
    modules: &["fixed_phy", "mvpp2", "xsk_diag"],
    nodes: mvpp2_nodes,
    bars: &[(1, 0x1000_0000), (2, 0x1010_0000), (1, 0x1020_0000), (2, 0x1021_0000)],
    patience: 480,
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

/// Interrupts of a port that the model has; and those that the driver wants to see in the tree, whatever it uses.
const LINES_PER_PORT: u32 = 5;
const HIFS: u32 = 9;

fn mvpp2_nodes() -> String {
    let mut nodes = String::new();
    for slot in 1..=MVPP2.slots {
        let [processor, macs] = [0, 2].map(|at| MVPP2.bars[at + slot as usize - 1].1);
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
