//! The live page at `/`: one file, which asks `/status` once a second and keeps five minutes.

/// The page.
pub const PAGE: &str = include_str!("page.html");

#[cfg(test)]
mod tests {
    use super::PAGE;

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
}
