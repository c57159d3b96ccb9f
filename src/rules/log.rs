//! What of a build's output is kept: plain text, bounded.
//!
//! Output is whatever a stranger's build prints. Escape sequences and control
//! characters never reach a terminal or a page: a log can't move the cursor, set
//! a title, hide text or turn its direction.

/// How much of one attempt's log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// From its beginning, bytes.
    pub head: u64,
    /// From its end, bytes; the middle between is dropped.
    pub tail: u64,
}

/// What is kept of every attempt's log: 64 MiB in all [backends 5.3].
pub const KEPT: Kept = Kept { head: 8 << 20, tail: 56 << 20 };

impl Kept {
    /// What to drop of a log of `bytes`, as a range in it; `None` while it fits.
    #[must_use]
    pub fn dropped(&self, bytes: u64) -> Option<std::ops::Range<u64>> {
        (bytes > self.head + self.tail).then(|| self.head..bytes - self.tail)
    }
}

/// Longest escape sequence that is waited for, bytes; a longer one is dropped.
const SEQUENCE_BYTES_MAX: usize = 4096;

/// Where in an escape sequence a character stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Text,
    /// After a carriage return.
    Return,
    /// After ESC.
    Escape,
    /// In `ESC [ … final`.
    Control,
    /// In a string that BEL or `ESC \` ends.
    String,
    /// After an ESC in such a string.
    StringEscape,
}

/// Strips `text`, which follows `carry`; returns what is kept and the next carry:
/// an escape sequence that `text` cut off.
#[must_use]
pub fn plain(carry: &str, text: &str) -> (String, String) {
    let whole = format!("{carry}{text}");
    let mut kept = String::with_capacity(whole.len());
    let (mut place, mut began) = (Place::Text, 0);
    for (at, c) in whole.char_indices() {
        if place == Place::Return {
            // A progress bar's return becomes a line; "\r\n" stays one.
            kept.push('\n');
            place = Place::Text;
            if c == '\n' {
                continue;
            }
        }
        let next = step(place, c);
        if place == Place::Text {
            began = at;
        }
        if next == Place::Text && (c == '\n' || (place == Place::Text && is_plain(c))) {
            kept.push(c);
        }
        place = next;
    }
    let open = if place == Place::Text { "" } else { &whole[began..] };
    let open = if open.len() > SEQUENCE_BYTES_MAX { "" } else { open };
    (kept, open.to_owned())
}

fn step(place: Place, c: char) -> Place {
    match (place, c) {
        (_, '\x18' | '\x1a') => Place::Text,
        (Place::Text, '\r') => Place::Return,
        (Place::Text, '\x1b') => Place::Escape,
        (Place::Text, '\u{9b}') | (Place::Escape, '[') => Place::Control,
        (Place::Text, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}')
        | (Place::Escape, ']' | 'P' | 'X' | '^' | '_') => Place::String,
        (Place::Escape, ' '..='/' | '\x1b') => Place::Escape,
        (Place::Control, ' '..='?') => Place::Control,
        (Place::Control | Place::String | Place::StringEscape, '\x1b') => match place {
            Place::Control => Place::Escape,
            _ => Place::StringEscape,
        },
        (Place::String, '\x07' | '\u{9c}') | (Place::StringEscape, '\\') => Place::Text,
        (Place::String | Place::StringEscape, '\n') => Place::Text,
        (Place::String | Place::StringEscape, _) => Place::String,
        _ => Place::Text,
    }
}

fn is_plain(c: char) -> bool {
    // Marks that turn the direction of text can make a line read as another.
    let turns =
        matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    c == '\t' || !(c.is_control() || turns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(plain("", text).0, expected, "{text:?}");
    }

    #[test]
    fn sequences_and_control_characters_are_gone_and_text_stays() {
        check("plain\ttext\nä\n", "plain\ttext\nä\n");
        check("\x1b[31mred\x1b[0m", "red");
        check("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab");
        check("\x1b(Ba\x1bcb\u{9b}2Jc", "abc");
        check("10%\r20%\r\ndone\n", "10%\n20%\ndone\n");
        check("a\x08\x00\x7f\u{202e}b", "ab");
        check("\x1b]0;never ended\nnext", "\nnext");
    }

    #[test]
    fn an_endless_sequence_is_not_kept_for_ever() {
        let (kept, carry) = plain("", &format!("a\x1b]{}", "x".repeat(10_000)));
        assert_eq!((kept.as_str(), carry.as_str()), ("a", ""));
    }

    proptest! {
        #[test]
        fn where_the_chunks_are_cut_does_not_matter(
            parts in proptest::collection::vec("[a\x1b\\[\\]0;m\\\\\x07\r\n\u{9b}é]{0,6}", 0..8)
        ) {
            let (mut kept, mut carry) = (String::new(), String::new());
            for part in &parts {
                let (next, rest) = plain(&carry, part);
                kept.push_str(&next);
                carry = rest;
            }
            prop_assert_eq!(&kept, &plain("", &parts.concat()).0);
            let stripped = !kept.contains(['\x1b', '\r', '\u{9b}', '\x07']);
            prop_assert!(stripped);
        }
    }
}
