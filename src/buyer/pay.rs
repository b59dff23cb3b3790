//! What is signed for an offer, by each kind of payer, and how it travels.

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolStruct as _,
};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    PayerKind,
    choose::Passed,
    offer::{Offer, Wire},
};
use crate::{
    config::ChainConfig,
    contract::{self, coupon},
    mpp,
    payment::{AgentId, PaymentId},
    refusal::{Code, Refusal},
    store::PurchaseRow,
    x402::{self, PaymentPayload, PaymentRequired, Requirements, batch, exact},
};

/// Header that tells a seller who pays, for its fraud checks: no protocol has a place for all of it.
const METADATA: HeaderName = HeaderName::from_static("payer-metadata");
/// Name of the extension by which sellers recognise a repeated payment.
const IDENTIFIER: &str = "payment-identifier";
/// Seconds that an authorization is good for at least: facilitators want some left at the end.
pub(super) const LEAST_S: u64 = 10;

/// A signed payment.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub payer: Address,
    pub nonce: B256,
    pub valid_before_s: u64,
    pub header: (String, String),
}

fn fault(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, format!("the payment cannot be written: {what}"))
}

/// Returns the nonce of a purchase that its payer may choose freely: everything that the purchase
/// is. The same purchase can so never be signed with two nonces. MPP binds it to the challenge.
pub(super) fn nonce(
    chain: &ChainConfig,
    agent: &AgentId,
    key: &str,
    fingerprint: B256,
    offer: &Offer,
) -> B256 {
    if let Wire::Mpp(challenge) = &offer.wire {
        return challenge.nonce();
    }
    let all = json!([
        "bursar purchase v1",
        chain.chain_id,
        chain.wallet,
        agent.as_str(),
        key,
        fingerprint,
        offer.quote,
    ]);
    keccak256(all.to_string())
}

/// Returns when an authorization ends that is signed now.
pub(super) fn end_s(now_s: u64, passed: &Passed, most_s: u64) -> u64 {
    now_s.saturating_add(passed.terms.max_timeout_s.clamp(LEAST_S, most_s.max(LEAST_S)))
}

/// Carries a voucher of one of the wallet's channels; `nonce` only names the purchase.
pub(super) fn by_channel(
    wallet: Address,
    voucher: &batch::Payload,
    offer: &Offer,
    nonce: B256,
    id: PaymentId,
) -> Result<Signed, Refusal> {
    let Wire::V2(offered, accepted) = &offer.wire else {
        return Err(fault("a voucher in another version than 2"));
    };
    let header = v2_header((offered, accepted), voucher, id)?;
    Ok(Signed { payer: wallet, nonce, valid_before_s: PurchaseRow::ENDLESS, header })
}

/// Writes a purchase's header anew with another voucher.
pub(super) fn with_voucher(header: &str, voucher: &batch::Payload) -> Result<String, Refusal> {
    let mut payment: PaymentPayload = x402::decode(header).map_err(fault)?;
    payment.payload = fields(voucher)?;
    x402::encode(&payment).map_err(fault)
}

/// Signs a transfer from a plain account.
pub(super) fn by_float(
    key: &PrivateKeySigner,
    domain: B256,
    (offer, passed): (&Offer, &Passed),
    (nonce, valid_before_s): (B256, u64),
    id: PaymentId,
) -> Result<Signed, Refusal> {
    let authorization = exact::Authorization {
        from: key.address(),
        to: passed.terms.pay_to,
        value: passed.terms.amount,
        valid_after: U256::ZERO,
        valid_before: U256::from(valid_before_s),
        nonce,
    };
    let signature = key.sign_hash_sync(&digest(&authorization, domain)).map_err(fault)?;
    let payload = exact::Payload { signature: signature.as_bytes().into(), authorization };
    let header = travel(offer, passed, payload, id)?;
    Ok(Signed { payer: key.address(), nonce, valid_before_s, header })
}

/// One of the wallet's single-use coupons: it is good within its period, for whatever its class is
/// good for, once.
pub(super) struct Coupon {
    /// The agent's.
    pub key: PrivateKeySigner,
    pub period: u64,
    pub index: U256,
    /// The period's first second, and the first of the next.
    pub from_s: u64,
    pub to_s: u64,
}

/// Signs a transfer from the wallet, which its contract accepts when the token asks it (ERC-1271).
pub(super) fn by_coupon(
    wallet: Address,
    coupon: &Coupon,
    domain: B256,
    (offer, passed): (&Offer, &Passed),
    end_s: u64,
    id: PaymentId,
) -> Result<Signed, Refusal> {
    let valid_before_s = end_s.min(coupon.to_s);
    let nonce = coupon::nonce(coupon.key.address(), coupon.period, coupon.index);
    let authorization = exact::Authorization {
        from: wallet,
        to: passed.terms.pay_to,
        value: passed.terms.amount,
        valid_after: U256::from(coupon.from_s),
        valid_before: U256::from(valid_before_s),
        nonce,
    };
    let signature = coupon.key.sign_hash_sync(&digest(&authorization, domain)).map_err(fault)?;
    let signature = coupon::blob(&authorization.message(), coupon.index, &signature);
    let header = travel(offer, passed, exact::Payload { signature, authorization }, id)?;
    Ok(Signed { payer: wallet, nonce, valid_before_s, header })
}

/// Signs a payment that the wallet's contract makes when anybody redeems it (ERC-7710). `nonce` is the
/// purchase's in the contract too, and what its log calls the context: by it the payment is found again.
pub(super) fn by_delegation(
    chain: &ChainConfig,
    key: &PrivateKeySigner,
    (offer, passed): (&Offer, &Passed),
    (nonce, valid_before_s): (B256, u64),
    id: PaymentId,
) -> Result<Signed, Refusal> {
    let Wire::V2(offered, accepted) = &offer.wire else {
        return Err(fault("no offer of x402, version 2"));
    };
    let redemption = coupon::Redemption {
        agent: key.address(),
        // Which account redeems it is the seller's affair, and it moves nothing but this price to
        // this payee.
        redeemer: Address::ZERO,
        nonce: U256::from_be_bytes(nonce.0),
        // Inclusive there.
        deadline: U256::from(valid_before_s.saturating_sub(1)),
        context: nonce,
        to: passed.terms.pay_to,
        amount: passed.terms.amount,
    };
    let domain = contract::domain(chain.chain_id, chain.wallet);
    let signature = key.sign_hash_sync(&contract::digest(&redemption, &domain)).map_err(fault)?;
    let payload = exact::Delegated {
        delegation_manager: chain.wallet,
        permission_context: redemption.context(&signature),
        delegator: chain.wallet,
    };
    let header = v2_header((offered, accepted), &payload, id)?;
    Ok(Signed { payer: chain.wallet, nonce, valid_before_s, header })
}

/// What a signature of the token's domain covers (EIP-712), by the domain's separator.
fn digest(authorization: &exact::Authorization, domain: B256) -> B256 {
    let message = authorization.message().eip712_hash_struct();
    keccak256([&[0x19, 0x01], domain.as_slice(), message.as_slice()].concat())
}

/// Writes the header that carries a payload.
fn travel(
    offer: &Offer,
    passed: &Passed,
    payload: exact::Payload,
    id: PaymentId,
) -> Result<(String, String), Refusal> {
    match &offer.wire {
        Wire::V2(offered, accepted) => v2_header((offered, accepted), &payload, id),
        Wire::V1(accepted) => {
            let payment = PaymentPayload::v1(accepted, fields(&payload)?);
            Ok((x402::X_PAYMENT.to_owned(), x402::encode(&payment).map_err(fault)?))
        }
        Wire::Mpp(challenge) => {
            let exact::Payload { signature, authorization } = payload;
            let source = mpp::source(passed.terms.chain_id, authorization.from);
            let payload = fields(&mpp::Authorization { authorization, signature })?;
            let challenge = challenge.as_ref().clone();
            // Some sellers name another header, so that `Authorization` stays free.
            let name = challenge.header.clone().unwrap_or_else(|| mpp::AUTHORIZATION.to_owned());
            let credential = mpp::Credential { challenge, payload, source: Some(source) };
            Ok((name.to_ascii_lowercase(), credential.to_header().map_err(fault)?))
        }
    }
}

/// Writes version 2's header.
fn v2_header(
    (offered, accepted): (&PaymentRequired, &Requirements),
    payload: &impl Serialize,
    id: PaymentId,
) -> Result<(String, String), Refusal> {
    let mut payment = PaymentPayload::v2(offered, accepted, fields(payload)?);
    identify(payment.extensions.as_mut(), id);
    Ok((x402::PAYMENT_SIGNATURE.to_owned(), x402::encode(&payment).map_err(fault)?))
}

/// Writes a payload as its fields.
fn fields<T: Serialize>(payload: &T) -> Result<Map<String, Value>, Refusal> {
    match serde_json::to_value(payload).map_err(fault)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(fault("a payload that is no object")),
    }
}

/// Names the purchase, where the seller offers to recognise repeats by it.
fn identify(extensions: Option<&mut Map<String, Value>>, id: PaymentId) {
    let entry = extensions.and_then(|all| all.get_mut(IDENTIFIER)).and_then(Value::as_object_mut);
    if let Some(entry) = entry {
        let info = entry.entry("info").or_insert_with(|| json!({}));
        if let Some(info) = info.as_object_mut() {
            info.insert("id".to_owned(), json!(id.to_string()));
        }
    }
}

/// Returns the headers of a paid request: the payment, and who pays.
pub(super) fn headers(
    row: &PurchaseRow,
    chain: &ChainConfig,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let name: HeaderName = row.header_name.parse().map_err(fault)?;
    let value = HeaderValue::from_str(&row.header_value).map_err(fault)?;
    let wallet = match row.payer_kind {
        PayerKind::Coupon | PayerKind::Delegation | PayerKind::Channel => "contract",
        PayerKind::Float => "eoa",
    };
    let metadata = format!(
        "account=\"{}\", chain-id={}, asset=\"{}\", wallet-type=\"{wallet}\", agent=\"{}\", \
         grant=\"{}/{}\"",
        row.payer, chain.chain_id, chain.usdc, row.agent, chain.wallet, row.policy_version
    );
    Ok(vec![(name, value), (METADATA, HeaderValue::from_str(&metadata).map_err(fault)?)])
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{
        buyer::{offer, web::Reply},
        mpp::{Challenge, ChargeRequest},
    };

    const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
    const WALLET: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    const OTHER: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";

    fn chain(chain_id: u64, wallet: &str) -> ChainConfig {
        let all = json!({
            "rpc": [], "chain_id": chain_id, "wallet": wallet, "usdc": USDC, "confirmations": 1,
        });
        serde_json::from_value(all).unwrap()
    }

    fn offered(amount: &str, pay_to: &str) -> Offer {
        let accepts = json!([{
            "scheme": "exact", "network": "eip155:84532", "amount": amount, "asset": USDC,
            "payTo": pay_to, "maxTimeoutSeconds": 60, "extra": { "name": "USDC", "version": "2" },
        }]);
        let text = x402::encode(&json!({ "x402Version": 2, "accepts": accepts })).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("payment-required", text.parse().unwrap());
        let reply = Reply { status: 402, headers, body: Vec::new(), truncated: false };
        offer::read(&reply, 1_900_000_000).offers.remove(0)
    }

    #[test]
    fn a_purchase_has_one_nonce_and_whatever_is_another_has_another() {
        let (ember, atlas): (AgentId, AgentId) =
            ("ember".parse().unwrap(), "atlas".parse().unwrap());
        let (ours, asked) = (chain(84_532, WALLET), B256::repeat_byte(1));
        let one = || nonce(&ours, &ember, "key", asked, &offered("500", OTHER));
        assert_eq!(one(), one());
        let mut all = vec![
            one(),
            nonce(&chain(8_453, WALLET), &ember, "key", asked, &offered("500", OTHER)),
            nonce(&chain(84_532, OTHER), &ember, "key", asked, &offered("500", OTHER)),
            nonce(&ours, &atlas, "key", asked, &offered("500", OTHER)),
            nonce(&ours, &ember, "key-2", asked, &offered("500", OTHER)),
            nonce(&ours, &ember, "key", B256::repeat_byte(2), &offered("500", OTHER)),
            nonce(&ours, &ember, "key", asked, &offered("501", OTHER)),
            nonce(&ours, &ember, "key", asked, &offered("500", WALLET)),
        ];
        // MPP fixes it by the challenge, which is another each time.
        let request =
            ChargeRequest::new(500, USDC.parse().unwrap(), OTHER.parse().unwrap(), 84_532);
        for id in ["first", "second"] {
            let mut challenge = Challenge::new("realm", "evm", "charge", &request).unwrap();
            challenge.id = id.to_owned();
            let wire = Wire::Mpp(Box::new(challenge.clone()));
            let offer = Offer { wire, ..offered("500", OTHER) };
            let got = nonce(&ours, &ember, "key", asked, &offer);
            assert_eq!(got, challenge.nonce());
            all.push(got);
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
