//! PolicyWallet and USDC as a model: what payments, nonces, caps, freezes and operators' orders do
//! to the state, with the contract's own errors and events. Written from `contracts/*.sol`; the
//! windows are `src/window.rs`, which its own tests hold against the contract's.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, B256, Bytes, LogData, Signature, U256, keccak256},
    sol_types::{Eip712Domain, SolCall, SolError, SolEvent, SolInterface},
};

use crate::{
    contract::{
        self, AgentLimits, ApprovedPayment, Batch,
        IPolicyChanges::IPolicyChangesCalls as Changes,
        IPolicyWallet::{self, IPolicyWalletCalls as Calls},
        IQuorum, IUsdc, PayBatch, PayeeLimits, Tighten,
        coupon::IX402Payer,
    },
    policy::overrides,
    window::{AgentWindow, WalletWindow},
};

/// Items plus batches of one call.
const MAX_ITEMS: usize = 200;
const OFF: u64 = (1 << 48) - 1;

/// Where the two contracts stand, and on which chain.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub chain_id: u64,
    pub wallet: Address,
    pub usdc: Address,
    pub domain: Eip712Domain,
}

/// One agent's words.
#[derive(Clone, Debug)]
pub(super) struct AgentWords {
    pub limits: AgentLimits,
    pub version: u64,
    pub frozen: bool,
    day: AgentWindow,
    month: AgentWindow,
}

/// Everything a block leaves behind.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub agents: BTreeMap<Address, AgentWords>,
    pub payees: BTreeMap<Address, PayeeLimits>,
    pub operators: Vec<Address>,
    pub threshold: u64,
    pub frozen: bool,
    wallet_day: WalletWindow,
    pub wallet_cap: u64,
    used: BTreeSet<(Address, U256)>,
    pub usdc: BTreeMap<Address, u64>,
    pub paused: bool,
    /// Account nonces.
    pub accounts: BTreeMap<Address, u64>,
}

/// What the operators do past the daemon, straight on chain.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Freeze(Address, bool),
    Void(Address, U256),
    DayCap(Address, u64),
    Pause(bool),
}

/// A log without its place.
pub(super) type Emitted = (Address, LogData);
/// What a call did: its answer and logs, or the revert's data.
pub(super) type Done = Result<(Bytes, Vec<Emitted>), Bytes>;

/// Who calls, and when.
#[derive(Clone, Copy)]
pub(super) struct Env<'a> {
    pub place: &'a Place,
    pub time_s: u64,
}

fn revert(error: impl SolError) -> Bytes {
    error.abi_encode().into()
}

impl State {
    pub(super) fn new(wallet: Address, balance: u64, operators: Vec<Address>) -> Self {
        Self {
            agents: BTreeMap::new(),
            payees: BTreeMap::new(),
            operators,
            threshold: 2,
            frozen: false,
            wallet_day: WalletWindow::wallet_day(),
            wallet_cap: OFF,
            used: BTreeSet::new(),
            usdc: BTreeMap::from([(wallet, balance)]),
            paused: false,
            accounts: BTreeMap::new(),
        }
    }

    pub(super) fn add_agent(&mut self, agent: Address, limits: AgentLimits) {
        let (day, month) = (AgentWindow::day(), AgentWindow::month());
        let words = AgentWords { limits, version: 1, frozen: false, day, month };
        self.agents.insert(agent, words);
    }

    pub(super) fn account(&self, who: Address) -> u64 {
        self.accounts.get(&who).copied().unwrap_or(0)
    }

    /* CALLS */

    /// Runs a call to `to`. What reverts has changed nothing.
    pub(super) fn run(&mut self, env: Env<'_>, to: Address, data: &[u8]) -> Done {
        let before = self.clone();
        let done =
            if to == env.place.usdc { self.ask_usdc(data) } else { self.ask_wallet(env, data) };
        if done.is_err() {
            *self = before;
        }
        done
    }

    fn ask_usdc(&self, data: &[u8]) -> Done {
        let call = IUsdc::balanceOfCall::abi_decode(data).map_err(|_| Bytes::new())?;
        let held = U256::from(self.usdc.get(&call.account).copied().unwrap_or(0));
        Ok((IUsdc::balanceOfCall::abi_encode_returns(&held).into(), Vec::new()))
    }

    fn ask_wallet(&mut self, env: Env<'_>, data: &[u8]) -> Done {
        let mut logs = Vec::new();
        if let Ok(call) = IQuorum::IQuorumCalls::abi_decode(data) {
            use IQuorum::{IQuorumCalls as Q, getSignersCall, thresholdCall};
            let answer = match call {
                Q::threshold(_) => thresholdCall::abi_encode_returns(&self.threshold),
                Q::getSigners(_) => getSignersCall::abi_encode_returns(
                    &self.operators.iter().map(|one| Bytes::from(one.to_vec())).collect(),
                ),
                _ => return Err(Bytes::new()),
            };
            return Ok((answer.into(), logs));
        }
        if IX402Payer::couponsCall::abi_decode(data).is_ok() {
            return Ok((IX402Payer::couponsCall::abi_encode_returns(&U256::ZERO).into(), logs));
        }
        let answer = match Calls::abi_decode(data).map_err(|_| Bytes::new())? {
            Calls::payBatch(call) => {
                self.pay_batch(env, &call.batches, &mut logs)?;
                Vec::new()
            }
            Calls::payApproved(call) => {
                self.pay_approved(env, &call, &mut logs)?;
                Vec::new()
            }
            Calls::tightenWithSignature(call) => {
                self.tighten(env, &call, &mut logs)?;
                Vec::new()
            }
            Calls::nonceUsed(call) => IPolicyWallet::nonceUsedCall::abi_encode_returns(
                &self.used.contains(&(call.agent, call.nonce)),
            ),
            Calls::agentLimits(call) => {
                let answer = match self.agents.get(&call.agent) {
                    Some(words) => IPolicyWallet::agentLimitsReturn {
                        limits: words.limits.clone(),
                        version: U256::from(words.version),
                        frozen: words.frozen,
                    },
                    None => IPolicyWallet::agentLimitsReturn {
                        limits: limits(0, 0, 0, 0, 0),
                        version: U256::ZERO,
                        frozen: false,
                    },
                };
                IPolicyWallet::agentLimitsCall::abi_encode_returns(&answer)
            }
            Calls::payeeLimits(call) => {
                let none =
                    PayeeLimits { categories: 0, cap: contract::narrow(0).unwrap(), cooldown: 0 };
                let limits = self.payees.get(&call.payee).cloned().unwrap_or(none);
                IPolicyWallet::payeeLimitsCall::abi_encode_returns(
                    &IPolicyWallet::payeeLimitsReturn {
                        limits,
                        spent: U256::ZERO,
                        lastPaid: U256::ZERO,
                    },
                )
            }
            Calls::walletCap(_) => {
                let cap =
                    if self.wallet_cap == OFF { U256::MAX } else { U256::from(self.wallet_cap) };
                IPolicyWallet::walletCapCall::abi_encode_returns(&cap)
            }
            Calls::walletFrozen(_) => {
                IPolicyWallet::walletFrozenCall::abi_encode_returns(&self.frozen)
            }
            Calls::readyAt(_) => IPolicyWallet::readyAtCall::abi_encode_returns(&U256::ZERO),
            _ => return Err(Bytes::new()),
        };
        Ok((answer.into(), logs))
    }

    /// Carries out what operators do past the daemon.
    pub(super) fn act(&mut self, env: Env<'_>, act: &Act) -> Vec<Emitted> {
        let mut logs = Vec::new();
        match act {
            Act::Freeze(agent, on) => self.freeze(env, *agent, *on, &mut logs),
            Act::Void(agent, nonce) => {
                // Used or voided before, it reverts.
                if self.used.insert((*agent, *nonce)) {
                    emit(
                        env,
                        &mut logs,
                        IPolicyWallet::NonceCancelled { agent: *agent, nonce: *nonce },
                    );
                }
            }
            Act::DayCap(agent, cap) => {
                let words = self.agents.get_mut(agent).unwrap();
                words.limits.dayCap = contract::narrow(*cap).unwrap();
                words.version += 1;
                let version = U256::from(words.version);
                let limits = words.limits.clone();
                emit(
                    env,
                    &mut logs,
                    IPolicyWallet::AgentChanged { agent: *agent, version, limits },
                );
            }
            Act::Pause(on) => self.paused = *on,
        }
        logs
    }

    fn freeze(&mut self, env: Env<'_>, agent: Address, on: bool, logs: &mut Vec<Emitted>) {
        if agent == Address::ZERO {
            self.frozen = on;
        } else if let Some(words) = self.agents.get_mut(&agent) {
            words.frozen = on;
        }
        emit(env, logs, IPolicyWallet::Frozen { agent, frozen: on });
    }

    /* PAYMENTS */

    fn pay_batch(
        &mut self,
        env: Env<'_>,
        batches: &[Batch],
        logs: &mut Vec<Emitted>,
    ) -> Result<(), Bytes> {
        if self.frozen {
            return Err(revert(IPolicyWallet::WalletFrozen {}));
        }
        let mut units = 0;
        for batch in batches {
            units += 1 + batch.items.len();
            let outcome = self
                .admit(env, batch, units)
                .and_then(|()| self.standing(env, batch.agent))
                .map(|()| self.run_batch(env, batch, logs));
            if let Err(error) = outcome {
                emit(
                    env,
                    logs,
                    IPolicyWallet::BatchSkipped {
                        agent: batch.agent,
                        nonce: batch.nonce,
                        reason: selector(&error),
                    },
                );
            }
        }
        Ok(())
    }

    fn admit(&self, env: Env<'_>, batch: &Batch, units: usize) -> Result<(), Bytes> {
        if batch.items.is_empty() || units > MAX_ITEMS {
            return Err(IPolicyWallet::BatchLength::SELECTOR.into());
        }
        if U256::from(env.time_s) > batch.deadline {
            return Err(revert(IPolicyWallet::DeadlinePassed { deadline: batch.deadline }));
        }
        if self.used.contains(&(batch.agent, batch.nonce)) {
            return Err(revert(IPolicyWallet::NonceUsed { nonce: batch.nonce }));
        }
        let message = PayBatch {
            agent: batch.agent,
            nonce: batch.nonce,
            deadline: batch.deadline,
            context: batch.context,
            items: batch.items.clone(),
        };
        let digest = contract::digest(&message, &env.place.domain);
        if signer(digest, batch.r, batch.vs) != Some(batch.agent) {
            return Err(revert(IPolicyWallet::InvalidSignature {}));
        }
        Ok(())
    }

    fn standing(&self, env: Env<'_>, agent: Address) -> Result<(), Bytes> {
        if self.frozen {
            return Err(revert(IPolicyWallet::WalletFrozen {}));
        }
        let Some(words) = self.agents.get(&agent) else {
            return Err(revert(IPolicyWallet::AgentInactive { agent }));
        };
        if words.frozen {
            return Err(revert(IPolicyWallet::AgentFrozen { agent }));
        }
        let expiry = words.limits.expiry.to::<u64>();
        if env.time_s >= expiry {
            return Err(revert(IPolicyWallet::AgentExpired { expiry: U256::from(expiry) }));
        }
        Ok(())
    }

    fn run_batch(&mut self, env: Env<'_>, batch: &Batch, logs: &mut Vec<Emitted>) {
        self.used.insert((batch.agent, batch.nonce));
        let mut count = 0_u64;
        let mut total = 0;
        for (index, item) in batch.items.iter().enumerate() {
            let (to, amount) = split(*item);
            let outcome = self
                .judge(env, batch.agent, to, amount, 0)
                .and_then(|()| self.transfer(env, to, amount, logs));
            match outcome {
                Ok(()) => {
                    self.book(env, batch.agent, amount, 0);
                    count += 1;
                    total += amount;
                }
                Err(error) => emit(
                    env,
                    logs,
                    IPolicyWallet::ItemSkipped {
                        agent: batch.agent,
                        nonce: batch.nonce,
                        index: U256::from(index),
                        reason: selector(&error),
                        left: error.get(36..68).map_or(U256::ZERO, U256::from_be_slice),
                    },
                ),
            }
        }
        let version = U256::from(self.agents[&batch.agent].version);
        emit(
            env,
            logs,
            IPolicyWallet::BatchPaid {
                agent: batch.agent,
                nonce: batch.nonce,
                count: U256::from(count),
                total: U256::from(total),
                version,
                context: batch.context,
            },
        );
    }

    fn pay_approved(
        &mut self,
        env: Env<'_>,
        call: &IPolicyWallet::payApprovedCall,
        logs: &mut Vec<Emitted>,
    ) -> Result<(), Bytes> {
        if U256::from(env.time_s) > call.deadline {
            return Err(revert(IPolicyWallet::DeadlinePassed { deadline: call.deadline }));
        }
        if !self.used.insert((call.agent, call.nonce)) {
            return Err(revert(IPolicyWallet::NonceUsed { nonce: call.nonce }));
        }
        let message = ApprovedPayment {
            agent: call.agent,
            to: call.to,
            amount: call.amount,
            nonce: call.nonce,
            deadline: call.deadline,
            context: call.context,
            overrides: call.overrides,
            policyVersion: call.policyVersion,
        };
        let digest = contract::digest(&message, &env.place.domain);
        if signer(digest, call.r, call.vs) != Some(call.agent) {
            return Err(revert(IPolicyWallet::InvalidSignature {}));
        }
        self.standing(env, call.agent)?;
        let current = U256::from(self.agents[&call.agent].version);
        if call.policyVersion != current {
            return Err(revert(IPolicyWallet::PolicyVersionChanged {
                signed: call.policyVersion,
                current,
            }));
        }
        let quorum: BTreeSet<Address> = call
            .quorum
            .chunks_exact(64)
            .filter_map(|half| {
                signer(digest, B256::from_slice(&half[..32]), B256::from_slice(&half[32..]))
            })
            .filter(|who| self.operators.contains(who))
            .collect();
        if (quorum.len() as u64) < self.threshold {
            return Err(revert(IPolicyWallet::InvalidQuorum {}));
        }
        let amount = u64::try_from(call.amount).map_err(|_| Bytes::new())?;
        let past = u8::try_from(call.overrides).map_err(|_| Bytes::new())?;
        self.judge(env, call.agent, call.to, amount, past)?;
        self.book(env, call.agent, amount, past);
        emit(
            env,
            logs,
            IPolicyWallet::Approved {
                agent: call.agent,
                nonce: call.nonce,
                payee: call.to,
                amount: call.amount,
                overrides: call.overrides,
                version: call.policyVersion,
                context: call.context,
            },
        );
        self.transfer(env, call.to, amount, logs)
    }

    fn judge(
        &self,
        env: Env<'_>,
        agent: Address,
        to: Address,
        amount: u64,
        past: u8,
    ) -> Result<(), Bytes> {
        let words = &self.agents[&agent];
        let asked = U256::from(amount);
        let categories = self.payees.get(&to).map_or(0, |payee| payee.categories);
        if past & overrides::PAYEE == 0 && categories & words.limits.categories == 0 {
            return Err(revert(IPolicyWallet::PayeeNotAllowed { asked, left: U256::ZERO }));
        }
        let ceiling = words.limits.ceiling.to::<u64>();
        if past & overrides::CEILING == 0 && amount > ceiling {
            let ceiling = U256::from(ceiling);
            return Err(revert(IPolicyWallet::CeilingExceeded { asked, ceiling }));
        }
        let room = |cap: u64, used: u64| if cap == OFF { OFF } else { cap.saturating_sub(used) };
        if past & overrides::AGENT_CAPS == 0 {
            let day = room(words.limits.dayCap.to(), words.day.used(env.time_s));
            if amount > day {
                return Err(revert(IPolicyWallet::DayCapExceeded { asked, left: U256::from(day) }));
            }
            let month = room(words.limits.monthCap.to(), words.month.used(env.time_s));
            if amount > month {
                let left = U256::from(month);
                return Err(revert(IPolicyWallet::MonthCapExceeded { asked, left }));
            }
        }
        if past & overrides::WALLET_CAP == 0 {
            let left = room(self.wallet_cap, self.wallet_day.used(env.time_s));
            if amount > left {
                let left = U256::from(left);
                return Err(revert(IPolicyWallet::WalletCapExceeded { asked, left }));
            }
        }
        Ok(())
    }

    fn book(&mut self, env: Env<'_>, agent: Address, amount: u64, past: u8) {
        let words = self.agents.get_mut(&agent).unwrap();
        if past & overrides::AGENT_CAPS == 0 {
            words.day.add(env.time_s, amount);
            words.month.add(env.time_s, amount);
        }
        if past & overrides::WALLET_CAP == 0 {
            self.wallet_day.add(env.time_s, amount);
        }
    }

    fn transfer(
        &mut self,
        env: Env<'_>,
        to: Address,
        amount: u64,
        logs: &mut Vec<Emitted>,
    ) -> Result<(), Bytes> {
        let held = self.usdc.entry(env.place.wallet).or_default();
        if self.paused || *held < amount {
            return Err(revert(IPolicyWallet::TransferFailed {}));
        }
        *held -= amount;
        *self.usdc.entry(to).or_default() += amount;
        let event = IUsdc::Transfer { from: env.place.wallet, to, value: U256::from(amount) };
        logs.push((env.place.usdc, event.encode_log_data()));
        Ok(())
    }

    fn tighten(
        &mut self,
        env: Env<'_>,
        call: &IPolicyWallet::tightenWithSignatureCall,
        logs: &mut Vec<Emitted>,
    ) -> Result<(), Bytes> {
        if U256::from(env.time_s) > call.deadline {
            return Err(revert(IPolicyWallet::DeadlinePassed { deadline: call.deadline }));
        }
        let account = Address::from_word(keccak256(&call.signer));
        if !self.used.insert((account, call.nonce)) {
            return Err(revert(IPolicyWallet::NonceUsed { nonce: call.nonce }));
        }
        let message =
            Tighten { change: call.change.clone(), nonce: call.nonce, deadline: call.deadline };
        let digest = contract::digest(&message, &env.place.domain);
        let who = Signature::try_from(call.signature.as_ref())
            .ok()
            .and_then(|signature| signature.recover_address_from_prehash(&digest).ok());
        let operator = Address::from_slice(&call.signer);
        if who != Some(operator) || !self.operators.contains(&operator) {
            return Err(revert(IPolicyWallet::InvalidSignature {}));
        }
        match Changes::abi_decode(&call.change).map_err(|_| Bytes::new())? {
            Changes::setFrozen(change) if change.frozen => {
                self.freeze(env, change.agent, true, logs);
            }
            _ => return Err(revert(IPolicyWallet::NotTightening {})),
        }
        let id = keccak256(&call.change);
        emit(env, logs, IPolicyWallet::ChangeExecuted { id, change: call.change.clone() });
        Ok(())
    }
}

/// An agent's limits, in base units; `OFF` caps nothing.
pub(super) fn limits(
    ceiling: u64,
    day: u64,
    month: u64,
    expiry_s: u64,
    categories: u16,
) -> AgentLimits {
    AgentLimits {
        ceiling: contract::narrow(ceiling).unwrap(),
        dayCap: contract::narrow(day).unwrap(),
        monthCap: contract::narrow(month).unwrap(),
        budget: u64::MAX,
        expiry: contract::narrow(expiry_s).unwrap(),
        categories,
    }
}

fn emit(env: Env<'_>, logs: &mut Vec<Emitted>, event: impl SolEvent) {
    logs.push((env.place.wallet, event.encode_log_data()));
}

fn selector(error: &[u8]) -> alloy::primitives::FixedBytes<4> {
    alloy::primitives::FixedBytes::from_slice(&error[..4])
}

fn split(item: B256) -> (Address, u64) {
    (Address::from_slice(&item[..20]), U256::from_be_slice(&item[20..]).to())
}

/// Who signed, in EIP-2098's form.
fn signer(digest: B256, r: B256, vs: B256) -> Option<Address> {
    let compact = [r.0, vs.0].concat();
    Signature::from_erc2098(&compact).recover_address_from_prehash(&digest).ok()
}
