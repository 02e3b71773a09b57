//! A ratio and how far to trust it.

/// Ours over theirs.
pub(super) struct Ratio {
    pub(super) median: f64,
    /// The ends of the 95 % confidence interval of the median.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Ratio {
    /// Of the ratios of independent pairs.
    ///
    /// The interval is between two of them, by the sign test: it asks nothing of their distribution, which on a
    /// shared machine has a long tail.
    pub(super) fn of(ratios: &[f64]) -> Self {
        let sorted = sorted(ratios);
        let outside = outside(sorted.len());
        let [low, high] = [sorted.get(outside), sorted.iter().rev().nth(outside)].map(|end| match end {
            Some(ratio) => *ratio,
            None => f64::NAN,
        });
        Self { median: median(ratios), low, high }
    }
}

/// The middle one, or between the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// How many of `n` lie below the interval, and as many above it: the most that a fair coin thrown `n` times shows
/// or falls short of with a chance of at most 2.5 %.
fn outside(n: usize) -> usize {
    let mut chance = 0.5_f64.powi(n as i32);
    let mut below = chance;
    let mut heads = 0;
    while below <= 0.025 && heads < n {
        chance *= (n - heads) as f64 / (heads + 1) as f64;
        heads += 1;
        below += chance;
    }
    heads.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Conover, Practical Nonparametric Statistics: 20 values, the 6th and the 15th.
        assert_eq!(outside(20), 5);
        assert_eq!(outside(6), 0);
        assert_eq!(outside(9), 1);
        let ratios: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let Ratio { median, low, high } = Ratio::of(&ratios);
        assert_eq!((median, low, high), (10.5, 6.0, 15.0));
    }

    #[test]
    fn an_odd_one_out_moves_nothing() {
        assert_eq!(median(&[1.0, 1000.0, 1.1]), 1.1);
    }
}
