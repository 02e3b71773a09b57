//! [`Series`]: the values of one metric, each with its labels.

use frame_pool::HoldTimes;

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// Frames, packets, bytes, or 1.
    Int(u64),
    /// Seconds.
    Float(f64),
    /// How long frames were kept.
    Histogram(HoldTimes),
}

/// What a metric may be read as; `None` where the kernel does not tell: there is no series then, never a zero.
pub(super) trait IntoValue {
    fn into_value(self) -> Option<Value>;
}

impl IntoValue for u64 {
    fn into_value(self) -> Option<Value> {
        Some(Value::Int(self))
    }
}

impl IntoValue for u32 {
    fn into_value(self) -> Option<Value> {
        Some(Value::Int(self.into()))
    }
}

impl IntoValue for bool {
    fn into_value(self) -> Option<Value> {
        Some(Value::Int(self.into()))
    }
}

impl IntoValue for HoldTimes {
    fn into_value(self) -> Option<Value> {
        Some(Value::Histogram(self))
    }
}

impl IntoValue for f64 {
    fn into_value(self) -> Option<Value> {
        Some(Value::Float(self))
    }
}

impl<T: IntoValue> IntoValue for Option<T> {
    fn into_value(self) -> Option<Value> {
        self.and_then(IntoValue::into_value)
    }
}

/// The samples of one metric while they are gathered.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Label values that all samples added now begin with: device, queue, pool.
    pub(super) prefix: Vec<String>,
    pub(super) samples: Vec<(Vec<String>, Value)>,
}

impl Series {
    /// A sample without further labels.
    pub(super) fn add(&mut self, value: impl IntoValue) {
        self.add_with(&[], value);
    }

    /// A sample with these values of the labels that come after the prefix.
    pub(super) fn add_with(&mut self, labels: &[&str], value: impl IntoValue) {
        if let Some(value) = value.into_value() {
            let more = labels.iter().map(|label| (*label).to_owned());
            self.samples.push((self.prefix.iter().cloned().chain(more).collect(), value));
        }
    }
}
