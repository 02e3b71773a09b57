//! The live page at `/`: one file, which asks `/status` once a second and keeps five minutes.

/// The page.
pub const PAGE: &str = include_str!("page.html");

#[cfg(test)]
mod tests {
    use super::PAGE;
    use crate::drops::Layer;

    #[test]
    fn it_is_small_and_asks_nobody_but_us() {
        assert!(PAGE.len() < 20_000, "{} bytes", PAGE.len());
        let foreign = PAGE.match_indices("://").map(|(at, _)| &PAGE[at - 5..(at + 20).min(PAGE.len())]);
        // The name of SVG's namespace is an address that nobody goes to.
        let foreign: Vec<_> = foreign.filter(|link| !link.contains("www.w3.org")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        for word in ["<link", "<img", "src=", "@import", "url(", "innerHTML"] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }

    #[test]
    fn it_knows_every_place() {
        for (place, _) in datapath::snapshot::Places::default().iter() {
            assert!(PAGE.contains(&format!("\"{place}\"")), "{place}");
            assert!(PAGE.contains(&format!("--{place}: ")), "{place} has no colour");
        }
    }

    #[test]
    fn it_knows_every_layer() {
        let (_, layers) = PAGE.split_once("const LAYERS = {").unwrap();
        let (layers, _) = layers.split_once('}').unwrap();
        let (names, colours): (Vec<_>, Vec<_>) =
            layers.split(',').map(|layer| layer.trim().split_once(": ").unwrap()).unzip();
        assert_eq!(names, Layer::ALL.map(Layer::name), "in the order of a packet's way");
        for (name, colour) in names.iter().zip(&colours) {
            assert!(PAGE.contains(&format!("{}: ", colour.trim_matches('"'))), "{name} has no colour");
            assert_eq!(
                colours.iter().filter(|other| *other == colour).count(),
                1,
                "{name} looks like another"
            );
        }
    }
}
