//! Names of stored files: `<ms>_<16 hex digits>.<ending>`, which clients put into URLs.
//!
//! A name leads to the file's record without a look-up: its digits are the first 16 of the file's id,
//! the low 32 bits of its milliseconds are the last 8.
//!
//! ```text
//! id     ssss rrrrrrrrrrrr tttttttt      slot of the owner, 48 random bits, upload time
//! name   <ms>_ssssrrrrrrrrrrrr.jpg
//! ```

use std::{fmt, str::FromStr};

use slotcast_proto::{id::FileId, slot::Slot};

/// The digits that name and id share.
const DIGITS: usize = 16;

/// The longest ending of [`crate::media`] has five letters.
const ENDING_BYTES_MAX: usize = 8;

/// The name of a stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredName {
    /// Upload time, milliseconds since 1970.
    pub(crate) created_at: u64,
    pub(crate) id: FileId,
    ending: String,
}

/// Why a text is no stored name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidName {
    /// It tries to lead elsewhere.
    Path,
    /// It has another form.
    Form,
}

impl StoredName {
    /// Names a new file; `random` must come from a secure source.
    pub(crate) fn new(slot: Slot, random: u64, created_at: u64, ending: &str) -> Self {
        let low_bits = u128::from(created_at & 0xffff_ffff);
        Self {
            created_at,
            id: FileId::new(slot, u128::from(random) << 32 | low_bits),
            ending: ending.to_owned(),
        }
    }

    /// Letters after the dot.
    pub(crate) fn ending(&self) -> &str {
        &self.ending
    }
}

impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.to_string();
        let (digits, _) = id.split_at(DIGITS);
        write!(f, "{}_{digits}.{}", self.created_at, self.ending)
    }
}

impl FromStr for StoredName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains(['/', '\\', '\0']) || text.contains("..") {
            return Err(InvalidName::Path);
        }
        let parts = || {
            let (ms, rest) = text.split_once('_')?;
            let (digits, ending) = rest.split_once('.')?;
            let created_at: u64 = ms.parse().ok()?;
            let id = format!("{digits}{:08x}", created_at & 0xffff_ffff);
            let plain = ending
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let fits = (1..=ENDING_BYTES_MAX).contains(&ending.len());
            let name = Self {
                created_at,
                id: id.parse().ok()?,
                ending: ending.to_owned(),
            };
            // What is written otherwise, like `+1_...`, is another name.
            (plain && fits && name.to_string() == text).then_some(name)
        };
        parts().ok_or(InvalidName::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_id() {
        let slot = Slot::new(0x2abc).unwrap();
        let name = StoredName::new(slot, u64::MAX << 4, 1_795_332_990_123, "jpg");
        assert_eq!(name.to_string(), "1795332990123_2abcfffffffffff0.jpg");
        assert_eq!(name.id.slot(), slot);
        assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "../x",
            "1_2abc000000000000.j/g",
            "a\\b",
            "1_2abc000000000000..jpg",
        ] {
            assert_eq!(text.parse::<StoredName>(), Err(InvalidName::Path), "{text}");
        }
        for text in [
            "",
            "x.jpg",
            "1_2abc.jpg",
            "+1_2abc000000000000.jpg",
            "01_2abc000000000000.jpg",
            "1_2ABC000000000000.jpg",
            "1_2abc000000000000.JPG",
            "1_2abc000000000000",
            "1_2abc000000000000.",
            "1_ffff000000000000.jpg",
            "1_2abc000000000000.tar.gz",
            "99999999999999999999_2abc000000000000.jpg",
        ] {
            assert_eq!(text.parse::<StoredName>(), Err(InvalidName::Form), "{text}");
        }
    }
}
