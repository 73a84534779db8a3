//! What the content of a message says to the crowd: whose it is and when it was due.
//!
//! ```text
//! ~ rrrrrrrr sssssss nnnnnnnn tttttttttttttttt .........................
//!   run      sender  number   intended ns      padding to 65 bytes, as long as chat messages are
//! ```
//!
//! The numbers have octal digits that are no letters and no figures, so that no banned word ever
//! occurs in them, and that JSON does not escape.

use memchr::memmem::Finder;

/// Length of a tag, that of an average chat message.
pub(crate) const TAG_BYTES: usize = 65;

/// What a tag stands behind, in a payload.
const CONTENT: &[u8] = br#""content":"~"#;

const ZERO: u8 = b'#';

const RUN_DIGITS: usize = 8;
const SENDER_DIGITS: usize = 7;
const NUMBER_DIGITS: usize = 8;
const INTENDED_DIGITS: usize = 16;

/// Runs have ids below this.
pub(crate) const RUNS_MAX: u32 = 1 << (3 * RUN_DIGITS);

/// A message of the crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Which run it belongs to.
    pub(crate) run: u32,
    /// Index of the member that sent it.
    pub(crate) sender: u32,
    /// Its number among the sender's messages of the run, from 1.
    pub(crate) number: u32,
    /// When it was due, in nanoseconds since the run began.
    pub(crate) intended_ns: u64,
}

impl Tag {
    pub(crate) fn text(self) -> [u8; TAG_BYTES] {
        let mut text = [b'.'; TAG_BYTES];
        let numbers = [
            (self.run.into(), RUN_DIGITS),
            (self.sender.into(), SENDER_DIGITS),
            (self.number.into(), NUMBER_DIGITS),
            (self.intended_ns, INTENDED_DIGITS),
        ];
        let mut rest = &mut text[..];
        if let Some(mark) = rest.split_off_first_mut() {
            *mark = b'~';
        }
        for (number, digits) in numbers {
            if let Some(place) = rest.split_off_mut(..digits) {
                write_octal(place, number);
            }
        }
        text
    }
}

fn write_octal(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        let [low, ..] = number.to_le_bytes();
        *digit = ZERO + (low & 7);
        number >>= 3;
    }
}

/// Looks for tags.
pub(crate) struct TagFinder(Finder<'static>);

impl TagFinder {
    pub(crate) fn new() -> Self {
        Self(Finder::new(CONTENT))
    }

    /// The tag in a message.
    pub(crate) fn find(&self, message: &[u8]) -> Option<Tag> {
        let at = self.0.find(message)? + CONTENT.len();
        let mut rest = message.get(at..)?;
        let mut number = |digits| read_octal(rest.split_off(..digits)?);
        Some(Tag {
            run: u32::try_from(number(RUN_DIGITS)?).ok()?,
            sender: u32::try_from(number(SENDER_DIGITS)?).ok()?,
            number: u32::try_from(number(NUMBER_DIGITS)?).ok()?,
            intended_ns: number(INTENDED_DIGITS)?,
        })
    }
}

fn read_octal(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, digit| {
        let digit = digit.wrapping_sub(ZERO);
        (digit < 8).then(|| number << 3 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag {
        run: RUNS_MAX - 1,
        sender: 20_000,
        number: 16_000_000,
        intended_ns: 86_400_000_000_000,
    };

    fn message(content: &[u8]) -> Vec<u8> {
        let mut message = br#"42["message",{"_id":"~","content":""#.to_vec();
        message.extend_from_slice(content);
        message.extend_from_slice(br#"","type":"text"}]"#);
        message
    }

    #[test]
    fn a_tag_is_found_as_it_was_written() {
        let found = TagFinder::new().find(&message(&TAG.text()));
        assert_eq!(found, Some(TAG));
    }

    #[test]
    fn a_tag_holds_nothing_that_json_escapes_and_no_word() {
        let text = TAG.text();
        assert!(!text.contains(&b'"') && !text.contains(&b'\\'));
        assert!(text.iter().all(u8::is_ascii_punctuation));
    }

    #[test]
    fn other_contents_are_no_tags() {
        let cut = &TAG.text()[..20];
        for content in [&b"hello"[..], b"~hello", cut, b""] {
            assert_eq!(TagFinder::new().find(&message(content)), None);
        }
    }
}
