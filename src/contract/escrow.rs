//! WorkEscrow and the wallet's door to it: bindings, what its parties sign, and how it cuts a total.
//!
//! What an agent signs ([`EscrowOpening`], [`EscrowRelease`], [`EscrowDispute`]) is hashed in the
//! wallet's domain ([`super::domain`]), what the parties sign in the escrow's ([`domain`]).

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    sol_types::{Eip712Domain, SolStruct as _, SolValue as _, eip712_domain},
};

pub use self::abi::{
    Award, Dispute, EscrowDispute, EscrowOpening, EscrowRelease, IEscrowPayer, IWorkEscrow, Payout,
    Proof, ReceiveWithAuthorization, Release, State, Status, Submit, Terms, Void,
};

/// Releases, as bits of [`Terms::anyOf`] and [`Terms::allOf`].
pub mod by {
    /// The payer's word.
    pub const PAYER: u8 = 1;
    /// The arbiter's.
    pub const ARBITER: u8 = 2;
    /// A preimage of the hash lock.
    pub const PREIMAGE: u8 = 4;
    /// A condition on chain.
    pub const CONDITION: u8 = 8;
}

/// Basis points of a whole.
pub const WHOLE_BPS: u16 = 10_000;

/// What `sol!` generates. Docstrings live in the Solidity file.
#[allow(missing_docs, clippy::too_many_arguments)]
mod abi {
    use alloy::sol;
    use serde::{Deserialize, Serialize};

    sol!(
        #[sol(rpc, all_derives, extra_derives(Serialize, Deserialize))]
        "contracts/interfaces/IWorkEscrow.sol"
    );

    sol! {
        #![sol(all_derives)]

        // Payer or arbiter lets a total go: for `capture`.
        #[derive(Serialize, Deserialize)]
        struct Release {
            bytes32 escrowId;
            uint64 cumulative;
            uint256 deadline;
        }

        // The payee delivers: `submit`.
        #[derive(Serialize, Deserialize)]
        struct Submit {
            bytes32 escrowId;
            bytes32 deliverable;
            uint256 deadline;
        }

        // The payee gives what is left back: `void`.
        #[derive(Serialize, Deserialize)]
        struct Void {
            bytes32 escrowId;
            uint256 deadline;
        }

        // Payer or payee asks the arbiter: `dispute`.
        #[derive(Serialize, Deserialize)]
        struct Dispute {
            bytes32 escrowId;
            bytes32 evidence;
            uint256 deadline;
        }

        // The arbiter splits: `award`.
        #[derive(Serialize, Deserialize)]
        struct Award {
            bytes32 escrowId;
            uint64 captured;
            uint64 refunded;
            bytes32 reason;
            uint256 deadline;
        }

        // EIP-3009, in USDC's domain: for `refundWithAuthorization`.
        #[derive(Serialize, Deserialize)]
        struct ReceiveWithAuthorization {
            address from;
            address to;
            uint256 value;
            uint256 validAfter;
            uint256 validBefore;
            bytes32 nonce;
        }
    }
}

/// Returns WorkEscrow's EIP-712 domain: name "WorkEscrow", version "1".
#[must_use]
pub fn domain(chain_id: u64, escrow: Address) -> Eip712Domain {
    eip712_domain! {
        name: "WorkEscrow",
        version: "1",
        chain_id: chain_id,
        verifying_contract: escrow,
    }
}

/// Returns the escrow's id: the EIP-712 hash of its terms.
#[must_use]
pub fn id(terms: &Terms, domain: &Eip712Domain) -> B256 {
    terms.eip712_signing_hash(domain)
}

/// Returns the nonce of an authorization that raises what came back to `total` (base units).
#[must_use]
pub fn return_nonce(id: B256, total: u64) -> B256 {
    keccak256((id, total).abi_encode())
}

/// Returns what an EIP-3009 signature covers. `separator`: the token's `DOMAIN_SEPARATOR()`.
#[must_use]
pub fn authorization_digest(message: &ReceiveWithAuthorization, separator: B256) -> B256 {
    let hash = message.eip712_hash_struct();
    keccak256([[0x19, 0x01].as_slice(), separator.as_slice(), hash.as_slice()].concat())
}

/// Returns the salt of an escrow that `agent` opens from the wallet: the agent in the upper 160
/// bits, so that the wallet knows without storage whose escrow it is, `number` below.
#[must_use]
pub fn salt_of(agent: Address, number: u64) -> U256 {
    U256::from_be_slice(agent.as_slice()) << 96 | U256::from(number)
}

/// Returns the agent that opened an escrow from the wallet.
#[must_use]
pub fn opener(terms: &Terms) -> Address {
    Address::from_word(B256::from(terms.salt >> 96_u32))
}

/// Returns what the terms carry of the payouts: keccak-256 of their ABI encoding; 0 for none.
#[must_use]
pub fn payouts_hash(payouts: &[Payout]) -> B256 {
    if payouts.is_empty() { B256::ZERO } else { keccak256(payouts.to_vec().abi_encode()) }
}

/// Cuts a captured total (base units), as `Split.sol` does: one payout after the other takes its part
/// of what those before it left, the payee has the last rest.
#[must_use]
pub fn split(payouts: &[Payout], total: u64) -> (Vec<u64>, u64) {
    let (mut left, mut whole) = (total, WHOLE_BPS);
    let shares = payouts
        .iter()
        .map(|payout| {
            let part = u128::from(left) * u128::from(payout.bps);
            let part = part.checked_div(u128::from(whole)).unwrap_or(0);
            let part = u64::try_from(part).unwrap_or(left).min(left);
            left -= part;
            whole = whole.saturating_sub(payout.bps);
            part
        })
        .collect();
    (shares, left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn type_strings_are_the_interface_s() {
        assert_eq!(
            Terms::eip712_root_type(),
            "Terms(address payer,address payee,address arbiter,uint64 amount,uint40 submitBy,uint32 reviewPeriod,uint32 arbitrationPeriod,uint16 silenceBps,uint8 anyOf,uint8 allOf,bytes32 hashlock,address condition,bytes32 conditionArg,bytes32 payoutsHash,bytes32 jobHash,uint256 salt)"
        );
        let said = include_str!("../../contracts/interfaces/IWorkEscrow.sol");
        for own in [
            Release::eip712_root_type(),
            Submit::eip712_root_type(),
            Void::eip712_root_type(),
            Dispute::eip712_root_type(),
            Award::eip712_root_type(),
        ] {
            assert!(said.contains(own.as_ref()), "{own}");
        }
        // The door's, as `contracts/EscrowDoor.sol` hashes them.
        let said = include_str!("../../contracts/EscrowDoor.sol");
        for own in [
            EscrowOpening::eip712_encode_type(),
            EscrowRelease::eip712_encode_type(),
            EscrowDispute::eip712_encode_type(),
        ] {
            assert!(said.contains(&format!("\"{own}\"")), "{own}");
        }
    }

    fn payouts() -> impl Strategy<Value = Vec<Payout>> {
        prop::collection::vec(0_u16..=1_250, 0..=8).prop_map(|shares| {
            shares.into_iter().map(|bps| Payout { to: Address::repeat_byte(1), bps }).collect()
        })
    }

    proptest! {
        #[test]
        fn a_split_is_whole_and_never_falls(payouts in payouts(), total: u64, less: u64) {
            let (shares, rest) = split(&payouts, total);
            let sum = shares.iter().map(|share| u128::from(*share)).sum::<u128>();
            prop_assert_eq!(sum + u128::from(rest), u128::from(total));
            let (before, rest_before) = split(&payouts, less.min(total));
            prop_assert!(rest_before <= rest);
            prop_assert!(before.iter().zip(&shares).all(|(before, now)| before <= now));
        }
    }
}
