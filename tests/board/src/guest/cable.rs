//! [`Cable`]: two ports of the board that are joined, one where the agent attaches, one in a namespace.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use e2e::{command::ip, netns::NetNs, wait::wait_until, wire::Wire};

/// Time for a link to come up, in a guest whose CPU is emulated.
pub(super) const LINK: Duration = Duration::from_secs(60);

/// The end that the agent attaches to: as on a board, in the namespace of everyone.
pub(super) const NEAR: &str = "eth0";
const NEAR_IP: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const FAR_IP: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);

/// The UDP port that the agent is told to take.
pub(super) const PORT: u16 = 7007;
/// The rule for it.
pub(super) const STEER: &str = "udp dst port 7007";
/// A port that is the stack's.
pub(super) const OTHER_PORT: u16 = 7008;

/// The other end is here.
#[derive(Debug)]
pub(super) struct Cable {
    pub(super) far: NetNs,
    pub(super) far_name: String,
}

impl Cable {
    /// Takes `eth0` and the port `far_name`, brings both up, and gives them addresses.
    pub(super) fn lay(far_name: &str) -> Self {
        let far = NetNs::new("far");
        ip(&["link", "set", far_name, "netns", far.name()]);
        for scope in ["all", "default", NEAR] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        let cable = Self { far, far_name: far_name.to_owned() };
        let (near_mac, far_mac) = (mac(None, NEAR), mac(Some(cable.far.name()), far_name));
        ip(&["link", "set", "lo", "up"]);
        for (netns, dev, own, other, other_mac) in [
            (None, NEAR, NEAR_IP, FAR_IP, far_mac),
            (Some(cable.far.name()), far_name, FAR_IP, NEAR_IP, near_mac),
        ] {
            let run = |args: &[&str]| {
                let prefix: &[&str] = match &netns {
                    Some(name) => &["-netns", name],
                    None => &[],
                };
                ip(&[prefix, args].concat())
            };
            run(&["address", "add", &format!("{own}/30"), "dev", dev]);
            run(&["link", "set", dev, "up"]);
            run(&[
                "neighbour",
                "replace",
                &other.to_string(),
                "lladdr",
                &other_mac,
                "dev",
                dev,
                "nud",
                "permanent",
            ]);
        }
        cable.wait_for_link();
        cable
    }

    /// Waits until both ends have a carrier.
    pub(super) fn wait_for_link(&self) {
        wait_until("eth0 has a carrier", LINK, || has_carrier(None, NEAR));
        wait_until("the far port has a carrier", LINK, || has_carrier(Some(self.far.name()), &self.far_name));
    }

    /// Tells `eth0` again where the far end is, which it forgets when it is brought down.
    pub(super) fn restore_neighbour(&self) {
        let mac = mac(Some(self.far.name()), &self.far_name);
        ip(&["neighbour", "replace", &FAR_IP.to_string(), "lladdr", &mac, "dev", NEAR, "nud", "permanent"]);
    }

    /// Waits until a datagram comes through to the stack and one comes back.
    pub(super) fn wait_for_traffic(&self) {
        let near = UdpSocket::bind((NEAR_IP, OTHER_PORT)).expect("nobody else has the port");
        near.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout above zero");
        let far = Wire::connect(&self.far, (NEAR_IP, OTHER_PORT).into());
        let start = Instant::now();
        loop {
            far.send(0..1, |_| 100);
            if let Ok((_, from)) = near.recv_from(&mut [0; 2048]) {
                near.send_to(b"back", from).expect("it has an address");
                if far.receive(Duration::from_millis(500)).is_some() {
                    return;
                }
            }
            assert!(start.elapsed() < LINK, "no datagram came through and back within {LINK:?}");
        }
    }

    /// A socket at the far end that sends to the port of the agent.
    pub(super) fn wire(&self) -> Wire {
        Wire::connect(&self.far, near(PORT))
    }
}

/// The near end's address with a port.
pub(super) fn near(port: u16) -> SocketAddr {
    (NEAR_IP, port).into()
}

/// How often the carrier of an interface came and went.
pub(super) fn carrier_changes(dev: &str) -> u64 {
    let file = format!("/sys/class/net/{dev}/carrier_changes");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.trim().parse().expect("a number")
}

/// `ip -json link` of one interface.
pub(super) fn show(netns: Option<&str>, dev: &str) -> serde_json::Value {
    let prefix: &[&str] = match &netns {
        Some(name) => &["-netns", name],
        None => &[],
    };
    let text = ip(&[prefix, &["-json", "-details", "link", "show", "dev", dev]].concat());
    let list: serde_json::Value = serde_json::from_str(&text).expect("`ip -json` prints JSON");
    list[0].clone()
}

pub(super) fn has_carrier(netns: Option<&str>, dev: &str) -> bool {
    show(netns, dev)["operstate"] == "UP"
}

fn mac(netns: Option<&str>, dev: &str) -> String {
    show(netns, dev)["address"].as_str().expect("an Ethernet interface has one").to_owned()
}
