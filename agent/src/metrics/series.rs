//! [`Series`]: the values of one metric, each with its labels.

use std::rc::Rc;

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

/// Label values that begin those of many samples: device, queue, pool.
pub(super) type Prefix = Rc<[String]>;

/// One value and its labels.
#[derive(Debug)]
pub(super) struct Sample {
    prefix: Prefix,
    labels: Vec<String>,
    pub(super) value: Value,
}

impl Sample {
    /// The values of its labels, in the metric's order.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.prefix.iter().chain(&self.labels).map(String::as_str)
    }
}

/// The samples of one metric while they are gathered.
#[derive(Debug)]
pub(super) struct Series {
    /// What all samples added now begin with.
    pub(super) prefix: Prefix,
    pub(super) samples: Vec<Sample>,
}

impl Series {
    /// A sample without further labels.
    pub(super) fn add(&mut self, value: impl IntoValue) {
        self.add_with(&[], value);
    }

    /// A sample with these values of the labels that come after the prefix.
    pub(super) fn add_with(&mut self, labels: &[&str], value: impl IntoValue) {
        if let Some(value) = value.into_value() {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            self.samples.push(Sample { prefix: Rc::clone(&self.prefix), labels, value });
        }
    }
}
