//! [`Series`]: the values of one metric, each with its labels, on their way into the page.

use frame_pool::HoldTimes;

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// Frames, packets, bytes, or 1.
    Int(u64),
    /// Frames, where less than none would be a bug that is to be seen.
    Signed(i64),
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

impl IntoValue for i32 {
    fn into_value(self) -> Option<Value> {
        Some(Value::Signed(self.into()))
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

/// One value and its labels, as they are read: whoever wants to keep them copies them.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    prefix: &'a [String],
    labels: &'a [&'a str],
    pub(super) value: Value,
}

impl Sample<'_> {
    /// The values of its labels, in the metric's order.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.prefix.iter().map(String::as_str).chain(self.labels.iter().copied())
    }
}

/// Where the samples of one metric about one subject go.
pub(super) struct Series<'a> {
    /// What the labels of all of them begin with: device, queue, pool.
    prefix: &'a [String],
    take: &'a mut dyn FnMut(&Sample<'_>),
}

impl<'a> Series<'a> {
    pub(super) fn new(prefix: &'a [String], take: &'a mut dyn FnMut(&Sample<'_>)) -> Self {
        Self { prefix, take }
    }

    /// A sample without further labels.
    pub(super) fn add(&mut self, value: impl IntoValue) {
        self.add_with(&[], value);
    }

    /// A sample with these values of the labels that come after the prefix.
    pub(super) fn add_with(&mut self, labels: &[&str], value: impl IntoValue) {
        if let Some(value) = value.into_value() {
            (self.take)(&Sample { prefix: self.prefix, labels, value });
        }
    }
}
