//! `[coupons]` of a policy file: what an agent may spend by x402 coupons, beside its limits.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::money::Usdc;

/// Classes of coupons that the contract has room for.
const CLASSES: usize = 4;
/// Base units that a coupon can be good for at most: the contract keeps 40 bits.
const MOST: u64 = (1 << 40) - 1;

/// Coupons of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CouponClass {
    /// So many in each period, not 0.
    pub count: u16,
    /// What each is good for at most, not 0.
    pub most: Usdc,
}

/// Text that is no class of coupons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a count up to 65535, x, and an amount up to 1099511 USDC, like 200x0.01; neither is 0"
)]
pub struct NotAClass;

impl FromStr for CouponClass {
    type Err = NotAClass;

    fn from_str(text: &str) -> Result<Self, NotAClass> {
        let (count, most) = text.split_once('x').ok_or(NotAClass)?;
        let count = count.parse::<u16>().map_err(|_| NotAClass)?;
        let most = most.parse::<Usdc>().map_err(|_| NotAClass)?;
        if count == 0 || most.is_zero() || most.units() > MOST {
            return Err(NotAClass);
        }
        Ok(Self { count, most })
    }
}

impl fmt::Display for CouponClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.count, self.most)
    }
}

impl Serialize for CouponClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CouponClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// An agent's coupons: so many of each class in each period. Written as `every = "1h"` and
/// `classes = ["200x0.01", "5x1"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coupons {
    /// Length of a period, seconds; 0 with no class: none.
    pub every_s: u32,
    /// Up to four.
    pub classes: Vec<CouponClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    every: String,
    classes: Vec<CouponClass>,
}

impl<'de> Deserialize<'de> for Coupons {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EVERY: &str = "a time from 1 minute to 30 days, like \"1h\"";
        let table = Table::deserialize(deserializer)?;
        let every = table.every.parse::<SignedDuration>().ok();
        let every = every.filter(|span| span.subsec_nanos() == 0);
        let every_s = every.and_then(|span| u32::try_from(span.as_secs()).ok());
        let every_s = every_s.filter(|s| (60..=30 * 86_400).contains(s)).ok_or_else(|| {
            D::Error::custom(format!("coupons.every is `{}`; write {EVERY}", table.every))
        })?;
        if !(1..=CLASSES).contains(&table.classes.len()) {
            let text = format!("coupons.classes has 1 to {CLASSES} entries like \"200x0.01\"");
            return Err(D::Error::custom(text));
        }
        Ok(Self { every_s, classes: table.classes })
    }
}

impl fmt::Display for Coupons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.classes.is_empty() {
            return f.write_str("none");
        }
        let classes: Vec<_> = self.classes.iter().map(ToString::to_string).collect();
        write!(f, "{} every {} s", classes.join(" + "), self.every_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_count_and_an_amount() {
        let class = "200x0.01".parse::<CouponClass>().unwrap();
        assert_eq!((class.count, class.most.units()), (200, 10_000));
        assert_eq!(class.to_string(), "200x0.01");
        for bad in ["", "x", "200", "200x", "x0.01", "0x1", "5x0", "65536x1", "1x-1", "1x1x1"] {
            assert!(bad.parse::<CouponClass>().is_err(), "{bad}");
        }
        assert!("1x1099511".parse::<CouponClass>().is_ok());
        assert!("1x1099512".parse::<CouponClass>().is_err());
    }

    #[test]
    fn a_table_is_a_period_and_its_classes() {
        let read = |text: &str| toml::from_str::<Coupons>(text);
        let good = read("every = \"1h\"\nclasses = [\"200x0.01\", \"5x1\"]").unwrap();
        assert_eq!(good.to_string(), "200x0.01 + 5x1 every 3600 s");
        for bad in [
            "every = \"1h\"",
            "classes = [\"1x1\"]",
            "every = \"1h\"\nclasses = []",
            "every = \"1s\"\nclasses = [\"1x1\"]",
            "every = \"31d\"\nclasses = [\"1x1\"]",
            "every = \"1h\"\nclasses = [\"1x1\", \"1x1\", \"1x1\", \"1x1\", \"1x1\"]",
            "every = \"1h\"\nclasses = [\"1x1\"]\nmore = 1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
