//! What tcpdump would say of a frame, to the byte where the frame ends.
//!
//! A load beyond the end of a frame ends tcpdump's filter, and the frame does not match, whatever an `or` still had
//! to offer. So the order counts in which it looks. Its optimizer leaves a load out where both outcomes lead to the
//! same end, by what is known on the way there.

use umemd_common::key::field;
use umemd_common::packet::{Parsed, is_tag_type};

use super::terms::{Atom, Depths, Term};

/// An expression, as it was put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// One of these, tried one after the other.
    Any(Vec<Term>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// Whether tcpdump matches this frame.
pub(super) fn matches(tree: &Tree, frame: &Depths) -> bool {
    let way = Way { frame, known: None, gait: Gait::Look };
    matches!(tree.follow(&way, &|_| End::Final(true), &|_| End::Final(false)), End::Final(true))
}

/// What is tested on the way, one behind the other, the last one first.
struct Way<'a> {
    frame: &'a Depths,
    known: Option<Known<'a>>,
    gait: Gait,
}

#[derive(Clone, Copy)]
struct Known<'a> {
    atom: Atom,
    /// Whether it was true, or is taken to be; `None` if it was left out.
    outcome: Option<bool>,
    before: Option<&'a Self>,
}

/// How to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gait {
    /// Test what is not known.
    Look,
    /// Stop before what is not known and matters.
    Ahead,
    /// The same, but look from this test on.
    Toward(*const Atom),
}

/// Where a way leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// To an answer.
    Final(bool),
    /// To this test. Each is in the tree once, so that what follows it is known as well.
    Test(*const Atom),
    /// Beyond the end of the frame.
    Cut,
}

/// What comes next.
type Next<'a> = &'a dyn Fn(&Way<'_>) -> End;

impl Tree {
    fn follow(&self, way: &Way<'_>, yes: Next<'_>, no: Next<'_>) -> End {
        match self {
            Self::Any(terms) => any(terms, way, yes, no),
            Self::And(a, b) => a.follow(way, &|way| b.follow(way, yes, no), no),
            Self::Or(a, b) => a.follow(way, yes, &|way| b.follow(way, yes, no)),
        }
    }
}

fn any(terms: &[Term], way: &Way<'_>, yes: Next<'_>, no: Next<'_>) -> End {
    match terms {
        [] => no(way),
        [first, rest @ ..] => all(&first.atoms, way, yes, &|way| any(rest, way, yes, no)),
    }
}

fn all(atoms: &[Atom], way: &Way<'_>, yes: Next<'_>, no: Next<'_>) -> End {
    let [atom, rest @ ..] = atoms else { return yes(way) };
    let go_on = |outcome: bool, gait: Gait| {
        let left_out = matches!(gait, Gait::Toward(_));
        let known =
            Known { atom: *atom, outcome: (!left_out).then_some(outcome), before: way.known.as_ref() };
        let way = Way { frame: way.frame, known: Some(known), gait };
        if outcome { all(rest, &way, yes, no) } else { no(&way) }
    };
    if let Some(outcome) = way.implies(atom) {
        return if outcome { all(rest, way, yes, no) } else { no(way) };
    }
    let Parsed { key, missing } = &way.frame[atom.tags];
    let look = match way.gait {
        Gait::Look => true,
        Gait::Ahead => false,
        Gait::Toward(test) if std::ptr::eq(test, atom) => true,
        // Left out, or the way would not lead to that test.
        Gait::Toward(_) => return go_on(false, way.gait),
    };
    if look && atom.rule.mask.fields() & missing == 0 {
        let outcome = atom.rule.matches(key);
        return go_on(outcome, Gait::Look);
    }
    // Nobody looks if both outcomes lead to the same place.
    match (go_on(true, Gait::Ahead), go_on(false, Gait::Ahead)) {
        (yes, no) if yes != no => {
            if look {
                End::Cut
            } else {
                End::Test(atom)
            }
        }
        (End::Test(test), _) if look => go_on(false, Gait::Toward(test)),
        (end, _) => end,
    }
}

impl Way<'_> {
    /// The outcome of a test that follows from those before.
    fn implies(&self, atom: &Atom) -> Option<bool> {
        let (mask, value) = (&atom.rule.mask, &atom.rule.value);
        let actual = || atom.rule.matches(&self.frame[atom.tags].key);
        let there = mask.fields() & self.frame[atom.tags].missing == 0;
        let mut next = self.known.as_ref();
        while let Some(Known { atom: tested, outcome, before }) = next {
            if tested == atom && outcome.is_some() {
                return *outcome;
            }
            let asked = tested.rule.mask.fields();
            if tested.tags == atom.tags {
                // Through another mask the optimizer does not see that it is the same field.
                if *outcome == Some(true) && tested.rule.mask == *mask {
                    return Some(tested.rule.value == *value);
                }
                // What stands before the field has been looked at, whatever came of the field itself.
                if there && mask.fields() & !before_field(asked) == 0 {
                    return Some(actual());
                }
            }
            let same_type = type_field(atom).filter(|_| {
                there
                    && (type_field(atom) == type_field(tested)
                        || (type_field(atom) == Some(tested.tags) && before_field(asked) != 0))
            });
            if same_type.is_some() {
                let tag = mask.fields() & field::ETHER_PROTO != 0 && is_tag_type(value.ether_proto());
                match outcome {
                    // Not a tag, so not of a tag's type.
                    Some(false) if asked & field::ETHER_PROTO == 0 && before_field(asked) == 0 && tag => {
                        return Some(false);
                    }
                    Some(false) if before_field(asked) == 0 => {}
                    None if before_field(asked) == 0 => {}
                    _ => return Some(actual()),
                }
            }
            next = *before;
        }
        None
    }
}

/// Behind how many tags the type lies that this condition is about: the EtherType to one, a tag's to another.
fn type_field(atom: &Atom) -> Option<usize> {
    match atom.rule.mask.fields() {
        field::ETHER_PROTO => Some(atom.tags),
        fields if fields == field::TAG => Some(0),
        fields if fields == field::TAG << 1 => Some(1),
        _ => None,
    }
}

/// The fields that decide where this one is.
fn before_field(asked: u32) -> u32 {
    const PORTS: u32 = field::SRC_PORT | field::DST_PORT;
    const ADDRESSES: u32 = field::SRC4 | field::DST4 | ((field::SRC6 | field::DST6) * field::WHOLE6);
    if asked & (PORTS | field::FRAGMENT_PROTO) != 0 {
        field::ETHER_PROTO | field::IP_PROTO
    } else if asked & (ADDRESSES | field::IP_PROTO) != 0 {
        field::ETHER_PROTO
    } else {
        0
    }
}
