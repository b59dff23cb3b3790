//! The scheme `exact`: one transfer of exactly the price. By EIP-3009 (the default), or by ERC-7710,
//! where the payer's own contract pays when it is asked to.

use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256},
    sol_types::{Eip712Domain, SolCall as _},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    Requirements,
    text::{checksummed, decimal},
};
use crate::contract::{
    self, IUsdc,
    token::{IDelegationManager, TransferWithAuthorization, token_domain},
};

/// `extra.assetTransferMethod` of the payload [`Payload`], and what is meant where there is none.
pub const EIP3009: &str = "eip3009";
/// `extra.assetTransferMethod` of the payload [`Delegated`].
pub const ERC7710: &str = "erc7710";

/// Bytes that a signature, or a permission's context, may have.
pub const SIGNATURE_LIMIT: usize = 8 * 1024;

/// What ends the signature of a wallet that is not deployed yet (ERC-6492).
const UNDEPLOYED: [u8; 2] = [0x64, 0x92];

/// What a payer signed, and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// An account's 65 bytes, or whatever the payer's contract takes.
    pub signature: Bytes,
    /// What it covers.
    pub authorization: Authorization,
}

/// EIP-3009's authorization of one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// Whose money.
    #[serde(with = "checksummed")]
    pub from: Address,
    /// The payee.
    #[serde(with = "checksummed")]
    pub to: Address,
    /// Base units.
    #[serde(with = "decimal")]
    pub value: U256,
    /// Unix seconds: good in blocks later than this. Sign `0`: a block's time may stand still.
    #[serde(with = "decimal")]
    pub valid_after: U256,
    /// Unix seconds: good in blocks earlier than this.
    #[serde(with = "decimal")]
    pub valid_before: U256,
    /// The token takes each of a payer's nonces once.
    pub nonce: B256,
}

/// A payment that the payer's contract makes when its `redeemDelegations` is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delegated {
    /// The contract that is called.
    #[serde(with = "checksummed")]
    pub delegation_manager: Address,
    /// What it takes as permission; nobody else reads it.
    pub permission_context: Bytes,
    /// Whose money.
    #[serde(with = "checksummed")]
    pub delegator: Address,
}

/// Why a payload is not one of this scheme.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Fields are missing or wrong.
    #[error("the payload cannot be used: {0}")]
    Json(#[from] serde_json::Error),
    /// Longer than [`SIGNATURE_LIMIT`].
    #[error("the signature has {0} bytes; {SIGNATURE_LIMIT} are taken")]
    TooLong(usize),
    /// More than [`super::batch::CLAIM_LIMIT`].
    #[error("the claim has {0} rows; {limit} are taken", limit = super::batch::CLAIM_LIMIT)]
    TooManyRows(usize),
}

pub(super) fn read<T: DeserializeOwned>(payload: &Map<String, Value>) -> Result<T, PayloadError> {
    Ok(serde_json::from_value(Value::Object(payload.clone()))?)
}

pub(super) fn bounded(signature: &Bytes) -> Result<(), PayloadError> {
    match signature.len() {
        length if length > SIGNATURE_LIMIT => Err(PayloadError::TooLong(length)),
        _ => Ok(()),
    }
}

impl Payload {
    /// Reads a payment's `payload`.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn read(payload: &Map<String, Value>) -> Result<Self, PayloadError> {
        let payload: Self = read(payload)?;
        bounded(&payload.signature)?;
        Ok(payload)
    }

    /// Is the signature that of a wallet which is not deployed yet (ERC-6492)? Such are not taken.
    #[must_use]
    pub fn is_undeployed(&self) -> bool {
        let end = self.signature.len().saturating_sub(32);
        let end = &self.signature[end..];
        end.len() == 32 && end.chunks(2).all(|pair| pair == UNDEPLOYED)
    }
}

impl Delegated {
    /// Reads a payment's `payload`.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn read(payload: &Map<String, Value>) -> Result<Self, PayloadError> {
        let payload: Self = read(payload)?;
        bounded(&payload.permission_context)?;
        Ok(payload)
    }

    /// Returns the call to the manager that makes it transfer `amount` of `asset` to `to`: one single
    /// call (mode 0), packed as ERC-7579 packs it.
    #[must_use]
    pub fn call(&self, asset: Address, to: Address, amount: U256) -> Bytes {
        let transfer = IUsdc::transferCall { to, value: amount }.abi_encode();
        let mut execution = asset.to_vec();
        execution.extend_from_slice(&[0; 32]);
        execution.extend_from_slice(&transfer);
        IDelegationManager::redeemDelegationsCall {
            permissionContexts: vec![self.permission_context.clone()],
            modes: vec![B256::ZERO],
            executionCallDatas: vec![execution.into()],
        }
        .abi_encode()
        .into()
    }
}

impl Authorization {
    /// Returns the message that is signed, and that the token takes.
    #[must_use]
    pub const fn message(&self) -> TransferWithAuthorization {
        TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
        }
    }

    /// Returns what the signature covers, in the token's domain.
    #[must_use]
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        contract::digest(&self.message(), domain)
    }
}

/// Returns the domain that an offer names for its token; `None` where it lacks `extra.name` or
/// `extra.version`.
#[must_use]
pub fn offered_domain(offer: &Requirements) -> Option<Eip712Domain> {
    let terms = offer.terms().ok()?;
    let (name, version) = (offer.extra_text("name")?, offer.extra_text("version")?);
    Some(token_domain(name, version, terms.chain_id, terms.asset))
}

/// Returns how an offer wants its asset moved: [`EIP3009`] where it does not say.
#[must_use]
pub fn transfer_method(offer: &Requirements) -> &str {
    offer.extra_text("assetTransferMethod").unwrap_or(EIP3009)
}

/// Returns the account whose signature this is, as tokens read it: 65 bytes, `v` 27 or 28, low `s`.
#[must_use]
pub fn recover(digest: B256, signature: &[u8]) -> Option<Address> {
    let is_plain = signature.len() == 65 && matches!(signature.get(64), Some(27 | 28));
    let signature = Signature::from_raw(signature).ok().filter(|_| is_plain)?;
    if signature.normalize_s().is_some() {
        return None;
    }
    signature.recover_address_from_prehash(&digest).ok()
}

#[cfg(test)]
mod tests {
    use alloy::{
        hex,
        primitives::{address, bytes},
        signers::{SignerSync as _, local::PrivateKeySigner},
    };
    use serde_json::json;

    use super::*;

    const USDC: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
    /// Account 0 of every anvil.
    const PAYER: Address = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");

    fn payload() -> Value {
        json!({
            "signature": "0xa588d98daa3e5a9425fef32076085a5eb18f553a4fec6488b511a61f36037d7a6e11b1f519caba7fc3e67b2bd94a85bc522693a0329f3f6cbd125ead9a2687881b",
            "authorization": {
                "from": PAYER.to_string(),
                "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "value": "10000",
                "validAfter": "0",
                "validBefore": "1900000000",
                "nonce": B256::with_last_byte(1),
            },
        })
    }

    fn parse(value: &Value) -> Result<Payload, PayloadError> {
        Payload::read(value.as_object().unwrap())
    }

    #[test]
    fn the_published_signature_is_the_payer_s() {
        let read = parse(&payload()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), payload());
        let digest = read.authorization.digest(&token_domain("USDC", "2", 84_532, USDC));
        assert_eq!(recover(digest, &read.signature), Some(PAYER));
        let key: PrivateKeySigner =
            "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80".parse().unwrap();
        assert_eq!(key.sign_hash_sync(&digest).unwrap().as_bytes(), read.signature[..]);
        assert!(!read.is_undeployed());
    }

    #[test]
    fn signatures_that_tokens_refuse_recover_nobody() {
        let read = parse(&payload()).unwrap();
        let digest = read.authorization.digest(&token_domain("USDC", "2", 84_532, USDC));
        let good = read.signature.to_vec();
        let mut short_v = good.clone();
        short_v[64] = 0;
        // The same point with high s and the other v: a second signature of the same payment.
        let high = {
            let signature = Signature::from_raw(&good).unwrap();
            let order = U256::from_str_radix(
                "115792089237316195423570985008687907852837564279074904382605163141518161494337",
                10,
            )
            .unwrap();
            Signature::new(signature.r(), order - signature.s(), !signature.v()).as_bytes().to_vec()
        };
        let mut wrong = good.clone();
        wrong[3] ^= 1;
        for bytes in [vec![], good[..64].to_vec(), short_v, high, [good, vec![0]].concat()] {
            assert_eq!(recover(digest, &bytes), None);
        }
        assert_ne!(recover(digest, &wrong), Some(PAYER));
    }

    #[test]
    fn a_payload_is_read_strictly() {
        for (pointer, wrong) in [
            ("/authorization/value", json!(10_000)),
            ("/authorization/value", json!("1e4")),
            ("/authorization/value", json!("0x2710")),
            ("/authorization/value", json!("-1")),
            ("/authorization/value", json!("")),
            ("/authorization/validBefore", Value::Null),
            ("/authorization/from", json!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266")),
            ("/authorization/nonce", json!("0x01")),
            ("/signature", json!("0xa58")),
            ("/signature", json!(1)),
        ] {
            let mut value = payload();
            *value.pointer_mut(pointer).unwrap() = wrong.clone();
            assert!(parse(&value).is_err(), "{pointer} {wrong}");
        }
        let mut value = payload();
        value["signature"] = json!(Bytes::from(vec![1; SIGNATURE_LIMIT + 1]));
        assert!(matches!(parse(&value), Err(PayloadError::TooLong(_))));
        value["signature"] = json!(Bytes::from([[0x64, 0x92].repeat(16)].concat()));
        assert!(parse(&value).unwrap().is_undeployed());
    }

    #[test]
    fn a_delegated_payment_is_one_packed_call() {
        let payload = json!({
            "delegationManager": PAYER.to_string(), "permissionContext": "0x0102",
            "delegator": PAYER.to_string(),
        });
        let read = Delegated::read(payload.as_object().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), payload);
        let call = read.call(USDC, PAYER, U256::from(7));
        assert_eq!(call[..4], hex::decode("cef6d209").unwrap());
        let call = IDelegationManager::redeemDelegationsCall::abi_decode(&call).unwrap();
        assert_eq!(call.permissionContexts, vec![bytes!("0102")]);
        assert_eq!(call.modes, vec![B256::ZERO]);
        let execution = &call.executionCallDatas[0];
        assert_eq!((execution.len(), &execution[..20]), (120, USDC.as_slice()));
        let transfer = IUsdc::transferCall::abi_decode(&execution[52..]).unwrap();
        assert_eq!((transfer.to, transfer.value), (PAYER, U256::from(7)));
    }
}
