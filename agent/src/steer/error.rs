//! A rule that cannot be used, shown with a caret under the word.

use std::fmt;
use std::ops::Range;

/// What is wrong with a rule, and where.
///
/// Shown as several lines: what is wrong, the rule, a caret under the word, the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    pub(super) expression: String,
    /// Bytes of the expression.
    pub(super) span: Range<usize>,
    /// What is wrong, or what was expected.
    pub(super) problem: String,
    /// What to do.
    pub(super) next: String,
}

impl RuleError {
    /// The bytes of the rule that are wrong; empty, at its end, if something is missing there.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The rule, as it was given.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }
}

impl std::error::Error for RuleError {}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expression, span, problem, next } = self;
        // One column per character, whatever it was, so that the caret stands where it should; and nothing that a
        // terminal would take for a command, also where the problem names a word.
        let plain =
            |text: &str| -> String { text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() };
        let (shown, problem) = (plain(expression), plain(problem));
        let indent = expression[..span.start].chars().count();
        let width = expression[span.clone()].chars().count().max(1);
        writeln!(f, "bad rule: {problem}")?;
        writeln!(f, "  {shown}")?;
        writeln!(f, "  {:indent$}{:^<width$}", "", "")?;
        write!(f, "  {next}")
    }
}
