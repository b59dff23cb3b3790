//! What a run starts from: policy files without count limits, and a store with a past.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::Path,
    time::Instant,
};

use alloy::primitives::U256;
use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bursar::{
    config::Config,
    devnet::Manifest,
    keys::{Keys, Passphrase},
    payment::AgentId,
    reconcile::Mark,
    rpc::{At, Rpc},
    store::Store,
};
use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

/// Days that the past payments are spread over.
const DAYS: i64 = 30;

/// The request key of an agent, the same in every run.
pub fn request_key(agent: &AgentId) -> SigningKey {
    SigningKey::from_bytes(&Sha256::digest(format!("bursar load test: {agent}")).into())
}

/// Writes `count` policy files: the devnet's agents, who pay, and others, whom the contract does
/// not know but the daemon holds. The load would trip over count limits and loop breakers, which
/// are made against it: they are left out.
pub fn policies(manifest: &Manifest, folder: &Path, count: u32) -> Result<Vec<AgentId>> {
    fs::create_dir(folder)?;
    let mut names = Vec::new();
    let mut template = toml::Table::new();
    for (name, agent) in &manifest.agents {
        let mut policy: toml::Table = fs::read_to_string(&agent.policy)?.parse()?;
        for limit in ["counts", "loops", "hosts"] {
            policy.remove(limit);
        }
        write_policy(folder, name, &mut policy)?;
        names.push(name.clone());
        template = policy;
    }
    for index in u32::try_from(names.len())?..count {
        let name: AgentId = format!("agent-{index:05}").parse()?;
        template.insert("agent".into(), name.as_str().into());
        template.insert("key_index".into(), i64::from(index).into());
        write_policy(folder, &name, &mut template)?;
        names.push(name);
    }
    Ok(names)
}

fn write_policy(folder: &Path, name: &AgentId, policy: &mut toml::Table) -> Result<()> {
    let public = BASE64_URL_SAFE_NO_PAD.encode(request_key(name).verifying_key().as_bytes());
    policy.insert("public_key".into(), public.into());
    fs::write(folder.join(format!("{name}.toml")), toml::to_string(policy)?)?;
    Ok(())
}

/// Makes a store with `count` paid payments of all agents to all payees, spread evenly over the
/// last 30 days, with ledger, audit entries and outbox as the daemon leaves them. Everything is a
/// function of the row's number. (Hashes are numbers, not hashes: nothing in a run reads them.)
pub async fn history(
    path: &Path,
    agents: &[AgentId],
    manifest: &Manifest,
    count: u64,
) -> Result<f64> {
    let started = Instant::now();
    let url = format!("sqlite:{}", path.display());
    Store::open(&url).await?.close().await;
    let mut db =
        SqliteConnectOptions::new().filename(path).disable_statement_logging().connect().await?;
    // A fixture: only its result counts.
    db.execute("PRAGMA synchronous = OFF").await?;
    db.execute("PRAGMA cache_size = -200000").await?;
    db.execute("PRAGMA temp_store = MEMORY").await?;
    db.execute("CREATE TEMP TABLE who (n INTEGER PRIMARY KEY, name TEXT)").await?;
    db.execute("CREATE TEMP TABLE whom (n INTEGER PRIMARY KEY, address TEXT, label TEXT)").await?;
    let mut tx = db.begin().await?;
    for (n, agent) in (0_i64..).zip(agents) {
        let insert = sqlx::query("INSERT INTO who VALUES ($1, $2)").bind(n).bind(agent.as_str());
        insert.execute(&mut *tx).await?;
    }
    for (n, (label, payee)) in (0_i64..).zip(&manifest.payees) {
        let insert = sqlx::query("INSERT INTO whom VALUES ($1, $2, $3)").bind(n);
        insert.bind(payee.address.to_string()).bind(label).execute(&mut *tx).await?;
    }
    for statement in HISTORY {
        sqlx::query(statement)
            .bind(i64::try_from(count)?)
            .bind(DAYS * 86_400_000 / i64::try_from(count)?.max(1))
            .execute(&mut *tx)
            .await
            .context(statement)?;
    }
    tx.commit().await?;
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    db.close().await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Puts everything of one store into an empty one, through a backup in `work`. Returns how long
/// that took.
pub async fn copy(from: &str, to: &str, work: &Path) -> Result<f64> {
    let started = Instant::now();
    let path = work.join("backup");
    let store = Store::open(from).await?;
    let file = BufWriter::new(File::create(&path)?);
    store.backup(file, Timestamp::now().as_millisecond(), |_, _| {}).await?;
    store.close().await;
    let store = Store::open(to).await?;
    let mut tx = store.begin().await?;
    tx.restore(BufReader::new(File::open(&path)?), |_, _| {}).await?;
    tx.commit().await?;
    store.close().await;
    fs::remove_file(&path)?;
    Ok(started.elapsed().as_secs_f64())
}

/// Lets a store know the present: the worlds of a run share one wallet and its keys. Reconciliation
/// begins at the head, or each would find the other's payments, and a past that no chain has; and what
/// the relayers have sent for others is counted, or each would be taken for an old copy of a store.
pub async fn caught_up(config: &Config) -> Result<()> {
    let store = Store::open(&config.store).await?;
    let chain = &config.chain;
    let rpc = Rpc::new(chain.rpc.clone(), chain.chain_id, config.rpc_timeout())?;
    let mark = Mark {
        next: rpc.latest().await?.height() + 1,
        hash: None,
        seq: store.audit_head().await?.seq,
        balance: None,
        came_in: U256::ZERO,
        went_out: U256::ZERO,
        at_ms: 0,
    };
    let mut tx = store.begin().await?;
    tx.set_meta("reconciled", &serde_json::to_string(&mark)?).await?;
    let file =
        config.passphrase_file.as_ref().context("the devnet's seed has a passphrase file")?;
    let passphrase = Passphrase::new(fs::read_to_string(file)?.trim_end().to_owned())?;
    let keys = Keys::unlock(&config.seed, &passphrase)?;
    for index in 0..config.submit.relayers {
        let relayer = keys.relayer(index)?.address();
        let sent = rpc.transaction_count(relayer, At::Latest).await?;
        tx.raise_nonce(&relayer.to_string(), sent).await?;
    }
    tx.commit().await?;
    store.close().await;
    Ok(())
}

/// `$1` is the number of payments, `$2` the milliseconds between two of them.
const HISTORY: [&str; 7] = [
    "CREATE TEMP TABLE past AS
     WITH RECURSIVE row (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM row WHERE i < $1)
     SELECT i, who.name AS agent, whom.address AS payee, whom.label, 100 + i * 7919 % 900 AS amount,
       printf('%016x%016x', 1700000000000 + i, i * 2654435761) AS hex,
       unixepoch() * 1000 - ($1 - i) * $2 AS at_ms
     FROM row
     JOIN who ON who.n = i * 7919 % (SELECT COUNT(*) FROM who)
     JOIN whom ON whom.n = i * 104729 % (SELECT COUNT(*) FROM whom)",
    "INSERT INTO payment (id, agent_id, idempotency_key, fingerprint, payee, payee_label, amount,
       reason, context, context_hash, invoice, state, overrides, policy_version, tx_id, item_index,
       not_before_ms, expires_ms, tx_hash, block, block_time_s, created_ms, updated_ms)
     SELECT 'pay_' || hex, agent, 'past-' || hex, '0x' || hex || hex, payee, label, amount,
       'answer ' || i || ' of a research job',
       '{\"invoice\":\"past-' || hex || '\",\"order\":\"ord-' || i || '\",\"workflow\":\"job-' || i / 50 || '\"}',
       '0x' || hex || hex, 'past-' || hex, 'paid', 0, 1, printf('%032x', i / 100), i % 100,
       at_ms, at_ms + 86400000, printf('0x%064x', i / 100), i / 500, at_ms / 1000, at_ms, at_ms + 900
     FROM past ORDER BY i",
    "INSERT INTO ledger_transfer (payment_id, debit, credit, amount, state, at_ms)
     SELECT 'pay_' || hex, 'wallet', 'payee:' || payee, amount, 'posted', at_ms + 900
     FROM past ORDER BY i",
    "INSERT INTO ledger_balance (account, debits_pending, debits_posted, credits_pending,
       credits_posted)
     SELECT 'payee:' || payee, 0, 0, 0, SUM(amount) FROM past GROUP BY payee
     UNION ALL SELECT 'wallet', 0, SUM(amount), 0, 0 FROM past",
    "INSERT INTO outbox (id, kind, payment_id, body, created_ms)
     SELECT 'end_pay_' || hex, 'payment.finalized', 'pay_' || hex,
       json_object('payment', 'pay_' || hex, 'agent', agent, 'state', 'paid', 'payee', payee,
         'amount', amount, 'tx', printf('0x%064x', i / 100), 'block', i / 500), at_ms + 900
     FROM past ORDER BY i",
    "INSERT INTO audit_entry (seq, at_ms, kind, actor, agent_id, payment_id, tx_id, data, prev, hash)
     SELECT i * 2 + step - 1, at_ms + 900 * step,
       CASE step WHEN 0 THEN 'payment.queued' ELSE 'payment.finalized' END,
       CASE step WHEN 0 THEN 'agent:' || agent ELSE 'chain' END, agent, 'pay_' || hex,
       CASE step WHEN 0 THEN NULL ELSE printf('%032x', i / 100) END,
       CASE step
         WHEN 0 THEN json_object('payee', payee, 'amount', amount, 'reason', 'answer ' || i,
           'context_hash', '0x' || hex || hex, 'key', 'past-' || hex, 'policy_version', 1,
           'rules', json_array('payees', 'limits.ceiling', 'limits.day', 'wallet.cap'))
         ELSE json_object('tx', printf('0x%064x', i / 100), 'block', i / 500, 'payee', payee,
           'amount', amount) END,
       printf('0x%064x', i * 2 + step - 2), printf('0x%064x', i * 2 + step - 1)
     FROM past, (SELECT 0 AS step UNION ALL SELECT 1) ORDER BY i, step",
    "UPDATE audit_head SET seq = $1 * 2, hash = printf('0x%064x', $1 * 2)",
];
