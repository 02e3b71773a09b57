//! What only sysfs tells of an interface. It shows the network namespace that it was mounted in, which need not be ours.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Link;

/// The folder of this very interface; `None` where sysfs shows another one by its name, or none.
pub(crate) fn folder(link: &Link) -> Option<PathBuf> {
    folder_in(Path::new("/sys/class/net"), link)
}

fn folder_in(sysfs: &Path, link: &Link) -> Option<PathBuf> {
    let folder = sysfs.join(&link.name);
    let index: u32 = fs::read_to_string(folder.join("ifindex")).ok()?.trim().parse().ok()?;
    (index == link.index).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_of_another_namespace_is_not_taken_for_ours() {
        let sysfs = std::env::temp_dir().join(format!("umemd-sysfs-{}", std::process::id()));
        let lo = super::super::links().unwrap().into_iter().find(|link| link.name == "lo").unwrap();
        let ours = Link { name: "eth0".into(), index: 7, ..lo };
        fs::create_dir_all(sysfs.join("eth0")).unwrap();
        let with = |ifindex: &str| {
            fs::write(sysfs.join("eth0/ifindex"), ifindex).unwrap();
            folder_in(&sysfs, &ours)
        };
        let found = [with("7\n"), with("8\n")];
        let absent = folder_in(&sysfs, &Link { name: "eth1".into(), ..ours.clone() });
        fs::remove_dir_all(&sysfs).unwrap();
        assert_eq!(found, [Some(sysfs.join("eth0")), None]);
        assert_eq!(absent, None);
    }
}
