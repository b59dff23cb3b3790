//! ChannelHub, the payment channels of x402's batch-settlement: bindings, ids, what the parties of a
//! channel sign, packed claims, and the addresses that x402's clients take for granted.
//!
//! The interface's `Voucher` is a row's shape in calldata. What is signed has the same name in
//! EIP-712 and other fields: take its digest from [`Hub::voucher_digest`] and nowhere else.
//!
//! What an agent signs to fund or close a channel of the wallet's ([`ChannelFunding`],
//! [`ChannelClosing`]) is hashed in the wallet's domain ([`super::domain`]).

use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256, address, b256, keccak256},
    sol_types::{Eip712Domain, SolStruct as _, SolValue as _, eip712_domain},
};

pub use self::abi::{
    ChannelClosing, ChannelConfig, ChannelFunding, IChannelHub, IChannelPayer, IDepositCollector,
    IErc3009Collector, Skip, Voucher, VoucherClaim,
};

/// x402's batch-settlement contract on every chain; on the devnet, ChannelHub's code.
pub const HUB: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
/// x402's collector of EIP-3009 deposits; on the devnet, Erc3009Collector's code.
pub const ERC3009_COLLECTOR: Address = address!("4020806089470a89826cB9fB1f4059150b550004");
/// Multicall3, with which clients read several channels at once; on the devnet, DevMulticall's code.
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// The withdraw delays that the hub takes, in seconds.
pub const WITHDRAW_DELAY: std::ops::RangeInclusive<u64> = 900..=2_592_000;
/// Bytes of one row of a packed claim.
pub const ROW_BYTES: usize = 165;

const VOUCHER_TYPEHASH: B256 =
    b256!("1e1bd6ff84c3e0d9029a292b212e039c0ca97ec497c55191a4a5874294609a69");

/// What `sol!` generates. Docstrings live in the Solidity files.
#[allow(missing_docs, clippy::too_many_arguments)]
mod abi {
    use alloy::sol;
    use serde::{Deserialize, Serialize};

    sol!(
        #[sol(rpc, all_derives, extra_derives(Serialize, Deserialize))]
        "contracts/interfaces/IChannelHub.sol"
    );
    sol!(
        #[sol(all_derives)]
        "contracts/interfaces/IDepositCollector.sol"
    );

    sol! {
        // What Erc3009Collector says beside its interface.
        #[derive(Debug)]
        interface IErc3009Collector {
            error OnlyX402BatchSettlement();
            function HUB() external view returns (address);
        }

        // What is signed, beside the voucher. Names are EIP-712's.
        struct Refund {
            bytes32 channelId;
            uint256 nonce;
            uint128 amount;
        }

        struct ClaimEntry {
            bytes32 channelId;
            uint128 maxClaimableAmount;
            uint128 totalClaimed;
        }

        struct ClaimBatch {
            ClaimEntry[] claims;
        }
    }
}

/// Returns the hub's EIP-712 domain: name "x402 Batch Settlement", version "1".
#[must_use]
pub fn domain(chain_id: u64, hub: Address) -> Eip712Domain {
    eip712_domain! {
        name: "x402 Batch Settlement",
        version: "1",
        chain_id: chain_id,
        verifying_contract: hub,
    }
}

/// Returns the nonce of an EIP-3009 deposit.
#[must_use]
pub fn deposit_nonce(channel_id: B256, salt: U256) -> B256 {
    keccak256((channel_id, salt).abi_encode())
}

/// Returns what [`ERC3009_COLLECTOR`] takes as `collectorData`. Times are unix seconds, exclusive.
#[must_use]
pub fn erc3009_data(valid_after: u64, valid_before: u64, salt: U256, signature: &Bytes) -> Bytes {
    (valid_after, valid_before, salt, signature.clone()).abi_encode_params().into()
}

/// One row of a claim: what a voucher allows, and what was earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The channel.
    pub channel_id: B256,
    /// What the voucher allows over the channel's life, base units.
    pub max: u128,
    /// What the receiver has earned over the channel's life, base units.
    pub total: u128,
}

/// A hub on a chain: ids and digests in its domain, which is hashed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hub {
    address: Address,
    separator: B256,
}

impl Hub {
    /// The hub at an address.
    #[must_use]
    pub fn new(chain_id: u64, address: Address) -> Self {
        Self { address, separator: domain(chain_id, address).separator() }
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Returns a channel's id: the EIP-712 hash of its config.
    #[must_use]
    pub fn channel_id(&self, config: &ChannelConfig) -> B256 {
        self.digest(config.eip712_hash_struct())
    }

    /// Returns what a payer's authorizer signs: `Voucher(channelId, maxClaimableAmount)`. Two
    /// keccaks: this runs once for each request.
    #[must_use]
    pub fn voucher_digest(&self, channel_id: B256, max: u128) -> B256 {
        let mut words = [0; 96];
        words[..32].copy_from_slice(VOUCHER_TYPEHASH.as_slice());
        words[32..64].copy_from_slice(channel_id.as_slice());
        words[80..].copy_from_slice(&max.to_be_bytes());
        self.digest(keccak256(words))
    }

    /// Returns what a receiver's authorizer signs for `refundWithSignature`: `amount` in base units,
    /// `nonce` the channel's `refundNonce`.
    #[must_use]
    pub fn refund_digest(&self, channel_id: B256, nonce: U256, amount: u128) -> B256 {
        self.digest(abi::Refund { channelId: channel_id, nonce, amount }.eip712_hash_struct())
    }

    /// Returns what a receiver's authorizer signs for `claimWithSignature` and
    /// `claimPackedWithSignature`: the rows in their order.
    #[must_use]
    pub fn claim_batch_digest(&self, rows: &[Entry]) -> B256 {
        let claims = rows
            .iter()
            .map(|row| abi::ClaimEntry {
                channelId: row.channel_id,
                maxClaimableAmount: row.max,
                totalClaimed: row.total,
            })
            .collect();
        self.digest(abi::ClaimBatch { claims }.eip712_hash_struct())
    }

    fn digest(&self, hash: B256) -> B256 {
        let mut text = [0; 66];
        text[..2].copy_from_slice(&[0x19, 0x01]);
        text[2..34].copy_from_slice(self.separator.as_slice());
        text[34..].copy_from_slice(hash.as_slice());
        keccak256(text)
    }
}

/// An amount that no channel can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} base units do not fit a packed row, which has 12 bytes: claim this row by `claim`")]
pub struct TooMuch(pub u128);

/// Returns a row of a packed claim, whose receiver, receiverAuthorizer and token stand beside the
/// rows. `max` and `total` as in [`Entry`].
///
/// # Errors
/// [`TooMuch`] if an amount is 2^96 or more.
pub fn pack_row(
    config: &ChannelConfig,
    max: u128,
    total: u128,
    signature: &Signature,
) -> Result<[u8; ROW_BYTES], TooMuch> {
    let narrow = |amount: u128| {
        if amount >> 96_u32 == 0 { Ok(amount.to_be_bytes()) } else { Err(TooMuch(amount)) }
    };
    let mut row = [0; ROW_BYTES];
    row[..20].copy_from_slice(config.payer.as_slice());
    row[20..40].copy_from_slice(config.payerAuthorizer.as_slice());
    row[40..45].copy_from_slice(&config.withdrawDelay.to_be_bytes::<5>());
    row[45..77].copy_from_slice(config.salt.as_slice());
    row[77..89].copy_from_slice(&narrow(max)?[4..]);
    row[89..101].copy_from_slice(&narrow(total)?[4..]);
    row[101..].copy_from_slice(&signature.as_erc2098());
    Ok(row)
}

#[cfg(test)]
mod tests {
    use alloy::{primitives::aliases::U40, signers::SignerSync as _};

    use super::*;

    /// The config of the published vectors.
    fn config() -> ChannelConfig {
        ChannelConfig {
            payer: Address::repeat_byte(0x11),
            payerAuthorizer: Address::repeat_byte(0x22),
            receiver: Address::repeat_byte(0x33),
            receiverAuthorizer: Address::repeat_byte(0x44),
            token: address!("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
            withdrawDelay: U40::from(900),
            salt: B256::with_last_byte(1),
        }
    }

    #[test]
    fn ids_and_digests_are_x402_s() {
        let base = Hub::new(8453, HUB);
        let domain = b256!("d8d982716899b0e20cf2c1e706a37b8a892c83fdd4ac9b540cfeec11f9c73a39");
        assert_eq!(base.separator, domain);
        let id = base.channel_id(&config());
        let expected = [
            (id, b256!("91146eded5ed3b7c7445a0e16997bc09682641d1321795f539494ff6536568d5")),
            (
                Hub::new(84532, HUB).channel_id(&config()),
                b256!("530f2c4da2224ee9299085e2bc355e9615710ecdc324f76be875e6b7998daa2d"),
            ),
            (
                Hub::new(31337, HUB).channel_id(&config()),
                b256!("d75d8cb8280dede4a395513af10eb3fa9f36dac2c3bd50c33703c415da3c8557"),
            ),
            (
                base.voucher_digest(id, 1000),
                b256!("7d0c13c615bdfba821fe9343b390efb939bd02433ce597400d9144d24c1540d7"),
            ),
            (
                base.refund_digest(id, U256::ZERO, 1500),
                b256!("3fb2f0cfd9254bde4d88d1101e195af9896d3345a50f5be694bcd92d71f18ba6"),
            ),
            (
                base.claim_batch_digest(&[Entry { channel_id: id, max: 1000, total: 700 }]),
                b256!("2566d6573bfec325bbb1fa83c56edd59aca32dc9aa7d3b6f3d5d64e5aa344b06"),
            ),
            (
                deposit_nonce(id, U256::from(1)),
                b256!("527994c72e1c12cd188f2c56d3eeddd93ee2451aa80bbb4686cb97c0437e06ad"),
            ),
        ];
        for (at, (own, theirs)) in expected.into_iter().enumerate() {
            assert_eq!(own, theirs, "{at}");
        }
    }

    #[test]
    fn the_voucher_is_hashed_as_its_type_says() {
        let typed = "Voucher(bytes32 channelId,uint128 maxClaimableAmount)";
        assert_eq!(VOUCHER_TYPEHASH, keccak256(typed));
        let hub = Hub::new(1, Address::repeat_byte(9));
        assert_ne!(hub.voucher_digest(B256::ZERO, 1), hub.voucher_digest(B256::ZERO, 1 << 64));
    }

    #[test]
    fn a_packed_row_has_every_field_in_its_place() {
        let key = alloy::signers::local::PrivateKeySigner::random();
        let signature = key.sign_hash_sync(&B256::repeat_byte(7)).unwrap();
        let row = pack_row(&config(), 0x0102_0304, 0x0506, &signature).unwrap();
        let parts = [
            vec![0x11; 20],
            vec![0x22; 20],
            vec![0, 0, 0, 3, 0x84],
            config().salt.to_vec(),
            [vec![0; 8], vec![1, 2, 3, 4]].concat(),
            [vec![0; 10], vec![5, 6]].concat(),
            signature.r().to_be_bytes_vec(),
        ]
        .concat();
        assert_eq!(row[..133], parts);
        let vs = U256::from_be_slice(&row[133..]);
        assert_eq!(vs.bit(255), signature.v());
        assert_eq!(vs << 1 >> 1, signature.s());
        assert_eq!(pack_row(&config(), 1 << 96, 0, &signature), Err(TooMuch(1 << 96)));
        assert!(pack_row(&config(), (1 << 96) - 1, (1 << 96) - 1, &signature).is_ok());
    }
}
