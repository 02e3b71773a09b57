//! [`Cables`]: which port leads to which.

/// A port of a NIC, both by number.
pub type Port = (usize, usize);

/// Pairs of ports that are joined.
#[derive(Clone, Debug, Default)]
pub struct Cables {
    pairs: Vec<(Port, Port)>,
}

impl Cables {
    /// Joins these pairs.
    pub fn new(pairs: impl Into<Vec<(Port, Port)>>) -> Self {
        Self { pairs: pairs.into() }
    }

    /// The other end; `None` where nothing is plugged in.
    pub fn other_end(&self, port: Port) -> Option<Port> {
        self.pairs.iter().find_map(|&(a, b)| match port {
            _ if port == a => Some(b),
            _ if port == b => Some(a),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cable_has_two_ends() {
        let cables = Cables::new([((0, 0), (1, 0))]);
        assert_eq!(cables.other_end((0, 0)), Some((1, 0)));
        assert_eq!(cables.other_end((1, 0)), Some((0, 0)));
        assert_eq!(cables.other_end((0, 1)), None);
    }
}
