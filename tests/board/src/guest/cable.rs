//! [`Cable`]: two ports of the board that are joined, one where the agent attaches, one in a namespace.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use e2e::{command::ip, netns::NetNs, wait::wait_until, wire::Wire};

/// Time for a link to come up, in a guest whose CPU is emulated.
pub(super) const LINK: Duration = Duration::from_secs(60);

/// The end that the agent attaches to: as on a board, in the namespace of everyone.
pub(super) const NEAR: &str = "eth0";

/// The UDP port that the agent is told to take.
pub(super) const PORT: u16 = 7007;
/// The rule for it.
pub(super) const STEER: &str = "udp dst port 7007";
/// A port that is the stack's.
pub(super) const OTHER_PORT: u16 = 7008;

/// Both ends.
#[derive(Debug)]
pub(super) struct Cable {
    near_name: &'static str,
    pub(super) near_ip: Ipv4Addr,
    pub(super) far: NetNs,
    pub(super) far_name: &'static str,
    pub(super) far_ip: Ipv4Addr,
}

impl Cable {
    /// Takes `eth0` and the port `far_name`, brings both up, and gives them addresses.
    pub(super) fn lay(far_name: &'static str) -> Self {
        Self::between(NEAR, far_name, 0)
    }

    /// The same with another port than `eth0`, as cable number `number`.
    pub(super) fn between(near_name: &'static str, far_name: &'static str, number: u8) -> Self {
        let far = NetNs::new("far");
        ip(&["link", "set", far_name, "netns", far.name()]);
        for scope in ["all", "default", near_name] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        ip(&["link", "set", "lo", "up"]);
        let [near_ip, far_ip] = [1, 2].map(|end| Ipv4Addr::new(10, 79, number, end));
        let cable = Self { near_name, near_ip, far, far_name, far_ip };
        for (netns, dev, own) in [(None, near_name, near_ip), (Some(cable.far.name()), far_name, far_ip)] {
            let prefix: &[&str] = match &netns {
                Some(name) => &["-netns", name],
                None => &[],
            };
            let own = format!("{own}/30");
            for args in [&["address", "add", own.as_str(), "dev", dev][..], &["link", "set", dev, "up"]] {
                ip(&[prefix, args].concat());
            }
        }
        cable.restore_neighbour();
        let (near, near_mac) = (near_ip.to_string(), mac(None, near_name));
        let far = ["-netns", cable.far.name(), "neighbour", "replace", &near, "lladdr", &near_mac];
        ip(&[&far[..], &["dev", far_name, "nud", "permanent"]].concat());
        cable.wait_for_link();
        cable
    }

    /// Brings the near end up whose device was taken away and given back.
    pub(super) fn lay_again(&self) {
        ip(&["address", "add", &format!("{}/30", self.near_ip), "dev", self.near_name]);
        ip(&["link", "set", self.near_name, "up"]);
        self.restore_neighbour();
        self.wait_for_link();
    }

    /// Waits until both ends have a carrier.
    pub(super) fn wait_for_link(&self) {
        wait_until("the near port has a carrier", LINK, || has_carrier(None, self.near_name));
        wait_until("the far port has a carrier", LINK, || has_carrier(Some(self.far.name()), self.far_name));
    }

    /// Tells the near end where the far end is, which it forgets when it is brought down.
    pub(super) fn restore_neighbour(&self) {
        let (far, mac) = (self.far_ip.to_string(), mac(Some(self.far.name()), self.far_name));
        ip(&["neighbour", "replace", &far, "lladdr", &mac, "dev", self.near_name, "nud", "permanent"]);
    }

    /// Waits until a datagram comes through to the stack and one comes back.
    pub(super) fn wait_for_traffic(&self) {
        let near = self.listen();
        near.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout above zero");
        let far = self.wire_to(OTHER_PORT);
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

    /// A socket of the stack's at the near end: without one the kernel answers that nobody listens.
    pub(super) fn listen(&self) -> UdpSocket {
        UdpSocket::bind((self.near_ip, OTHER_PORT)).expect("nobody else has the port")
    }

    /// A socket at the far end that hears whoever sends to the other port there.
    pub(super) fn listen_far(&self) -> Wire {
        Wire::listen(&self.far, (self.far_ip, OTHER_PORT).into())
    }

    /// A socket at the far end that sends to the port of the agent.
    pub(super) fn wire(&self) -> Wire {
        self.wire_to(PORT)
    }

    /// A socket at the far end that sends to another port.
    pub(super) fn wire_to(&self, port: u16) -> Wire {
        Wire::connect(&self.far, (self.near_ip, port).into())
    }
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

/// The same as the driver sees it at this moment, where operstate comes later.
pub(super) fn has_carrier_now(dev: &str) -> bool {
    fs::read_to_string(format!("/sys/class/net/{dev}/carrier")).is_ok_and(|text| text.trim() == "1")
}

/// The hardware address of an interface.
pub(super) fn mac(netns: Option<&str>, dev: &str) -> String {
    show(netns, dev)["address"].as_str().expect("an Ethernet interface has one").to_owned()
}
