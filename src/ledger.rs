//! Double entry: every amount leaves one account and reaches another.
//!
//! A transfer is reserved (*pending*), then *posted* or *voided*; each step yields the changes of
//! two balance rows, which the store applies in the same commit as the payment's own row.
//!
//! A payment goes from `wallet` to `payee:<address>`; which agent asked stands in the payment's row.
//! A deposit goes from `operators` to `wallet`, a withdrawal back. An escrow is funded from `wallet` to
//! `escrow:<id>`, and goes from there to payees, back to `wallet`, or, where USDC refused a payment, by
//! way of `owed:<address>`. A sale comes from `sales:<route>` and goes to `wallet`, or to
//! `revenue:<address>` where another account earns.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, B256};

use crate::money::Usdc;

/// Who money comes from and goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// The money in the contract.
    Wallet,
    /// The operators' money outside.
    Operators,
    /// What a payee got.
    Payee(Address),
    /// What waits in an escrow, by its id on chain.
    Escrow(B256),
    /// What WorkEscrow could not pay to an account and keeps for it.
    Owed(Address),
    /// What buyers paid for a route of the price list.
    Sales(String),
    /// What sales brought to an account other than the wallet.
    Revenue(Address),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wallet => f.write_str("wallet"),
            Self::Operators => f.write_str("operators"),
            Self::Payee(address) => write!(f, "payee:{address}"),
            Self::Escrow(id) => write!(f, "escrow:{id}"),
            Self::Owed(address) => write!(f, "owed:{address}"),
            Self::Sales(route) => write!(f, "sales:{route}"),
            Self::Revenue(address) => write!(f, "revenue:{address}"),
        }
    }
}

/// A text that does not name an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an account: wallet, operators, payee:<address>, escrow:<id>, owed:<address>, \
     sales:<route> or revenue:<address>"
)]
pub struct NotAnAccount(String);

impl FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        let account = match text.split_once(':') {
            None if text == "wallet" => Some(Self::Wallet),
            None if text == "operators" => Some(Self::Operators),
            Some(("payee", address)) => address.parse().ok().map(Self::Payee),
            Some(("escrow", id)) => id.parse().ok().map(Self::Escrow),
            Some(("owed", address)) => address.parse().ok().map(Self::Owed),
            Some(("sales", route)) if !route.is_empty() => Some(Self::Sales(route.to_owned())),
            Some(("revenue", address)) => address.parse().ok().map(Self::Revenue),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Rows in memory, as the store keeps them.
    #[derive(Default)]
    struct Books(BTreeMap<Account, [i64; 4]>);

    impl Books {
        fn apply(&mut self, changes: &[Change]) {
            for change in changes {
                let row = self.0.entry(change.account.clone()).or_default();
                let parts = [
                    change.debits_pending,
                    change.debits_posted,
                    change.credits_pending,
                    change.credits_posted,
                ];
                row.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
                assert!(row.iter().all(|sum| *sum >= 0), "{}: {row:?}", change.account);
            }
        }

        fn row(&self, account: &Account) -> [i64; 4] {
            self.0.get(account).copied().unwrap_or_default()
        }

        /// Debits equal credits, pending and posted.
        fn is_balanced(&self) -> bool {
            let sum = |part: usize| self.0.values().map(|row| row[part]).sum::<i64>();
            sum(0) == sum(2) && sum(1) == sum(3)
        }
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
        let (mut payment, changes) =
            Transfer::reserve(Account::Wallet, payee(1), usdc(30)).unwrap();
        books.apply(&changes);
        assert_eq!(books.row(&Account::Wallet), [30, 0, 0, 0]);
        assert_eq!(books.row(&payee(1)), [0, 0, 30, 0]);
        books.apply(&payment.post().unwrap());
        assert_eq!(books.row(&Account::Wallet), [0, 30, 0, 0]);
        assert_eq!(books.row(&payee(1)), [0, 0, 0, 30]);
        assert_eq!(payment.post(), Err(LedgerError::Final(Stage::Posted)));
        assert_eq!(payment.void(), Err(LedgerError::Final(Stage::Posted)));
    }

    #[test]
    fn refuses_what_moves_nothing() {
        let reserve = |to, units| Transfer::reserve(Account::Wallet, to, usdc(units));
        assert_eq!(reserve(payee(1), 0), Err(LedgerError::Nothing));
        assert_eq!(reserve(Account::Wallet, 1), Err(LedgerError::Nothing));
    }

    #[test]
    fn accounts_survive_the_round_trip() {
        let (escrow, owed) =
            (Account::Escrow(B256::repeat_byte(7)), Account::Owed(Address::repeat_byte(8)));
        for account in [Account::Wallet, Account::Operators, payee(0xab), escrow, owed] {
            assert_eq!(account.to_string().parse::<Account>().unwrap(), account);
        }
        for text in ["", "bank", "payee:", "payee:0x12", "wallet:1"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn books_balance_after_every_step(
            steps in prop::collection::vec((1_u64..1_000_000, 0_u8..4, 0_u8..3), 1..60),
        ) {
            let (mut books, mut paid, mut open) = (Books::default(), 0, 0);
            for (units, to, fate) in steps {
                let (mut transfer, changes) =
                    Transfer::reserve(Account::Wallet, payee(to), usdc(units)).unwrap();
                books.apply(&changes);
                prop_assert!(books.is_balanced());
                match fate {
                    0 => {
                        books.apply(&transfer.post().unwrap());
                        paid += usdc(units).as_i64();
                    }
                    1 => books.apply(&transfer.void().unwrap()),
                    _ => open += usdc(units).as_i64(),
                }
                prop_assert!(books.is_balanced());
            }
            prop_assert_eq!(books.row(&Account::Wallet), [open, paid, 0, 0]);
        }
    }
}
