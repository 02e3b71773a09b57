//! [`Counts`]: counts by name, in an order that means something.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// Counts by name, in an order that means something; a JSON object, whose order survives being read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(Vec<(Cow<'static, str>, u64)>);

impl Counts {
    /// Each name with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_ref(), *count))
    }

    /// The count of that name, 0 if there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.told(name).unwrap_or(0)
    }

    /// The count of that name, if there is one.
    pub fn told(&self, name: &str) -> Option<u64> {
        self.iter().find(|(known, _)| *known == name).map(|(_, count)| count)
    }

    /// The sum of all counts.
    pub fn sum(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// Adds to the count of that name, which comes last if it is new.
    pub fn add(&mut self, name: &str, count: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((Cow::Owned(name.to_owned()), count)),
        }
    }

    /// Whether one of the counts is lower than in `earlier`.
    pub fn fell(&self, earlier: &Self) -> bool {
        self.iter().any(|(name, count)| count < earlier.get(name))
    }

    /// What was counted since `earlier`; nothing, where a count is lower than then.
    pub fn minus(&self, earlier: &Self) -> Self {
        let difference = |(name, count): &(Cow<'static, str>, u64)| {
            (name.clone(), count.saturating_sub(earlier.get(name)))
        };
        Self(self.0.iter().map(difference).collect())
    }
}

impl FromIterator<(&'static str, u64)> for Counts {
    fn from_iter<T: IntoIterator<Item = (&'static str, u64)>>(counts: T) -> Self {
        Self(counts.into_iter().map(|(name, count)| (Cow::Borrowed(name), count)).collect())
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Counts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of counts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counts, A::Error> {
                let mut counts = Vec::new();
                while let Some((name, count)) = map.next_entry::<String, u64>()? {
                    counts.push((Cow::Owned(name), count));
                }
                Ok(Counts(counts))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_survives_json() {
        let counts: Counts = [("slab", 3), ("cache", 1), ("a", 2)].into_iter().collect();
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(json, r#"{"slab":3,"cache":1,"a":2}"#);
        assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), counts);
        assert!(serde_json::from_str::<Counts>(r#"{"slab":-3}"#).is_err());
    }

    #[test]
    fn counts_add_up_and_are_told_apart() {
        let mut counts = Counts::default();
        counts.add("b", 1);
        counts.add("a", 2);
        counts.add("b", 3);
        assert_eq!((counts.get("b"), counts.get("c"), counts.sum()), (4, 0, 6));
        let earlier = [("b", 1)].into_iter().collect();
        assert_eq!(counts.minus(&earlier).iter().collect::<Vec<_>>(), [("b", 3), ("a", 2)]);
        assert!(earlier.fell(&counts) && !counts.fell(&earlier));
    }
}
