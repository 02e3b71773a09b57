//! Cuts a rule into words.

use std::ops::Range;

/// A word, or a sign that needs no blank around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// Bytes of the expression.
    pub(super) span: Range<usize>,
}

/// The words and signs of `expression`, none of them empty.
pub(super) fn tokens(expression: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start_matches(is_blank);
    while !rest.is_empty() {
        let start = expression.len() - rest.len();
        let len = token_len(rest);
        let (text, behind) = rest.split_at(len);
        tokens.push(Token { text, span: start..start + len });
        rest = behind.trim_start_matches(is_blank);
    }
    tokens
}

/// pcap's blanks (`scanner.l`).
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// How long the token at the start of `rest` is; `rest` begins with no blank and is not empty.
fn token_len(rest: &str) -> usize {
    if rest.starts_with("&&") || rest.starts_with("||") {
        return 2;
    }
    let is_sign = |c: char| matches!(c, '(' | ')' | '!' | '&' | '|');
    let word = rest.find(|c: char| is_blank(c) || is_sign(c)).unwrap_or(rest.len());
    // A sign is no word, but a token of one character.
    word.max(1)
}

/// As pcap's scanner reads a number; `None` if it is none. Twelve digits are a MAC address.
pub(super) fn pcap_number(text: &str) -> Option<u64> {
    if text.len() == 12 && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    let plain = !digits.is_empty() && digits.bytes().all(|digit| char::from(digit).is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(expression: &str) -> Vec<&str> {
        tokens(expression).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn words_are_cut_at_blanks_and_signs() {
        assert_eq!(texts("  udp\tdst port 7 "), ["udp", "dst", "port", "7"]);
        assert_eq!(texts("port 7&&(udp||!tcp)"), ["port", "7", "&&", "(", "udp", "||", "!", "tcp", ")"]);
        assert_eq!(texts("ip proto \\tcp & |"), ["ip", "proto", "\\tcp", "&", "|"]);
        assert_eq!(texts(" \n"), [""; 0]);
    }

    #[test]
    fn spans_lead_back_to_the_words() {
        let expression = "udp  and é\u{a0} (port 7)";
        for token in tokens(expression) {
            assert_eq!(&expression[token.span.clone()], token.text);
        }
    }
}
