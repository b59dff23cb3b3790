//! Double entry: every amount leaves one account and reaches another.
//!
//! A transfer is reserved (*pending*), then *posted* or *voided*; each step yields the changes of
//! two balance rows, which the store applies in the same commit as the payment's own row.
//!
//! Agents draw on the wallet: a payment goes from `agent:<name>` to `payee:<address>`, so that what
//! each agent spent and each payee got are both one row. A deposit goes from `operators` to
//! `wallet`, a withdrawal back. Hence
//! `USDC of the wallet on chain = net(wallet) + sum of net(agent:*)`, where
//! `net = credits posted - debits posted`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use alloy::primitives::Address;

use crate::{money::Usdc, payment::AgentId};

/// Who money comes from and goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// What operators put into the wallet and took out.
    Wallet,
    /// The operators' money outside.
    Operators,
    /// What an agent drew on the wallet.
    Agent(AgentId),
    /// What a payee got.
    Payee(Address),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wallet => f.write_str("wallet"),
            Self::Operators => f.write_str("operators"),
            Self::Agent(agent) => write!(f, "agent:{agent}"),
            Self::Payee(address) => write!(f, "payee:{address}"),
        }
    }
}

/// A text that does not name an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an account: wallet, operators, agent:<name> or payee:<address>")]
pub struct NotAnAccount(String);

impl FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        let account = match text.split_once(':') {
            None if text == "wallet" => Some(Self::Wallet),
            None if text == "operators" => Some(Self::Operators),
            Some(("agent", name)) => name.parse().ok().map(Self::Agent),
            Some(("payee", address)) => address.parse().ok().map(Self::Payee),
            _ => None,
        };
        account.ok_or_else(|| NotAnAccount(text.chars().take(80).collect()))
    }
}

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reserved.
    Pending,
    /// Final: it happened.
    Posted,
    /// Final: it did not.
    Voided,
}

/// Money on its way from `debit` to `credit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Where it leaves.
    pub debit: Account,
    /// Where it arrives.
    pub credit: Account,
    /// How much, above zero.
    pub amount: Usdc,
    /// How far it has come.
    pub stage: Stage,
}

/// What to add to one account's row, in base units; negative takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose row.
    pub account: Account,
    /// To its debits that are reserved.
    pub debits_pending: i64,
    /// To its debits that happened.
    pub debits_posted: i64,
    /// To its credits that are reserved.
    pub credits_pending: i64,
    /// To its credits that happened.
    pub credits_posted: i64,
}

/// A step that double entry does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Zero, or from an account to itself.
    #[error("a transfer moves more than zero between two accounts")]
    Nothing,
    /// Posted or voided twice.
    #[error("a transfer that is {0:?} is final")]
    Final(Stage),
    /// A balance below zero or above 2^63 - 1.
    #[error("the change does not fit the balance of {0}: the books and the transfers disagree")]
    OutOfRange(Account),
}

impl Transfer {
    /// Reserves `amount` from `debit` to `credit`.
    ///
    /// # Errors
    /// [`LedgerError::Nothing`].
    pub fn reserve(
        debit: Account,
        credit: Account,
        amount: Usdc,
    ) -> Result<(Self, [Change; 2]), LedgerError> {
        if amount.is_zero() || debit == credit {
            return Err(LedgerError::Nothing);
        }
        let transfer = Self { debit, credit, amount, stage: Stage::Pending };
        let changes = transfer.changes(amount.as_i64(), 0);
        Ok((transfer, changes))
    }

    /// Makes a reserved transfer final: it happened.
    ///
    /// # Errors
    /// [`LedgerError::Final`] if it is final already.
    pub fn post(&mut self) -> Result<[Change; 2], LedgerError> {
        self.finish(Stage::Posted)?;
        Ok(self.changes(-self.amount.as_i64(), self.amount.as_i64()))
    }

    /// Makes a reserved transfer final: it did not happen.
    ///
    /// # Errors
    /// [`LedgerError::Final`] if it is final already.
    pub fn void(&mut self) -> Result<[Change; 2], LedgerError> {
        self.finish(Stage::Voided)?;
        Ok(self.changes(-self.amount.as_i64(), 0))
    }

    fn finish(&mut self, stage: Stage) -> Result<(), LedgerError> {
        if self.stage != Stage::Pending {
            return Err(LedgerError::Final(self.stage));
        }
        self.stage = stage;
        Ok(())
    }

    fn changes(&self, pending: i64, posted: i64) -> [Change; 2] {
        let none = |account: &Account| Change {
            account: account.clone(),
            debits_pending: 0,
            debits_posted: 0,
            credits_pending: 0,
            credits_posted: 0,
        };
        [
            Change { debits_pending: pending, debits_posted: posted, ..none(&self.debit) },
            Change { credits_pending: pending, credits_posted: posted, ..none(&self.credit) },
        ]
    }
}

/// One account's row, in base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Debits that are reserved.
    pub debits_pending: Usdc,
    /// Debits that happened.
    pub debits_posted: Usdc,
    /// Credits that are reserved.
    pub credits_pending: Usdc,
    /// Credits that happened.
    pub credits_posted: Usdc,
}

impl Balance {
    /// Returns credits less debits that happened, in base units.
    #[must_use]
    pub const fn net(&self) -> i64 {
        // Both are below 2^63, so the difference fits.
        self.credits_posted.as_i64() - self.debits_posted.as_i64()
    }
}

/// All balances: for checks and reconciliation. The daemon's own rows are in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books(BTreeMap<Account, Balance>);

impl Books {
    /// Applies the changes of one step, all or none.
    ///
    /// # Errors
    /// [`LedgerError::OutOfRange`] where a balance would leave 0 to 2^63 - 1.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        let mut next = Vec::with_capacity(changes.len());
        for change in changes {
            let balance = self.balance(&change.account);
            let moved = |have: Usdc, by: i64| {
                let sum = have.as_i64().checked_add(by).and_then(|sum| Usdc::try_from(sum).ok());
                sum.ok_or_else(|| LedgerError::OutOfRange(change.account.clone()))
            };
            let balance = Balance {
                debits_pending: moved(balance.debits_pending, change.debits_pending)?,
                debits_posted: moved(balance.debits_posted, change.debits_posted)?,
                credits_pending: moved(balance.credits_pending, change.credits_pending)?,
                credits_posted: moved(balance.credits_posted, change.credits_posted)?,
            };
            next.push((change.account.clone(), balance));
        }
        self.0.extend(next);
        Ok(())
    }

    /// Returns an account's balance; zero for one that was never used.
    #[must_use]
    pub fn balance(&self, account: &Account) -> Balance {
        self.0.get(account).copied().unwrap_or_default()
    }

    /// Do debits equal credits, pending and posted?
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let sum = |field: fn(&Balance) -> Usdc| -> u128 {
            self.0.values().map(|balance| u128::from(field(balance).units())).sum()
        };
        sum(|b| b.debits_pending) == sum(|b| b.credits_pending)
            && sum(|b| b.debits_posted) == sum(|b| b.credits_posted)
    }

    /// Returns what the wallet must hold on chain, in base units; negative if the books are wrong.
    #[must_use]
    pub fn wallet_on_chain(&self) -> i128 {
        let own = |account: &Account| matches!(account, Account::Wallet | Account::Agent(_));
        self.0.iter().filter(|(account, _)| own(account)).map(|(_, b)| i128::from(b.net())).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agent() -> Account {
        Account::Agent("research".parse().unwrap())
    }

    fn payee(n: u8) -> Account {
        Account::Payee(Address::repeat_byte(n))
    }

    fn usdc(units: u64) -> Usdc {
        Usdc::from_units(units).unwrap()
    }

    #[test]
    fn a_payment_is_reserved_and_posted() {
        let mut books = Books::default();
        let (mut deposit, changes) =
            Transfer::reserve(Account::Operators, Account::Wallet, usdc(100)).unwrap();
        books.apply(&changes).unwrap();
        books.apply(&deposit.post().unwrap()).unwrap();
        let (mut payment, changes) = Transfer::reserve(agent(), payee(1), usdc(30)).unwrap();
        books.apply(&changes).unwrap();
        assert_eq!(books.balance(&payee(1)).credits_pending, usdc(30));
        assert_eq!(books.wallet_on_chain(), 100);
        books.apply(&payment.post().unwrap()).unwrap();
        let got = books.balance(&payee(1));
        assert_eq!((got.credits_pending, got.credits_posted), (Usdc::ZERO, usdc(30)));
        assert_eq!(books.balance(&agent()).net(), -30);
        assert_eq!(books.wallet_on_chain(), 70);
        assert_eq!(payment.post(), Err(LedgerError::Final(Stage::Posted)));
        assert_eq!(payment.void(), Err(LedgerError::Final(Stage::Posted)));
    }

    #[test]
    fn refuses_what_moves_nothing_and_what_does_not_fit() {
        assert_eq!(Transfer::reserve(agent(), payee(1), Usdc::ZERO), Err(LedgerError::Nothing));
        assert_eq!(Transfer::reserve(agent(), agent(), usdc(1)), Err(LedgerError::Nothing));
        let mut books = Books::default();
        let (mut transfer, _) = Transfer::reserve(agent(), payee(1), usdc(1)).unwrap();
        // Posted without its reservation: nothing is changed.
        assert_eq!(books.apply(&transfer.post().unwrap()), Err(LedgerError::OutOfRange(agent())));
        assert_eq!(books, Books::default());
    }

    #[test]
    fn accounts_survive_the_round_trip() {
        for account in [Account::Wallet, Account::Operators, agent(), payee(0xab)] {
            assert_eq!(account.to_string().parse::<Account>().unwrap(), account);
        }
        for text in ["", "bank", "agent:", "agent:A", "payee:0x12", "wallet:1"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn books_balance_after_every_step(
            steps in prop::collection::vec((1_u64..1_000_000, 0_u8..4, 0_u8..3), 1..60),
        ) {
            let (mut books, mut paid, mut open) = (Books::default(), 0_u64, 0_u64);
            for (units, to, fate) in steps {
                let (mut transfer, changes) =
                    Transfer::reserve(agent(), payee(to), usdc(units)).unwrap();
                books.apply(&changes).unwrap();
                prop_assert!(books.is_balanced());
                match fate {
                    0 => {
                        books.apply(&transfer.post().unwrap()).unwrap();
                        paid += units;
                    }
                    1 => books.apply(&transfer.void().unwrap()).unwrap(),
                    _ => open += units,
                }
                prop_assert!(books.is_balanced());
            }
            let drawn = books.balance(&agent());
            prop_assert_eq!(drawn.debits_posted, usdc(paid));
            prop_assert_eq!(drawn.debits_pending, usdc(open));
            prop_assert_eq!(books.wallet_on_chain(), -i128::from(paid));
        }
    }
}
