//! Banned words: any of them anywhere in a message, whatever the case of its ASCII letters, found in
//! one pass.

use std::{fs, io, path::Path};

use aho_corasick::AhoCorasick;

/// The operator's list; the default bans nothing.
#[derive(Default)]
pub(crate) struct BannedWords {
    /// `None` when the list is empty.
    matcher: Option<AhoCorasick>,
}

impl BannedWords {
    /// Reads one word a line; surrounding white space and empty lines do not count.
    ///
    /// # Errors
    /// When the file cannot be read or holds more than the matcher can.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        Self::new(text.lines().map(str::trim).filter(|word| !word.is_empty()))
    }

    fn new<'a>(words: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        let mut words = words.peekable();
        if words.peek().is_none() {
            return Ok(Self::default());
        }
        let matcher = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(words);
        matcher
            .map(|matcher| Self {
                matcher: Some(matcher),
            })
            .map_err(io::Error::other)
    }

    /// Whether a banned word occurs in the text.
    pub(crate) fn occur_in(&self, text: &str) -> bool {
        self.matcher
            .as_ref()
            .is_some_and(|matcher| matcher.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_word_is_found_inside_other_text_in_any_case() {
        let words = BannedWords::new(["b3sig78jv", "hy8m"].into_iter()).unwrap();
        assert!(words.occur_in("안녕 xxB3SIG78JVxx"));
        assert!(words.occur_in("hy8m"));
        assert!(!words.occur_in("hy8 m"));
    }

    #[test]
    fn empty_list_bans_nothing() {
        assert!(
            !BannedWords::new(std::iter::empty())
                .unwrap()
                .occur_in("anything")
        );
    }

    #[test]
    fn ten_thousand_words_are_found_like_by_a_naive_search() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut word = || {
            let length = random.usize(4..=10);
            std::iter::repeat_with(|| random.digit(36))
                .take(length)
                .collect::<String>()
        };
        let list: Vec<_> = std::iter::repeat_with(&mut word).take(10_000).collect();
        let words = BannedWords::new(list.iter().map(String::as_str)).unwrap();
        for _ in 0..200 {
            let text = format!("{} {}", word(), word());
            let naive = list.iter().any(|word| text.contains(word.as_str()));
            assert_eq!(words.occur_in(&text), naive, "{text}");
        }
    }
}
