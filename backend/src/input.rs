//! What people type, parsed or refused with the text they read.
//!
//! Lengths count UTF-16 units, as the clients' forms and the reference do.

use crate::error::{ApiError, FieldError, Form};

/// What bcrypt hashes at most; longer passwords are refused, not cut.
const PASSWORD_BYTES_MAX: usize = 72;

/// RFC 5321, section 4.5.3.1.3.
const EMAIL_BYTES_MAX: usize = 254;

/// A name travels in every participant list of every room of its user.
const DISPLAY_NAME_UNITS_MAX: usize = 100;

/// An e-mail address in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Email(String);

impl Email {
    /// `^[^\s@]+@[^\s@]+\.[^\s@]+$`, at most 254 bytes.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, &'static str> {
        const REFUSAL: &str = "올바른 이메일 형식이 아닙니다.";
        let text = text.unwrap_or_default();
        let (local, domain) = text.split_once('@').ok_or(REFUSAL)?;
        let foreign = |c: char| c == '@' || c.is_whitespace() || c.is_control();
        let inner_dot = domain
            .char_indices()
            .any(|(at, c)| c == '.' && at > 0 && at + 1 < domain.len());
        if local.is_empty()
            || local.contains(foreign)
            || domain.contains(foreign)
            || !inner_dot
            || text.len() > EMAIL_BYTES_MAX
        {
            return Err(REFUSAL);
        }
        Ok(Self(text.to_lowercase()))
    }

    /// A login distinguishes "nothing" from "nothing useful".
    pub(crate) fn parse_for_login(text: Option<&str>) -> Result<Self, &'static str> {
        if is_blank(text) {
            return Err("이메일을 입력해주세요.");
        }
        Self::parse(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A password; never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    /// At least 6 UTF-16 units, at most 72 bytes.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, &'static str> {
        let Some(text) = text.filter(|text| !is_blank(Some(text)) && units(text) >= 6) else {
            return Err("비밀번호는 6자 이상이어야 합니다.");
        };
        Self::hashable(text)
    }

    /// Whatever was typed at a login; what is too long to have been registered never matches.
    pub(crate) fn parse_for_login(text: Option<&str>) -> Result<Self, &'static str> {
        match text.filter(|text| !is_blank(Some(text))) {
            Some(text) => Ok(Self(text.to_owned())),
            None => Err("비밀번호를 입력해주세요."),
        }
    }

    /// The password of a new room, 4 to 100 UTF-16 units and at most 72 bytes.
    pub(crate) fn parse_for_room(text: &str) -> Result<Self, &'static str> {
        if !(4..=100).contains(&units(text)) {
            return Err("크기가 4에서 100 사이여야 합니다");
        }
        Self::hashable(text)
    }

    /// Whatever was typed at a room's door.
    pub(crate) fn typed(text: &str) -> Self {
        Self(text.to_owned())
    }

    fn hashable(text: &str) -> Result<Self, &'static str> {
        if text.len() > PASSWORD_BYTES_MAX {
            Err("비밀번호는 72바이트를 초과할 수 없습니다.")
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// Whether it could ever have been accepted as a new password.
    pub(crate) fn is_hashable(&self) -> bool {
        self.0.len() <= PASSWORD_BYTES_MAX
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A user's name, as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DisplayName(String);

impl DisplayName {
    /// Not blank, at least 2 UTF-16 units without the space around it, at most 100 with it.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, &'static str> {
        let text = text.unwrap_or_default();
        if units(text.trim()) < 2 {
            Err("이름은 2자 이상이어야 합니다.")
        } else if units(text) > DISPLAY_NAME_UNITS_MAX {
            Err("이름은 100자를 초과할 수 없습니다.")
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// A profile distinguishes "nothing" from "too little".
    pub(crate) fn parse_for_profile(text: Option<&str>) -> Result<Self, &'static str> {
        if is_blank(text) {
            return Err("이름을 입력해주세요.");
        }
        Self::parse(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A room's name without the space around it. Names are not unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoomName(String);

impl RoomName {
    /// Not blank, 2 to 100 UTF-16 units with the space around it.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, &'static str> {
        let text = text.unwrap_or_default();
        if is_blank(Some(text)) {
            Err("방 이름은 필수입니다.")
        } else if !(2..=100).contains(&units(text)) {
            Err("크기가 2에서 100 사이여야 합니다")
        } else {
            Ok(Self(text.trim().to_owned()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Gathers what is wrong with the fields of one form.
pub(crate) struct Fields {
    form: Form,
    errors: Vec<FieldError>,
}

impl Fields {
    pub(crate) const fn of(form: Form) -> Self {
        Self {
            form,
            errors: Vec::new(),
        }
    }

    /// Keeps a good value, notes a refusal.
    pub(crate) fn take<T>(
        &mut self,
        field: &'static str,
        parsed: Result<T, &'static str>,
    ) -> Option<T> {
        parsed
            .map_err(|message| self.errors.push(FieldError { field, message }))
            .ok()
    }

    /// The answer once a field was refused.
    pub(crate) fn refusal(self) -> ApiError {
        ApiError::Invalid(self.form, self.errors)
    }
}

fn is_blank(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.trim().is_empty())
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails_are_lowered_and_checked_like_the_reference_regex() {
        let email = Email::parse(Some("User@Example.COM")).unwrap();
        assert_eq!(email.as_str(), "user@example.com");
        for good in ["a@b.c", "a+b@x.y.z", "홍@예.한국", "a@..b"] {
            assert!(Email::parse(Some(good)).is_ok(), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(250));
        for bad in [
            "", "a", "a@b", "@b.c", "a@.c", "a@b.", "a b@c.d", "a@b@c.d", "a@b.c\n", &long,
        ] {
            assert!(Email::parse(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(Email::parse(None).is_err());
    }

    #[test]
    fn lengths_count_utf16_units() {
        assert!(DisplayName::parse(Some(" 가 ")).is_err());
        assert!(DisplayName::parse(Some("😀")).is_ok());
        assert_eq!(
            DisplayName::parse(Some(" 홍길 ")).unwrap().as_str(),
            " 홍길 "
        );
        assert!(DisplayName::parse(Some(&"a".repeat(101))).is_err());
    }

    #[test]
    fn passwords_longer_than_bcrypt_hashes_are_refused_when_new() {
        assert!(Password::parse(Some(&"a".repeat(72))).is_ok());
        assert!(Password::parse(Some(&"a".repeat(73))).is_err());
        assert!(Password::parse(Some(&"가".repeat(25))).is_err());
        assert!(
            !Password::parse_for_login(Some(&"a".repeat(73)))
                .unwrap()
                .is_hashable()
        );
        for short in ["", "      ", "12345"] {
            assert!(Password::parse(Some(short)).is_err(), "{short:?}");
        }
    }

    #[test]
    fn room_names_are_measured_before_they_are_trimmed() {
        assert_eq!(RoomName::parse(Some(" a")).unwrap().as_str(), "a");
        for bad in [
            None,
            Some(""),
            Some("  "),
            Some("a"),
            Some(&*"a".repeat(101)),
        ] {
            assert!(RoomName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Password::parse_for_room("").is_err());
        assert!(Password::parse_for_room("1234").is_ok());
    }
}
