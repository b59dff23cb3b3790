//! Host patterns: `api.example.com`, or `*.example.com` for everything under it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A host, or every host under a domain (not the domain itself). Lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    /// The host, or the domain with its leading dot.
    name: String,
    under: bool,
}

/// A text that is not a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a host; write \"api.example.com\" or \"*.example.com\", without scheme or port"
)]
pub struct NotAHost(String);

impl HostPattern {
    /// Does the pattern take in `host`? Upper case and a final dot in `host` do not matter.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.under {
            host.strip_suffix(&self.name).is_some_and(|rest| !rest.is_empty())
        } else {
            host == self.name
        }
    }

    /// Does the pattern take in everything that `other` does?
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self.under, other.under) {
            (true, true) => other.name.ends_with(&self.name),
            (true, false) => self.matches(&other.name),
            (false, true) => false,
            (false, false) => self.name == other.name,
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = NotAHost;

    fn try_from(text: String) -> Result<Self, NotAHost> {
        let (domain, under) =
            text.strip_prefix("*.").map_or((text.as_str(), false), |rest| (rest, true));
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if domain.len() > 253 || !domain.split('.').all(label) {
            return Err(NotAHost(text.chars().take(80).collect()));
        }
        let name = if under { format!(".{domain}") } else { domain.to_owned() };
        Ok(Self { name, under })
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.under { "*" } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn a_star_takes_in_what_is_under_a_domain_and_nothing_else() {
        let under = pattern("*.example.com");
        for host in ["api.example.com", "a.b.example.com", "API.Example.COM", "api.example.com."] {
            assert!(under.matches(host), "{host}");
        }
        for host in ["example.com", "badexample.com", ".example.com", "api.example.com.evil.net"] {
            assert!(!under.matches(host), "{host}");
        }
        assert!(pattern("example.com").matches("Example.com"));
        assert!(!pattern("example.com").matches("api.example.com"));
    }

    #[test]
    fn knows_which_pattern_is_wider() {
        assert!(pattern("*.example.com").covers(&pattern("*.api.example.com")));
        assert!(pattern("*.example.com").covers(&pattern("api.example.com")));
        assert!(!pattern("*.example.com").covers(&pattern("example.com")));
        assert!(!pattern("api.example.com").covers(&pattern("*.example.com")));
    }

    #[test]
    fn refuses_what_is_not_a_host() {
        for text in ["", "*", "*.", "a..b", "https://a.b", "a.b:80", "A.b", "a.*.b", "a b", "a/b"] {
            assert!(HostPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(pattern("*.example.com").to_string(), "*.example.com");
    }
}
