//! [`Metrics`]: what `/metrics` says, to be asked by name and label.

use std::{collections::BTreeMap, fmt};

/// One line.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

impl Metrics {
    /// Reads OpenMetrics text as far as the agent writes it: no escapes in labels, no timestamps.
    ///
    /// # Panics
    ///
    /// At a line that is none.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples =
            lines.map(|line| sample(line).unwrap_or_else(|| panic!("no metric: {line:?}"))).collect();
        Self { samples }
    }

    /// The sum over all series of `name` that have these labels.
    ///
    /// # Panics
    ///
    /// If there is none: a misspelt name must not pass for a zero.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let mut values = self.values(name, labels).peekable();
        assert!(values.peek().is_some(), "no metric {name} with {labels:?}");
        values.sum::<f64>() as u64
    }

    /// The sum over all series of `name`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn total(&self, name: &str) -> u64 {
        self.sum(name, &[])
    }

    /// Frames that the XDP program decided about for this reason.
    ///
    /// # Panics
    ///
    /// If there is no such reason.
    #[track_caller]
    pub fn verdicts(&self, reason: &str) -> u64 {
        self.sum("umemd_xdp_verdicts_total", &[("reason", reason)])
    }

    /// Frames in this place.
    ///
    /// # Panics
    ///
    /// If there is no such place.
    #[track_caller]
    pub fn frames(&self, state: &str) -> u64 {
        self.sum("umemd_pool_frames", &[("state", state)])
    }

    /// Each value of `label` among the series of `name`.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let values = self.samples.iter().filter(|sample| sample.name == name);
        values.filter_map(|sample| sample.labels.get(label).cloned()).collect()
    }

    /// The law, queue by queue: the frames of all places are the frames that there are.
    ///
    /// # Panics
    ///
    /// With the places, where they do not add up.
    #[track_caller]
    pub fn assert_conserved(&self) {
        let mut queues = 0;
        for sample in self.samples.iter().filter(|sample| sample.name == "umemd_pool_capacity_frames") {
            let queue =
                [("device", sample.labels["device"].as_str()), ("queue", sample.labels["queue"].as_str())];
            let places: Vec<_> = self.matching("umemd_pool_frames", &queue).collect();
            assert_eq!(places.len(), 11, "eleven places: {places:?}");
            let sum: f64 = places.iter().map(|place| place.value).sum();
            assert_eq!(sum, sample.value, "frames of {queue:?} are lost or doubled: {places:#?}");
            queues += 1;
        }
        assert!(queues > 0, "no queue has a capacity");
    }

    fn values(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.matching(name, labels).map(|sample| sample.value)
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        })
    }
}

/// What is not 0, for people.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Sample { name, labels, value } in self.samples.iter().filter(|sample| sample.value != 0.0) {
            let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(f, "  {name} {} {value}", labels.join(" "))?;
        }
        Ok(())
    }
}

/// `name{key="value",...} number`, or without the braces.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels.split_terminator("\",").map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\n\
        a_total{device=\"near0\",queue=\"0\"} 3\n\
        a_total{device=\"near0\",queue=\"1\"} 4\n\
        up 1\n# EOF\n";

    #[test]
    fn series_are_summed_by_label() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.total("a_total"), 7);
        assert_eq!(metrics.sum("a_total", &[("queue", "1")]), 4);
        assert_eq!(metrics.total("up"), 1);
        assert_eq!(metrics.label_values("a_total", "queue"), ["0", "1"]);
    }

    #[test]
    #[should_panic(expected = "no metric a_totl")]
    fn a_misspelt_name_is_no_zero() {
        Metrics::parse(TEXT).total("a_totl");
    }
}
