//! Lifecycle rules, in the JSON that `aws s3api put-bucket-lifecycle-configuration` takes.
//!
//! Two actions are known: objects under a prefix expire, and multipart uploads that stay incomplete are
//! aborted. Anything else is refused, because ignoring it would look like applying it.

use std::{
    io,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use crate::store::Store;

/// The rules of a bucket.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Lifecycle {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Rule {
    #[serde(rename = "ID", default)]
    _id: String,
    status: Status,
    filter: Filter,
    expiration: Option<Expiration>,
    abort_incomplete_multipart_upload: Option<Abort>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum Status {
    Enabled,
    Disabled,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    prefix: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Expiration {
    days: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Abort {
    days_after_initiation: u32,
}

impl Lifecycle {
    /// Reads rules.
    ///
    /// # Errors
    /// A sentence that says what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rules: Self = serde_json::from_str(text)
            .map_err(|error| format!("this lifecycle rule is not understood: {error}"))?;
        rules.rules.iter().try_for_each(Rule::check)?;
        Ok(rules)
    }

    /// Does what the rules demand at `now`.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn apply(&self, store: &Store, now: SystemTime) -> io::Result<()> {
        let enabled = |rule: &&Rule| rule.status == Status::Enabled;
        for rule in self.rules.iter().filter(enabled) {
            if let Some(Expiration { days }) = rule.expiration {
                let expired = store.expire(&rule.filter.prefix, days_before(now, days))?;
                log(expired, "expired objects");
            }
            if let Some(abort) = &rule.abort_incomplete_multipart_upload {
                let before = days_before(now, abort.days_after_initiation);
                log(store.abort_uploads(before)?, "aborted multipart uploads");
            }
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let aborts = self.abort_incomplete_multipart_upload.as_ref();
        let days = [
            self.expiration.as_ref().map(|expiration| expiration.days),
            aborts.map(|abort| abort.days_after_initiation),
        ];
        if days.iter().all(Option::is_none) {
            return Err("a lifecycle rule must have an action".to_owned());
        }
        if days.contains(&Some(0)) {
            return Err("the days of a lifecycle rule must not be 0".to_owned());
        }
        if aborts.is_some() && !self.filter.prefix.is_empty() {
            return Err(
                "AbortIncompleteMultipartUpload is understood for the whole bucket only \
                        (an empty Prefix)"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

fn days_before(now: SystemTime, days: u32) -> SystemTime {
    let age = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn log(count: usize, what: &str) {
    if count > 0 {
        tracing::info!(count, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = include_str!("../../../s3/lifecycle.json");

    #[test]
    fn deployed_rules_are_understood() {
        let rules = Lifecycle::parse(RULES).unwrap().rules;
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].filter.prefix, "uploads/");
        assert_eq!(rules[0].expiration.as_ref().unwrap().days, 1);
        assert!(rules[1].abort_incomplete_multipart_upload.is_some());
    }

    #[test]
    fn what_is_not_understood_is_refused_by_a_sentence() {
        let rule = |body: &str| format!(r#"{{"Rules": [{{"Status": "Enabled", {body}}}]}}"#);
        for (text, said) in [
            (rule(r#""Filter": {}"#), "must have an action"),
            (
                rule(r#""Filter": {}, "Expiration": {"Days": 0}"#),
                "must not be 0",
            ),
            (
                rule(r#""Filter": {"Tag": {}}, "Expiration": {"Days": 1}"#),
                "unknown field `Tag`",
            ),
            (
                rule(r#""Filter": {}, "Expiration": {"Date": "2030-01-01"}"#),
                "unknown field `Date`",
            ),
            (
                rule(r#""Filter": {}, "Transitions": []"#),
                "unknown field `Transitions`",
            ),
            (
                rule(
                    r#""Filter": {"Prefix": "a/"},
                       "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}"#,
                ),
                "whole bucket only",
            ),
            ("{}".to_owned(), "missing field `Rules`"),
        ] {
            let mistake = Lifecycle::parse(&text).unwrap_err();
            assert!(mistake.contains(said), "{mistake}");
        }
    }
}
