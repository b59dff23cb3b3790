//! Buying through a channel: the wallet's deposit, the agent's signature for each call.
//!
//! A deposit is a payment to the seller like any other, judged and counted by the wallet's contract when
//! it is made; what comes back restores no limit. Each call then costs one signature over the total so
//! far, and one voucher is out at a time. What a lost answer cost is found out by the next call: the
//! seller shows our own signature over the total it charged, or takes the one that leaves it out.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256},
    signers::SignerSync as _,
};
use serde_json::{Map, Value};
use tokio::{sync::oneshot, time::Instant};

use super::offer::{Offer, Wire};
use crate::{
    channel::{
        on_chain,
        purse::{NotPaid, PurseRow, PurseState},
        voucher::VoucherKey,
    },
    contract::hub::WITHDRAW_DELAY,
    engine::{Inner, NonceClaim},
    intake,
    money::Usdc,
    payment::{AgentId, Context, PaymentId, PaymentRequest},
    policy::FetchLimits,
    refusal::{Code, Refusal},
    store::Tx,
    x402::{
        Requirements, SettleResponse, Terms,
        batch::{self, ChannelConfig, ChannelState, Vouched, Voucher, VoucherState},
    },
};

/// Longest wait of a call for its channel to be funded.
const WAIT: Duration = Duration::from_secs(20);
/// Pause between two looks at the channel.
const LOOK: Duration = Duration::from_millis(150);
/// Seconds that the nonce of a deposit's request is remembered.
const CLAIM_S: u64 = 60;

/// What a seller's offer fixes of a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    authorizer: Address,
    delay: u32,
    min_deposit: Usdc,
}

/// Reads an offer of the scheme.
///
/// # Errors
/// What of it cannot be used.
pub(super) fn wanted(offer: &Requirements) -> Result<Wanted, String> {
    let authorizer = offer
        .extra_text("receiverAuthorizer")
        .and_then(|text| text.parse::<Address>().ok())
        .filter(|authorizer| !authorizer.is_zero())
        .ok_or("extra.receiverAuthorizer is missing or no address")?;
    let delay = offer
        .extra("withdrawDelay")
        .and_then(Value::as_u64)
        .filter(|delay| WITHDRAW_DELAY.contains(delay))
        .and_then(|delay| u32::try_from(delay).ok())
        .ok_or("extra.withdrawDelay is not 900 to 2592000 seconds")?;
    let min_deposit = match offer.extra_text("minDeposit") {
        Some(text) => text
            .parse::<u64>()
            .ok()
            .and_then(Usdc::from_units)
            .ok_or("extra.minDeposit is no amount")?,
        None => Usdc::ZERO,
    };
    Ok(Wanted { authorizer, delay, min_deposit })
}

fn requirements(offer: &Offer) -> Option<&Requirements> {
    match &offer.wire {
        Wire::V2(_, accepted) => Some(accepted),
        Wire::V1(_) | Wire::Mpp(_) => None,
    }
}

fn fault(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, format!("the channel cannot be used: {what}"))
}

/// One agent's way to one seller.
pub(super) struct Way<'a> {
    pub inner: &'a Inner,
    pub agent: &'a AgentId,
    pub terms: &'a Terms,
    pub offer: &'a Offer,
    pub host: &'a str,
}

impl Way<'_> {
    /// Finds a channel with room for `price`, or funds one and waits for it.
    ///
    /// # Errors
    /// A rule refuses the deposit, or it is not there yet: ask again.
    pub(super) async fn ready(&self, price: Usdc, limits: &FetchLimits) -> Result<B256, Refusal> {
        let offer = requirements(self.offer).ok_or_else(|| fault("not an offer of x402 v2"))?;
        let wanted = wanted(offer).map_err(fault)?;
        let until = Instant::now() + WAIT;
        let mut asked = false;
        loop {
            let purse = self.find(&wanted).await?;
            let short = match &purse {
                Some(purse) => match purse.next("", price) {
                    Ok(_) | Err(NotPaid::Held(_)) => return Ok(purse.id),
                    Err(NotPaid::Short(short)) => short,
                    Err(NotPaid::Closing) => return Err(fault("it is being closed")),
                },
                None => price,
            };
            if !asked {
                self.deposit(purse.as_ref(), &wanted, short, limits).await?;
                asked = true;
            }
            if Instant::now() >= until {
                return Err(Refusal::new(Code::Unavailable, "the agent's channel is being funded")
                    .rule("fetch.channel")
                    .retry_after(2)
                    .hint("send the same request with the same Idempotency-Key again"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reads the agent's open channel of this kind, as the chain has it now if it lacks money.
    async fn find(&self, wanted: &Wanted) -> Result<Option<PurseRow>, Refusal> {
        let inner = self.inner;
        let all = inner.store.purses_to(self.agent, self.terms.pay_to).await?;
        let fits = |purse: &PurseRow| {
            purse.state == PurseState::Open
                && purse.config.receiver_authorizer == wanted.authorizer
                && purse.config.withdraw_delay == wanted.delay
                && purse.config.token == self.terms.asset
        };
        let Some(mut purse) = all.into_iter().find(fits) else { return Ok(None) };
        let price = self.terms.usdc().unwrap_or_default();
        if matches!(purse.next("", price), Err(NotPaid::Short(_))) {
            let hub = inner.config.channels.hub;
            let chain = on_chain::read(inner, hub, &[purse.id])
                .await
                .map_err(|error| Refusal::from(&error))?;
            if let Some(chain) = chain.into_iter().next().filter(|chain| *chain != purse.chain) {
                let read = purse.version;
                purse.seen(chain);
                let mut tx = inner.store.begin().await?;
                if tx.put_purse(&purse, read).await? {
                    tx.commit().await?;
                }
            }
        }
        Ok(Some(purse))
    }

    /// Asks for the payment that funds a channel, unless one is on its way.
    async fn deposit(
        &self,
        purse: Option<&PurseRow>,
        wanted: &Wanted,
        short: Usdc,
        limits: &FetchLimits,
    ) -> Result<(), Refusal> {
        let (inner, agent) = (self.inner, self.agent);
        // One at a time: of two that saw an empty channel, the second sees the first one's deposit.
        let _one = inner.shop.filling.lock().await;
        let config = match purse {
            Some(purse) => {
                let on_its_way = inner.store.is_funding(purse.id).await?;
                if on_its_way {
                    return Ok(());
                }
                purse.config
            }
            None => {
                if let Some(known) = self.find(wanted).await?
                    && inner.store.is_funding(known.id).await?
                {
                    return Ok(());
                }
                let address = inner.book().agents.get(agent).map(|known| known.address);
                ChannelConfig {
                    payer: inner.config.chain.wallet,
                    payer_authorizer: address.ok_or_else(|| fault("the agent is gone"))?,
                    receiver: self.terms.pay_to,
                    receiver_authorizer: wanted.authorizer,
                    token: self.terms.asset,
                    withdraw_delay: wanted.delay,
                    // An old channel's vouchers must not come to life again.
                    salt: B256::random(),
                }
            }
        };
        let most = limits.channel.unwrap_or(Usdc::ZERO);
        let amount = most.max(wanted.min_deposit).max(short);
        if amount > most {
            let detail = format!("the channel needs {amount} USDC, and may be given {most} USDC");
            return Err(Refusal::new(Code::PriceTooHigh, detail)
                .rule("fetch.channel")
                .room(most, Usdc::ZERO, most)
                .hint("have the operators raise fetch.channel, or buy by another scheme"));
        }
        let request = PaymentRequest {
            payee: self.terms.pay_to.to_string(),
            amount: amount.to_string(),
            currency: "USDC".to_owned(),
            reason: format!("a deposit into the channel out of which calls to {} are paid", self.host),
            context: Context { host: Some(self.host.to_owned()), ..Context::default() },
        };
        let mut request = intake::read(inner, &request)?;
        request.channel = Some(Box::new(config));
        let name = uuid::Uuid::now_v7().simple().to_string();
        let claim = NonceClaim {
            key_id: format!("channel:{agent}"),
            nonce: name.clone(),
            expires_s: inner.clock.now_s().saturating_add(CLAIM_S),
        };
        let (reply, answer) = oneshot::channel();
        let submit = intake::Submit {
            agent: agent.clone(),
            claim,
            key: format!("channel-{name}"),
            requests: vec![request],
            reply,
        };
        let busy = || Refusal::new(Code::Overloaded, "too many requests wait").retry_after(1);
        inner.intake.try_send(intake::Job::Submit(Box::new(submit))).map_err(|_| busy())?;
        answer.await.map_err(|_| busy())?.map(drop).map_err(|mut refusal| {
            refusal.detail = format!("the agent's channel cannot be funded: {}", refusal.detail);
            refusal
        })
    }

    /// Signs the voucher of a purchase, in the purchase's own commit.
    ///
    /// # Errors
    /// Another call's voucher is out: ask again.
    pub(super) async fn voucher(
        &self,
        tx: &mut Tx,
        channel: B256,
        purchase: PaymentId,
        price: Usdc,
    ) -> Result<batch::Payload, Refusal> {
        let inner = self.inner;
        let busy = |why: NotPaid| {
            Refusal::new(Code::Unavailable, format!("{channel}: {why}"))
                .rule("fetch.channel")
                .retry_after(1)
                .hint("send the same request with the same Idempotency-Key again")
        };
        let mut purse = tx.purse(channel).await?.ok_or_else(|| fault("its row is gone"))?;
        let read = purse.version;
        let name = purchase.to_string();
        let total = purse.next(&name, price).map_err(busy)?;
        let Some(meters) = &inner.meters else { return Err(fault("this chain has no hub")) };
        let digest = meters.hub().voucher_digest(channel, total.units().into());
        let index = inner.book().agents.get(self.agent).map(|known| known.policy.key_index);
        let index = index.ok_or_else(|| fault("the agent is gone"))?;
        let signer = inner.keys.agent(index).map_err(fault)?;
        let signature = signer.sign_hash_sync(&digest).map_err(fault)?.as_bytes();
        purse.hold(&name, price, total, &signature);
        if !tx.put_purse(&purse, read).await? {
            return Err(busy(NotPaid::Held("another".to_owned())));
        }
        Ok(batch::Payload::Voucher(Vouched {
            channel_config: purse.config,
            voucher: Voucher {
                channel_id: channel,
                max_claimable_amount: total.units().into(),
                signature: signature.into(),
            },
        }))
    }
}

/// What a seller's answer says of a channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    /// What the purchase cost.
    pub charged: Option<Usdc>,
    /// What was charged in all.
    pub total: Option<Usdc>,
    /// Our signature, and what it is over: the proof of `total` in a refusal.
    pub proof: Option<(Usdc, Vec<u8>)>,
}

fn units(text: Option<&Value>) -> Option<Usdc> {
    text?.as_str()?.parse::<u64>().ok().and_then(Usdc::from_units)
}

impl Word {
    /// Reads a receipt.
    pub(super) fn of_receipt(receipt: &SettleResponse) -> Self {
        let extra = receipt.extra.as_ref();
        Self {
            charged: units(extra.and_then(|extra| extra.get("chargedAmount"))),
            total: extra
                .and_then(|extra| extra.get("channelState"))
                .and_then(|state| units(state.get("chargedCumulativeAmount"))),
            proof: None,
        }
    }

    /// Reads a corrective offer of the scheme.
    pub(super) fn of_offer(offer: &Requirements) -> Option<Self> {
        let read = |key| offer.extra(key).cloned();
        let state: ChannelState = serde_json::from_value(read("channelState")?).ok()?;
        let proof: Option<VoucherState> =
            read("voucherState").and_then(|proof| serde_json::from_value(proof).ok());
        let narrow = |units: u128| u64::try_from(units).ok().and_then(Usdc::from_units);
        Some(Self {
            charged: None,
            total: u64::try_from(state.charged_cumulative_amount?).ok().and_then(Usdc::from_units),
            proof: proof
                .and_then(|p| Some((narrow(p.signed_max_claimable)?, p.signature.to_vec()))),
        })
    }
}

/// What became of a purchase, by its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// It was charged so much.
    Charged(Usdc),
    /// It was not charged.
    Nothing,
    /// Nobody knows yet.
    Unknown,
    /// The seller charged otherwise than it said: the channel is closed.
    Overcharged(Usdc),
}

/// Books what a seller's answer says of the channel, in the commit that books the answer.
///
/// # Errors
/// The store; the channel was changed at the same time.
pub(super) async fn book(
    inner: &Inner,
    tx: &mut Tx,
    channel: B256,
    purchase: PaymentId,
    word: &Word,
) -> Result<Cost, Refusal> {
    let Some(mut purse) = tx.purse(channel).await? else { return Ok(Cost::Unknown) };
    if purse.held.as_ref().is_none_or(|(by, _)| *by != purchase.to_string()) {
        return Ok(Cost::Unknown);
    }
    let (read, before) = (purse.version, purse.charged);
    let cost = if let Some(charged) = word.charged {
        match purse.charge(charged, word.total) {
            Ok(()) => Cost::Charged(charged),
            Err(_) => {
                purse.state = PurseState::Closing;
                Cost::Overcharged(purse.charged.saturating_sub(before))
            }
        }
    } else if let (Some(total), Some((ceiling, signature))) = (word.total, &word.proof) {
        let Some(meters) = &inner.meters else { return Ok(Cost::Unknown) };
        let digest = meters.hub().voucher_digest(channel, ceiling.units().into());
        let own = VoucherKey::recover(digest, signature, purse.config.payer_authorizer).is_ok();
        // The seller's word counts as far as our own signature goes, and no further.
        if !own || total > *ceiling || !purse.adopt(total) {
            return Ok(Cost::Unknown);
        }
        match purse.charged.saturating_sub(before) {
            Usdc::ZERO => Cost::Nothing,
            charged => Cost::Charged(charged),
        }
    } else {
        return Ok(Cost::Unknown);
    };
    if !tx.put_purse(&purse, read).await? {
        return Err(Refusal::new(Code::Unavailable, "the channel was changed at the same time")
            .retry_after(1));
    }
    Ok(cost)
}

/// Writes a payload as a map.
pub(super) fn fields(payload: &batch::Payload) -> Result<Map<String, Value>, Refusal> {
    match serde_json::to_value(payload).map_err(fault)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(fault("a payload that is no object")),
    }
}
