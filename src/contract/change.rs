//! A change of policy, decoded and told in words: what operators read before they sign.

use std::collections::BTreeMap;

use alloy::{
    primitives::{Address, Bytes, FixedBytes, U256},
    sol_types::{SolCall, SolInterface},
};
use jiff::Timestamp;

use super::abi::{
    AgentLimits,
    IPolicyChanges::{self, IPolicyChangesCalls as Calls},
    PayeeLimits,
};
use super::coupon::CouponGrant;
use super::escrow::{IWorkEscrow::IWorkEscrowCalls, Terms, opener};
use crate::money::Usdc;

/// Names for what a change mentions. Nothing is decided by them; unknown ones stay hexadecimal.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Agents and payees by address.
    pub accounts: BTreeMap<Address, String>,
    /// Category names; the position is the bit in the contract.
    pub categories: Vec<String>,
}

/// Calldata that is not a change of policy.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Not one of `IPolicyChanges`, or its arguments cannot be decoded.
    #[error("not a change this version of bursar knows: {0}; do not sign it")]
    Unknown(String),
    /// The same arguments encode differently: hidden bytes after or between the fields.
    #[error("the change carries bytes beside its fields; do not sign it")]
    NotCanonical,
}

/// Reads a change of policy.
///
/// # Errors
/// [`ChangeError`] for an unknown selector, arguments that do not decode, or calldata that is not
/// exactly what its fields encode to (what is shown must be all there is).
pub fn decode(change: &[u8]) -> Result<Calls, ChangeError> {
    let call = Calls::abi_decode_validate(change)
        .map_err(|error| ChangeError::Unknown(error.to_string()))?;
    if call.abi_encode() == change { Ok(call) } else { Err(ChangeError::NotCanonical) }
}

/// Tells a change of policy in words, completely: every field that the contract will act on.
///
/// # Errors
/// As [`decode`].
pub fn describe(change: &[u8], names: &Names) -> Result<String, ChangeError> {
    Ok(match decode(change)? {
        Calls::setAgent(call) => {
            format!("Set agent {}: {}", names.account(call.agent), names.agent(&call.limits))
        }
        Calls::setPayee(call) if call.limits.categories == 0 => {
            format!("Remove payee {}", names.account(call.payee))
        }
        Calls::setPayee(call) => {
            format!("Add payee {}: {}", names.account(call.payee), names.payee(&call.limits))
        }
        Calls::setWalletCap(call) => {
            format!("Set the wallet's cap over any 24 hours: {}", cap(call.cap, U256::MAX))
        }
        Calls::setFrozen(call) => {
            let who = if call.agent == Address::ZERO {
                "the whole wallet".to_owned()
            } else {
                format!("agent {}", names.account(call.agent))
            };
            format!("{} {who}", if call.frozen { "Freeze" } else { "Unfreeze" })
        }
        Calls::setOperators(call) => format!(
            "Change the operators: add {}; remove {}; {} of them must sign from then on",
            names.signers(&call.add),
            names.signers(&call.remove),
            call.threshold
        ),
        Calls::setDelay(call) if call.delay == u32::MAX => {
            format!("Give up {} for ever: it can never be changed again", selector(call.selector))
        }
        Calls::setDelay(call) => {
            format!("Let {} wait {} before it runs", selector(call.selector), seconds(call.delay))
        }
        Calls::publishPolicy(call) => format!("Publish the policy's hash {}", call.policyHash),
        Calls::withdraw(call) => {
            format!("Withdraw {} to {}", usdc(call.amount), names.account(call.to))
        }
        Calls::callEscrow(call) => names.escrow_call(&call.call)?,
        Calls::setCoupons(call) => {
            format!("Set coupons of agent {}: {}", names.account(call.agent), coupons(call.coupons))
        }
        Calls::setChannelAuthorizer(call) if call.longestDelay.is_zero() => {
            format!("Let {} claim from channels no more", names.account(call.authorizer))
        }
        Calls::setChannelAuthorizer(call) => format!(
            "Let {} claim for the receivers of channels that return what is left within {}",
            names.account(call.authorizer),
            long_seconds(call.longestDelay)
        ),
        Calls::closeChannel(call) => format!(
            "Close the channel from {} by {} to {}, claimed by {}, in token {}, delay {}, salt {}",
            names.account(call.payer),
            names.account(call.payerAuthorizer),
            names.account(call.receiver),
            names.account(call.receiverAuthorizer),
            call.token,
            long_seconds(U256::from(call.withdrawDelay)),
            call.salt
        ),
        Calls::cancelAgentNonce(call) => {
            format!("Void nonce {} of agent {}", call.nonce, names.account(call.agent))
        }
        // One level only: a revoked change is shown, a revoked revoke is not a thing to sign.
        Calls::revoke(call) => match decode(&call.change)? {
            Calls::revoke(_) => {
                return Err(ChangeError::Unknown("a revoke of a revoke".to_owned()));
            }
            _ => format!("Withdraw the pending change: {}", describe(&call.change, names)?),
        },
    })
}

impl Names {
    /// Adds the label that a proposed payee will have, unless its address has a name already.
    #[must_use]
    pub fn with_label(mut self, change: &[u8], label: Option<&str>) -> Self {
        if let (Some(label), Ok(Calls::setPayee(call))) = (label, decode(change)) {
            self.accounts.entry(call.payee).or_insert_with(|| label.to_owned());
        }
        self
    }

    /// Writes an address, with its name in front where it has one.
    #[must_use]
    pub fn account(&self, address: Address) -> String {
        match self.accounts.get(&address) {
            Some(name) => format!("{} ({address})", plain(name)),
            None => address.to_string(),
        }
    }

    /// Writes the categories of a bit set, lowest first.
    #[must_use]
    pub fn category_list(&self, bits: u16) -> String {
        let list: Vec<String> = (0..16)
            .filter(|bit| bits >> bit & 1 == 1)
            .map(|bit| {
                let name = self.categories.get(bit).map(|name| plain(name));
                name.unwrap_or_else(|| format!("category {bit}"))
            })
            .collect();
        if list.is_empty() { "none".to_owned() } else { list.join(", ") }
    }

    fn agent(&self, limits: &AgentLimits) -> String {
        let ceiling = U256::from(limits.ceiling);
        format!(
            "ceiling {}; day cap {}; 30-day cap {}; lifetime budget {}; until {}; categories {}",
            if ceiling.is_zero() {
                "0 (operators sign every payment)".into()
            } else {
                usdc(ceiling)
            },
            cap(U256::from(limits.dayCap), mask(48)),
            cap(U256::from(limits.monthCap), mask(48)),
            cap(U256::from(limits.budget), mask(64)),
            moment(limits.expiry.to()),
            self.category_list(limits.categories),
        )
    }

    fn payee(&self, limits: &PayeeLimits) -> String {
        format!(
            "categories {}; cap {}; cooldown {}",
            self.category_list(limits.categories),
            cap(U256::from(limits.cap), mask(48)),
            if limits.cooldown == 0 { "none".to_owned() } else { seconds(limits.cooldown) },
        )
    }

    /// What operators may do to an escrow in the wallet's name: release and dispute. The contract lets
    /// the quorum do more; nobody should sign what is not told.
    fn escrow_call(&self, data: &[u8]) -> Result<String, ChangeError> {
        let call = IWorkEscrowCalls::abi_decode_validate(data)
            .map_err(|error| ChangeError::Unknown(error.to_string()))?;
        if call.abi_encode() != data {
            return Err(ChangeError::NotCanonical);
        }
        match call {
            IWorkEscrowCalls::capture(call) => {
                let payouts: Vec<String> = call
                    .payouts
                    .iter()
                    .map(|part| format!("{} of 10000 to {}", part.bps, self.account(part.to)))
                    .collect();
                Ok(format!(
                    "Release {} in all from {}; payouts {}",
                    usdc(U256::from(call.cumulative)),
                    self.escrow(&call.terms),
                    if payouts.is_empty() { "none".to_owned() } else { payouts.join(", ") }
                ))
            }
            IWorkEscrowCalls::dispute(call) => Ok(format!(
                "Dispute, as {}, {}; evidence {}",
                self.account(call.party),
                self.escrow(&call.terms),
                call.evidence
            )),
            other => Err(ChangeError::Unknown(format!(
                "WorkEscrow's function {} is not for operators",
                FixedBytes::from(other.selector())
            ))),
        }
    }

    /// Names an escrow by what its parties know of it.
    fn escrow(&self, terms: &Terms) -> String {
        format!(
            "the escrow of {} for {}, opened by {} with salt {}, job {}",
            usdc(U256::from(terms.amount)),
            self.account(terms.payee),
            self.account(opener(terms)),
            terms.salt,
            terms.jobHash
        )
    }

    fn signers(&self, signers: &[Bytes]) -> String {
        let list: Vec<String> = signers
            .iter()
            .map(|signer| match <[u8; 20]>::try_from(signer.as_ref()) {
                Ok(plain) => self.account(plain.into()),
                // ERC-7913: a verifier's address, then the key.
                Err(_) => format!("key {signer}"),
            })
            .collect();
        if list.is_empty() { "nobody".to_owned() } else { list.join(", ") }
    }
}

/// Writes a name in a sentence. Names come from the daemon: one with brackets or semicolons could
/// pass for an address, or for another of the sentence's fields.
fn plain(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    name.chars().take(64).map(|c| if fits(c) { c } else { '\u{fffd}' }).collect()
}

fn mask(bits: usize) -> U256 {
    (U256::from(1) << bits) - U256::from(1)
}

fn cap(value: U256, off: U256) -> String {
    if value == off { "none".to_owned() } else { usdc(value) }
}

fn usdc(units: U256) -> String {
    match u64::try_from(units).ok().and_then(Usdc::from_units) {
        Some(amount) => format!("{amount} USDC"),
        None => format!("{units} base units of USDC"),
    }
}

fn moment(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map_or_else(|| format!("unix time {unix}"), |time| time.to_string())
}

fn seconds(seconds: u32) -> String {
    match seconds {
        0 => "no time".to_owned(),
        s if s % 86_400 == 0 => format!("{} d", s / 86_400),
        s if s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

/// Writes a number of seconds that may be out of all proportion.
fn long_seconds(value: U256) -> String {
    u32::try_from(value).map_or_else(|_| format!("{value} s"), seconds)
}

/// Tells every field of a grant, and what it adds up to.
fn coupons(word: U256) -> String {
    let grant = CouponGrant::unpack(word);
    if grant.period_s == 0 {
        return "none".to_owned();
    }
    let classes: Vec<String> = grant
        .classes
        .iter()
        .filter(|class| class.count != 0)
        .map(|class| format!("{} of at most {}", class.count, usdc(U256::from(class.most))))
        .collect();
    format!(
        "every {}: {}; in all {} in each period, beside its other limits",
        seconds(grant.period_s),
        if classes.is_empty() { "none".to_owned() } else { classes.join(", ") },
        usdc(U256::from(grant.allotment()))
    )
}

/// Names a verb of `IPolicyChanges` by its selector.
fn selector(selector: FixedBytes<4>) -> String {
    let name = match selector.0 {
        IPolicyChanges::setAgentCall::SELECTOR => "setAgent",
        IPolicyChanges::setPayeeCall::SELECTOR => "setPayee",
        IPolicyChanges::setWalletCapCall::SELECTOR => "setWalletCap",
        IPolicyChanges::setFrozenCall::SELECTOR => "setFrozen",
        IPolicyChanges::setOperatorsCall::SELECTOR => "setOperators",
        IPolicyChanges::setDelayCall::SELECTOR => "setDelay",
        IPolicyChanges::publishPolicyCall::SELECTOR => "publishPolicy",
        IPolicyChanges::withdrawCall::SELECTOR => "withdraw",
        IPolicyChanges::callEscrowCall::SELECTOR => "callEscrow",
        IPolicyChanges::setCouponsCall::SELECTOR => "setCoupons",
        IPolicyChanges::setChannelAuthorizerCall::SELECTOR => "setChannelAuthorizer",
        IPolicyChanges::closeChannelCall::SELECTOR => "closeChannel",
        IPolicyChanges::cancelAgentNonceCall::SELECTOR => "cancelAgentNonce",
        IPolicyChanges::revokeCall::SELECTOR => "revoke",
        _ => return format!("the unknown verb {selector}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, address, aliases::U40, aliases::U48};

    use super::*;
    use crate::contract::coupon::CouponClass;
    use crate::contract::escrow::{IWorkEscrow, Payout, Proof, by, salt_of};

    const ACME: Address = address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");

    fn names() -> Names {
        Names {
            accounts: BTreeMap::from([(ACME, "Acme".to_owned())]),
            categories: vec!["data".to_owned(), "compute".to_owned()],
        }
    }

    fn told(call: impl SolCall) -> String {
        describe(&call.abi_encode(), &names()).unwrap()
    }

    #[test]
    fn every_change_is_told_completely() {
        let payee = |categories, cap, cooldown| IPolicyChanges::setPayeeCall {
            payee: ACME,
            limits: PayeeLimits { categories, cap, cooldown },
        };
        assert_eq!(
            told(payee(3, U48::MAX, 0)),
            "Add payee Acme (0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC): categories data, compute; \
             cap none; cooldown none"
        );
        assert_eq!(
            told(payee(4, U48::from(2_500_000), 7_200)),
            "Add payee Acme (0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC): categories category 2; \
             cap 2.5 USDC; cooldown 2 h"
        );
        assert!(told(payee(0, U48::MAX, 0)).starts_with("Remove payee Acme"));
        let new = payee(1, U48::MAX, 600).abi_encode();
        let unnamed = Names::default().with_label(&new, Some("newco"));
        assert!(describe(&new, &unnamed).unwrap().starts_with("Add payee newco (0x"));
        assert!(describe(&new, &unnamed).unwrap().ends_with("cooldown 10 min"));
        let named = names().with_label(&new, Some("newco"));
        assert!(describe(&new, &named).unwrap().starts_with("Add payee Acme (0x"));
        assert_eq!(
            told(IPolicyChanges::setAgentCall {
                agent: Address::repeat_byte(1),
                limits: AgentLimits {
                    ceiling: U48::from(1_000_000),
                    dayCap: U48::from(50_000_000),
                    monthCap: U48::MAX,
                    budget: u64::MAX,
                    expiry: U40::from(1_900_000_000_u64),
                    categories: 1,
                },
            }),
            "Set agent 0x0101010101010101010101010101010101010101: ceiling 1 USDC; day cap 50 USDC; \
             30-day cap none; lifetime budget none; until 2030-03-17T17:46:40Z; categories data"
        );
        assert_eq!(
            told(IPolicyChanges::setFrozenCall { agent: Address::ZERO, frozen: true }),
            "Freeze the whole wallet"
        );
        assert!(
            told(IPolicyChanges::setFrozenCall { agent: ACME, frozen: false })
                .starts_with("Unfreeze agent Acme (0x")
        );
        assert_eq!(
            told(IPolicyChanges::setWalletCapCall { cap: U256::MAX }),
            "Set the wallet's cap over any 24 hours: none"
        );
        assert_eq!(
            told(IPolicyChanges::setDelayCall {
                selector: IPolicyChanges::setPayeeCall::SELECTOR.into(),
                delay: 172_800,
            }),
            "Let setPayee wait 2 d before it runs"
        );
        assert!(
            told(IPolicyChanges::setOperatorsCall {
                add: vec![ACME.to_vec().into()],
                remove: vec![],
                threshold: 2,
            })
            .ends_with("remove nobody; 2 of them must sign from then on")
        );
        assert!(
            told(IPolicyChanges::withdrawCall { to: ACME, amount: U256::from(1) })
                .starts_with("Withdraw 0.000001 USDC to Acme")
        );
        let grant = CouponGrant {
            period_s: 3_600,
            classes: [
                CouponClass { count: 200, most: 10_000 },
                CouponClass { count: 5, most: 1_000_000 },
                CouponClass::default(),
                CouponClass::default(),
            ],
        };
        let set = |coupons| IPolicyChanges::setCouponsCall { agent: ACME, coupons };
        assert!(told(set(grant.pack().unwrap())).ends_with(
            "): every 1 h: 200 of at most 0.01 USDC, 5 of at most 1 USDC; in all 7 USDC in each \
             period, beside its other limits"
        ));
        assert!(told(set(U256::ZERO)).ends_with("): none"));
        let authorizer = |seconds: u64| IPolicyChanges::setChannelAuthorizerCall {
            authorizer: ACME,
            longestDelay: U256::from(seconds),
        };
        assert!(told(authorizer(172_800)).ends_with("return what is left within 2 d"));
        assert!(told(authorizer(1 << 40)).ends_with("within 1099511627776 s"));
        assert!(told(authorizer(0)).ends_with("claim from channels no more"));
        let close = told(IPolicyChanges::closeChannelCall {
            payer: Address::repeat_byte(1),
            payerAuthorizer: Address::repeat_byte(2),
            receiver: ACME,
            receiverAuthorizer: Address::repeat_byte(3),
            token: Address::repeat_byte(4),
            withdrawDelay: U40::from(900),
            salt: B256::repeat_byte(5),
        });
        assert!(close.starts_with("Close the channel from 0x0101"), "{close}");
        assert!(close.contains("to Acme (0x") && close.contains("delay 15 min"), "{close}");
        assert!(close.contains(&B256::repeat_byte(5).to_string()), "{close}");
        assert!(
            told(IPolicyChanges::revokeCall { change: payee(0, U48::MAX, 0).abi_encode().into() })
                .starts_with("Withdraw the pending change: Remove payee Acme")
        );
    }

    #[test]
    fn what_operators_do_to_an_escrow_is_told_and_nothing_else() {
        let agent = Address::repeat_byte(7);
        let terms = Terms {
            payee: ACME,
            amount: 250_000_000,
            salt: salt_of(agent, 5),
            jobHash: B256::repeat_byte(9),
            ..Terms::default()
        };
        let through = |call: Vec<u8>| {
            let change = IPolicyChanges::callEscrowCall { call: call.into() };
            describe(&change.abi_encode(), &names())
        };
        let dispute = IWorkEscrow::disputeCall {
            terms: terms.clone(),
            party: Address::repeat_byte(1),
            evidence: B256::repeat_byte(2),
            deadline: U256::ZERO,
            signature: Bytes::new(),
        };
        let told = through(dispute.abi_encode()).unwrap();
        assert!(told.starts_with("Dispute, as 0x0101"), "{told}");
        assert!(
            told.contains("250 USDC for Acme (0x") && told.contains(&agent.to_string()),
            "{told}"
        );
        let capture = IWorkEscrow::captureCall {
            terms: terms.clone(),
            payouts: vec![Payout { to: agent, bps: 300 }],
            cumulative: 100_000_000,
            proof: Proof { claims: by::PAYER, ..Proof::default() },
        };
        let told = through(capture.abi_encode()).unwrap();
        assert!(told.starts_with("Release 100 USDC in all"), "{told}");
        assert!(told.ends_with(&format!("payouts 300 of 10000 to {agent}")), "{told}");
        let other = IWorkEscrow::reclaimCall { terms };
        assert!(matches!(through(other.abi_encode()), Err(ChangeError::Unknown(_))));
        let mut padded = capture.abi_encode();
        padded.extend([0; 32]);
        assert!(matches!(through(padded), Err(ChangeError::NotCanonical)));
    }

    #[test]
    fn a_name_cannot_pass_for_an_address_or_a_field() {
        let evil = format!("acme ({ACME})\u{1b}[8m");
        let names = Names {
            accounts: BTreeMap::from([(Address::ZERO, evil)]),
            categories: vec!["data; cap none".to_owned()],
        };
        let shown = names.account(Address::ZERO);
        assert!(!shown.contains(&format!("({ACME})")) && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.ends_with(&format!("({})", Address::ZERO)), "{shown}");
        assert!(!names.category_list(1).contains(';'));
    }

    #[test]
    fn what_cannot_be_shown_whole_is_not_shown() {
        let mut padded = IPolicyChanges::setFrozenCall { agent: ACME, frozen: true }.abi_encode();
        padded.extend([0; 32]);
        assert!(matches!(decode(&padded), Err(ChangeError::NotCanonical)));
        assert!(matches!(decode(&[1, 2, 3, 4, 5]), Err(ChangeError::Unknown(_))));
        assert!(matches!(decode(&[]), Err(ChangeError::Unknown(_))));
    }
}
