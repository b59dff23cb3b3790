//! x402 `exact` from the PolicyWallet: coupons for EIP-3009 (the token asks the wallet by ERC-1271),
//! and redemptions for ERC-7710. `contracts/interfaces/IX402Payer.sol` says what bounds them.

use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256, keccak256},
    sol_types::{SolCall as _, SolValue as _},
};

use super::{IUsdc, token::TransferWithAuthorization};
use crate::{
    money::{MAX_UNITS, Usdc},
    policy::{self, Coupons},
};

pub use self::abi::{Coupon, DelegationContext, IX402Payer, Redemption};

/// What `sol!` generates. Docstrings live in the Solidity file.
#[allow(missing_docs, clippy::too_many_arguments)]
mod abi {
    use alloy::sol;
    use serde::{Deserialize, Serialize};

    sol!(
        #[sol(rpc, all_derives, extra_derives(Serialize, Deserialize))]
        "contracts/interfaces/IX402Payer.sol"
    );
}

/// Classes of coupons.
pub const CLASSES: usize = 4;
/// Largest amount that a class can have, in base units.
pub const MOST: u64 = (1 << 40) - 1;

/// One class of an agent's coupons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CouponClass {
    /// Coupons in each period.
    pub count: u16,
    /// What one is good for at most, base units, at most [`MOST`].
    pub most: u64,
}

/// What an agent may spend by coupons: so many of each class in each period of fixed length, beside
/// all its other limits. Format: `contracts/types/Coupons.sol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CouponGrant {
    /// Seconds; 0: no coupons.
    pub period_s: u32,
    /// An unused class has count 0.
    pub classes: [CouponClass; CLASSES],
}

/// An amount above [`MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} base units are more than a coupon can be good for, which is {MOST}")]
pub struct TooLarge(pub u64);

impl From<&Coupons> for CouponGrant {
    fn from(coupons: &Coupons) -> Self {
        let mut grant = Self { period_s: coupons.every_s, ..Self::default() };
        for (slot, class) in grant.classes.iter_mut().zip(&coupons.classes) {
            *slot = CouponClass { count: class.count, most: class.most.units() };
        }
        grant
    }
}

impl From<CouponGrant> for Coupons {
    fn from(grant: CouponGrant) -> Self {
        let classes = grant.classes.iter().filter_map(|class| {
            let most = Usdc::from_units(class.most).filter(|most| !most.is_zero())?;
            (class.count != 0).then_some(policy::CouponClass { count: class.count, most })
        });
        Self { every_s: grant.period_s, classes: classes.collect() }
    }
}

impl CouponGrant {
    /// Returns what a policy file leaves of the contract's grant: of each class, in its place, the fewer
    /// and the smaller; nothing where the periods differ.
    #[must_use]
    pub fn within(self, file: Option<&Coupons>) -> Self {
        let Some(file) = file.map(Self::from) else { return self };
        if file.period_s != self.period_s {
            return Self::default();
        }
        let mut both = self;
        for (class, file) in both.classes.iter_mut().zip(file.classes) {
            *class =
                CouponClass { count: class.count.min(file.count), most: class.most.min(file.most) };
        }
        both
    }

    /// Packs it as `setCoupons` takes it.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn pack(&self) -> Result<U256, TooLarge> {
        let mut word = U256::from(self.period_s);
        for (at, class) in self.classes.iter().enumerate() {
            if class.most > MOST {
                return Err(TooLarge(class.most));
            }
            word |= (U256::from(class.most) << 16 | U256::from(class.count)) << (32 + 56 * at);
        }
        Ok(word)
    }

    /// Unpacks what `coupons(agent)` answers. Every word is a grant.
    #[must_use]
    pub fn unpack(word: U256) -> Self {
        let field = |at: usize, bits: usize| {
            let field: U256 = (word >> at) & ((U256::from(1) << bits) - U256::from(1));
            field.saturating_to::<u64>()
        };
        let class = |at: usize| CouponClass {
            count: u16::try_from(field(32 + 56 * at, 16)).unwrap_or_default(),
            most: field(48 + 56 * at, 40),
        };
        Self {
            period_s: u32::try_from(field(0, 32)).unwrap_or_default(),
            classes: [class(0), class(1), class(2), class(3)],
        }
    }

    /// Returns what all coupons of one period take out at most, in base units. In an interval of one
    /// period's length that lies across an edge, it is twice that.
    #[must_use]
    pub fn allotment(&self) -> u64 {
        if self.period_s == 0 {
            return 0;
        }
        // 4 * 2^16 * 2^40 < 2^64
        self.classes.iter().map(|class| u64::from(class.count) * class.most.min(MOST)).sum()
    }

    /// Returns what the coupons take out at most in `seconds` from `unix_s` on: those of each period
    /// that this reaches into.
    #[must_use]
    pub fn most_within(&self, unix_s: u64, seconds: u64) -> Usdc {
        let (first, last) = (self.period(unix_s), self.period(unix_s.saturating_add(seconds)));
        let periods = first.zip(last).map_or(0, |(first, last)| last - first + 1);
        let units = self.allotment().saturating_mul(periods);
        Usdc::from_units(units.min(MAX_UNITS)).unwrap_or_default()
    }

    /// Returns the classes whose coupons are good for `value` base units, the smallest first.
    #[must_use]
    pub fn fitting(&self, value: u64) -> Vec<usize> {
        if self.period_s == 0 || value == 0 {
            return Vec::new();
        }
        let mut fitting: Vec<usize> = (0..CLASSES)
            .filter(|at| self.classes[*at].count != 0 && self.classes[*at].most >= value)
            .collect();
        fitting.sort_by_key(|at| self.classes[*at].most);
        fitting
    }

    /// Returns the number of the period that contains `unix_s`; `None` without coupons.
    #[must_use]
    pub fn period(&self, unix_s: u64) -> Option<u64> {
        unix_s.checked_div(self.period_s.into())
    }
}

/// Returns the index of a coupon: its class, and its number below the class's count.
#[must_use]
pub fn index(class: usize, number: u16) -> U256 {
    U256::from(class) << 16 | U256::from(number)
}

/// Returns the one nonce under which the wallet accepts this coupon. The token's
/// `authorizationState(wallet, nonce)` says whether it is spent.
#[must_use]
pub fn nonce(agent: Address, period: u64, index: U256) -> B256 {
    keccak256((agent, U256::from(period), index).abi_encode())
}

/// Returns the name under which the store counts the coupons of a class that were taken in a period.
#[must_use]
pub fn counter(agent: Address, period: u64, class: usize) -> String {
    format!("coupon:{agent}:{period}:{class}")
}

/// Returns the signature that the wallet accepts for `transfer`: `signature` is the agent's over the
/// transfer's digest in the token's own domain. The transfer's window must lie in the period of its
/// nonce, from its first second to the first of the next.
#[must_use]
pub fn blob(transfer: &TransferWithAuthorization, index: U256, signature: &Signature) -> Bytes {
    let (r, vs) = halves(signature);
    Coupon {
        to: transfer.to,
        value: transfer.value,
        validAfter: transfer.validAfter,
        validBefore: transfer.validBefore,
        index,
        r,
        vs,
    }
    .abi_encode()
    .into()
}

impl Redemption {
    /// Returns the context that x402 calls `permissionContext`: `signature` is the agent's over this
    /// struct in the wallet's domain. Delegator and delegation manager are both the wallet.
    #[must_use]
    pub fn context(&self, signature: &Signature) -> Bytes {
        let (r, vs) = halves(signature);
        DelegationContext {
            agent: self.agent,
            redeemer: self.redeemer,
            nonce: self.nonce,
            deadline: self.deadline,
            context: self.context,
            r,
            vs,
        }
        .abi_encode()
        .into()
    }

    /// Returns the execution that goes with the context: 120 bytes, the token's `transfer`.
    #[must_use]
    pub fn execution(&self, token: Address) -> Bytes {
        let call = IUsdc::transferCall { to: self.to, value: self.amount }.abi_encode();
        [token.as_slice(), &[0; 32], &call].concat().into()
    }
}

fn halves(signature: &Signature) -> (B256, B256) {
    let bytes = signature.as_erc2098();
    (B256::from_slice(&bytes[..32]), B256::from_slice(&bytes[32..]))
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{address, hex},
        signers::{SignerSync as _, local::PrivateKeySigner},
        sol_types::SolStruct as _,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::contract::{digest, token::token_domain};

    const AGENT: Address = address!("70997970C51812dc3A010C7d01b50e0d17dc79C8");

    fn grant() -> CouponGrant {
        let class = |count, most| CouponClass { count, most };
        CouponGrant {
            period_s: 3_600,
            classes: [class(100, 10_000), class(2, 1_000_000), class(0, 5), class(7, 50_000)],
        }
    }

    #[test]
    fn a_grant_bounds_and_chooses() {
        let grant = grant();
        assert_eq!(grant.allotment(), 100 * 10_000 + 2 * 1_000_000 + 7 * 50_000);
        assert_eq!(grant.fitting(10_000), [0, 3, 1]);
        assert_eq!(grant.fitting(10_001), [3, 1]);
        assert_eq!(grant.fitting(1_000_001), [0_usize; 0]);
        assert_eq!(grant.fitting(0), [0_usize; 0]);
        assert_eq!(grant.period(7_199), Some(1));
        assert_eq!(grant.most_within(3_599, 1).units(), 2 * grant.allotment());
        assert_eq!(grant.most_within(3_600, 3_599).units(), grant.allotment());
        assert!(CouponGrant::default().most_within(0, 86_400).is_zero());
        let none = CouponGrant { period_s: 0, ..grant };
        assert_eq!((none.allotment(), none.period(1), none.fitting(1)), (0, None, vec![]));
        let mut wide = grant;
        wide.classes[2].most = MOST + 1;
        assert_eq!(wide.pack(), Err(TooLarge(MOST + 1)));
        assert_eq!(index(3, 258), U256::from(0x3_0102));
    }

    #[test]
    fn a_file_narrows_a_grant_and_never_widens_it() {
        let file = |text: &str| toml::from_str::<Coupons>(text).unwrap();
        let equal = file("every = \"1h\"\nclasses = [\"100x0.01\", \"2x1\"]");
        let both = grant().within(Some(&equal));
        assert_eq!(both.classes[..2], grant().classes[..2]);
        assert_eq!(both.allotment(), 100 * 10_000 + 2 * 1_000_000);
        let wide = file("every = \"1h\"\nclasses = [\"9000x9\", \"1x0.5\"]");
        let both = grant().within(Some(&wide));
        assert_eq!((both.classes[0].count, both.classes[0].most), (100, 10_000));
        assert_eq!((both.classes[1].count, both.classes[1].most), (1, 500_000));
        let other = file("every = \"2h\"\nclasses = [\"1x1\"]");
        assert_eq!(grant().within(Some(&other)), CouponGrant::default());
        assert_eq!(grant().within(None), grant());
        assert_eq!(CouponGrant::from(&Coupons::from(CouponGrant::from(&equal))), (&equal).into());
    }

    #[test]
    fn a_blob_is_seven_words_that_end_in_the_signature() {
        let key = PrivateKeySigner::random();
        let transfer = TransferWithAuthorization {
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: U256::from(3),
            validAfter: U256::from(3_600),
            validBefore: U256::from(7_200),
            nonce: nonce(AGENT, 1, index(1, 0)),
        };
        let hash = digest(&transfer, &token_domain("USDC", "2", 31_337, Address::repeat_byte(9)));
        let blob = blob(&transfer, index(1, 0), &key.sign_hash_sync(&hash).unwrap());
        assert_eq!(blob.len(), 224);
        let signature = Signature::from_erc2098(&blob[160..]);
        assert_eq!(signature.recover_address_from_prehash(&hash).unwrap(), key.address());
        let words = [transfer.value, transfer.validAfter, transfer.validBefore, index(1, 0)];
        for (at, word) in words.into_iter().enumerate() {
            assert_eq!(U256::from_be_slice(&blob[32 * (at + 1)..32 * (at + 2)]), word);
        }
        let seed = [AGENT.into_word(), B256::with_last_byte(1), B256::from(index(1, 0))].concat();
        assert_eq!(transfer.nonce, keccak256(seed));
    }

    #[test]
    fn a_redemption_s_execution_is_one_transfer() {
        let redemption = Redemption {
            to: Address::repeat_byte(2),
            amount: U256::from(0x0102),
            ..Redemption::default()
        };
        let token = Address::repeat_byte(9);
        let expected = [
            "09".repeat(20),
            "00".repeat(32),
            "a9059cbb".to_owned(),
            "00".repeat(12),
            "02".repeat(20),
            "00".repeat(30),
            "0102".to_owned(),
        ]
        .concat();
        assert_eq!(hex::encode(redemption.execution(token)), expected);
        let signature = PrivateKeySigner::random().sign_hash_sync(&B256::ZERO).unwrap();
        assert_eq!(redemption.context(&signature).len(), 224);
        assert_eq!(
            Redemption::eip712_root_type(),
            "Redemption(address agent,address redeemer,uint256 nonce,uint256 deadline,bytes32 context,address to,uint256 amount)"
        );
    }

    proptest! {
        #[test]
        fn a_word_is_a_grant_and_back(bytes: [u8; 32]) {
            let word = U256::from_be_bytes(bytes);
            prop_assert_eq!(CouponGrant::unpack(word).pack(), Ok(word));
        }
    }
}
