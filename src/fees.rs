//! EIP-1559 fees: the first offer, and replacements that nodes accept.
//!
//! All figures are wei per gas. The ceiling is the operators' bound on the fee cap; nothing here
//! ever goes above it.

/// What a transaction offers per gas, in wei. `tip <= max_fee`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// `maxFeePerGas`: base fee and tip together never cost more.
    pub max_fee: u128,
    /// `maxPriorityFeePerGas`.
    pub tip: u128,
}

/// The answer to "what would replace this?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bump {
    /// These fees.
    Fees(Fees),
    /// Nothing below the ceiling would: wait for the base fee to fall.
    AtCeiling,
}

impl Fees {
    /// Can a block with this base fee take the transaction?
    #[must_use]
    pub const fn covers(&self, base_fee: u128) -> bool {
        self.max_fee >= base_fee
    }
}

/// Makes the first offer: twice the base fee (it takes six full blocks to double) and the tip,
/// within the ceiling. The tip is at least 1 wei, so that a replacement can raise it.
#[must_use]
pub fn first(base_fee: u128, tip_suggestion: u128, ceiling: u128) -> Fees {
    let tip = tip_suggestion.max(1).min(ceiling);
    let max_fee = base_fee.saturating_mul(2).saturating_add(tip).min(ceiling);
    Fees { max_fee, tip }
}

/// Makes an offer that replaces `prev` at the same nonce: tip *and* cap at least an eighth (12.5 %)
/// above it, rounded up, where geth asks for 10 % on both; and twice the base fee, if the ceiling
/// allows.
#[must_use]
pub fn replacement(prev: Fees, base_fee: u128, ceiling: u128) -> Bump {
    let (Some(tip), Some(least)) = (raise(prev.tip), raise(prev.max_fee)) else {
        return Bump::AtCeiling;
    };
    if least > ceiling || tip > ceiling {
        return Bump::AtCeiling;
    }
    let wanted = base_fee.saturating_mul(2).saturating_add(tip);
    Bump::Fees(Fees { max_fee: wanted.max(least).min(ceiling), tip })
}

/// An eighth more, rounded up, and never the same; `None` above 128 bits.
const fn raise(fee: u128) -> Option<u128> {
    match fee.div_ceil(8) {
        0 => Some(1),
        step => fee.checked_add(step),
    }
}

/// Writes wei in gwei, without zeros at the end: `1.5`.
#[must_use]
pub fn in_gwei(wei: u128) -> String {
    let text = format!("{}.{:09}", wei / 1_000_000_000, wei % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GWEI: u128 = 1_000_000_000;

    #[test]
    fn the_first_offer_outlives_a_doubled_base_fee() {
        assert_eq!(first(10 * GWEI, GWEI, 100 * GWEI), Fees { max_fee: 21 * GWEI, tip: GWEI });
        assert_eq!(first(80 * GWEI, GWEI, 100 * GWEI).max_fee, 100 * GWEI);
        assert_eq!(first(0, 0, GWEI), Fees { max_fee: 1, tip: 1 });
        assert!(!first(80 * GWEI, GWEI, 50 * GWEI).covers(80 * GWEI));
    }

    #[test]
    fn gwei_are_written_short() {
        assert_eq!(
            [0, 7, 1_500_000_000, 900 * GWEI].map(in_gwei),
            ["0", "0.000000007", "1.5", "900"]
        );
    }

    #[test]
    fn a_replacement_raises_both_fees_by_an_eighth() {
        let prev = Fees { max_fee: 80, tip: 8 };
        assert_eq!(replacement(prev, 1, 1_000), Bump::Fees(Fees { max_fee: 90, tip: 9 }));
        assert_eq!(replacement(prev, 100, 1_000), Bump::Fees(Fees { max_fee: 209, tip: 9 }));
        assert_eq!(replacement(prev, 100, 150), Bump::Fees(Fees { max_fee: 150, tip: 9 }));
        assert_eq!(replacement(prev, 100, 89), Bump::AtCeiling);
        let most = Fees { max_fee: u128::MAX, tip: 1 };
        assert_eq!(replacement(most, 0, u128::MAX), Bump::AtCeiling);
    }

    proptest! {
        #[test]
        fn offers_stay_within_the_ceiling(
            base in any::<u128>(), tip in any::<u128>(), ceiling in 1..=u128::MAX,
        ) {
            let fees = first(base, tip, ceiling);
            prop_assert!(fees.max_fee <= ceiling && fees.tip <= fees.max_fee && fees.tip > 0);
        }

        #[test]
        fn nodes_accept_every_replacement_until_the_ceiling(
            base in 0..1_000 * GWEI, tip in 0..10 * GWEI, ceiling in 1..10_000 * GWEI,
        ) {
            let mut fees = first(base, tip, ceiling);
            // An eighth a time doubles in six steps: 43 bits of ceiling are reached in far fewer.
            for _ in 0..400 {
                let Bump::Fees(next) = replacement(fees, base, ceiling) else {
                    prop_assert!(fees.max_fee + fees.max_fee.div_ceil(8) > ceiling);
                    return Ok(());
                };
                prop_assert!(next.max_fee <= ceiling && next.tip <= next.max_fee);
                // geth: strictly above, and at least 110 % of, the old one in both fields.
                prop_assert!(next.tip > fees.tip && next.max_fee > fees.max_fee);
                prop_assert!(next.tip * 100 >= fees.tip * 110);
                prop_assert!(next.max_fee * 100 >= fees.max_fee * 110);
                fees = next;
            }
            prop_assert!(false, "never reached the ceiling");
        }
    }
}
