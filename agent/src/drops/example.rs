//! `lost.json`: two statuses a second apart, and what was lost between them, for every surface that shows it. The live
//! page's test reads it, too.

use serde::Deserialize;

use crate::status::Status;

/// What was lost.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    /// From the program on.
    pub(crate) lost: u64,
    /// By the NIC, at least.
    pub(crate) nic: u64,
}

/// The first status, the second one, and what was lost between them.
pub(crate) fn read() -> (Status, Status, Told) {
    serde_json::from_str(include_str!("lost.json")).expect("an example as it should be")
}

/// Rows of the example are as lost as the table has them.
#[test]
fn the_example_calls_lost_what_the_table_does() {
    let (then, now, _) = read();
    for row in then.devices.iter().chain(&now.devices).flat_map(|device| &device.drops) {
        let known = super::explain(&row.layer, &row.cause).unwrap_or_else(|| panic!("{row:?} is no row"));
        assert_eq!(row.lost, known.kind == super::Kind::Loss, "{row:?}");
    }
}
