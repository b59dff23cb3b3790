//! How numbers and addresses are written: decimal strings, and EIP-55 checksums.

/// 256-bit numbers as decimal strings.
pub(super) mod decimal {
    use std::borrow::Cow;

    use alloy::primitives::U256;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Reads digits and nothing else: no sign, no `0x`, no exponent.
    pub(in crate::x402) fn parse(text: &str) -> Option<U256> {
        let is_plain =
            (1..=78).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_plain { U256::from_str_radix(text, 10).ok() } else { None }
    }

    pub(in crate::x402) fn serialize<S: Serializer>(
        value: &U256,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in crate::x402) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<U256, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        parse(&text).ok_or_else(|| D::Error::custom("expected a number as a decimal string"))
    }
}

/// The same, absent or `null` where there is none.
pub(super) mod decimal_option {
    use std::borrow::Cow;

    use alloy::primitives::U256;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(in crate::x402) fn serialize<S: Serializer>(
        value: &Option<U256>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(in crate::x402) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<U256>, D::Error> {
        let Some(text) = Option::<Cow<'de, str>>::deserialize(from)? else { return Ok(None) };
        let value = super::decimal::parse(&text);
        value.map(Some).ok_or_else(|| D::Error::custom("expected a number as a decimal string"))
    }
}

/// 128-bit numbers as decimal strings.
pub(super) mod decimal128 {
    use alloy::primitives::U256;
    use serde::{Deserializer, Serializer, de::Error as _};

    pub(in crate::x402) fn serialize<S: Serializer>(
        value: &u128,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in crate::x402) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<u128, D::Error> {
        let value: U256 = super::decimal::deserialize(from)?;
        value.try_into().map_err(|_| D::Error::custom("the number does not fit 128 bits"))
    }
}

/// Addresses with their checksum; any case is read.
pub(super) mod checksummed {
    use std::borrow::Cow;

    use alloy::primitives::Address;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Reads `0x` and forty hexadecimal digits.
    pub(in crate::x402) fn parse(text: &str) -> Option<Address> {
        text.strip_prefix("0x").filter(|rest| rest.len() == 40)?.parse().ok()
    }

    pub(in crate::x402) fn serialize<S: Serializer>(
        value: &Address,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in crate::x402) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Address, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        parse(&text).ok_or_else(|| D::Error::custom("expected an address"))
    }
}
