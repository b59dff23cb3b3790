//! The price list: which routes cost what, who is paid, how. One TOML file, unknown keys refused.

use std::{net::SocketAddr, path::Path};

use http::Method;
use serde::{Deserialize, Serialize};
use url::Url;

use super::shelf::Pattern;
use crate::money::Usdc;

/// Most routes of a list.
const ROUTES: usize = 1_000;

/// A price list, as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// Where the reverse proxy listens. A layer in another server does not need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Scheme and host that buyers call, without a trailing slash: `https://api.example.com`.
    pub public_origin: String,
    /// Who is paid where a route does not say: `wallet`, or the label or address of a registered payee.
    #[serde(default = "wallet")]
    pub pay_to: String,
    /// What becomes of requests that no route names.
    #[serde(default)]
    pub unlisted: Unlisted,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// What is for sale. The first route that fits a request counts.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
}

/// One route.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A path: `/weather/{city}` with any one segment there, `/files/{*rest}` with any rest.
    pub path: String,
    /// Methods; `GET` sells `HEAD`, too.
    #[serde(default = "get")]
    pub methods: Vec<String>,
    /// USDC for one request, as a decimal: `"0.001"`. `"0"` is free.
    pub price: Usdc,
    /// What a buyer gets, in words.
    pub description: String,
    /// What comes back.
    #[serde(default = "json")]
    pub mime_type: String,
    /// Who is paid; else as the list says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pay_to: Option<String>,
    /// By which protocols and schemes, in the order they are offered.
    #[serde(default = "every_way")]
    pub offers: Vec<Way>,
    /// Seconds that a payment must be good for, and a challenge is: 30 to 600.
    #[serde(default = "minute")]
    pub timeout_s: u64,
}

impl Route {
    /// The methods it answers.
    pub(super) fn allows(&self) -> impl Iterator<Item = &str> {
        let head = self.methods.iter().any(|name| name == "GET").then_some("HEAD");
        self.methods.iter().map(String::as_str).chain(head)
    }

    /// Is this method for sale?
    pub(super) fn sells(&self, method: &str) -> bool {
        self.allows().any(|name| name == method)
    }
}

/// A way to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// x402 `exact`, version 2 and where the chain has a name there version 1: a signed transfer.
    Exact,
    /// x402 `exact`, version 2, by ERC-7710: the payer's own contract pays when asked.
    Erc7710,
    /// x402 `batch-settlement`, where the chain has its contract: the buyer deposits once, and signs a
    /// total for each call; many are claimed in one transaction.
    BatchSettlement,
    /// MPP `evm/charge`: a signed transfer.
    Mpp,
}

/// What becomes of requests that no route names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unlisted {
    /// 404: nothing is sold or given by oversight.
    #[default]
    Refuse,
    /// Served without payment; not so what is priced under another method, or but for a trailing slash
    /// or the case of letters.
    Free,
}

/// Bounds of what one request may take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request's body: 0 to 64 MiB.
    pub request_bytes: usize,
    /// Seconds in which a request's body must be here: 1 to 600.
    pub request_s: u64,
    /// Requests whose body is read at a time, and as many more of routes that cost nothing, whose bodies
    /// are held until the upstream answers: 1 to 10,000. Times `request_bytes`, that is memory which
    /// strangers can take.
    pub bodies: usize,
    /// Bytes of an answer that is kept for repeats (`retention.answers_minutes`): 0 to 16 MiB. A longer
    /// one is settled first, handed on as it comes, and not kept.
    pub response_bytes: usize,
    /// Seconds until the answer must begin: 1 to 120.
    pub handler_s: u64,
    /// Paid requests at a time: 1 to 10,000.
    pub concurrency: usize,
    /// Connections that the reverse proxy holds at a time, each of them an open file: 1 to 65,535. One
    /// that sends no head of a request for 30 seconds is closed.
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 1 << 20,
            request_s: 30,
            bodies: 64,
            response_bytes: 256 << 10,
            handler_s: 30,
            concurrency: 256,
            connections: 512,
        }
    }
}

fn wallet() -> String {
    "wallet".to_owned()
}

fn get() -> Vec<String> {
    vec!["GET".to_owned()]
}

fn json() -> String {
    "application/json".to_owned()
}

fn every_way() -> Vec<Way> {
    vec![Way::Exact, Way::Erc7710, Way::BatchSettlement, Way::Mpp]
}

const fn minute() -> u64 {
    60
}

/// Why a price list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// The file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML of this shape.
    #[error("{path}: {source}")]
    Syntax {
        /// Which file.
        path: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value.
    #[error("`{key}` is {value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// A payee that the contract does not know.
    #[error(
        "`{0}` is not registered as a payee: revenue goes to `wallet` or to a registered payee"
    )]
    Payee(String),
}

impl PriceList {
    /// Reads a price list and checks it.
    ///
    /// # Errors
    /// [`PriceError`].
    pub fn read(path: &Path) -> Result<Self, PriceError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| PriceError::Read { path: shown.clone(), source })?;
        let list: Self = toml::from_str(&text)
            .map_err(|source| PriceError::Syntax { path: shown, source: Box::new(source) })?;
        list.check()?;
        Ok(list)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`PriceError::Value`].
    pub fn check(&self) -> Result<(), PriceError> {
        let wrong = |key, value: &str, expected| {
            Err(PriceError::Value { key, value: format!("`{value}`"), expected })
        };
        let range = |key, value: u64, low: u64, high: u64, expected| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(PriceError::Value { key, value: value.to_string(), expected })
            }
        };
        let origin = Url::parse(&self.public_origin).ok();
        let is_origin = origin.is_some_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/"
        });
        if !is_origin || self.public_origin.ends_with('/') || self.public_origin.contains('|') {
            let expected =
                "write scheme and host without a trailing slash, like https://api.example.com";
            return wrong("public_origin", &self.public_origin, expected);
        }
        let limits = &self.limits;
        range(
            "limits.request_bytes",
            limits.request_bytes as u64,
            0,
            64 << 20,
            "use 0 to 67108864",
        )?;
        range(
            "limits.response_bytes",
            limits.response_bytes as u64,
            0,
            16 << 20,
            "use 0 to 16777216",
        )?;
        range("limits.request_s", limits.request_s, 1, 600, "use 1 to 600")?;
        range("limits.bodies", limits.bodies as u64, 1, 10_000, "use 1 to 10000")?;
        range("limits.connections", limits.connections.into(), 1, 65_535, "use 1 to 65535")?;
        range("limits.handler_s", limits.handler_s, 1, 120, "use 1 to 120")?;
        range("limits.concurrency", limits.concurrency as u64, 1, 10_000, "use 1 to 10000")?;
        range("route", self.routes.len() as u64, 1, ROUTES as u64, "name 1 to 1000 routes")?;
        for route in &self.routes {
            if Pattern::parse(&route.path).is_none() {
                let expected =
                    "write a path like /weather/{city} or /files/{*rest}, up to 200 characters";
                return wrong("route.path", &route.path, expected);
            }
            let is_method = |name: &&String| {
                Method::from_bytes(name.as_bytes()).is_err()
                    || name.chars().any(|c| !c.is_ascii_uppercase())
            };
            if let Some(name) = route.methods.iter().find(is_method) {
                return wrong("route.methods", name, "write methods like GET or POST");
            }
            if route.methods.is_empty() {
                return wrong("route.methods", "[]", "name at least one method");
            }
            if route.offers.is_empty() {
                return wrong("route.offers", "[]", "name at least one way to pay");
            }
            if route.description.is_empty() || route.description.chars().count() > 500 {
                let expected = "say in 1 to 500 characters what a buyer gets";
                return wrong("route.description", &route.description, expected);
            }
            range("route.timeout_s", route.timeout_s, 30, 600, "use 30 to 600")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
        public_origin = "https://api.example.com"
        [[route]]
        path = "/weather/{city}"
        price = "0.001"
        description = "the weather of a city"
    "#;

    fn parse(text: &str) -> Result<PriceList, String> {
        let list: PriceList = toml::from_str(text).map_err(|error| error.to_string())?;
        list.check().map_err(|error| error.to_string())?;
        Ok(list)
    }

    #[test]
    fn a_short_list_has_careful_defaults() {
        let list = parse(LIST).unwrap();
        assert_eq!((list.pay_to.as_str(), list.unlisted), ("wallet", Unlisted::Refuse));
        let route = &list.routes[0];
        assert_eq!(
            (route.price.units(), route.methods.as_slice()),
            (1_000, &["GET".to_owned()][..])
        );
        assert_eq!(route.offers, [Way::Exact, Way::Erc7710, Way::BatchSettlement, Way::Mpp]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, said) in [
            ("https://api.example.com", "https://api.example.com/", "public_origin"),
            ("https://api.example.com", "api.example.com", "public_origin"),
            ("/weather/{city}", "weather", "route.path"),
            ("/weather/{city}", "/a/{*rest}/b", "route.path"),
            ("/weather/{city}", "/a//b", "route.path"),
            ("\"0.001\"", "0.001", "price"),
            ("\"0.001\"", "\"-1\"", "price"),
            ("the weather of a city", "", "route.description"),
            ("description", "methods = [\"get\"]\ndescription", "route.methods"),
            ("description", "offers = []\ndescription", "route.offers"),
            ("description", "timeout_s = 5\ndescription", "route.timeout_s"),
            ("description", "colour = 1\ndescription", "colour"),
            ("[[route]]", "[limits]\nrequest_s = 0\n[[route]]", "limits.request_s"),
            ("[[route]]", "[limits]\nbodies = 0\n[[route]]", "limits.bodies"),
            ("[[route]]", "[limits]\nconnections = 0\n[[route]]", "limits.connections"),
        ] {
            let said_now = parse(&LIST.replacen(from, to, 1)).unwrap_err();
            assert!(said_now.contains(said), "{to}: {said_now}");
        }
    }
}
