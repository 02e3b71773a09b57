//! [`Verdicts`]: what a guest tells of its checks, a line each, and at last how many there were.
//!
//! All of it comes by a serial console, which kernel and programs write to as well: a line may be lost, or come in
//! pieces. So the guest counts, and what is not told of each check is no success.

use anyhow::{Result, bail, ensure};

/// What a line of the console begins with that is for us.
const MARK: &str = "board: ";

/// How many checks there were, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    checks: usize,
    failed: usize,
}

impl Tally {
    /// That of `end: 17 checks, 2 failed`.
    fn read(text: &str) -> Option<Self> {
        let (checks, failed) =
            text.strip_prefix("end: ")?.strip_suffix(" failed")?.split_once(" checks, ")?;
        Some(Self { checks: checks.parse().ok()?, failed: failed.parse().ok()? })
    }
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    heard: Tally,
    /// What the guest counted.
    told: Option<Tally>,
    /// A line for us that says nothing.
    garbled: Option<String>,
}

impl Verdicts {
    /// Takes in a line of the console. What of it is for people, if something is.
    pub(super) fn hear<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (_, verdict) = line.split_once(MARK)?;
        if let Some(tally) = Tally::read(verdict) {
            self.told = Some(tally);
            return None;
        }
        match verdict.split(' ').next() {
            Some("ok" | "skip") => self.heard.checks += 1,
            Some("FAILED") => {
                self.heard.checks += 1;
                self.heard.failed += 1;
            }
            Some("note") => {}
            _ => self.garbled = Some(line.to_owned()),
        }
        Some(verdict)
    }

    /// An error if a check failed, or if not all were heard of.
    pub(super) fn conclude(&self) -> Result<()> {
        match self.heard.failed {
            0 => {}
            1 => bail!("a check failed"),
            more => bail!("{more} checks failed"),
        }
        if let Some(line) = &self.garbled {
            bail!("a verdict came in pieces over the console; run it again: {line:?}");
        }
        let Some(Tally { checks, failed }) = self.told else {
            bail!("the guest ended before its checks did")
        };
        ensure!(
            self.heard == Tally { checks, failed },
            "the console lost verdicts; run it again: the guest made {checks} checks, of which {failed} failed, and {} \
             were heard of",
            self.heard.checks
        );
        ensure!(checks > 0, "the guest made no check");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is concluded from these lines, and printed of them.
    fn concluded(lines: &[&str]) -> (String, usize) {
        let mut verdicts = Verdicts::default();
        let printed = lines.iter().filter_map(|line| verdicts.hear(line)).count();
        (verdicts.conclude().map_or_else(|error| error.to_string(), |()| "passed".to_owned()), printed)
    }

    const ALL: [&str; 6] = [
        "[    1.2] mvneta 10000000.ethernet eth0: Link is Up",
        "board: ok     both links come up (2.0 s)",
        "board: skip   packets of 9000 bytes: Linux 6.1 has no XDP_USE_SG",
        "board: note   umemd is 9229 KiB",
        "[    3.4] board: ok     SIGKILL leaves nothing attached (0.9 s)",
        "board: end: 3 checks, 0 failed",
    ];

    #[test]
    fn a_guest_whose_checks_were_all_heard_of_has_passed() {
        assert_eq!(concluded(&ALL), ("passed".into(), 4));
    }

    #[test]
    fn a_line_that_is_lost_is_no_success() {
        for lost in [1, 2, 4] {
            let lines: Vec<&str> =
                ALL.iter().enumerate().filter(|(at, _)| *at != lost).map(|(_, line)| *line).collect();
            let (why, _) = concluded(&lines);
            assert!(why.contains("made 3 checks, of which 0 failed, and 2 were heard of"), "{why}");
        }
        assert_eq!(concluded(&ALL[..5]).0, "the guest ended before its checks did");
        let lost = [&ALL[..5], &["board: end: 4 checks, 1 failed"]].concat();
        assert!(concluded(&lost).0.starts_with("the console lost verdicts"), "the one that failed");
    }

    #[test]
    fn a_line_in_pieces_is_no_success() {
        for broken in
            ["board: FAI[ 5.6] a word of the kernel's", "board: end: 3 che", "board: end", "board: "]
        {
            let (why, _) = concluded(&[&ALL[..5], &[broken]].concat());
            assert!(why.starts_with("a verdict came in pieces"), "{broken}: {why}");
        }
    }

    #[test]
    fn what_failed_is_counted() {
        let failed = "board: FAILED the next start works: no";
        assert_eq!(concluded(&[failed, "board: end: 1 checks, 1 failed"]).0, "a check failed");
        assert_eq!(concluded(&[failed, failed]).0, "2 checks failed", "whatever came of the others");
        assert_eq!(concluded(&["board: end: 0 checks, 0 failed"]).0, "the guest made no check");
    }
}
