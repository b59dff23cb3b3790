//! Ways in which a payer lets others move its USDC: EIP-3009 (signed transfers), and ERC-7710.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::{Eip712Domain, SolCall as _},
};

pub use self::abi::{
    CancelAuthorization, IDelegationManager, IERC1271, IEip3009, ReceiveWithAuthorization,
    TransferWithAuthorization,
};

/// What `sol!` generates.
#[allow(missing_docs, clippy::too_many_arguments)]
mod abi {
    use alloy::sol;

    sol! {
        #![sol(all_derives)]

        // What the payer signs; anybody may submit it.
        struct TransferWithAuthorization {
            address from;
            address to;
            uint256 value;
            uint256 validAfter;
            uint256 validBefore;
            bytes32 nonce;
        }

        // The same, where only the payee may submit it.
        struct ReceiveWithAuthorization {
            address from;
            address to;
            uint256 value;
            uint256 validAfter;
            uint256 validBefore;
            bytes32 nonce;
        }

        // The payer takes an unused nonce back.
        struct CancelAuthorization {
            address authorizer;
            bytes32 nonce;
        }

        interface IEip3009 {
            event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
            event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

            function name() external view returns (string memory);
            function version() external view returns (string memory);
            function authorizationState(address authorizer, bytes32 nonce)
                external view returns (bool);
            function transferWithAuthorization(
                address from, address to, uint256 value, uint256 validAfter, uint256 validBefore,
                bytes32 nonce, bytes memory signature) external;
            function transferWithAuthorization(
                address from, address to, uint256 value, uint256 validAfter, uint256 validBefore,
                bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
        }

        // ERC-7710.
        interface IDelegationManager {
            function redeemDelegations(
                bytes[] memory permissionContexts, bytes32[] memory modes,
                bytes[] memory executionCallDatas) external;
        }

        interface IERC1271 {
            function isValidSignature(bytes32 hash, bytes memory signature)
                external view returns (bytes4);
        }
    }
}

/// Returns a token's EIP-712 domain. Name and version are the token's own words: read them, do not
/// guess.
#[must_use]
pub fn token_domain(name: &str, version: &str, chain_id: u64, token: Address) -> Eip712Domain {
    Eip712Domain {
        name: Some(name.to_owned().into()),
        version: Some(version.to_owned().into()),
        chain_id: Some(U256::from(chain_id)),
        verifying_contract: Some(token),
        salt: None,
    }
}

impl TransferWithAuthorization {
    /// Returns the call that submits it: 65 bytes are an account's `(v, r, s)`, anything else goes to
    /// the overload for `bytes`.
    #[must_use]
    pub fn call(&self, signature: &Bytes) -> Bytes {
        let Self { from, to, value, validAfter, validBefore, nonce } = *self;
        match signature.as_ref() {
            [rs @ .., v] if rs.len() == 64 => IEip3009::transferWithAuthorization_1Call {
                from,
                to,
                value,
                validAfter,
                validBefore,
                nonce,
                v: *v,
                r: B256::from_slice(&rs[..32]),
                s: B256::from_slice(&rs[32..]),
            }
            .abi_encode(),
            _ => IEip3009::transferWithAuthorization_0Call {
                from,
                to,
                value,
                validAfter,
                validBefore,
                nonce,
                signature: signature.clone(),
            }
            .abi_encode(),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        hex,
        primitives::{address, b256},
        sol_types::SolStruct as _,
    };

    use super::*;
    use crate::contract::digest;

    const USDC: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");

    macro_rules! signed {
        ($name:ident) => {
            $name {
                from: address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
                to: address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
                value: U256::from(10_000),
                validAfter: U256::ZERO,
                validBefore: U256::from(1_900_000_000_u64),
                nonce: B256::with_last_byte(1),
            }
        };
    }

    /// Vectors computed with the official packages.
    #[test]
    fn digests_are_the_published_ones() {
        let (transfer, receive) =
            (signed!(TransferWithAuthorization), signed!(ReceiveWithAuthorization));
        let cancel = CancelAuthorization { authorizer: transfer.from, nonce: transfer.nonce };
        for (found, expected) in [
            (
                transfer.eip712_type_hash(),
                b256!("0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267"),
            ),
            (
                receive.eip712_type_hash(),
                b256!("0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8"),
            ),
            (
                cancel.eip712_type_hash(),
                b256!("0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429"),
            ),
        ] {
            assert_eq!(found, expected);
        }
        for (chain, separator, of_transfer, of_receive) in [
            (
                84_532,
                b256!("0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"),
                b256!("0x8ac137c2b876bcbfeafbc0cdface6ef0ed7efd348ea6d37be52918f273779d55"),
                b256!("0x3538608c6afaa7ef2f6767013a4b26867c8fde82225e7cefe8b911ee22bdde5b"),
            ),
            (
                31_337,
                b256!("0x1623e46c385f5fa772bbfcc6e467f4dcabc9ff8d3fa535d71a354f984859ada3"),
                b256!("0x9f21fb29e6d638c2ce21b0af56ea1f052b9b403b9cf7035d0031a4a1b78e7d23"),
                b256!("0x03aa4d3f565e3d507db9ab5691979b37acd65f8856eb948182e7eeae80812f1e"),
            ),
        ] {
            let domain = token_domain("USDC", "2", chain, USDC);
            assert_eq!(domain.separator(), separator);
            assert_eq!(digest(&transfer, &domain), of_transfer);
            assert_eq!(digest(&receive, &domain), of_receive);
        }
    }

    #[test]
    fn the_signature_s_length_picks_the_overload() {
        let transfer = signed!(TransferWithAuthorization);
        let call = |length| transfer.call(&vec![27; length].into())[..4].to_vec();
        assert_eq!(call(65), hex::decode("e3ee160e").unwrap());
        for length in [0, 32, 64, 66, 224] {
            assert_eq!(call(length), hex::decode("cf092995").unwrap(), "{length}");
        }
    }
}
