//! The device tree: QEMU's own for its machine, with the board's Ethernet controllers added.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::packages;
use super::qemu::Machine;
use crate::shell;

/// Writes the tree of this machine with these nodes added to `work/board.dtb`.
pub(crate) fn write(machine: &Machine, tools: &Path, work: &Path, nodes: &str) -> Result<()> {
    let (plain, text, board) = (work.join("virt.dtb"), work.join("board.dts"), work.join("board.dtb"));
    // The same machine: QEMU does not adapt the CPU nodes of a tree that it is given.
    let mut dump = machine.command(tools, Some(&plain));
    shell::run_quietly(&mut dump)?;
    let dtc = |from: &str, to: &str, input: &Path, output: &Path| {
        let mut dtc = packages::program(tools, "usr/bin/dtc");
        dtc.args(["-q", "-I", from, "-O", to, "-o"]).arg(output).arg(input);
        shell::run_quietly(&mut dtc).map(drop)
    };
    dtc("dtb", "dts", &plain, &text)?;
    let tree = fs::read_to_string(&text)?;
    fs::write(&text, with_nodes(&tree, nodes).context("QEMU's device tree has no end")?)?;
    dtc("dts", "dtb", &text, &board)
}

/// Adds nodes at the end of the root.
fn with_nodes(tree: &str, nodes: &str) -> Option<String> {
    let end = tree.rfind("};")?;
    Some(format!("{}{nodes}{}", &tree[..end], &tree[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_added_to_the_root() {
        assert_eq!(
            with_nodes("/ {\n\ta {\n\t};\n};\n", "\tb { };\n").unwrap(),
            "/ {\n\ta {\n\t};\n\tb { };\n};\n"
        );
        assert_eq!(with_nodes("", ""), None);
    }
}
