//! The oracle: what must be true after every case, whatever was broken in it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, B256, U256},
    providers::Provider,
};
use bursar::{
    channel::voucher::VoucherKey,
    contract::hub::{HUB, Hub, IChannelHub},
    payment::{PaymentId, State},
    store::{FindingKind, PaymentRow, RouteSales, Store},
};
use sqlx::{AnyPool, Row};

use super::{LIMIT, Transfer, World, wait_for};

impl World {
    /// The store's URL.
    pub fn database(&self) -> String {
        self.config().store
    }

    /// The store's tables, seen directly.
    pub async fn tables(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        AnyPool::connect(&self.database()).await.unwrap()
    }

    /// Every payment there is.
    pub async fn payments(&self) -> Vec<PaymentRow> {
        let store = Store::open(&self.database()).await.unwrap();
        let mut all = Vec::new();
        loop {
            let before = all.last().map(|row: &PaymentRow| row.id);
            let page = store.payments(None, None, before, 200).await.unwrap();
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        store.close().await;
        all
    }

    /// Waits until nothing is on its way; what waits for operators may stay.
    pub async fn idle(&self) {
        let store = Store::open(&self.database()).await.unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let (payments, _) = store.backlog().await.unwrap();
            let open = store.open_txs().await.unwrap();
            if payments == 0 && open.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                for tx in &open {
                    eprintln!("{:?} of {} at nonce {}", tx.tx.kind, tx.tx.sender, tx.tx.nonce);
                    let receipt =
                        self.chain.node.get_transaction_receipt(tx.attempts[0].hash).await;
                    eprintln!("  {} attempts, in block {:?}", tx.attempts.len(), tx.tx.block);
                    eprintln!(
                        "  receipt of the first: {:?}",
                        receipt.map(|r| r.map(|r| r.block_number))
                    );
                    eprintln!("  the chain's nonce: {}", self.chain.nonce(tx.tx.sender).await);
                }
                for row in self.payments().await.iter().filter(|row| !row.state.is_terminal()) {
                    eprintln!("{} {} {} tries: {:?}", row.id, row.state, row.tries, row.refusal);
                }
                self.tally.judged();
                self.tally.add(|counts| counts.stuck += payments + open.len() as u64);
                panic!("{payments} payments, {} transactions on their way", open.len());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        store.close().await;
    }

    /// Waits until nothing is on its way, then holds books and chain against each other.
    pub async fn judge(&self) {
        self.idle().await;
        self.tally.judged();
        let payments = self.payments().await;
        self.money_agrees(&payments).await;
        self.nonces_are_gapless().await;
        let (code, said) = self.bursar(&["audit", "verify"]);
        assert_eq!(code, 0, "{said}");
        self.every_end_is_told_once(&payments).await;
        self.nothing_was_found().await;
        self.meters_agree().await;
        if self.runs() {
            self.windows_agree(&payments).await;
        }
    }

    async fn money_agrees(&self, payments: &[PaymentRow]) {
        let store = Store::open(&self.database()).await.unwrap();
        let postings: HashMap<Address, _> =
            store.postings().await.unwrap().into_iter().map(|line| (line.payee, line)).collect();
        let wallet = store.wallet_balance().await.unwrap();
        store.close().await;

        let mut paid: BTreeMap<Address, u64> = BTreeMap::new();
        let (mut expected, mut escrowed) = (Vec::new(), 0);
        // What went into channels is booked as paid to their receivers.
        let mut funded: BTreeMap<Address, BTreeMap<B256, u64>> = BTreeMap::new();
        for row in payments {
            let sum = paid.entry(row.payee).or_default();
            if row.state == State::Paid {
                let (units, mut to) = (row.amount.units(), row.payee);
                if row.escrow.is_some() {
                    to = self.card.escrow;
                    escrowed += units;
                } else {
                    *sum += units;
                }
                if let Some(channel) = row.channel {
                    to = HUB;
                    *funded.entry(row.payee).or_default().entry(channel).or_default() += units;
                }
                let tx = row.tx_hash.unwrap_or_else(|| panic!("{} is paid by nothing", row.id));
                expected.push(Transfer { tx, to, units });
            }
        }
        for payee in self.card.payees.values() {
            paid.entry(payee.address).or_default();
        }
        // One transfer for each paid payment, in the transaction it names; none beside them.
        expected.sort_unstable();
        let transfers = self.chain.transfers().await;
        self.count_surplus(payments, &transfers, &expected);
        assert_eq!(transfers, expected, "transfers on chain, paid payments");
        for (payee, sum) in &paid {
            let line = postings.get(payee);
            let sum = *sum + line.map_or(0, |line| line.released.units());
            let (inside, settled) = match funded.get(payee) {
                Some(channels) => self.through_channels(*payee, channels).await,
                None => (0, 0),
            };
            let has = sum - inside + settled;
            assert_eq!(self.chain.usdc_of(*payee).await, has, "{payee}: chain, paid payments");
            let (posted, transfers) =
                line.map_or((0, 0), |line| (line.posted.units(), line.transfers.units()));
            assert_eq!((posted, transfers), (sum, sum), "{payee}: ledger, paid payments");
        }
        let waiting: u64 = payments
            .iter()
            .filter(|row| !row.state.is_terminal())
            .map(|row| row.amount.units())
            .sum();
        let gone = paid.values().sum::<u64>() + escrowed;
        assert_eq!(wallet.debits_posted.units(), gone, "wallet's account");
        assert_eq!(wallet.debits_pending.units(), waiting, "wallet's reservations");
    }

    /// What went into the wallet's channels to a payee, and what the hub paid out to it. No channel was
    /// claimed above what its agent signed, and what came home is what was not claimed and is not there.
    async fn through_channels(&self, payee: Address, funded: &BTreeMap<B256, u64>) -> (u64, u64) {
        let store = Store::open(&self.database()).await.unwrap();
        let contract = IChannelHub::new(HUB, &self.chain.node);
        for (id, units) in funded {
            // What came home is in the books a look later.
            wait_for(&format!("{id}: {units} are in the hub or came home"), async || {
                let row = store.purse(*id).await.unwrap().unwrap();
                let on_chain = contract.channels(*id).call().await.unwrap();
                let claimed = u64::try_from(on_chain.totalClaimed).unwrap();
                assert!(claimed <= row.ceiling.units(), "claimed {claimed} of {row:?}");
                let balance = u64::try_from(on_chain.balance).unwrap();
                (balance + row.returned.units() == *units).then_some(())
            })
            .await;
        }
        store.close().await;
        let totals = contract.receivers(payee, self.card.usdc).call().await.unwrap();
        (funded.values().sum(), u64::try_from(totals.totalSettled).unwrap())
    }

    /// Counts the transfers that no paid payment explains: either somebody was told that it failed,
    /// or it was made twice.
    fn count_surplus(&self, payments: &[PaymentRow], found: &[Transfer], expected: &[Transfer]) {
        let mut expected = expected.to_vec();
        let mut unpaid: Vec<_> = payments
            .iter()
            .filter(|row| row.state.is_terminal() && row.state != State::Paid)
            .map(|row| (row.payee, row.amount.units()))
            .collect();
        for transfer in found {
            if let Some(at) = expected.iter().position(|known| known == transfer) {
                expected.swap_remove(at);
            } else if let Some(at) =
                unpaid.iter().position(|of| *of == (transfer.to, transfer.units))
            {
                unpaid.swap_remove(at);
                self.tally.add(|counts| counts.false_failures += 1);
            } else {
                self.tally.add(|counts| counts.duplicates += 1);
            }
        }
    }

    /// Continuous reconciliation raised no false alarm, not for a moment.
    async fn nothing_was_found(&self) {
        let store = Store::open(&self.database()).await.unwrap();
        let mut found = store.findings(10).await.unwrap();
        store.close().await;
        if self.dealt.load(Ordering::Relaxed) {
            found.retain(|finding| finding.kind != FindingKind::Balance);
        }
        assert!(found.is_empty(), "found by reconciliation: {found:#?}");
    }

    /// What was charged in channels is what routes earned, and is claimed on chain or owed; nothing was
    /// claimed above what was charged, or charged above what the payer signed.
    async fn meters_agree(&self) {
        let store = Store::open(&self.database()).await.unwrap();
        let meters = store.meters(None, 1_000).await.unwrap();
        let earned = store.earnings().await.unwrap();
        let routes = store.route_sales(self.card.wallet).await.unwrap();
        store.close().await;
        assert!(routes.iter().all(RouteSales::agrees), "sales, ledger: {routes:#?}");
        let contract = IChannelHub::new(HUB, &self.chain.node);
        let hub = Hub::new(self.card.chain_id, HUB);
        let mut sums: BTreeMap<Address, (u64, u64)> = BTreeMap::new();
        for row in meters {
            let on_chain = contract.channels(row.id).call().await.unwrap();
            let claimed = u64::try_from(on_chain.totalClaimed).unwrap();
            assert!(claimed <= row.charged.units(), "claimed {claimed} of {row:?}");
            assert!(row.charged <= row.ceiling, "charged above the signed: {row:?}");
            if !row.charged.is_zero() {
                let digest = hub.voucher_digest(row.id, row.ceiling.units().into());
                let signer = row.config.payer_authorizer;
                VoucherKey::recover(digest, &row.signature, signer).unwrap();
            }
            let sum = sums.entry(row.config.receiver).or_default();
            *sum = (sum.0 + row.charged.units(), sum.1 + claimed);
        }
        for (receiver, (charged, claimed)) in sums {
            let of = || earned.iter().filter(|line| line.receiver == receiver);
            let amount: u64 = of().map(|line| line.amount.units()).sum();
            assert_eq!(amount, charged, "{receiver}: routes, channels");
            let booked: u64 = of().map(|line| line.booked.units()).sum();
            assert!(booked <= claimed, "{receiver}: {booked} booked, {claimed} claimed");
            let totals = contract.receivers(receiver, self.card.usdc).call().await.unwrap();
            assert_eq!(u64::try_from(totals.totalClaimed).unwrap(), claimed, "{receiver}: hub");
        }
    }

    async fn nonces_are_gapless(&self) {
        let pool = self.tables().await;
        for relayer in &self.card.relayers {
            let next: i64 = sqlx::query("SELECT next FROM nonce WHERE sender = $1")
                .bind(relayer.to_string())
                .fetch_optional(&pool)
                .await
                .unwrap()
                .map_or(0, |row| row.get(0));
            assert_eq!(self.chain.nonce(*relayer).await, next.unsigned_abs(), "{relayer}");
        }
        pool.close().await;
    }

    async fn every_end_is_told_once(&self, payments: &[PaymentRow]) {
        let pool = self.tables().await;
        let ends = "SELECT payment_id, kind FROM outbox WHERE id LIKE 'end%'";
        let rows = sqlx::query(ends).fetch_all(&pool).await;
        let mut told: HashMap<PaymentId, Vec<String>> = HashMap::new();
        for row in rows.unwrap() {
            told.entry(row.get::<String, _>(0).parse().unwrap()).or_default().push(row.get(1));
        }
        pool.close().await;
        for row in payments {
            let told = told.remove(&row.id).unwrap_or_default();
            let kinds: &[&str] = match row.state {
                State::Paid => &["payment.finalized"],
                State::Failed => &["payment.failed"],
                State::Rejected => &["payment.rejected"],
                State::Expired => &["payment.expired"],
                _ => &[],
            };
            assert_eq!(told, kinds, "{} is {}", row.id, row.state);
        }
        assert!(told.is_empty(), "told of payments that are not there: {told:?}");
    }

    /// What the daemon says is used is what the contract says is used, and what waits.
    async fn windows_agree(&self, payments: &[PaymentRow]) {
        for (name, entry) in &self.card.agents {
            let room = self.chain.room(entry.address).await;
            let waiting: u64 = payments
                .iter()
                .filter(|row| row.agent == *name && !row.state.is_terminal())
                .filter(|row| row.overrides & bursar::policy::overrides::AGENT_CAPS == 0)
                .map(|row| row.amount.units())
                .sum();
            let used = U256::from(entry.day.units()) - room.day;
            let used = used + U256::from(waiting);
            // One of several daemons hears of the others' deeds a little later.
            wait_for(&format!("{name}: day used is {used}"), async || {
                let told = self.agent(name.as_str()).permissions().await.unwrap();
                let view = told.limits.iter().find(|limit| limit.rule == "limits.day").unwrap();
                let said: bursar::money::Usdc = view.used.parse().unwrap();
                (U256::from(said.units()) == used).then_some(())
            })
            .await;
        }
    }
}
