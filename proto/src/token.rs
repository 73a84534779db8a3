//! The access token: an HS256 JSON Web Token (RFC 7519) that both tiers verify without a look-up.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{SessionId, UserId};

/// Tokens live 24 hours; the session behind them may end earlier.
pub const LIFETIME_SECONDS: u64 = 24 * 60 * 60;

/// Clocks of two tiers may differ by this much.
pub const CLOCK_SKEW_SECONDS: u64 = 60;

/// The shortest secret accepted: HS256 wants a key as long as its hash (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// What a token says. Clients treat it as opaque.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// E-mail address, lower case.
    pub sub: String,
    /// Issued at, seconds since 1970.
    pub iat: u64,
    /// Expires at, seconds since 1970.
    pub exp: u64,
    /// The login that the token belongs to.
    pub session_id: SessionId,
    /// The user who logged in.
    pub user_id: UserId,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a token, or not signed with our key.
    #[error("invalid token")]
    Invalid,
    /// Correct once, but past its expiry and the clock skew.
    #[error("token expired")]
    Expired,
}

/// Signs and verifies tokens with one secret.
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// Takes the shared secret; `None` when it is shorter than [`SECRET_BYTES_MIN`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < SECRET_BYTES_MIN {
            return None;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false; // against the caller's clock, below
        Some(Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
        })
    }

    /// Signs a token that is valid from `now_seconds` for [`LIFETIME_SECONDS`].
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when the claims cannot be encoded.
    pub fn sign(
        &self,
        email: &str,
        user_id: UserId,
        session_id: SessionId,
        now_seconds: u64,
    ) -> Result<String, TokenError> {
        let claims = Claims {
            sub: email.to_owned(),
            iat: now_seconds,
            exp: now_seconds.saturating_add(LIFETIME_SECONDS),
            session_id,
            user_id,
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|_| TokenError::Invalid)
    }

    /// Checks signature and expiry.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] or [`TokenError::Expired`].
    pub fn verify(&self, token: &str, now_seconds: u64) -> Result<Claims, TokenError> {
        self.verify_expired_up_to(token, now_seconds, 0)
    }

    /// Checks like [`TokenKey::verify`], but forgives up to `grace_seconds` past the expiry.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] or [`TokenError::Expired`].
    pub fn verify_expired_up_to(
        &self,
        token: &str,
        now_seconds: u64,
        grace_seconds: u64,
    ) -> Result<Claims, TokenError> {
        let claims: Claims = decode(token, &self.decoding, &self.validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        let end = claims
            .exp
            .saturating_add(CLOCK_SKEW_SECONDS)
            .saturating_add(grace_seconds);
        if now_seconds > end {
            Err(TokenError::Expired)
        } else {
            Ok(claims)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Slot;

    const NOW: u64 = 1_795_332_990;

    #[test]
    fn signed_token_verifies_and_carries_its_claims() {
        let token = sign(&key(b'a'));
        let claims = key(b'a').verify(&token, NOW + 60).unwrap();
        assert_eq!(claims.sub, "user@example.com");
        assert_eq!(claims.exp - claims.iat, LIFETIME_SECONDS);
    }

    #[test]
    fn token_of_another_key_or_changed_text_is_invalid() {
        let token = sign(&key(b'a'));
        assert_eq!(key(b'b').verify(&token, NOW), Err(TokenError::Invalid));
        assert_eq!(
            key(b'a').verify(&token.replace('.', "x"), NOW),
            Err(TokenError::Invalid)
        );
        assert_eq!(key(b'a').verify("", NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn unsigned_token_is_invalid() {
        let token = sign(&key(b'a'));
        let payload = token.split('.').nth(1).unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIn0.{payload}.");
        assert_eq!(key(b'a').verify(&unsigned, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn expiry_counts_from_the_given_clock_with_skew_and_grace() {
        let token = sign(&key(b'a'));
        let end = NOW + LIFETIME_SECONDS + CLOCK_SKEW_SECONDS;
        assert!(key(b'a').verify(&token, end).is_ok());
        assert_eq!(key(b'a').verify(&token, end + 1), Err(TokenError::Expired));
        assert!(key(b'a').verify_expired_up_to(&token, end + 1, 1).is_ok());
    }

    #[test]
    fn short_secret_is_refused() {
        assert!(TokenKey::new(&[b'a'; SECRET_BYTES_MIN - 1]).is_none());
    }

    fn key(byte: u8) -> TokenKey {
        TokenKey::new(&[byte; SECRET_BYTES_MIN]).unwrap()
    }

    fn sign(key: &TokenKey) -> String {
        let user = UserId::new(Slot::new(1).unwrap(), 2);
        key.sign("user@example.com", user, SessionId::new(3), NOW)
            .unwrap()
    }
}
