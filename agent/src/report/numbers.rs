//! Numbers for people, and lines of 80 columns.

/// What a terminal has, and a log keeps readable.
pub(crate) const WIDTH: usize = 80;

/// `title name value  name value ...`, on as many lines as 80 columns need; `-` for a value that nobody knows.
pub(crate) fn wrap<'a, N: Into<Option<u64>>>(
    title: &str,
    items: impl Iterator<Item = (&'a str, N)>,
) -> String {
    let mut text = String::new();
    let mut line = title.to_owned();
    for (name, value) in items {
        let item = format!(" {name} {}", known(value));
        if line.len() + item.len() + 1 > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(title.len());
        }
        line.push_str(&item);
        line.push(' ');
    }
    text.push_str(line.trim_end());
    text.push('\n');
    text
}

/// A ratio as `98.0 %`, or `-` if there is none.
pub(crate) fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".into(), |ratio| format!("{:.1} %", ratio * 100.0))
}

/// As [`thousands`], or `-` for a value that nobody knows.
pub(crate) fn known(value: impl Into<Option<u64>>) -> String {
    value.into().map_or_else(|| "-".into(), thousands)
}

/// `1 frame`, `1,234 frames`.
pub(crate) fn counted(value: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(value), if value == 1 { "" } else { "s" })
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 1234567 as `1.23 M`: what rates are told in.
pub(crate) fn decimal(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T"])
}

/// 1048576 as `1.00 Mi`: what memory is told in.
pub(crate) fn binary(value: u64) -> String {
    scaled(value as f64, 1024.0, &["", "Ki", "Mi", "Gi", "Ti"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} ") } else { format!("{value:.2} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(decimal(48_000_000.0), "48.00 M");
        assert_eq!(decimal(0.0), "0 ");
        assert_eq!(binary(8 << 20), "8.00 Mi");
        assert_eq!(percent(None), "-");
        assert_eq!(percent(Some(0.98765)), "98.8 %");
    }

    #[test]
    fn long_lists_wrap_inside_80_columns() {
        let places =
            ["slab", "cache", "ring", "user", "fill", "kernel", "rx", "tx", "completion", "quarantined"];
        let text = wrap("  frames", places.iter().map(|name| (*name, 262_144)));
        assert!(text.lines().count() > 1, "{text}");
        for line in text.lines() {
            assert!(line.len() <= WIDTH, "{} columns: {line}", line.len());
        }
        for name in places {
            assert!(text.contains(&format!(" {name} 262,144")), "{name}: {text}");
        }
    }
}
