//! The rules in the program's maps: two generations, one switch, and the counters.

use std::{
    collections::{HashMap, HashSet},
    mem,
};

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use umemd_common::maps::{
    Count, GENERATION, GENERATIONS, MAX_COUNTERS, MAX_RULES, MAX_SHAPES, MAX_UNITS, QUEUES, RULE_COUNTS,
    SETS, SHAPES, UNITS,
};
use umemd_common::search::{Set, Shape, Unit};

use super::{LoadError, MapError, sums, take};
use crate::steer::{Image, RuleSet};
use crate::sys::grace::GracePeriod;

/// How many counters may lie where there is one that is wanted, for all of them to be read at one call: each costs less than
/// a call does.
const FEW_BETWEEN: usize = 4;

/// Counters of these numbers, in the order of the numbers: by one call of `read`, which is told the first one and how many,
/// or by one for each where too many others lie between them.
fn read_some<T: Copy, E>(
    numbers: &[u32],
    mut read: impl FnMut(u32, u32) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, E> {
    let (Some(first), Some(last)) = (numbers.iter().min(), numbers.iter().max()) else {
        return Ok(Vec::new());
    };
    // Rules that came one after the other have counters side by side, unless others went meanwhile.
    let all = last - first + 1;
    if all as usize <= FEW_BETWEEN * numbers.len() {
        let span = read(*first, all)?;
        return Ok(numbers.iter().map(|number| span[(number - first) as usize]).collect());
    }
    numbers.iter().map(|number| Ok(read(*number, 1)?[0])).collect()
}

/// What a rule has matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule's name.
    pub name: String,
    /// Frames, and their bytes.
    pub count: Count,
}

/// The maps, and what is in them.
pub(super) struct RuleMaps {
    generation: Array<MapData, u32>,
    sets: Array<MapData, Set>,
    shapes: Array<MapData, Shape>,
    units: Array<MapData, Unit>,
    queues: Array<MapData, u64>,
    counts: PerCpuArray<MapData, Count>,
    grace: GracePeriod,
    /// The generation in force.
    in_force: u32,
    /// Whether the other generation is nobody's any more.
    settled: bool,
    /// The change that is under way.
    change: Option<Change>,
    /// Those of the rules in force, in their order.
    counters: Vec<Counter>,
    /// Counters that no rule in force has.
    free: Vec<u16>,
    /// What rules in force had matched under the program before this one, by serial.
    carried: HashMap<u64, Count>,
    /// Counters of the rules before, which a frame on its way may still count in.
    leaving: Vec<u16>,
    /// Of the rules in force.
    sizes: Sizes,
}

/// The counter of a rule.
#[derive(Clone, Debug)]
struct Counter {
    name: String,
    /// See [`Rule::serial`](crate::steer::Rule::serial).
    serial: u64,
    number: u16,
}

/// How much of the tables a set of rules takes.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    shapes: u32,
    units: u32,
}

/// Rules on their way into force.
enum Change {
    /// They lie in the generation that is not in force.
    Written {
        counters: Vec<Counter>,
        /// Those of the counters that had no rule.
        fresh: Vec<u16>,
        sizes: Sizes,
    },
    /// They are in force, and the rules before lie where they did.
    Switched {
        /// Their counters, and how much of the tables they took.
        before: (Vec<Counter>, Sizes),
        fresh: Vec<u16>,
    },
}

impl RuleMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            generation: take(ebpf, GENERATION)?,
            sets: take(ebpf, SETS)?,
            shapes: take(ebpf, SHAPES)?,
            units: take(ebpf, UNITS)?,
            queues: take(ebpf, QUEUES)?,
            counts: take(ebpf, RULE_COUNTS)?,
            grace: GracePeriod::new().map_err(|source| LoadError::Kernel {
                what: "create the maps that wait for the XDP program",
                source: aya::maps::MapError::IoError(source).into(),
            })?,
            in_force: 0,
            settled: true,
            change: None,
            counters: Vec::new(),
            free: (0..MAX_COUNTERS as u16).rev().collect(),
            carried: HashMap::new(),
            leaving: Vec::new(),
            sizes: Sizes::default(),
        })
    }

    /// All of a change, at once.
    pub(super) fn set(&mut self, rules: &RuleSet) -> Result<(), MapError> {
        self.write_aside(rules)?;
        self.switch()?;
        self.finish();
        Ok(())
    }

    /// Writes rules into the generation that is not in force: all of a change that may fail for a reason of its own.
    pub(super) fn write_aside(&mut self, rules: &RuleSet) -> Result<(), MapError> {
        self.undo();
        self.settle()?;
        let next = (self.in_force + 1) % GENERATIONS;
        let (counters, fresh) = self.assign(rules);
        let numbers: Vec<u16> = counters.iter().map(|counter| counter.number).collect();
        let written = Image::build(rules, &numbers, next).map_err(MapError::from).and_then(|image| {
            self.zero(&fresh)?;
            self.write(&image, next)?;
            Ok(Sizes { shapes: image.shapes().len() as u32, units: image.units().len() as u32 })
        });
        match written {
            Ok(sizes) => {
                self.change = Some(Change::Written { counters, fresh, sizes });
                Ok(())
            }
            Err(error) => {
                self.free.extend(fresh);
                Err(error)
            }
        }
    }

    /// Puts what was written aside in force.
    pub(super) fn switch(&mut self) -> Result<(), MapError> {
        let Some(Change::Written { counters, fresh, sizes }) = self.change.take() else { return Ok(()) };
        if let Err(error) = self.flip() {
            self.free.extend(fresh);
            return Err(error);
        }
        let before = (mem::replace(&mut self.counters, counters), mem::replace(&mut self.sizes, sizes));
        self.change = Some(Change::Switched { before, fresh });
        Ok(())
    }

    /// Takes back what is under way: the rules before are in force then, and go on counting.
    pub(super) fn undo(&mut self) {
        match self.change.take() {
            None => {}
            Some(Change::Written { fresh, .. }) => self.free.extend(fresh),
            Some(Change::Switched { before, fresh }) => {
                // The same write has just succeeded.
                if let Err(error) = self.flip() {
                    log::error!("{error}");
                }
                (self.counters, self.sizes) = before;
                self.leaving = fresh;
            }
        }
    }

    /// Ends a change: the rules before are forgotten. Waits for the last frame under them, so that who asked for the
    /// new ones may rely on them.
    pub(super) fn finish(&mut self) {
        let Some(Change::Switched { before: (before, _), .. }) = self.change.take() else { return };
        let kept: HashSet<u16> = self.counters.iter().map(|counter| counter.number).collect();
        if !self.carried.is_empty() {
            let in_force: HashSet<u64> = self.counters.iter().map(|counter| counter.serial).collect();
            self.carried.retain(|serial, _| in_force.contains(serial));
        }
        self.leaving =
            before.into_iter().map(|counter| counter.number).filter(|c| !kept.contains(c)).collect();
        // That it cannot be waited for is said by the next change, which is what needs it.
        if let Err(error) = self.settle() {
            log::debug!("{error}");
        }
    }

    /// Puts the other generation in force.
    fn flip(&mut self) -> Result<(), MapError> {
        let next = (self.in_force + 1) % GENERATIONS;
        self.generation.set(0, next, 0).map_err(failed)?;
        self.in_force = next;
        self.settled = false;
        Ok(())
    }

    /// Waits until no frame is being looked at under the rules before. The program runs within one RCU read-side
    /// section per frame.
    fn settle(&mut self) -> Result<(), MapError> {
        if !self.settled {
            self.grace.wait().map_err(|source| MapError::Grace { source })?;
            self.settled = true;
        }
        self.free.append(&mut self.leaving);
        Ok(())
    }

    /// A counter for each rule: its own if it has one, else one of those given back as well.
    fn assign(&mut self, rules: &RuleSet) -> (Vec<Counter>, Vec<u16>) {
        let old: HashMap<u64, u16> =
            self.counters.iter().map(|counter| (counter.serial, counter.number)).collect();
        let mut fresh = Vec::new();
        let counters = rules
            .iter()
            .map(|rule| {
                let serial = rule.serial();
                let number = old.get(&serial).copied().unwrap_or_else(|| {
                    // There are twice as many as rules.
                    let number = self.free.pop().unwrap_or(0);
                    fresh.push(number);
                    number
                });
                Counter { name: rule.spec.name.clone(), serial, number }
            })
            .collect();
        (counters, fresh)
    }

    fn zero(&mut self, counters: &[u16]) -> Result<(), MapError> {
        let cpus = nr_cpus().map_err(|(_, source)| failed(aya::maps::MapError::IoError(source)))?;
        for counter in counters {
            let zeros = PerCpuValues::try_from(vec![Count::default(); cpus])
                .map_err(|source| failed(aya::maps::MapError::IoError(source)))?;
            self.counts.set(u32::from(*counter), zeros, 0).map_err(failed)?;
        }
        Ok(())
    }

    fn write(&mut self, image: &Image, generation: u32) -> Result<(), MapError> {
        for (place, shape) in (generation * MAX_SHAPES..).zip(image.shapes()) {
            self.shapes.set(place, *shape, 0).map_err(failed)?;
        }
        for (place, unit) in (generation * MAX_UNITS..).zip(image.units()) {
            self.units.set(place, *unit, 0).map_err(failed)?;
        }
        for (place, queues) in (generation * MAX_RULES..).zip(image.queues_of_rules()) {
            self.queues.set(place, *queues, 0).map_err(failed)?;
        }
        self.sets.set(generation, image.head(), 0).map_err(failed)
    }

    /// Leaves every frame to the stack from here on; what each rule had matched until then, by serial.
    pub(super) fn retire(&mut self) -> Result<HashMap<u64, Count>, MapError> {
        let (counters, carried) = (self.counters.clone(), self.carried.clone());
        self.set(&RuleSet::default())?;
        // Nobody counts there any more, and nobody else has been given the counters.
        let counts = self.read(&counters, &carried)?;
        Ok(counters.iter().map(|counter| counter.serial).zip(counts).collect())
    }

    /// Goes on from these counts, for rules in force of the same serial.
    pub(super) fn carry(&mut self, mut counts: HashMap<u64, Count>) {
        let in_force: HashSet<u64> = self.counters.iter().map(|counter| counter.serial).collect();
        counts.retain(|serial, _| in_force.contains(serial));
        self.carried = counts;
    }

    /// Each table's name, what the rules in force take of it, and what there is room for.
    pub(super) fn tables(&self) -> [(&'static str, u32, u32); 3] {
        [
            ("rules", self.counters.len() as u32, MAX_RULES),
            ("shapes", self.sizes.shapes, MAX_SHAPES),
            ("units", self.sizes.units, MAX_UNITS),
        ]
    }

    pub(super) fn counts(&self) -> Result<Vec<RuleCount>, MapError> {
        let counts = self.read(&self.counters, &self.carried)?;
        let named = self.counters.iter().zip(counts);
        Ok(named.map(|(counter, count)| RuleCount { name: counter.name.clone(), count }).collect())
    }

    /// What rules have matched, together with what was carried over.
    fn read(&self, counters: &[Counter], carried: &HashMap<u64, Count>) -> Result<Vec<Count>, MapError> {
        let numbers: Vec<u32> = counters.iter().map(|counter| counter.number.into()).collect();
        let read =
            read_some(&numbers, |first, count| sums::read(&self.counts, first, count)).map_err(failed)?;
        let carry = |(counter, [packets, bytes]): (&Counter, [u64; 2])| {
            let before = carried.get(&counter.serial).copied().unwrap_or_default();
            Count { packets: before.packets.wrapping_add(packets), bytes: before.bytes.wrapping_add(bytes) }
        };
        Ok(counters.iter().zip(read).map(carry).collect())
    }
}

fn failed(source: aya::maps::MapError) -> MapError {
    MapError::Map { what: "rules".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_together_unless_they_lie_far_apart() {
        let read = |numbers: &[u32]| {
            let mut calls = Vec::new();
            let values = read_some(numbers, |first, count| {
                calls.push((first, count));
                Ok::<_, ()>((first..first + count).map(|number| 10 * number).collect())
            });
            (values.unwrap(), calls)
        };
        assert_eq!(read(&[]), (vec![], vec![]));
        assert_eq!(read(&[7]), (vec![70], vec![(7, 1)]));
        assert_eq!(read(&[9, 2, 4]), (vec![90, 20, 40], vec![(2, 8)]));
        assert_eq!(read(&[100, 2]), (vec![1000, 20], vec![(100, 1), (2, 1)]));
    }
}
