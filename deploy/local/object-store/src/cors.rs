//! CORS as Amazon S3 does it, from the JSON that `aws s3api put-bucket-cors` takes.
//!
//! Source: Amazon S3 user guide, "How does Amazon S3 evaluate the CORS configuration on a bucket?".

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        HeaderName, HeaderValue, ORIGIN, VARY,
    },
};
use serde::Deserialize;

/// What an answer to a browser's question depends on.
const VARIES_BY: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
);

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// The rules of a bucket; the first that matches holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cors {
    #[serde(rename = "CORSRules")]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Rule {
    #[serde(rename = "ID", default)]
    _id: String,
    allowed_origins: Vec<String>,
    allowed_methods: Vec<String>,
    #[serde(default)]
    allowed_headers: Vec<String>,
    #[serde(default)]
    expose_headers: Vec<String>,
    max_age_seconds: Option<u32>,
}

/// Why a preflight is not granted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
}

const NO_ORIGIN: Refusal = Refusal {
    status: StatusCode::BAD_REQUEST,
    code: "BadRequest",
    message: "Insufficient information. Origin request header needed.",
};

const NO_METHOD: Refusal = Refusal {
    status: StatusCode::BAD_REQUEST,
    code: "BadRequest",
    message: "Invalid Access-Control-Request-Method.",
};

const NOT_ALLOWED: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    code: "AccessForbidden",
    message: "CORSResponse: This CORS request is not allowed. This is usually because the \
              evaluation of Origin, request method / Access-Control-Request-Method or \
              Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
};

impl Cors {
    /// Reads rules.
    ///
    /// # Errors
    /// A sentence that says what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rules: Self = serde_json::from_str(text)
            .map_err(|error| format!("this CORS rule is not understood: {error}"))?;
        rules.rules.iter().try_for_each(Rule::check)?;
        Ok(rules)
    }

    /// The headers that grant what a preflight asks.
    ///
    /// # Errors
    /// The preflight asks too little, or what no rule allows.
    pub(crate) fn preflight(&self, request: &HeaderMap) -> Result<HeaderMap, Refusal> {
        let text = |name| request.get(name).and_then(|value| value.to_str().ok());
        let origin = text(ORIGIN).ok_or(NO_ORIGIN)?;
        let method = text(ACCESS_CONTROL_REQUEST_METHOD).ok_or(NO_METHOD)?;
        let wanted = text(ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
        let wanted = wanted.split(',').map(str::trim);
        let wanted: Vec<String> = wanted
            .filter(|name| !name.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        let rule = self.rules.iter().find(|rule| {
            rule.allows(origin, method) && wanted.iter().all(|name| rule.allows_header(name))
        });
        let mut headers = rule.ok_or(NOT_ALLOWED)?.headers(origin);
        put(
            &mut headers,
            ACCESS_CONTROL_ALLOW_HEADERS,
            &wanted.join(", "),
        );
        Ok(headers)
    }

    /// The headers that let a page of `origin` read an answer; none if no rule allows that.
    pub(crate) fn answer(&self, origin: Option<&HeaderValue>, method: &Method) -> HeaderMap {
        let Some(origin) = origin.and_then(|origin| origin.to_str().ok()) else {
            return HeaderMap::new();
        };
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| rule.allows(origin, method.as_str()));
        rule.map_or_else(HeaderMap::new, |rule| rule.headers(origin))
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if self.allowed_origins.is_empty() || self.allowed_methods.is_empty() {
            return Err("a CORS rule must allow an origin and a method".to_owned());
        }
        let unknown = |method: &&String| !METHODS.contains(&method.as_str());
        if let Some(method) = self.allowed_methods.iter().find(unknown) {
            return Err(format!("a CORS rule cannot allow the method '{method}'"));
        }
        let mut patterns = self.allowed_origins.iter().chain(&self.allowed_headers);
        if let Some(pattern) = patterns.find(|pattern| pattern.matches('*').count() > 1) {
            return Err(format!("'{pattern}' in a CORS rule has more than one '*'"));
        }
        let malformed = |name: &&String| HeaderName::try_from(name.as_str()).is_err();
        match self.expose_headers.iter().find(malformed) {
            Some(name) => Err(format!("a CORS rule cannot expose the header '{name}'")),
            None => Ok(()),
        }
    }

    fn allows(&self, origin: &str, method: &str) -> bool {
        let mut origins = self.allowed_origins.iter();
        self.allowed_methods.iter().any(|one| one == method)
            && origins.any(|pattern| matches(pattern, origin))
    }

    /// Whether a request may have a header; `name` is in lower case.
    fn allows_header(&self, name: &str) -> bool {
        let mut patterns = self.allowed_headers.iter();
        patterns.any(|pattern| matches(&pattern.to_ascii_lowercase(), name))
    }

    /// What a page of `origin` is told. It may send cookies only if the rule does not allow everybody.
    fn headers(&self, origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.allowed_origins.iter().any(|pattern| pattern == "*") {
            put(&mut headers, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        } else {
            put(&mut headers, ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            put(&mut headers, ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        let methods = self.allowed_methods.join(", ");
        put(&mut headers, ACCESS_CONTROL_ALLOW_METHODS, &methods);
        let exposed = self.expose_headers.join(", ");
        put(&mut headers, ACCESS_CONTROL_EXPOSE_HEADERS, &exposed);
        if let Some(seconds) = self.max_age_seconds {
            headers.insert(ACCESS_CONTROL_MAX_AGE, seconds.into());
        }
        headers.insert(VARY, VARIES_BY);
        headers
    }
}

/// Whether a text fits a pattern with at most one `*`, which stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let rest = text.strip_prefix(start);
    rest.is_some_and(|rest| rest.ends_with(end))
}

/// Sets a header, if there is something to say.
fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) if !text.is_empty() => {
            headers.insert(name, value);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: &str = r#"{"CORSRules": [
        {"AllowedOrigins": ["https://*.example.com"], "AllowedMethods": ["PUT"],
         "AllowedHeaders": ["Content-Type", "x-amz-*"], "ExposeHeaders": ["ETag", "x-amz-version-id"]},
        {"AllowedOrigins": ["https://b.org"], "AllowedMethods": ["GET", "HEAD"], "MaxAgeSeconds": 60}
    ]}"#;

    fn deployed() -> Cors {
        Cors::parse(include_str!("../../../s3/cors.json")).unwrap()
    }

    fn narrow() -> Cors {
        Cors::parse(NARROW).unwrap()
    }

    fn asks(origin: &str, method: &str, headers: &str) -> HeaderMap {
        let mut request = HeaderMap::new();
        put(&mut request, ORIGIN, origin);
        put(&mut request, ACCESS_CONTROL_REQUEST_METHOD, method);
        put(&mut request, ACCESS_CONTROL_REQUEST_HEADERS, headers);
        request
    }

    #[test]
    fn deployed_rules_grant_an_upload_by_any_page_without_cookies() {
        let asked = asks("https://chat.example.com", "PUT", "Content-Type");
        let granted = deployed().preflight(&asked).unwrap();
        assert_eq!(granted[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(granted[ACCESS_CONTROL_ALLOW_METHODS], "PUT, GET, HEAD");
        assert_eq!(granted[ACCESS_CONTROL_ALLOW_HEADERS], "content-type");
        assert_eq!(granted[ACCESS_CONTROL_EXPOSE_HEADERS], "ETag");
        assert_eq!(granted[ACCESS_CONTROL_MAX_AGE], "3600");
        assert_eq!(granted.get(ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
        assert_eq!(granted[VARY], VARIES_BY);
    }

    #[test]
    fn deployed_rules_grant_nothing_else() {
        for (method, headers) in [("DELETE", ""), ("PUT", "content-type, authorization")] {
            let asked = asks("https://chat.example.com", method, headers);
            assert_eq!(deployed().preflight(&asked), Err(NOT_ALLOWED), "{method}");
        }
    }

    #[test]
    fn rule_must_match_origin_and_method_and_every_header_at_once() {
        let granted = |origin, method, headers| narrow().preflight(&asks(origin, method, headers));
        let headers = granted("https://a.example.com", "PUT", "content-type,X-Amz-Acl").unwrap();
        assert_eq!(
            headers[ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://a.example.com"
        );
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(
            headers[ACCESS_CONTROL_EXPOSE_HEADERS],
            "ETag, x-amz-version-id"
        );
        assert_eq!(headers.get(ACCESS_CONTROL_MAX_AGE), None);
        for (origin, method, headers) in [
            ("https://a.example.com", "GET", ""),
            ("http://a.example.com", "PUT", ""),
            ("https://b.org", "PUT", ""),
            ("https://b.org", "GET", "content-type"),
            ("https://a.example.com", "PUT", "range"),
            ("https://a.example.com", "put", ""),
        ] {
            assert_eq!(
                granted(origin, method, headers),
                Err(NOT_ALLOWED),
                "{origin} {method}"
            );
        }
    }

    #[test]
    fn preflight_needs_an_origin_and_a_method() {
        assert_eq!(deployed().preflight(&asks("", "PUT", "")), Err(NO_ORIGIN));
        assert_eq!(
            deployed().preflight(&asks("https://b.org", "", "")),
            Err(NO_METHOD)
        );
    }

    #[test]
    fn answer_names_the_origin_only_if_a_rule_matches() {
        let origin = HeaderValue::from_static("https://b.org");
        let headers = narrow().answer(Some(&origin), &Method::GET);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://b.org");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "60");
        assert!(narrow().answer(Some(&origin), &Method::PUT).is_empty());
        assert!(narrow().answer(None, &Method::GET).is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused_by_a_sentence() {
        let rule = |body: &str| format!(r#"{{"CORSRules": [{{{body}}}]}}"#);
        for (text, said) in [
            (
                rule(r#""AllowedOrigins": [], "AllowedMethods": ["GET"]"#),
                "must allow an origin",
            ),
            (
                rule(r#""AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]"#),
                "method 'PATCH'",
            ),
            (
                rule(r#""AllowedOrigins": ["*.*"], "AllowedMethods": ["GET"]"#),
                "more than one '*'",
            ),
            (
                rule(
                    r#""AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "ExposeHeaders": ["a b"]"#,
                ),
                "header 'a b'",
            ),
            (
                rule(r#""AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "Credentials": true"#),
                "unknown field `Credentials`",
            ),
        ] {
            let mistake = Cors::parse(&text).unwrap_err();
            assert!(mistake.contains(said), "{mistake}");
        }
    }
}
