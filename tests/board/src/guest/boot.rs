//! From a bare kernel to interfaces.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

use rustix::{
    mount::{MountFlags, mount},
    system::init_module,
};

/// What `cargo xtask board` put into this guest.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Its name.
    pub(super) rig: String,
    /// Whether somebody wants a shell instead of checks.
    pub(super) shell: bool,
}

/// Mounts, switches the NICs' registers on, loads the drivers.
pub(super) fn boot() -> Board {
    for (kind, target) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        fs::create_dir_all(target).unwrap_or_else(|error| panic!("{target}: {error}"));
        mount(kind, target, kind, MountFlags::empty(), None)
            .unwrap_or_else(|error| panic!("{target}: {error}"));
    }
    let config = fs::read_to_string("/etc/rig").expect("xtask writes it");
    let mut board = Board::default();
    for line in config.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["rig", name] => board.rig = name.into(),
            ["shell"] => board.shell = true,
            ["bar", slot, address] => enable(slot, address),
            ["module", name] => load(name),
            _ => panic!("/etc/rig: {line:?}"),
        }
    }
    board
}

/// Lets a PCI device decode its registers and reach memory. Its platform driver, which does not know that it is
/// one, expects both; and the registers where the device tree says.
fn enable(slot: &str, address: &str) {
    let folder =
        format!("/sys/bus/pci/devices/0000:00:{:02x}.0", slot.parse::<u32>().expect("a slot is a number"));
    let file = |name: &str| Path::new(&folder).join(name);
    let resources = fs::read_to_string(file("resource")).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let starts = |line: &str| {
        let start = line.split(' ').next()?.strip_prefix("0x")?;
        u64::from_str_radix(start, 16).ok()
    };
    let wanted = address.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let has = resources.lines().map(starts).any(|start| start == wanted);
    assert!(has, "the kernel put the registers of slot {slot} elsewhere than {address}:\n{resources}");
    fs::write(file("enable"), "1").unwrap_or_else(|error| panic!("{folder}/enable: {error}"));
    // PCI_COMMAND: memory and bus master. Without the latter QEMU drops interrupts.
    let mut config = File::options().write(true).open(file("config")).expect("every PCI device has it");
    config.seek(SeekFrom::Start(4)).and_then(|_| config.write_all(&[6, 0])).expect("root may write it");
}

fn load(name: &str) {
    let file = format!("/modules/{name}.ko");
    let image = fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    init_module(&image, c"").unwrap_or_else(|error| panic!("the kernel refuses module {name}: {error}"));
    // Memory that a board of 512 MB has better use for.
    let _ = fs::remove_file(&file);
}
