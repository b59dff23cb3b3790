//! Which offer is taken: each is judged, the cheapest that passes is paid.

use alloy::primitives::{Address, B256};

use super::{
    OfferView, PayerKind,
    call::Asked,
    channel,
    offer::{self, Offer, Wire},
};
use crate::{
    book::Book,
    config::ChainConfig,
    money::Usdc,
    payment::{AgentId, Context},
    policy::{FetchBy, FetchUsed},
    refusal::{Code, Refusal},
    x402::{self, Requirements, Terms, exact},
};

/// The rule that refuses another payee than before.
pub(super) const OTHER_PAYEE: &str = "offer.payee";

/// What an offer that passes is paid with.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub terms: Terms,
    pub price: Usdc,
    /// Who can pay it, the best first; never empty.
    pub payers: Vec<PayerKind>,
    /// Who was paid at this host before, where the payee never was.
    pub before: Option<Address>,
}

/// An offer and what was thought of it.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub offer: Offer,
    pub verdict: Result<Passed, Refusal>,
}

impl Judged {
    /// Takes away the payer that comes first, which refused; with the last one the offer is refused.
    pub(super) fn pass_over(&mut self, why: &Refusal) {
        if let Ok(passed) = &mut self.verdict {
            passed.payers = passed.payers.split_off(1.min(passed.payers.len()));
            if passed.payers.is_empty() {
                self.verdict = Err(why.clone());
            }
        }
    }
}

/// What offers are held against.
pub(super) struct Bench<'a> {
    pub chain: &'a ChainConfig,
    /// The separator of USDC's EIP-712 domain.
    pub domain: B256,
    pub book: &'a Book,
    pub agent: &'a AgentId,
    pub asked: &'a Asked,
    pub used: FetchUsed,
    pub now_s: u64,
    /// Has the agent a float?
    pub float: bool,
    /// May it pay through channels?
    pub channel: bool,
    /// Did the host let the last coupon lapse? Then it cannot check a contract's signature.
    pub plain_only: bool,
}

impl Bench<'_> {
    /// Judges every offer.
    pub(super) fn judge(&self, offers: Vec<Offer>) -> Vec<Judged> {
        offers
            .into_iter()
            .map(|offer| {
                let verdict = self.one(&offer);
                Judged { offer, verdict }
            })
            .collect()
    }

    /// Is it x402's `exact`, of our token: by EIP-3009, or of version 2 by ERC-7710?
    fn exact(&self, wire: &Wire, accepted: &Requirements) -> Result<(), Refusal> {
        let scheme = offer::shown(accepted.scheme());
        if accepted.scheme() != x402::EXACT {
            return no("offer.scheme", format!("scheme `{scheme}` is not paid"));
        }
        let method = exact::transfer_method(accepted);
        let delegated = wire.is_delegated();
        if method != exact::EIP3009 && !delegated {
            let method = offer::shown(method);
            return no("offer.scheme", format!("transfers by `{method}` are not made"));
        }
        let flow = accepted.extra_text("paymentFlow").unwrap_or("authorization");
        if !matches!(flow, "authorization" | "upfront") {
            let flow = offer::shown(flow);
            return no("offer.scheme", format!("payment flow `{flow}` is not known"));
        }
        match exact::offered_domain(accepted) {
            Some(domain) if domain.separator() == self.domain => Ok(()),
            Some(_) => no("offer.asset", "extra names another token than USDC"),
            // The wallet's own contract knows what it pays with.
            None if delegated => Ok(()),
            None => no("offer.asset", "extra.name and extra.version of the token are missing"),
        }
    }

    fn one(&self, offer: &Offer) -> Result<Passed, Refusal> {
        let terms = match &offer.terms {
            Ok(terms) => terms.clone(),
            Err(why) => return no("offer", why.clone()),
        };
        if terms.chain_id != self.chain.chain_id {
            let ours = x402::caip2(self.chain.chain_id);
            return no("offer.network", format!("`{}` is not {ours}", offer.network));
        }
        if terms.asset != self.chain.usdc {
            return no("offer.asset", format!("{} is not the wallet's USDC", terms.asset));
        }
        match &offer.wire {
            Wire::V2(_, accepted) if accepted.scheme() == x402::BATCH_SETTLEMENT => {
                if let Err(why) = channel::wanted(accepted) {
                    return no("offer.scheme", why);
                }
            }
            Wire::V2(_, accepted) | Wire::V1(accepted) => self.exact(&offer.wire, accepted)?,
            Wire::Mpp(_) => {}
        }
        if let Some(host) = &offer.resource_host
            && *host != self.asked.host
        {
            let host = offer::shown(host);
            let detail = format!("it is for {host}, and {} was called", self.asked.host);
            return no("offer.resource", detail);
        }
        let Some(price) = terms.usdc() else {
            return no("offer.price", format!("{} is more than all USDC", terms.amount));
        };
        if let Some(quote) = self.asked.quote
            && quote != offer.quote
        {
            let (rule, detail) = match self.quoted_payee(offer, quote) {
                Some(payee) => {
                    let detail =
                        format!("the offer that was quoted pays {payee}, this one another");
                    (OTHER_PAYEE, detail)
                }
                None => ("quote", "it is not the offer that was quoted".to_owned()),
            };
            return Err(Refusal::new(Code::OfferChanged, detail)
                .rule(rule)
                .hint("inspect the URL again, and decide anew"));
        }
        if let Some(most) = self.asked.max_price
            && price > most
        {
            let detail = format!("{price} USDC is above max_price, {most} USDC");
            return Err(Refusal::new(Code::PriceTooHigh, detail).rule("max_price").room(
                most,
                Usdc::ZERO,
                most,
            ));
        }
        let context = Context { host: Some(self.asked.host.clone()), ..Context::default() };
        let judged = self.book.judge_fetch(
            self.agent,
            (terms.pay_to, price),
            &context,
            self.used,
            if offer.wire.is_delegated() { FetchBy::Counted } else { FetchBy::Apart },
            self.now_s,
        );
        judged?;
        let payers = self.payers(&offer.wire, &terms, price);
        if payers.is_empty() {
            let detail = if offer.wire.is_channel() {
                "nothing can pay it: the agent's policy has no fetch.channel"
            } else {
                "nothing can pay it: no coupon of the wallet is good for it, and the agent's policy \
                 has no fetch.float"
            };
            return no("payer", detail);
        }
        Ok(Passed { terms, price, payers, before: None })
    }

    /// Finds the registered payee of an offer that was quoted, where this one differs from it in nothing
    /// but its payee.
    fn quoted_payee(&self, offer: &Offer, quote: B256) -> Option<Address> {
        self.book.payees.keys().copied().find(|payee| offer.quote_to(*payee) == Some(quote))
    }

    /// Who can pay it. The wallet itself comes first: its limits are on chain, and a float is money
    /// that a stolen key of it could take.
    fn payers(&self, wire: &Wire, terms: &Terms, price: Usdc) -> Vec<PayerKind> {
        if wire.is_channel() {
            return if self.channel { vec![PayerKind::Channel] } else { Vec::new() };
        }
        if wire.is_delegated() {
            return vec![PayerKind::Delegation];
        }
        // MPP's sellers recover an account from the signature; a contract has none.
        let plain_only = matches!(wire, Wire::Mpp(_)) || (self.plain_only && self.float);
        // What is counted by payee cannot be counted while the token asks: the contract says no.
        let counts = self
            .book
            .payees
            .get(&terms.pay_to)
            .is_some_and(|known| known.record.cap.is_some() || known.record.cooldown_s != 0);
        let known = self.book.agents.get(self.agent);
        let fits = known.is_some_and(|known| {
            let within = known.chain.as_ref().is_some_and(|chain| price <= chain.ceiling);
            within && !known.coupons.fitting(price.units()).is_empty()
        });
        let coupon = !plain_only && !counts && fits;
        let all = [(PayerKind::Coupon, coupon), (PayerKind::Float, self.float)];
        all.into_iter().filter_map(|(kind, can)| can.then_some(kind)).collect()
    }
}

/// Refuses an offer: none of its kind is taken.
fn no<T>(rule: &str, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(Code::NoOffer, detail).rule(rule))
}

/// Lists the offers that pass by their place, the cheapest first; of equals a channel, then the first one
/// offered.
pub(super) fn by_price(judged: &[Judged]) -> Vec<usize> {
    let rank = |(place, one): (usize, &Judged)| {
        let passed = one.verdict.as_ref().ok()?;
        // Of equals a channel, where there may be one: the next call is a signature.
        Some((passed.price, !one.offer.wire.is_channel(), place))
    };
    let mut passed: Vec<_> = judged.iter().enumerate().filter_map(rank).collect();
    passed.sort_unstable();
    passed.into_iter().map(|(.., place)| place).collect()
}

/// Says why none of the offers is taken.
pub(super) fn refusal(judged: &[Judged]) -> Refusal {
    let mut refused = judged.iter().filter_map(|one| {
        let refusal = one.verdict.as_ref().err()?;
        Some((&one.offer, refusal))
    });
    // What a policy or the caller refused says more than what could not be used at all, and another payee
    // more than anything.
    let best = refused
        .clone()
        .find(|(_, refusal)| refusal.rule.as_deref() == Some(OTHER_PAYEE))
        .or_else(|| refused.clone().find(|(_, refusal)| refusal.code != Code::NoOffer))
        .or_else(|| refused.next());
    let Some((_, first)) = best else {
        return Refusal::new(Code::NoOffer, "the seller asks for payment and offers no way to pay")
            .hint(
                "it may speak a protocol that is not known here: x402 v2 (exact, batch-settlement) and \
                 v1 (exact), and MPP (evm/charge) are",
            );
    };
    let mut first = first.clone();
    if judged.len() > 1 {
        let each: Vec<String> = judged
            .iter()
            .filter_map(|one| {
                let why = &one.verdict.as_ref().err()?.detail;
                Some(format!("{} on {}: {why}", one.offer.scheme, one.offer.network))
            })
            .collect();
        first.detail =
            format!("none of {} offers is acceptable: {}", judged.len(), each.join("; "))
                .chars()
                .take(1_000)
                .collect();
    }
    first
}

/// Shows the offers; `chosen` is the place of the one that is taken.
pub(super) fn views(judged: &[Judged], chosen: Option<usize>) -> Vec<OfferView> {
    judged
        .iter()
        .enumerate()
        .map(|(place, Judged { offer, verdict })| {
            let passed = verdict.as_ref().ok();
            OfferView {
                protocol: offer.wire.protocol().to_owned(),
                scheme: offer.scheme.clone(),
                network: offer.network.clone(),
                asset: offer.asset.clone(),
                price: passed.map_or_else(|| offer.price.clone(), |p| p.price.to_string()),
                pay_to: offer.pay_to.clone(),
                quote: offer.quote,
                payer: passed.and_then(|passed| passed.payers.first().copied()),
                chosen: chosen == Some(place),
                refusal: verdict.as_ref().err().cloned(),
            }
        })
        .collect()
}
