//! For what each transfer of a transaction was paid: by the wallet's own logs, in their order.

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    rpc::types::Log,
    sol_types::{SolEvent as _, SolEventInterface as _},
};

use crate::{
    config::ChainConfig,
    contract::{
        IPolicyWallet::IPolicyWalletEvents as Events, IUsdc, escrow::IEscrowPayer, token::IEip3009,
    },
    money::Usdc,
    payment::PaymentId,
    policy::overrides,
    store::PaymentRow,
};

/// Ways to put payments to a batch's items that are tried at most.
const TRIES: u32 = 20_000;

/// One payee's part of what a signature paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where the money went: of an escrow, for whom.
    pub payee: Address,
    pub amount: Usdc,
    /// The transfer's place among the block's logs.
    pub log: u64,
}

/// What the wallet paid on one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signed {
    pub agent: Address,
    /// None for `openEscrow` and `pay`, whose events do not name it.
    pub nonce: Option<U256>,
    /// The hash that was signed: of the payment's context, or of those of a batch.
    pub context: B256,
    /// The agent's policy version.
    pub version: u64,
    pub overrides: u8,
    pub escrow: Option<B256>,
    /// By `payBatch`.
    pub is_batch: bool,
    /// No item was left out.
    pub is_whole: bool,
    pub parts: Vec<Part>,
}

/// What a purchase by coupon sets aside: the wallet counts it nowhere.
const UNCOUNTED: u8 =
    overrides::CEILING | overrides::PAYEE | overrides::AGENT_CAPS | overrides::WALLET_CAP;

/// Reads a transaction's logs. In a batch the transfers come before the event that sums them up, at
/// every other door the event comes first. `coupons` tells whose coupon a nonce of USDC's is.
pub(super) fn read(
    config: &ChainConfig,
    logs: &[Log],
    coupons: impl Fn(B256) -> Option<Address>,
) -> Vec<Signed> {
    let mut found: Vec<Signed> = Vec::new();
    let (mut moved, mut skipped) = (Vec::new(), Vec::new());
    let mut announced: Option<Signed> = None;
    for log in logs {
        let single = |agent, nonce, context, version: U256, overrides: U256, payee, escrow| {
            let part = Part { payee, amount: Usdc::ZERO, log: 0 };
            Some(Signed {
                agent,
                nonce,
                context,
                version: version.saturating_to(),
                overrides: overrides.saturating_to(),
                escrow,
                is_batch: false,
                is_whole: true,
                parts: vec![part],
            })
        };
        if log.address() == config.usdc {
            if let Ok(used) = IEip3009::AuthorizationUsed::decode_log(&log.inner) {
                let used = used.data;
                if used.authorizer == config.wallet
                    && let Some(agent) = coupons(used.nonce)
                {
                    let uncounted = U256::from(UNCOUNTED);
                    let payee = Address::ZERO;
                    announced = single(agent, None, used.nonce, U256::ZERO, uncounted, payee, None);
                }
                continue;
            }
            let Some(part) = transfer(config, log) else { continue };
            match announced.take() {
                Some(mut signed) => {
                    // Of a coupon only the transfer says to whom.
                    let payee = signed.parts.first().map(|part| part.payee);
                    let payee = payee.filter(|payee| !payee.is_zero()).unwrap_or(part.payee);
                    signed.parts = vec![Part { payee, ..part }];
                    found.push(signed);
                }
                None => moved.push(part),
            }
        }
        if log.address() != config.wallet {
            continue;
        }
        if let Ok(log) = IEscrowPayer::EscrowOpened::decode_log(&log.inner) {
            let event = log.data;
            let (version, overrides) = (U256::from(event.version), U256::from(event.overrides));
            announced = single(
                event.agent,
                None,
                event.context,
                version,
                overrides,
                event.payee,
                Some(event.escrowId),
            );
            continue;
        }
        match Events::decode_log(&log.inner).map(|log| log.data) {
            Ok(Events::Paid(e)) => {
                let none = U256::ZERO;
                announced = single(e.agent, None, e.context, e.version, none, e.payee, None);
            }
            Ok(Events::Approved(e)) => {
                let nonce = Some(e.nonce);
                announced =
                    single(e.agent, nonce, e.context, e.version, e.overrides, e.payee, None);
            }
            Ok(Events::ItemSkipped(event)) => skipped.push((event.agent, event.nonce)),
            Ok(Events::BatchPaid(event)) => {
                let count = usize::try_from(event.count).unwrap_or(usize::MAX);
                let parts = moved.split_off(moved.len().saturating_sub(count));
                found.push(Signed {
                    agent: event.agent,
                    nonce: Some(event.nonce),
                    context: event.context,
                    version: event.version.saturating_to(),
                    overrides: 0,
                    escrow: None,
                    is_batch: true,
                    is_whole: !skipped.contains(&(event.agent, event.nonce)),
                    parts,
                });
            }
            _ => {}
        }
    }
    found
}

fn transfer(config: &ChainConfig, log: &Log) -> Option<Part> {
    let event = IUsdc::Transfer::decode_log(&log.inner).ok()?.data;
    let amount = u64::try_from(event.value).ok().and_then(Usdc::from_units)?;
    let is_own = event.from == config.wallet && !amount.is_zero();
    is_own.then_some(Part { payee: event.to, amount, log: log.log_index.unwrap_or_default() })
}

impl Signed {
    /// Finds the payments whose contexts were signed, one for each part, in their order. What is
    /// found is proven: the hash is over every payment's own.
    pub(super) fn proven<'a>(&self, payments: &'a [PaymentRow]) -> Option<Vec<&'a PaymentRow>> {
        if !self.is_batch {
            let [part] = self.parts[..] else { return None };
            let own = payments.iter().find(|payment| {
                payment.context_hash == self.context && payment.escrow == self.escrow
            })?;
            return (own.payee == part.payee && own.amount == part.amount).then(|| vec![own]);
        }
        if !self.is_whole || self.parts.is_empty() {
            return None;
        }
        let mut search = Search { signed: self, payments, taken: Vec::new(), left: TRIES };
        search.next().then_some(search.taken)
    }
}

/// Puts payments to a batch's items, one after the other, until the hash is right.
struct Search<'a, 'b> {
    signed: &'b Signed,
    payments: &'a [PaymentRow],
    taken: Vec<&'a PaymentRow>,
    left: u32,
}

impl Search<'_, '_> {
    fn next(&mut self) -> bool {
        let Some(part) = self.signed.parts.get(self.taken.len()).copied() else {
            self.left = self.left.saturating_sub(1);
            let contexts = self.taken.iter().flat_map(|payment| payment.context_hash.0);
            return keccak256(contexts.collect::<Vec<u8>>()) == self.signed.context;
        };
        for payment in self.payments {
            let id: PaymentId = payment.id;
            if payment.has_own_door()
                || payment.payee != part.payee
                || payment.amount != part.amount
                || self.taken.iter().any(|taken| taken.id == id)
            {
                continue;
            }
            self.taken.push(payment);
            if self.next() {
                return true;
            }
            self.taken.pop();
            if self.left == 0 {
                return false;
            }
        }
        false
    }
}
