//! `batch-settlement`: deposits, vouchers, claims, payouts and refunds of channels in the hub.
//!
//! A seller signs its own claims and refunds (`receiverAuthorizer` is its key, never the
//! facilitator's): nobody who merely reaches the facilitator can give a buyer back what was earned.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol_types::{SolCall as _, SolEvent as _},
};
use serde_json::{Map, Value, json};

use super::{
    Declined, check,
    read::{self, Job, Leave, Signed},
    used,
};
use crate::{
    contract::{
        self,
        hub::{self, ERC3009_COLLECTOR, HUB, Hub, IChannelHub},
        token::{ReceiveWithAuthorization, token_domain},
    },
    engine::{EngineError, Inner},
    rpc::At,
    store::{SettlementKind, SettlementState},
    x402::{
        FacilitatorRequest, Reason, Requirements, Terms,
        batch::{
            ChannelConfig, ChannelState, Claim, ClaimRow, Deposit, ERROR_PREFIX, Payload,
            RefundPayload, SettlePayload, Voucher, WITHDRAW_DELAY,
        },
        exact,
    },
};

/// Gas for each row of a claim, beside what any settlement may take.
const GAS_ROW: u64 = 60_000;

fn no(name: &str, why: impl Into<String>) -> Declined {
    Declined::new(Reason::Other(format!("{ERROR_PREFIX}{name}")), why)
}

/// Gives what is refused the scheme's own name for it.
pub(super) fn named(kind: SettlementKind, declined: Declined) -> Declined {
    let sent = declined.transaction.is_some();
    let name = match (kind, &declined.reason) {
        (SettlementKind::Exact | SettlementKind::Delegated, _) => return declined,
        (SettlementKind::Deposit, Reason::InvalidSignature) => "receive_authorization_signature",
        (SettlementKind::Deposit, Reason::InsufficientFunds) => "insufficient_balance",
        (SettlementKind::Deposit, Reason::ValidAfter) => "payload_authorization_valid_after",
        (SettlementKind::Deposit, Reason::ValidBefore) => "payload_authorization_valid_before",
        (SettlementKind::Deposit, Reason::InvalidTransactionState) if sent => {
            "deposit_transaction_failed"
        }
        (SettlementKind::Deposit, Reason::InvalidTransactionState) => "deposit_simulation_failed",
        (SettlementKind::Claim, Reason::InvalidTransactionState) if sent => {
            "claim_transaction_failed"
        }
        (SettlementKind::Claim, Reason::InvalidTransactionState) => "claim_simulation_failed",
        (SettlementKind::Payout, Reason::InvalidTransactionState) if sent => {
            "settle_transaction_failed"
        }
        (SettlementKind::Payout, Reason::InvalidTransactionState) => "settle_simulation_failed",
        (SettlementKind::Refund, Reason::InvalidTransactionState) if sent => {
            "refund_transaction_failed"
        }
        (SettlementKind::Refund, Reason::InvalidTransactionState) => "refund_simulation_failed",
        _ => return declined,
    };
    Declined { reason: no(name, "").reason, ..declined }
}

/// A request of this scheme, read.
struct Asked<'a> {
    inner: &'a Inner,
    offer: &'a Requirements,
    terms: Terms,
    hub: Hub,
}

impl<'a> Asked<'a> {
    fn of(inner: &'a Inner, request: &'a FacilitatorRequest) -> Result<(Self, Payload), Declined> {
        let offer = &request.payment_requirements;
        let terms = read::checked(inner, offer.terms_untimed())?;
        if request.payment_payload.x402_version != 2 || !inner.facilitator.has_hub {
            let why = "batch-settlement is not settled here";
            return Err(Declined::new(Reason::UnsupportedScheme, why));
        }
        let payload = Payload::read(&request.payment_payload.payload)
            .map_err(|error| no("payload_type", error.to_string()))?;
        let hub = Hub::new(terms.chain_id, HUB);
        Ok((Self { inner, offer, terms, hub }, payload))
    }

    /// Holds a channel against whom and what the offer pays; answers with its id.
    fn bound(&self, config: &ChannelConfig) -> Result<B256, Declined> {
        if config.receiver != self.terms.pay_to {
            return Err(no("receiver_mismatch", "the channel is for another receiver"));
        }
        if config.token != self.terms.asset {
            return Err(no("token_mismatch", "the channel is for another token"));
        }
        if !WITHDRAW_DELAY.contains(&u64::from(config.withdraw_delay)) {
            return Err(no("withdraw_delay_out_of_range", "withdrawDelay is 900 to 2592000"));
        }
        Ok(self.hub.channel_id(&(*config).into()))
    }

    /// Holds a channel against what the offer says of channels.
    fn offered(&self, config: &ChannelConfig) -> Result<(), Declined> {
        let authorizer: Option<Address> =
            self.offer.extra_text("receiverAuthorizer").and_then(|text| text.parse().ok());
        if authorizer != Some(config.receiver_authorizer) {
            let why = "the channel has another receiverAuthorizer than the offer";
            return Err(no("receiver_authorizer_mismatch", why));
        }
        let delay = u64::from(config.withdraw_delay);
        if self.offer.extra("withdrawDelay").and_then(Value::as_u64) != Some(delay) {
            let why = "the channel has another withdrawDelay than the offer";
            return Err(no("withdraw_delay_mismatch", why));
        }
        Ok(())
    }

    /// Is it a voucher of this channel, by its payer's key?
    fn vouched(&self, config: &ChannelConfig, voucher: &Voucher) -> Result<B256, Declined> {
        let id = self.bound(config)?;
        if voucher.channel_id != id {
            return Err(no("channel_id_mismatch", "the voucher is for another channel"));
        }
        let digest = self.hub.voucher_digest(id, voucher.max_claimable_amount);
        let signer = exact::recover(digest, &voucher.signature);
        if signer.is_none() || signer != Some(config.payer_authorizer) {
            return Err(no("voucher_signature", "the voucher is not signed by payerAuthorizer"));
        }
        Ok(id)
    }

    fn job(&self, kind: SettlementKind, id: String, payer: Address, calldata: Vec<u8>) -> Job {
        let calldata = Bytes::from(calldata);
        Job {
            id,
            kind,
            payer,
            payee: self.terms.pay_to,
            asset: self.terms.asset,
            amount: U256::ZERO,
            nonce: keccak256(&calldata),
            origin: payer,
            leave: Leave::Hub,
            gas_limit: self.inner.config.facilitator.gas_limit,
            target: HUB,
            calldata,
        }
    }

    fn deposit(&self, deposit: &Deposit) -> Result<Job, Declined> {
        let (config, terms) = (&deposit.channel_config, &deposit.deposit);
        self.offered(config)?;
        let id = self.vouched(config, &deposit.voucher)?;
        let Some(leave) = &terms.authorization.erc3009_authorization else {
            let why = "deposits are taken by EIP-3009 only";
            return Err(no("erc3009_authorization_required", why));
        };
        let least = self.offer.extra_text("minDeposit").and_then(|text| text.parse().ok());
        if least.is_some_and(|least: u128| terms.amount < least) {
            return Err(no("deposit_below_min_deposit", "the deposit is below minDeposit"));
        }
        let (Some(name), Some(version)) =
            (self.offer.extra_text("name"), self.offer.extra_text("version"))
        else {
            let why = "the offer's extra has no name and version of the token";
            return Err(no("missing_eip712_domain", why));
        };
        let times = u64::try_from(leave.valid_after).ok().zip(leave.valid_before.try_into().ok());
        let Some((after, before)) = times else {
            return Err(no("deposit_payload", "validAfter or validBefore is no time"));
        };
        let nonce = hub::deposit_nonce(id, leave.salt);
        let amount = U256::from(terms.amount);
        let message = ReceiveWithAuthorization {
            from: config.payer,
            to: ERC3009_COLLECTOR,
            value: amount,
            validAfter: leave.valid_after,
            validBefore: leave.valid_before,
            nonce,
        };
        let domain = token_domain(name, version, self.terms.chain_id, self.terms.asset);
        let signed = Signed {
            signature: leave.signature.clone(),
            valid_after: leave.valid_after,
            valid_before: leave.valid_before,
            digest: contract::digest(&message, &domain),
            separator: domain.separator(),
        };
        let call = IChannelHub::depositCall {
            config: (*config).into(),
            amount: terms.amount,
            collector: ERC3009_COLLECTOR,
            collectorData: hub::erc3009_data(after, before, leave.salt, &leave.signature),
        };
        let id = read::eip3009_id(&self.terms, config.payer, nonce);
        let job = self.job(SettlementKind::Deposit, id, config.payer, call.abi_encode());
        let leave = Leave::Signed(signed);
        Ok(Job { payee: ERC3009_COLLECTOR, amount, nonce, leave, ..job })
    }

    fn claim(&self, claim: &Claim) -> Result<Job, Declined> {
        let call = self.claim_call(&claim.claims, claim.claim_authorizer_signature.as_ref())?;
        let id = format!("claim:{}:{HUB}:{}", self.terms.chain_id, keccak256(&call));
        let job = self.job(SettlementKind::Claim, id, self.terms.pay_to, call);
        Ok(Job { gas_limit: self.gas_of(claim.claims.len()), ..job })
    }

    fn gas_of(&self, rows: usize) -> u64 {
        self.inner.config.facilitator.gas_limit.saturating_add(GAS_ROW * rows as u64)
    }

    fn claim_call(
        &self,
        rows: &[ClaimRow],
        signature: Option<&Bytes>,
    ) -> Result<Vec<u8>, Declined> {
        let Some(signature) = signature else {
            let why = "receiverAuthorizer signs claims; the facilitator is nobody's";
            return Err(no("authorizer_not_configured", why));
        };
        if rows.is_empty() {
            return Err(no("claim_payload", "there is no row"));
        }
        for row in rows {
            let config = &row.voucher.channel;
            if config.receiver != self.terms.pay_to {
                return Err(no("receiver_mismatch", "a row is for another receiver"));
            }
            if config.token != self.terms.asset {
                return Err(no("token_mismatch", "a row is for another token"));
            }
            if row.total_claimed > row.voucher.max_claimable_amount {
                let why = "a row claims more than its voucher allows";
                return Err(no("charge_exceeds_signed_cumulative", why));
            }
        }
        let rows = rows
            .iter()
            .map(|row| hub::VoucherClaim {
                voucher: hub::Voucher {
                    channel: row.voucher.channel.into(),
                    maxClaimableAmount: row.voucher.max_claimable_amount,
                },
                signature: row.signature.clone(),
                totalClaimed: row.total_claimed,
            })
            .collect();
        let authorizer = signature.clone();
        let call = IChannelHub::claimWithSignatureCall {
            voucherClaims: rows,
            authorizerSignature: authorizer,
        };
        Ok(call.abi_encode())
    }

    fn refund(&self, refund: &RefundPayload) -> Result<Job, Declined> {
        let config = &refund.channel_config;
        let channel = self.vouched(config, &refund.voucher)?;
        let (Some(amount), Some(nonce)) = (refund.amount, refund.refund_nonce) else {
            return Err(no("refund_payload", "a refund is settled with amount and refundNonce"));
        };
        let Some(signature) = refund.refund_authorizer_signature.clone() else {
            let why = "receiverAuthorizer signs refunds; the facilitator is nobody's";
            return Err(no("authorizer_not_configured", why));
        };
        let units = u128::try_from(amount).ok().filter(|units| *units > 0);
        let Some(units) = units else {
            return Err(no("refund_amount_invalid", "the amount is nothing, or too much"));
        };
        let call = IChannelHub::refundWithSignatureCall {
            config: (*config).into(),
            amount: units,
            nonce,
            receiverAuthorizerSignature: signature,
        };
        let mut call = call.abi_encode();
        if !refund.claims.is_empty() {
            let claim =
                self.claim_call(&refund.claims, refund.claim_authorizer_signature.as_ref())?;
            let data = vec![claim.into(), call.into()];
            call = IChannelHub::multicallCall { data }.abi_encode();
        }
        let id = format!("refund:{}:{HUB}:{channel}:{nonce}", self.terms.chain_id);
        let job = self.job(SettlementKind::Refund, id, config.payer, call);
        Ok(Job { amount, nonce: channel, gas_limit: self.gas_of(refund.claims.len()), ..job })
    }

    /// What was claimed and not paid out makes a payout another one.
    async fn payout(&self, payout: &SettlePayload) -> Result<Job, Declined> {
        let SettlePayload { receiver, token } = *payout;
        if receiver != self.terms.pay_to {
            return Err(no("receiver_mismatch", "the payout is for another receiver"));
        }
        if token != self.terms.asset {
            return Err(no("token_mismatch", "the payout is of another token"));
        }
        let ask = IChannelHub::receiversCall { receiver, token };
        let at = self.inner.newest();
        let answer = self.inner.rpc.eth_call(HUB, None, &ask.abi_encode().into(), at).await?;
        let totals = IChannelHub::receiversCall::abi_decode_returns_validate(&answer)
            .map_err(EngineError::from)?;
        let id = format!(
            "payout:{}:{HUB}:{receiver}:{token}:{}",
            self.terms.chain_id, totals.totalClaimed
        );
        let known = self.inner.store.settlement(&id).await?;
        let is_waited_for =
            known.is_some_and(|row| row.state != SettlementState::Failed && !row.told);
        if totals.totalClaimed == totals.totalSettled && !is_waited_for {
            return Err(no("nothing_to_settle", "all that was claimed is paid out"));
        }
        let call = IChannelHub::settleCall { receiver, token }.abi_encode();
        Ok(self.job(SettlementKind::Payout, id, receiver, call))
    }
}

/// Reads what to settle.
pub(super) async fn job(inner: &Inner, request: &FacilitatorRequest) -> Result<Job, Declined> {
    let (asked, payload) = Asked::of(inner, request)?;
    let job = match &payload {
        Payload::Deposit(deposit) => {
            let job = asked.deposit(deposit)?;
            covered(inner, &deposit.voucher, deposit.deposit.amount, job.is_known(inner).await?)
                .await?;
            job
        }
        Payload::Claim(claim) => asked.claim(claim)?,
        Payload::Refund(refund) => asked.refund(refund)?,
        Payload::Settle(payout) => asked.payout(payout).await?,
        Payload::Voucher(_) => {
            let why = "vouchers are claimed, many at a time";
            return Err(no("unknown_settle_action", why));
        }
    };
    Ok(job)
}

/// Looks whether a payment of a channel is good; answers with the payer and the channel as it is.
pub(super) async fn verify(
    inner: &Inner,
    request: &FacilitatorRequest,
) -> Result<(Address, ChannelState), Declined> {
    let (asked, payload) = Asked::of(inner, request)?;
    match &payload {
        Payload::Deposit(deposit) => {
            let payer = deposit.channel_config.payer;
            let look = async {
                let job = asked.deposit(deposit)?;
                let is_known = match inner.store.settlement(&job.id).await? {
                    Some(row) if row.told || !job.is(&row) => {
                        return Err(used("the deposit was made before"));
                    }
                    Some(row) => row.state != SettlementState::Failed,
                    None => false,
                };
                if !is_known {
                    let checked = check::now(inner, &job).await;
                    checked.map_err(|declined| named(job.kind, declined))?;
                }
                covered(inner, &deposit.voucher, deposit.deposit.amount, is_known).await
            };
            let state = look.await.map_err(|declined: Declined| declined.payer(payer))?;
            Ok((payer, state))
        }
        Payload::Voucher(vouched) => {
            let config = &vouched.channel_config;
            let state = spendable(&asked, config, &vouched.voucher, false).await;
            Ok((config.payer, state.map_err(|declined| declined.payer(config.payer))?))
        }
        Payload::Refund(refund) => {
            let config = &refund.channel_config;
            let state = spendable(&asked, config, &refund.voucher, true).await;
            let state = state.map_err(|declined| declined.payer(config.payer))?;
            if state.balance == state.total_claimed {
                let why = "nothing is left in the channel";
                return Err(no("refund_no_balance", why).payer(config.payer));
            }
            Ok((config.payer, state))
        }
        Payload::Claim(_) | Payload::Settle(_) => {
            Err(no("payload_type", "only a buyer's payloads are verified"))
        }
    }
}

async fn spendable(
    asked: &Asked<'_>,
    config: &ChannelConfig,
    voucher: &Voucher,
    is_refund: bool,
) -> Result<ChannelState, Declined> {
    asked.offered(config)?;
    let id = asked.vouched(config, voucher)?;
    let state = state(asked.inner, id, asked.inner.newest()).await?;
    let max = voucher.max_claimable_amount;
    if state.balance == 0 {
        return Err(no("channel_not_found", "the channel holds nothing"));
    }
    if max > state.balance {
        return Err(no("cumulative_exceeds_balance", "the voucher is over more than it holds"));
    }
    if max < state.total_claimed || (max == state.total_claimed && !is_refund) {
        return Err(no("cumulative_below_claimed", "the voucher is over no more than was claimed"));
    }
    Ok(state)
}

/// Is a deposit's voucher over no more than the channel holds with it? `is_there`: the deposit may be
/// in the balance already.
async fn covered(
    inner: &Inner,
    voucher: &Voucher,
    deposit: u128,
    is_there: bool,
) -> Result<ChannelState, Declined> {
    let state = state(inner, voucher.channel_id, inner.newest()).await?;
    let max = voucher.max_claimable_amount;
    if max > state.balance.saturating_add(deposit) {
        let why = "the voucher is over more than the channel will hold";
        return Err(no("cumulative_exceeds_balance", why));
    }
    if max < state.total_claimed && !is_there {
        return Err(no("cumulative_below_claimed", "the voucher is over less than was claimed"));
    }
    Ok(state)
}

/// Reads a channel.
async fn state(inner: &Inner, id: B256, at: At) -> Result<ChannelState, EngineError> {
    let call = |data: Vec<u8>| json!({ "to": HUB, "data": Bytes::from(data) });
    let calls = vec![
        call(IChannelHub::channelsCall { channelId: id }.abi_encode()),
        call(IChannelHub::pendingWithdrawalsCall { channelId: id }.abi_encode()),
        call(IChannelHub::refundNonceCall { channelId: id }.abi_encode()),
    ];
    let answers = inner.rpc.eth_calls(calls, at).await?;
    let [channel, pending, refunds] = answers.as_slice() else {
        return Err(EngineError::Encode("three questions, other answers".into()));
    };
    let channel = IChannelHub::channelsCall::abi_decode_returns_validate(channel)?;
    let pending = IChannelHub::pendingWithdrawalsCall::abi_decode_returns_validate(pending)?;
    Ok(ChannelState {
        channel_id: id,
        balance: channel.balance,
        total_claimed: channel.totalClaimed,
        withdraw_requested_at: pending.initiatedAt.to(),
        refund_nonce: IChannelHub::refundNonceCall::abi_decode_returns_validate(refunds)?,
        charged_cumulative_amount: None,
    })
}

/// An answer's fields beside the transaction: base units that moved, and the channel after it.
pub(super) async fn told(
    inner: &Inner,
    request: &FacilitatorRequest,
    job: &Job,
    hash: B256,
) -> Result<(Option<String>, Option<Map<String, Value>>), Declined> {
    let channel = match Payload::read(&request.payment_payload.payload) {
        Ok(Payload::Deposit(deposit)) => Some(deposit.voucher.channel_id),
        Ok(Payload::Refund(refund)) => Some(refund.voucher.channel_id),
        _ => None,
    };
    let amount = match job.kind {
        SettlementKind::Exact | SettlementKind::Delegated => return Ok((None, None)),
        SettlementKind::Deposit => job.amount.to_string(),
        SettlementKind::Claim => String::new(),
        SettlementKind::Payout | SettlementKind::Refund => {
            moved(inner, job, hash).await?.to_string()
        }
    };
    let extra = match channel {
        Some(id) => {
            let state = state(inner, id, inner.newest()).await?;
            Some(Map::from_iter([("channelState".to_owned(), json!(state))]))
        }
        None => None,
    };
    Ok((Some(amount), extra))
}

/// Reads how much a payout or a refund moved.
async fn moved(inner: &Inner, job: &Job, hash: B256) -> Result<u128, EngineError> {
    let receipt = match inner.head() {
        Some(head) => inner.rpc.receipts(&head, &[hash]).await?.into_iter().flatten().next(),
        None => None,
    };
    let receipt = receipt.ok_or_else(|| EngineError::Encode(format!("{hash} has no receipt")))?;
    let own = receipt.inner.logs().iter().filter(|log| log.address() == HUB);
    let amounts = own.filter_map(|log| match job.kind {
        SettlementKind::Refund => IChannelHub::Refunded::decode_log(&log.inner)
            .ok()
            .filter(|event| event.channelId == job.nonce)
            .map(|event| event.amount),
        _ => IChannelHub::Settled::decode_log(&log.inner)
            .ok()
            .filter(|event| event.receiver == job.payee && event.token == job.asset)
            .map(|event| event.amount),
    });
    Ok(amounts.fold(0, u128::saturating_add))
}
