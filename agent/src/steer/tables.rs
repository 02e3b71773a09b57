//! Rules as the program's tables: what is written into its maps, and searched on the host by the same code.

use std::collections::{BTreeMap, HashMap};

use thiserror::Error;
use umemd_common::Key;
use umemd_common::decision::Action;
use umemd_common::key::MAX_TAGS;
use umemd_common::maps::{GENERATIONS, MAX_SHAPES, MAX_UNITS};
use umemd_common::search::{Depth, Hit, NARROW, Set, Shape, Tables, UNIT_WORDS, Unit, WIDE_UNITS};

use super::{DefaultAction, RuleSet};

/// Why rules cannot be put into tables.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TablesError {
    /// More shapes than the program searches.
    #[error(
        "the rules look at {shapes} different combinations of fields, and {MAX_SHAPES} are possible; the last new one \
         comes with rule `{rule}`: say it as other rules do, or leave it out"
    )]
    Shapes {
        /// How many there are.
        shapes: usize,
        /// The first rule that is beyond the limit.
        rule: String,
    },
    /// More entries than the tables hold.
    #[error(
        "the rules take {units} units of tables, and there are {MAX_UNITS}; give fewer, or narrower ones"
    )]
    Units {
        /// How many units they take.
        units: usize,
    },
}

/// One generation of tables.
#[derive(Clone, Debug)]
pub struct Image {
    set: Set,
    shapes: Vec<Shape>,
    units: Vec<Unit>,
    queues: Vec<u64>,
    generation: u32,
}

/// The entries of one mask: for each value the first rule that asks for it.
type Entries = HashMap<Key, u16>;

impl Image {
    /// The tables of these rules, to be written as this generation; `counters` are those of the rules.
    ///
    /// # Errors
    ///
    /// More shapes or more entries than there is room for.
    pub fn build(rules: &RuleSet, counters: &[u16], generation: u32) -> Result<Self, TablesError> {
        let mut image = Self {
            set: Set { drop: u32::from(rules.default == DefaultAction::Drop), ..Set::default() },
            shapes: Vec::new(),
            units: Vec::new(),
            queues: rules.iter().map(|rule| rule.spec.queues.unwrap_or(u64::MAX)).collect(),
            generation: generation % GENERATIONS,
        };
        let hits: Vec<Hit> = (rules.iter().zip(counters).zip(0..))
            .map(|((rule, counter), place)| {
                Hit::new(place, *counter, rule.spec.action, rule.spec.queues.is_some())
            })
            .collect();
        let mut first = 0;
        for (tags, shapes) in group(rules)?.into_iter().enumerate() {
            let count = shapes.len() as u32;
            image.set.depths[tags] = Depth { first, count };
            first += count;
            for (mask, entries) in shapes {
                image.add_shape(mask, &entries, &hits);
            }
        }
        if image.units.len() > MAX_UNITS as usize {
            return Err(TablesError::Units { units: image.units.len() });
        }
        Ok(image)
    }

    fn add_shape(&mut self, mask: Key, entries: &Entries, hits: &[Hit]) {
        let base = self.generation * MAX_UNITS + self.units.len() as u32;
        let wide = mask.words[NARROW..].iter().any(|word| *word != 0);
        let stride = if wide { WIDE_UNITS } else { 1 };
        let best = entries.values().copied().min().map_or(0, u32::from);
        // Two slots for each, and some more: half full, a cuckoo table rarely needs a second try. Few enough that
        // 10,000 rules of one word each fit: `host` with IPv6 addresses takes two wide entries each.
        let mut slots = entries.len() as u32 * 13 / 6 + 2;
        let (shape, table) = (1_u64..)
            .find_map(|seed| {
                if seed % 16 == 0 {
                    slots += slots / 4 + 1;
                }
                let shape = Shape { mask, seed, first: base, slots, best, wide: u32::from(wide) };
                Some((shape, place_all(&shape, stride, entries)?))
            })
            .expect("a table that grows takes its entries at last");
        let start = self.units.len();
        self.units.resize(start + (slots * stride) as usize, [0; UNIT_WORDS]);
        for (slot, value) in table {
            let words = std::iter::once(hits[usize::from(entries[&value])].word()).chain(value.words);
            let units = &mut self.units[start + (slot * stride) as usize..][..stride as usize];
            for (to, word) in units.iter_mut().flatten().zip(words) {
                *to = word;
            }
        }
        self.shapes.push(shape);
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> Set {
        self.set
    }

    /// The shapes, in the order in which they are searched.
    #[must_use]
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// The units, from the first one of the generation on.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// For each rule the queues that steer.
    #[must_use]
    pub fn queues_of_rules(&self) -> &[u64] {
        &self.queues
    }
}

/// The entries by depth and mask, those of the better rules first.
fn group(rules: &RuleSet) -> Result<[Vec<(Key, Entries)>; MAX_TAGS + 1], TablesError> {
    let mut shapes: [BTreeMap<[u64; 8], Entries>; MAX_TAGS + 1] = Default::default();
    let mut beyond = None;
    for (rule, place) in rules.iter().zip(0_u16..) {
        for term in &rule.terms {
            let entries = shapes[term.tags].entry(term.rule.mask.words).or_default();
            entries.entry(term.rule.value).or_insert(place);
        }
        let count: usize = shapes.iter().map(BTreeMap::len).sum();
        if count > MAX_SHAPES as usize && beyond.is_none() {
            beyond = Some(rule.spec.name.clone());
        }
    }
    if let Some(rule) = beyond {
        return Err(TablesError::Shapes { shapes: shapes.iter().map(BTreeMap::len).sum(), rule });
    }
    Ok(shapes.map(|shapes| {
        let mut shapes: Vec<_> =
            shapes.into_iter().map(|(words, entries)| (Key { words }, entries)).collect();
        shapes.sort_by_key(|(_, entries)| entries.values().copied().min());
        shapes
    }))
}

/// Gives each value one of its two slots, if that can be done: whoever finds both taken moves one of them on.
fn place_all(shape: &Shape, stride: u32, entries: &Entries) -> Option<HashMap<u32, Key>> {
    let slots_of = |value: &Key| shape.places(value).map(|place| (place - shape.first) / stride);
    let mut table: HashMap<u32, Key> = HashMap::with_capacity(entries.len());
    // In a fixed order, so that equal rules make equal tables.
    let mut values: Vec<(&u16, &Key)> = entries.iter().map(|(value, rule)| (rule, value)).collect();
    values.sort_by_key(|(rule, value)| (**rule, value.words));
    for (_, value) in values {
        let mut homeless = *value;
        let mut slot = slots_of(&homeless)[0];
        let mut moves = 0;
        loop {
            let [one, other] = slots_of(&homeless);
            if let Some(free) = [one, other].into_iter().find(|slot| !table.contains_key(slot)) {
                table.insert(free, homeless);
                break;
            }
            if moves == 200 {
                return None;
            }
            moves += 1;
            // Not back to where it was just thrown out of.
            slot = if slot == one { other } else { one };
            homeless = table.insert(slot, homeless).unwrap_or(homeless);
        }
    }
    Some(table)
}

impl Tables for Image {
    fn set(&self) -> Option<&Set> {
        Some(&self.set)
    }

    fn shape(&self, place: u32) -> Option<&Shape> {
        self.shapes.get(place as usize)
    }

    fn unit(&self, place: u32) -> Option<&Unit> {
        self.units.get(place.checked_sub(self.generation * MAX_UNITS)? as usize)
    }

    fn queues(&self, rule: u32) -> u64 {
        self.queues.get(rule as usize).copied().unwrap_or(0)
    }
}

/// What a rule's action is called.
#[must_use]
pub const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Redirect => "steer",
        Action::Pass => "pass",
        Action::Drop => "drop",
    }
}
