//! What the end-to-end tests are made of: a lab of network namespaces, a running agent, sockets that send and
//! receive in the lab, and a few things that stand in an agent's way.
//!
//! Each guard owns one thing of the machine's and takes it away when it is dropped. The drawing of the lab is
//! in the README beside this crate.

pub mod agent;
pub mod board;
pub mod browser;
pub mod command;
pub mod exit;
pub mod foreign;
pub mod full;
pub mod http;
pub mod huge;
pub mod jam;
pub mod lab;
pub mod metrics;
pub mod netns;
pub mod page;
pub mod pcapng;
pub mod ping;
pub mod privilege;
pub mod prometheus;
pub mod rules;
pub mod scratch;
pub mod shown;
pub mod strain;
pub mod terminal;
pub mod thread;
pub mod veth;
pub mod wait;
pub mod wire;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_readme_lists_every_test() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let readme = fs::read_to_string(here.join("README.md")).unwrap();
        let mut tests = 0;
        for file in fs::read_dir(here.join("tests")).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let ignored = text.split("#[ignore").skip(1);
            for name in ignored.filter_map(|test| test.split("fn ").nth(1)?.split('(').next()) {
                assert!(readme.contains(&format!("`{name}`")), "{name} is not in README.md");
                tests += 1;
            }
        }
        assert!(tests > 100, "only {tests} were found");
    }
}
