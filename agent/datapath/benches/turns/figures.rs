//! Instructions per packet, and whether they are what they should be.
//!
//! What is asked holds on every processor; what was recorded only on the same one, and of the same compiler.

/// How far a figure may be from the recorded one.
const TOLERANCE: f64 = 0.02;
/// How much the number of frames may change what a packet costs: full batches from 1,024 frames to 65,536.
const FLAT: f64 = 1.02;
/// Frames in a full batch.
const FULL: usize = 64;
/// What is before the compiler's name in the file of recorded figures.
const COMPILER: &str = "compiler: rustc ";

/// What was counted of one case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) subject: &'static str,
    pub(crate) batch: usize,
    pub(crate) frames: u32,
    /// What a packet in a full batch may cost, whatever is recorded.
    pub(crate) most: f64,
    pub(crate) got: f64,
}

/// What is to be said of figures.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) lines: Vec<String>,
    pub(crate) is_good: bool,
}

/// Compares figures with what is asked, and with the recorded ones, one `subject batch frames instructions` a line,
/// where those are of the same compiler: its release, and the processor that it compiles for.
pub(crate) fn judge(figures: &[Figure], recorded: &str, (release, host): (&str, &str)) -> Judgement {
    let mut judgement = Judgement { lines: Vec::new(), is_good: true };
    let its = recorded.lines().find_map(|line| line.strip_prefix(COMPILER)).unwrap_or_default();
    let this = format!("{release} for {host}");
    if its != this {
        let line = format!("instructions were recorded with rustc {its}, and this is {this}: not compared");
        judgement.lines.push(line);
    }
    for figure in figures {
        let key = format!("{} {} {} ", figure.subject, figure.batch, figure.frames);
        let line = recorded.lines().find_map(|line| line.strip_prefix(&key));
        let expected = line.and_then(|line| line.trim().parse::<f64>().ok());
        let (verdict, is_good) = match expected {
            _ if figure.batch == FULL && figure.got > figure.most => ("MORE THAN IS ASKED", false),
            _ if its != this => ("within what is asked", true),
            Some(expected) if (figure.got / expected - 1.0).abs() <= TOLERANCE => ("as recorded", true),
            Some(_) => ("DIFFERS", false),
            None => ("NOT RECORDED", false),
        };
        judgement.lines.push(format!("{key}{:.2} {verdict} {expected:?}", figure.got));
        judgement.is_good &= is_good;
    }
    for (at, Figure { subject, .. }) in figures.iter().enumerate() {
        if figures[..at].iter().any(|before| before.subject == *subject) {
            continue;
        }
        let full = figures.iter().filter(|figure| figure.subject == *subject && figure.batch == FULL);
        let costs = || full.clone().map(|figure| figure.got);
        let (least, most) = (costs().fold(f64::INFINITY, f64::min), costs().fold(0.0, f64::max));
        if most > least * FLAT {
            let line = format!("{subject} takes from {least:.2} to {most:.2} instructions: NOT FLAT");
            judgement.lines.push(line);
            judgement.is_good = false;
        }
    }
    judgement
}
