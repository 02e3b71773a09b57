//! Where unsafe code may be, and what it has to say.
//!
//! The workspace denies `unsafe_code`; what is checked here is who may open it again. Clippy checks the
//! comments of host code. The XDP program never sees clippy, so its comments are checked here.

use super::at;
use super::sources::Source;

/// Modules that may open unsafe code.
const OPEN: [&str; 5] =
    ["agent/src/sys", "agent/src/xsk", "agent/examples/minimal.rs", "common/src/", "xdp-prog/src/"];

/// Crates that must forbid it, so that nobody inside can open it.
const FORBID: [&str; 3] =
    ["agent/frame-pool/src/lib.rs", "agent/datapath/src/lib.rs", "tests/board/src/lib.rs"];

/// Code without clippy.
const WITHOUT_CLIPPY: &str = "xdp-prog/src/";

/// How far above an unsafe block its comment may begin to end: a statement of a few lines.
const STATEMENT: usize = 3;

/// What is wrong.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| !source.path.starts_with("xtask/src/lint/")) {
        complaints.extend(openings(source));
        if FORBID.contains(&source.path.as_str()) && !source.text.contains("#![forbid(unsafe_code)]") {
            complaints.push(at(source, 0, "must say #![forbid(unsafe_code)]"));
        }
        if source.path.starts_with(WITHOUT_CLIPPY) {
            complaints.extend(unexplained(source));
        }
    }
    complaints
}

/// Attributes that open unsafe code where that is not allowed, or without a reason.
fn openings(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let code: Vec<(usize, &str)> = source.code().collect();
    for (index, (line, text)) in code.iter().enumerate().filter(|(_, (_, text))| text.contains("unsafe_code"))
    {
        // rustfmt breaks a long attribute into lines.
        let before: String = code[index.saturating_sub(1)..=index].iter().map(|(_, text)| *text).collect();
        if before.contains("allow(") {
            let why = "use expect(unsafe_code, reason = …): it says why, and tells when it is over";
            complaints.push(at(source, *line, why));
        }
        if !before.contains("expect(") {
            continue;
        }
        if !OPEN.iter().any(|path| source.path.starts_with(path)) {
            complaints.push(at(source, *line, &format!("unsafe code is only for {}", OPEN.join(", "))));
        }
        let attribute: String = code[index..].iter().take(3).map(|(_, text)| *text).collect();
        if !text.contains("reason")
            && !attribute.split(")]").next().is_some_and(|text| text.contains("reason"))
        {
            complaints.push(at(source, *line, "expect(unsafe_code) needs a reason"));
        }
    }
    complaints
}

/// Unsafe blocks and impls without a SAFETY comment above.
fn unexplained(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let is_unsafe = |line: &str| line.contains("unsafe {") || line.contains("unsafe impl");
    let unsafes = source.code().filter(|(line, text)| is_unsafe(text) && !is_explained(&lines[..*line]));
    unsafes.map(|(line, _)| at(source, line, "unsafe without a SAFETY comment above")).collect()
}

/// Whether the comment that ends at most [`STATEMENT`] lines up says SAFETY.
fn is_explained(above: &[&str]) -> bool {
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let distance =
        above.iter().rev().take(STATEMENT + 1).position(|line| line.trim_start().starts_with("//"));
    let Some(distance) = distance else { return false };
    above.iter().rev().skip(distance).take_while(is_comment).any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }])
    }

    const OPENED: &str = "#![expect(unsafe_code, reason = \"wraps xsk-rs\")]\n";

    #[test]
    fn unsafe_code_is_opened_only_where_it_may_be() {
        assert!(complaints("agent/src/xsk/port.rs", OPENED).is_empty());
        assert_eq!(complaints("agent/src/nic/mod.rs", OPENED).len(), 1);
    }

    #[test]
    fn an_opening_says_why() {
        assert_eq!(complaints("agent/src/sys/mod.rs", "#![expect(unsafe_code)]\n// reason = x\n").len(), 1);
        assert!(
            complaints("agent/src/sys/mod.rs", "#![expect(\n    unsafe_code,\n    reason = \"x\"\n)]\n")
                .is_empty()
        );
        assert_eq!(complaints("agent/src/sys/mod.rs", "#![allow(unsafe_code, reason = \"x\")]\n").len(), 1);
    }

    #[test]
    fn the_inner_crates_forbid_it() {
        assert_eq!(complaints("agent/datapath/src/lib.rs", "//! Moves frames.\n").len(), 1);
        assert!(complaints("agent/datapath/src/lib.rs", "#![forbid(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn the_program_explains_each_unsafe_block() {
        let path = "xdp-prog/src/main.rs";
        let explained = "// SAFETY:\n// - In bounds: checked above.\nlet byte =\n    unsafe { *pointer };\n";
        assert!(complaints(path, explained).is_empty());
        assert_eq!(complaints(path, "// Reads a byte.\nlet byte = unsafe { *pointer };\n").len(), 1);
        assert_eq!(complaints(path, "// SAFETY: no.\n\n\n\n\n\nunsafe { f() };\n").len(), 1);
    }
}
