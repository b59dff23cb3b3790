//! Everything that crosses to the contracts: call bindings, EIP-712 typed data, packed items,
//! quorums, and changes of policy in words.
//!
//! The bindings are read from `contracts/interfaces/IPolicyWallet.sol` itself, so they cannot drift
//! from it. Typed data is written once, here; signers, wallets and tests all take it from here.

mod change;
mod code;
pub mod coupon;
pub mod escrow;
pub mod hub;
pub mod token;

use alloy::{
    dyn_abi::TypedData,
    primitives::{Address, B256, Bytes, Signature},
    sol_types::{Eip712Domain, SolStruct, eip712_domain},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::policy;

pub use self::abi::{
    AgentLimits, ApprovedPayment, Batch, Change, IDeployed, IPolicyChanges, IPolicyWallet, IQuorum,
    IUsdc, PayBatch, PayeeLimits, Payment, Tighten,
};
pub use self::change::{ChangeError, Names, decode, describe};
pub use self::code::is_policy_wallet;

/// What `sol!` generates. Docstrings live in the Solidity file.
#[allow(missing_docs, clippy::too_many_arguments)]
mod abi {
    use alloy::sol;
    use serde::{Deserialize, Serialize};

    sol!(
        #[sol(rpc, all_derives)]
        "contracts/interfaces/IPolicyWallet.sol"
    );

    sol! {
        #![sol(all_derives)]

        // Who the operators are: OpenZeppelin's MultiSignerERC7913.
        #[sol(rpc)]
        interface IQuorum {
            function threshold() external view returns (uint64);
            function getSignerCount() external view returns (uint256);
            function getSigners(uint64 start, uint64 end) external view returns (bytes[] memory);
            function isSigner(bytes signer) external view returns (bool);
        }

        // What a wallet says beside its interface: its token, fixed when it was deployed.
        interface IDeployed {
            function USDC() external view returns (address);
        }

        // What is used of USDC.
        #[sol(rpc)]
        interface IUsdc {
            event Transfer(address indexed from, address indexed to, uint256 value);

            function balanceOf(address account) external view returns (uint256);
            function decimals() external view returns (uint8);
            function DOMAIN_SEPARATOR() external view returns (bytes32);
            function transfer(address to, uint256 value) external returns (bool);
        }

        // One agent's payment: `pay`.
        #[derive(Serialize, Deserialize)]
        struct Payment {
            address agent;
            address to;
            uint256 amount;
            uint256 nonce;
            uint256 deadline;
            bytes32 context;
        }

        // One agent's list of payments: `payBatch`. Fields in the order of `Batch`.
        #[derive(Serialize, Deserialize)]
        struct PayBatch {
            address agent;
            uint256 nonce;
            uint256 deadline;
            bytes32 context;
            bytes32[] items;
        }

        // A payment past the limits in `overrides`, signed by the agent and by the quorum.
        #[derive(Serialize, Deserialize)]
        struct ApprovedPayment {
            address agent;
            address to;
            uint256 amount;
            uint256 nonce;
            uint256 deadline;
            bytes32 context;
            uint256 overrides;
            uint256 policyVersion;
        }

        // The quorum asks for a change of policy: `submit`.
        #[derive(Serialize, Deserialize)]
        struct Change {
            bytes change;
            uint256 nonce;
            uint256 deadline;
        }

        // One operator tightens: `tightenWithSignature`.
        #[derive(Serialize, Deserialize)]
        struct Tighten {
            bytes change;
            uint256 nonce;
            uint256 deadline;
        }
    }
}

/// A value that is too wide for the contract's field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not fit the contract's field")]
pub struct TooWide(pub u64);

/// Narrows a value to the contract's field.
///
/// # Errors
/// [`TooWide`].
pub fn narrow<T: TryFrom<u64>>(value: u64) -> Result<T, TooWide> {
    T::try_from(value).map_err(|_| TooWide(value))
}

impl TryFrom<policy::AgentLimits> for AgentLimits {
    type Error = TooWide;

    fn try_from(limits: policy::AgentLimits) -> Result<Self, TooWide> {
        Ok(Self {
            ceiling: narrow(limits.ceiling)?,
            dayCap: narrow(limits.day_cap)?,
            monthCap: narrow(limits.month_cap)?,
            budget: limits.budget,
            expiry: narrow(limits.expiry)?,
            categories: limits.categories,
        })
    }
}

/// Returns the wallet's EIP-712 domain: name "PolicyWallet", version "1".
#[must_use]
pub fn domain(chain_id: u64, wallet: Address) -> Eip712Domain {
    eip712_domain! {
        name: "PolicyWallet",
        version: "1",
        chain_id: chain_id,
        verifying_contract: wallet,
    }
}

/// Returns the EIP-712 digest: what a signature covers.
#[must_use]
pub fn digest(message: &impl SolStruct, domain: &Eip712Domain) -> B256 {
    message.eip712_signing_hash(domain)
}

/// Why typed data from elsewhere cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TypedDataError {
    /// Not EIP-712 JSON, or its message lacks a field.
    #[error("the typed data cannot be read: {0}")]
    Unreadable(String),
    /// Another message than the one expected.
    #[error("the typed data is a `{found}`, expected a `{expected}`")]
    WrongType {
        /// What was expected.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Another chain or contract.
    #[error("the typed data is for another chain or another wallet than this one")]
    WrongDomain,
    /// Its types make another digest than this program's for the same fields.
    #[error("the typed data hashes to {found}, but its fields to {expected}: do not sign it")]
    WrongDigest {
        /// The digest this program computes from the fields.
        expected: B256,
        /// The digest of the typed data, or the one claimed beside it.
        found: B256,
    },
}

/// Renders typed data as wallets take it (`eth_signTypedData_v4`): `types`, `domain`,
/// `primaryType`, `message`.
///
/// # Errors
/// [`TypedDataError::Unreadable`] if the message cannot be written as JSON.
pub fn typed_data<T: SolStruct + Serialize>(
    message: &T,
    domain: &Eip712Domain,
) -> Result<serde_json::Value, TypedDataError> {
    serde_json::to_value(TypedData::from_struct(message, Some(domain.clone())))
        .map_err(|error| TypedDataError::Unreadable(error.to_string()))
}

/// Reads typed data that came from elsewhere, and proves that signing the returned fields is
/// signing that typed data: same primary type, same domain, same digest by two encoders, and equal
/// to `claimed`.
///
/// # Errors
/// See [`TypedDataError`].
pub fn read_typed_data<T: SolStruct + DeserializeOwned>(
    json: &serde_json::Value,
    domain: &Eip712Domain,
    claimed: B256,
) -> Result<T, TypedDataError> {
    let unreadable = |error: &dyn std::fmt::Display| TypedDataError::Unreadable(error.to_string());
    let theirs: TypedData =
        serde_json::from_value(json.clone()).map_err(|error| unreadable(&error))?;
    if theirs.primary_type != T::NAME {
        return Err(TypedDataError::WrongType { expected: T::NAME, found: theirs.primary_type });
    }
    if theirs.domain != *domain {
        return Err(TypedDataError::WrongDomain);
    }
    let message: T =
        serde_json::from_value(theirs.message.clone()).map_err(|error| unreadable(&error))?;
    let expected = digest(&message, domain);
    let found = theirs.eip712_signing_hash().map_err(|error| unreadable(&error))?;
    for found in [found, claimed] {
        if found != expected {
            return Err(TypedDataError::WrongDigest { expected, found });
        }
    }
    Ok(message)
}

/// Packs a batch's item: `payee << 96 | amount`.
///
/// `amount` is in base units.
#[must_use]
pub fn item(to: Address, amount: u64) -> B256 {
    let mut word = [0_u8; 32];
    word[..20].copy_from_slice(to.as_slice());
    word[24..].copy_from_slice(&amount.to_be_bytes());
    B256::new(word)
}

/// Encodes a quorum of plain accounts as the contract reads it: their signatures in EIP-2098 form,
/// 64 bytes each, in ascending order of the accounts. Duplicates are the caller's mistake and the
/// contract's refusal. (Contracts and passkeys co-sign in OpenZeppelin's form,
/// `abi.encode(bytes[] signers, bytes[] signatures)`, which the daemon does not collect.)
#[must_use]
pub fn encode_quorum(mut pairs: Vec<(Address, Signature)>) -> Bytes {
    pairs.sort_by_key(|(account, _)| *account);
    pairs.iter().flat_map(|(_, signature)| signature.as_erc2098()).collect()
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{U256, address, keccak256},
        signers::SignerSync,
        signers::local::PrivateKeySigner,
    };
    use proptest::prelude::*;

    use super::*;

    const WALLET: Address = address!("0x5FbDB2315678afecb367f032d93F642f64180aa3");
    const AGENT: Address = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
    const PAYEE: Address = address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");

    fn payment() -> Payment {
        Payment {
            agent: AGENT,
            to: PAYEE,
            amount: U256::from(1_250_000),
            nonce: U256::from(7),
            deadline: U256::from(1_900_000_000_u64),
            context: keccak256("context"),
        }
    }

    /// The JSON goes through alloy's dynamic encoder, which parses the type strings and coerces the
    /// values: none of the code that `sol!` generates.
    fn both_encoders_agree<
        T: SolStruct + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    >(
        message: &T,
    ) {
        let domain = domain(31_337, WALLET);
        let json = typed_data(message, &domain).unwrap();
        let dynamic: TypedData = serde_json::from_str(&json.to_string()).unwrap();
        let digest = digest(message, &domain);
        assert_eq!(dynamic.eip712_signing_hash().unwrap(), digest);
        assert_eq!(read_typed_data::<T>(&json, &domain, digest).unwrap(), *message);
    }

    #[test]
    fn typed_data_hashes_the_same_by_two_encoders() {
        both_encoders_agree(&payment());
        both_encoders_agree(&PayBatch {
            agent: AGENT,
            nonce: U256::from(8),
            deadline: U256::from(1_900_000_000_u64),
            context: B256::ZERO,
            items: vec![item(PAYEE, 1), item(WALLET, u64::MAX)],
        });
        both_encoders_agree(&ApprovedPayment {
            agent: AGENT,
            to: PAYEE,
            amount: U256::MAX,
            nonce: U256::from(9),
            deadline: U256::ZERO,
            context: keccak256("context"),
            overrides: U256::from(5),
            policyVersion: U256::from(3),
        });
        let change = Bytes::from(vec![0xab; 100]);
        let (nonce, deadline) = (U256::MAX, U256::from(1));
        both_encoders_agree(&Change { change: change.clone(), nonce, deadline });
        both_encoders_agree(&Tighten { change, nonce, deadline });
    }

    #[test]
    fn type_strings_are_the_interface_s() {
        assert_eq!(
            Payment::eip712_root_type(),
            "Payment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context)"
        );
        assert_eq!(
            PayBatch::eip712_root_type(),
            "PayBatch(address agent,uint256 nonce,uint256 deadline,bytes32 context,bytes32[] items)"
        );
        assert_eq!(
            ApprovedPayment::eip712_root_type(),
            "ApprovedPayment(address agent,address to,uint256 amount,uint256 nonce,uint256 deadline,bytes32 context,uint256 overrides,uint256 policyVersion)"
        );
        assert_eq!(
            Change::eip712_root_type(),
            "Change(bytes change,uint256 nonce,uint256 deadline)"
        );
        assert_eq!(
            Tighten::eip712_root_type(),
            "Tighten(bytes change,uint256 nonce,uint256 deadline)"
        );
    }

    #[test]
    fn foreign_typed_data_is_refused_where_it_lies() {
        let ours = domain(31_337, WALLET);
        let (json, good) = (typed_data(&payment(), &ours).unwrap(), digest(&payment(), &ours));
        assert!(matches!(
            read_typed_data::<Payment>(&json, &domain(1, WALLET), good),
            Err(TypedDataError::WrongDomain)
        ));
        assert!(matches!(
            read_typed_data::<ApprovedPayment>(&json, &ours, good),
            Err(TypedDataError::WrongType { .. })
        ));
        assert!(matches!(
            read_typed_data::<Payment>(&json, &ours, B256::ZERO),
            Err(TypedDataError::WrongDigest { .. })
        ));
        let mut retyped = json.clone();
        retyped["types"]["Payment"][2]["type"] = "uint128".into();
        assert!(matches!(
            read_typed_data::<Payment>(&retyped, &ours, good),
            Err(TypedDataError::WrongDigest { .. })
        ));
        let mut short = json;
        short["message"].as_object_mut().unwrap().remove("amount");
        assert!(matches!(
            read_typed_data::<Payment>(&short, &ours, good),
            Err(TypedDataError::Unreadable(_))
        ));
    }

    #[test]
    fn a_quorum_is_sorted_by_account() {
        let digest = digest(&payment(), &domain(31_337, WALLET));
        let signers: Vec<_> = (0..5).map(|_| PrivateKeySigner::random()).collect();
        let pairs = signers
            .iter()
            .map(|signer| (signer.address(), signer.sign_hash_sync(&digest).unwrap()))
            .collect();
        let quorum = encode_quorum(pairs);
        let recovered: Vec<Address> = quorum
            .chunks_exact(64)
            .map(Signature::from_erc2098)
            .map(|signature| signature.recover_address_from_prehash(&digest).unwrap())
            .collect();
        assert!(recovered.is_sorted_by(|a, b| a < b));
        assert_eq!((quorum.len(), recovered.len()), (320, 5));
    }

    #[test]
    fn a_signature_over_the_digest_recovers_its_signer() {
        let signer = PrivateKeySigner::random();
        let digest = digest(&payment(), &domain(84_532, WALLET));
        let signature = signer.sign_hash_sync(&digest).unwrap();
        assert_eq!(signature.recover_address_from_prehash(&digest).unwrap(), signer.address());
    }

    proptest! {
        #[test]
        fn an_item_keeps_payee_and_amount(payee: [u8; 20], amount: u64) {
            let word = U256::from_be_bytes(item(payee.into(), amount).0);
            prop_assert_eq!(word & U256::from(u128::MAX >> 32), U256::from(amount));
            prop_assert_eq!(word >> 96, U256::from_be_slice(&payee));
        }
    }
}
