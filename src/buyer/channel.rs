//! Buying through a channel: the wallet's deposit, the agent's signature for each call.
//!
//! A deposit is a payment to the seller like any other, judged and counted by the wallet's contract when
//! it is made; what comes back restores no limit. Each call then costs one signature over the total so
//! far. Calls of one agent to one seller take turns; what a call cost is found out in `tally.rs`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256},
    signers::SignerSync as _,
    sol_types::SolCall as _,
};
use serde_json::Value;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, timeout},
};

use super::offer::{Offer, Wire};
use crate::{
    channel::{
        meter::OnChain,
        on_chain,
        purse::{NotPaid, PurseRow, PurseState},
    },
    contract::hub::{IChannelPayer, WITHDRAW_DELAY},
    engine::Inner,
    intake,
    money::Usdc,
    payment::{AgentId, Context, PaymentId, PaymentRequest},
    policy::FetchLimits,
    refusal::{Code, Refusal},
    store::Tx,
    x402::{
        Requirements, Terms,
        batch::{self, ChannelConfig, Vouched, Voucher},
    },
};

/// Longest wait of a call for its channel to be funded.
const WAIT: Duration = Duration::from_secs(15);
/// Longest wait of a call for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Pause between two looks at the channel.
const LOOK: Duration = Duration::from_millis(150);

type Lane = Arc<AsyncMutex<()>>;

/// Turns at the channels of one agent to one seller.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<(AgentId, Address), Lane>>);

impl Lanes {
    /// Waits for a turn.
    ///
    /// # Errors
    /// It takes too long: ask again.
    pub(super) async fn turn(
        &self,
        agent: &AgentId,
        seller: Address,
    ) -> Result<OwnedMutexGuard<()>, Refusal> {
        let lane = {
            let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits at those that are here only.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            Arc::clone(lanes.entry((agent.clone(), seller)).or_default())
        };
        timeout(TURN, lane.lock_owned()).await.map_err(|_| {
            let detail = "the agent's other calls to this seller take long: one is out at a time";
            Refusal::new(Code::Unavailable, detail)
                .rule("fetch.channel")
                .retry_after(1)
                .hint("send the same request with the same Idempotency-Key again")
        })
    }
}

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

/// A purse that does not pay now, as its caller is told.
fn not_now(channel: B256, why: NotPaid) -> Refusal {
    Refusal::new(Code::Unavailable, format!("{channel}: {why}"))
        .rule("fetch.channel")
        .retry_after(1)
        .hint("send the same request with the same Idempotency-Key again")
}

/// A deposit that is refused, as its caller is told.
fn not_funded(mut refusal: Refusal) -> Refusal {
    refusal.detail = format!("the agent's channel cannot be funded: {}", refusal.detail);
    refusal
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
    /// Can a channel pay `price`, as far as that is known before one is asked for: is one open that has
    /// the room or is being filled, or would the deposit that it takes be allowed?
    ///
    /// # Errors
    /// Why not; `unavailable` where it is not known.
    pub(super) async fn possible(&self, price: Usdc, limits: &FetchLimits) -> Result<(), Refusal> {
        let wanted = self.wanted()?;
        let purse = self.open(&wanted).await?;
        let short = match &purse {
            Some(purse) => match purse.next(price) {
                Err(NotPaid::Short(short)) => short,
                Ok(_) | Err(NotPaid::Closing) => return Ok(()),
            },
            None => price,
        };
        let deposit = self.wants(purse.as_ref(), &wanted, short, limits).await?;
        deposit.map_or(Ok(()), |request| {
            intake::allows(self.inner, self.agent, &request).map_err(not_funded)
        })
    }

    fn wanted(&self) -> Result<Wanted, Refusal> {
        let offer = requirements(self.offer).ok_or_else(|| fault("not an offer of x402 v2"))?;
        wanted(offer).map_err(fault)
    }

    /// Finds a channel with room for `price`, or funds one and waits for it.
    ///
    /// # Errors
    /// A rule refuses the deposit, or it is not there yet: ask again.
    pub(super) async fn ready(&self, price: Usdc, limits: &FetchLimits) -> Result<B256, Refusal> {
        let wanted = self.wanted()?;
        let until = Instant::now() + WAIT;
        let mut asked = false;
        loop {
            let purse = self.find(&wanted, price).await?;
            let short = match &purse {
                Some(purse) => match purse.next(price) {
                    Ok(_) => return Ok(purse.id),
                    Err(NotPaid::Short(short)) => short,
                    Err(why @ NotPaid::Closing) => return Err(not_now(purse.id, why)),
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

    /// Reads the agent's open channel of this kind.
    async fn open(&self, wanted: &Wanted) -> Result<Option<PurseRow>, Refusal> {
        let all = self.inner.store.purses_to(self.agent, self.terms.pay_to).await?;
        let fits = |purse: &PurseRow| {
            purse.state == PurseState::Open
                && purse.chain.withdraw_since_s.is_none()
                && purse.config.receiver_authorizer == wanted.authorizer
                && purse.config.withdraw_delay == wanted.delay
                && purse.config.token == self.terms.asset
        };
        Ok(all.into_iter().find(fits))
    }

    /// The same, as the chain has it now if it lacks money.
    async fn find(&self, wanted: &Wanted, price: Usdc) -> Result<Option<PurseRow>, Refusal> {
        let inner = self.inner;
        let Some(mut purse) = self.open(wanted).await? else { return Ok(None) };
        if let (Err(NotPaid::Short(_)), Some(meters)) = (purse.next(price), &inner.meters) {
            let hub = meters.hub().address();
            let chain = on_chain::read(inner, hub, &[purse.id])
                .await
                .map_err(|error| Refusal::from(&error))?;
            let more = |chain: &OnChain| chain.balance > purse.chain.balance;
            // Everything else that the chain says is for `purses.rs` to note.
            if let Some(chain) = chain.into_iter().next().filter(more) {
                let read = purse.version;
                purse.version += 1;
                purse.chain.balance = chain.balance;
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
        let Some(request) = self.wants(purse, wanted, short, limits).await? else { return Ok(()) };
        intake::ask_for(self.inner, self.agent, "channel", request).await.map_err(not_funded)
    }

    /// Makes the payment that funds a channel; `None` if one is on its way.
    async fn wants(
        &self,
        purse: Option<&PurseRow>,
        wanted: &Wanted,
        short: Usdc,
        limits: &FetchLimits,
    ) -> Result<Option<intake::Request>, Refusal> {
        let (inner, agent) = (self.inner, self.agent);
        let config = match purse {
            Some(purse) => {
                if inner.store.is_funding(purse.id).await? {
                    return Ok(None);
                }
                purse.config
            }
            None => {
                self.allowed(wanted).await?;
                let address = inner.book().agents.get(agent).map(|known| known.address);
                ChannelConfig {
                    payer: inner.config.chain.wallet,
                    payer_authorizer: address.ok_or_else(|| fault("the agent is gone"))?,
                    receiver: self.terms.pay_to,
                    receiver_authorizer: wanted.authorizer,
                    token: self.terms.asset,
                    withdraw_delay: wanted.delay,
                    // An old channel's vouchers must not come to life again.
                    salt: B256::new(rand::random()),
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
            reason: format!("a deposit into the channel that pays for calls to {}", self.host),
            context: Context { host: Some(self.host.to_owned()), ..Context::default() },
        };
        let mut request = intake::read(inner, &request)?;
        request.channel = Some(Box::new(config));
        Ok(Some(request))
    }

    /// Does the wallet's contract let this authorizer claim? A receiver that claims for itself needs no
    /// leave within a day. Asked before a deposit, which would be refused on chain.
    async fn allowed(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let Wanted { authorizer, delay, .. } = *wanted;
        if authorizer == self.terms.pay_to && delay <= OWN_DELAY_S {
            return Ok(());
        }
        let inner = self.inner;
        let call = IChannelPayer::channelDelayCall { authorizer }.abi_encode().into();
        let unreadable = |why: &dyn std::fmt::Display| {
            let detail = format!("the wallet's contract cannot be read: {why}");
            Refusal::new(Code::Unavailable, detail).retry_after(2)
        };
        let answer = inner.rpc.eth_call(inner.config.chain.wallet, None, &call, inner.newest());
        let answer = answer.await.map_err(|error| unreadable(&error))?;
        let longest = IChannelPayer::channelDelayCall::abi_decode_returns(&answer)
            .map_err(|error| unreadable(&error))?;
        if longest >= alloy::primitives::U256::from(delay) {
            return Ok(());
        }
        let detail = format!(
            "{authorizer}, who claims for the seller after {delay} s at the latest, is not allowed to"
        );
        Err(Refusal::new(Code::NoOffer, detail)
            .rule("fetch.channel")
            .hint(format!("have the operators allow it: bursar policy claimer {authorizer}")))
    }

    /// Signs the voucher of a purchase, in the purchase's own commit.
    ///
    /// # Errors
    /// The channel was changed at the same time: ask again.
    pub(super) async fn voucher(
        &self,
        tx: &mut Tx,
        channel: B256,
        purchase: PaymentId,
        price: Usdc,
    ) -> Result<batch::Payload, Refusal> {
        let mut purse = tx.purse(channel).await?.ok_or_else(|| fault("its row is gone"))?;
        let read = purse.version;
        let voucher = sign(self.inner, &mut purse, purchase, price)?;
        if !tx.put_purse(&purse, read).await? {
            return Err(Refusal::new(
                Code::Unavailable,
                "the channel was changed at the same time",
            )
            .retry_after(1));
        }
        Ok(voucher)
    }
}

/// Seconds: the contract's longest delay where a receiver claims for itself and was not named.
const OWN_DELAY_S: u32 = 86_400;

/// Signs over what was charged so far and `price`. To be stored with the purse before it leaves.
pub(super) fn sign(
    inner: &Inner,
    purse: &mut PurseRow,
    purchase: PaymentId,
    price: Usdc,
) -> Result<batch::Payload, Refusal> {
    let total = purse.next(price).map_err(|why| not_now(purse.id, why))?;
    let Some(meters) = &inner.meters else { return Err(fault("this chain has no hub")) };
    let digest = meters.hub().voucher_digest(purse.id, total.units().into());
    let signer = inner.keys.agent(purse.key_index).map_err(fault)?;
    let signature = signer.sign_hash_sync(&digest).map_err(fault)?.as_bytes();
    purse.hold(&purchase.to_string(), total, &signature, inner.clock.now_ms());
    Ok(batch::Payload::Voucher(Vouched {
        channel_config: purse.config,
        voucher: Voucher {
            channel_id: purse.id,
            max_claimable_amount: total.units().into(),
            signature: signature.into(),
        },
    }))
}
