//! USDC amounts: integers in base units inside, decimal strings outside, never floats.

use std::{fmt, str::FromStr};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Base units in one USDC (six decimals).
pub const UNITS_PER_USDC: u64 = 1_000_000;

/// The largest amount: what a signed 64-bit database column holds, about 9.2 trillion USDC.
pub const MAX_UNITS: u64 = i64::MAX as u64;

/// An amount of USDC, 0 to [`MAX_UNITS`] base units.
///
/// Written as a decimal string ("1.25") in JSON, TOML and on the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usdc(u64);

/// Why a text is not an amount of USDC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Anything but digits with at most one decimal point.
    #[error("`{0}` is not an amount: write digits with an optional decimal point, like \"1.25\"")]
    NotDecimal(String),
    /// More than six decimals.
    #[error("`{0}` has more than six decimals: USDC's smallest unit is 0.000001")]
    TooPrecise(String),
    /// Above [`MAX_UNITS`].
    #[error("`{0}` is above the largest amount, 9223372036854.775807 USDC")]
    TooLarge(String),
}

impl Usdc {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Takes base units; `None` above [`MAX_UNITS`].
    #[must_use]
    pub const fn from_units(units: u64) -> Option<Self> {
        if units <= MAX_UNITS { Some(Self(units)) } else { None }
    }

    /// Returns the base units.
    #[must_use]
    pub const fn units(self) -> u64 {
        self.0
    }

    /// Returns the base units as the store keeps them.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// Adds; `None` above [`MAX_UNITS`].
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(units) => Self::from_units(units),
            None => None,
        }
    }

    /// Adds, stopping at [`MAX_UNITS`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        match self.checked_add(other) {
            Some(sum) => sum,
            None => Self(MAX_UNITS),
        }
    }

    /// Subtracts, stopping at zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Is it nothing?
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Usdc {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let shown = || text.chars().take(40).collect::<String>();
        let plain = !text.is_empty()
            && text.len() <= 40
            && text.starts_with(|c: char| c.is_ascii_digit())
            && text.ends_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && text.bytes().filter(|b| *b == b'.').count() <= 1;
        if !plain {
            return Err(AmountError::NotDecimal(shown()));
        }
        if text.split_once('.').is_some_and(|(_, decimals)| decimals.len() > 6) {
            return Err(AmountError::TooPrecise(shown()));
        }
        let units = Decimal::from_str_exact(text)
            .ok()
            .and_then(|value| value.checked_mul(Decimal::from(UNITS_PER_USDC)))
            .and_then(|units| u64::try_from(units).ok());
        units.and_then(Self::from_units).ok_or_else(|| AmountError::TooLarge(shown()))
    }
}

impl TryFrom<i64> for Usdc {
    type Error = AmountError;

    fn try_from(units: i64) -> Result<Self, AmountError> {
        u64::try_from(units).map(Self).map_err(|_| AmountError::NotDecimal(units.to_string()))
    }
}

impl fmt::Display for Usdc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / UNITS_PER_USDC, self.0 % UNITS_PER_USDC);
        let text = if rest == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{rest:06}").trim_end_matches('0').to_owned()
        };
        f.pad(&text)
    }
}

impl Serialize for Usdc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usdc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_decimals() {
        for (text, units) in
            [("0", 0), ("0.000001", 1), ("1.25", 1_250_000), ("25000", 25_000_000_000)]
        {
            assert_eq!(text.parse::<Usdc>().unwrap().units(), units);
            assert_eq!(Usdc(units).to_string(), text);
        }
        assert_eq!("1.250000".parse::<Usdc>().unwrap(), "1.25".parse().unwrap());
    }

    #[test]
    fn refuses_what_is_not_an_amount() {
        for text in
            ["", "-1", "+1", "1e3", ".5", "5.", "1,000", "0x10", " 1", "1 ", "NaN", "1.2.3", "١"]
        {
            assert!(matches!(text.parse::<Usdc>(), Err(AmountError::NotDecimal(_))), "{text}");
        }
        assert!(matches!("0.0000001".parse::<Usdc>(), Err(AmountError::TooPrecise(_))));
        for text in ["9223372036854.775808", "99999999999999999999999999999999"] {
            assert!(matches!(text.parse::<Usdc>(), Err(AmountError::TooLarge(_))), "{text}");
        }
        assert_eq!("9223372036854.775807".parse::<Usdc>().unwrap().units(), MAX_UNITS);
    }

    proptest! {
        #[test]
        fn every_amount_survives_the_round_trip(units in 0..=MAX_UNITS) {
            let amount = Usdc::from_units(units).unwrap();
            prop_assert_eq!(amount.to_string().parse::<Usdc>().unwrap(), amount);
            prop_assert_eq!(Usdc::try_from(amount.as_i64()).unwrap(), amount);
        }
    }
}
