-- bursar's store. One text for SQLite and PostgreSQL: BIGINT and TEXT only.
-- Amounts: USDC base units. Times: milliseconds since 1970, except *_s: seconds.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE agent (
  id          TEXT PRIMARY KEY,
  key_index   BIGINT NOT NULL UNIQUE,
  address     TEXT NOT NULL UNIQUE,
  policy_hash TEXT NOT NULL,
  revision    BIGINT NOT NULL,
  frozen      BIGINT NOT NULL DEFAULT 0,
  changed_ms  BIGINT NOT NULL
);

CREATE TABLE payee (address TEXT PRIMARY KEY, label TEXT UNIQUE, seen_block BIGINT NOT NULL);

CREATE TABLE payment (
  id              TEXT PRIMARY KEY,
  agent_id        TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  fingerprint     TEXT NOT NULL,
  payee           TEXT NOT NULL,
  payee_label     TEXT,
  amount          BIGINT NOT NULL,
  reason          TEXT NOT NULL,
  context         TEXT NOT NULL,
  context_hash    TEXT NOT NULL,
  invoice         TEXT,
  state           TEXT NOT NULL,
  overrides       BIGINT NOT NULL,
  policy_version  BIGINT NOT NULL,
  refusal         TEXT,
  escrow_id       TEXT,
  channel_id      TEXT,
  tx_id           TEXT,
  item_index      BIGINT,
  tries           BIGINT NOT NULL DEFAULT 0,
  not_before_ms   BIGINT NOT NULL,
  expires_ms      BIGINT NOT NULL,
  tx_hash         TEXT,
  block           BIGINT,
  block_time_s    BIGINT,
  created_ms      BIGINT NOT NULL,
  updated_ms      BIGINT NOT NULL,
  UNIQUE (agent_id, idempotency_key)
);
CREATE INDEX payment_by_agent ON payment (agent_id, id);
CREATE INDEX payment_by_tx ON payment (tx_id) WHERE tx_id IS NOT NULL;
CREATE INDEX payment_funding ON payment (channel_id) WHERE channel_id IS NOT NULL;
CREATE INDEX payment_by_invoice ON payment (payee, invoice) WHERE invoice IS NOT NULL;
CREATE INDEX payment_queued ON payment (not_before_ms) WHERE state = 'queued';
CREATE INDEX payment_waiting ON payment (created_ms) WHERE state = 'awaiting_approval';
CREATE INDEX payment_open ON payment (state)
  WHERE state IN ('awaiting_approval', 'queued', 'signed', 'broadcast', 'included');
-- All that the windows are filled from at start: 38 days are read without their rows.
CREATE INDEX payment_settled ON payment (block_time_s, agent_id, overrides, amount)
  WHERE state = 'paid';
-- What reconciliation finds a transfer on chain by, once it is booked.
CREATE INDEX payment_by_hash ON payment (tx_hash) WHERE state = 'paid';
CREATE INDEX payment_recent ON payment (created_ms);
-- Found on the chain after the store was restored from a backup.
CREATE INDEX payment_found ON payment (agent_id, payee)
  WHERE fingerprint = '0x0000000000000000000000000000000000000000000000000000000000000000';

-- One row a sender nonce; its attempts are signatures of that one nonce.
CREATE TABLE tx (
  id         TEXT PRIMARY KEY,
  kind       TEXT NOT NULL,
  sender     TEXT NOT NULL,
  nonce      BIGINT NOT NULL,
  target     TEXT NOT NULL,
  calldata   TEXT NOT NULL,
  gas        BIGINT NOT NULL,
  manifest   TEXT NOT NULL,
  state      TEXT NOT NULL,
  block      BIGINT,
  gas_used   BIGINT,
  created_ms BIGINT NOT NULL,
  UNIQUE (sender, nonce)
);
CREATE INDEX tx_open ON tx (sender, nonce) WHERE state <> 'final';

CREATE TABLE attempt (
  hash       TEXT PRIMARY KEY,
  tx_id      TEXT NOT NULL,
  raw        TEXT NOT NULL,
  max_fee    TEXT NOT NULL,
  tip        TEXT NOT NULL,
  answer     TEXT,
  created_ms BIGINT NOT NULL
);
CREATE INDEX attempt_by_tx ON attempt (tx_id);

-- The only nonce counter: relayers' account nonces, and the wallet's unordered nonces by signer.
CREATE TABLE nonce (sender TEXT PRIMARY KEY, next BIGINT NOT NULL);

CREATE TABLE approval (
  payment_id     TEXT PRIMARY KEY,
  digest         TEXT NOT NULL UNIQUE,
  nonce          TEXT NOT NULL,
  deadline_s     BIGINT NOT NULL,
  policy_version BIGINT NOT NULL
);

CREATE TABLE proposal (
  id          TEXT PRIMARY KEY,
  change      TEXT NOT NULL,
  label       TEXT,
  nonce       TEXT NOT NULL,
  deadline_s  BIGINT NOT NULL,
  digest      TEXT NOT NULL UNIQUE,
  state       TEXT NOT NULL,
  proposed_by TEXT NOT NULL,
  ready_at_s  BIGINT,
  created_ms  BIGINT NOT NULL
);

-- Operators' signatures over the digest of an approval or a proposal.
CREATE TABLE signature (
  digest    TEXT NOT NULL,
  signer    TEXT NOT NULL,
  signature TEXT NOT NULL,
  at_ms     BIGINT NOT NULL,
  PRIMARY KEY (digest, signer)
);

-- What an escrow moves later stands under the log that moved it: `<transaction>:<log>:<part>`.
CREATE TABLE ledger_transfer (
  payment_id TEXT PRIMARY KEY,
  debit      TEXT NOT NULL,
  credit     TEXT NOT NULL,
  amount     BIGINT NOT NULL,
  state      TEXT NOT NULL,
  at_ms      BIGINT NOT NULL
);
CREATE TABLE ledger_balance (
  account         TEXT PRIMARY KEY,
  debits_pending  BIGINT NOT NULL,
  debits_posted   BIGINT NOT NULL,
  credits_pending BIGINT NOT NULL,
  credits_posted  BIGINT NOT NULL
);

-- One milestone of a job: money that waits in WorkEscrow. `payment_id` funds it. From `funded` on, the
-- state is what the contract's final logs say.
CREATE TABLE escrow (
  id          TEXT PRIMARY KEY,
  payment_id  TEXT NOT NULL UNIQUE,
  job_id      TEXT NOT NULL,
  milestone   BIGINT NOT NULL,
  milestones  BIGINT NOT NULL,
  agent_id    TEXT NOT NULL,
  payee       TEXT NOT NULL,
  title       TEXT,
  job         TEXT NOT NULL,
  terms       TEXT NOT NULL,
  payouts     TEXT NOT NULL,
  state       TEXT NOT NULL,
  captured    BIGINT NOT NULL,
  refunded    BIGINT NOT NULL,
  returned    BIGINT NOT NULL,
  since_s     BIGINT,
  warned_s    BIGINT,
  created_ms  BIGINT NOT NULL,
  updated_ms  BIGINT NOT NULL
);
CREATE INDEX escrow_by_job ON escrow (job_id, milestone);
CREATE INDEX escrow_by_agent ON escrow (agent_id, payment_id);
CREATE INDEX escrow_by_payee ON escrow (payee, payment_id);
CREATE INDEX escrow_live ON escrow (state) WHERE state IN ('funded', 'submitted', 'disputed');

-- What was asked of an escrow, and the transaction that carries it. The same thing is under way once.
CREATE TABLE escrow_action (
  id          TEXT PRIMARY KEY,
  escrow_id   TEXT NOT NULL,
  kind        TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  actor       TEXT NOT NULL,
  detail      TEXT NOT NULL,
  state       TEXT NOT NULL,
  digest      TEXT,
  deadline_s  BIGINT,
  refusal     TEXT,
  tx_id       TEXT,
  tx_hash     TEXT,
  created_ms  BIGINT NOT NULL,
  updated_ms  BIGINT NOT NULL
);
CREATE UNIQUE INDEX escrow_action_once ON escrow_action (escrow_id, fingerprint)
  WHERE state <> 'failed';
CREATE INDEX escrow_action_waiting ON escrow_action (created_ms) WHERE state = 'awaiting_approval';

-- What the contract's final logs tell of an escrow.
CREATE TABLE escrow_step (
  id         TEXT PRIMARY KEY,
  escrow_id  TEXT NOT NULL,
  kind       TEXT NOT NULL,
  party      TEXT,
  amount     BIGINT,
  hash       TEXT,
  tx_hash    TEXT NOT NULL,
  block      BIGINT NOT NULL,
  log_index  BIGINT NOT NULL,
  at_s       BIGINT NOT NULL
);
CREATE INDEX escrow_step_by_escrow ON escrow_step (escrow_id, block, log_index);

-- Payments of others that the facilitator carries to the chain; once each, so kept for ever.
CREATE TABLE settlement (
  id          TEXT PRIMARY KEY,
  kind        TEXT NOT NULL,
  payer       TEXT NOT NULL,
  payee       TEXT NOT NULL,
  asset       TEXT NOT NULL,
  amount      TEXT NOT NULL,
  nonce       TEXT NOT NULL,
  origin      TEXT NOT NULL,
  state       TEXT NOT NULL,
  tx_id       TEXT NOT NULL,
  tx_hash     TEXT NOT NULL,
  since_block BIGINT NOT NULL,
  failures    BIGINT NOT NULL,
  detail      TEXT,
  told        BIGINT NOT NULL,
  created_ms  BIGINT NOT NULL,
  updated_ms  BIGINT NOT NULL
);
CREATE INDEX settlement_failed ON settlement (origin, updated_ms) WHERE failures > 0;

-- One call that was paid over HTTP 402, with its one authorization: signed and stored before the
-- seller sees it. Its id is a payment's, its ledger row stands under it. `channel` is the purse that paid
-- it, whose deposit stands in the ledger; `charged` is what it cost of `amount`, or what was taken for nothing.
CREATE TABLE purchase (
  id              TEXT PRIMARY KEY,
  agent_id        TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  fingerprint     TEXT NOT NULL,
  host            TEXT NOT NULL,
  path            TEXT NOT NULL,
  request         TEXT NOT NULL,
  offer           TEXT NOT NULL,
  payer_kind      TEXT NOT NULL,
  payer           TEXT NOT NULL,
  payee           TEXT NOT NULL,
  amount          BIGINT NOT NULL,
  nonce           TEXT NOT NULL,
  valid_before_s  BIGINT NOT NULL,
  header_name     TEXT NOT NULL,
  header_value    TEXT NOT NULL,
  channel         TEXT,
  charged         BIGINT,
  policy_version  BIGINT NOT NULL,
  state           TEXT NOT NULL,
  sends           BIGINT NOT NULL DEFAULT 0,
  note            TEXT,
  response        TEXT,
  tx_hash         TEXT,
  block           BIGINT,
  block_time_s    BIGINT,
  since_block     BIGINT NOT NULL,
  created_ms      BIGINT NOT NULL,
  updated_ms      BIGINT NOT NULL,
  UNIQUE (agent_id, idempotency_key),
  UNIQUE (payer, nonce)
);
CREATE INDEX purchase_by_host ON purchase (agent_id, host, payer_kind, created_ms);
CREATE INDEX purchase_by_agent ON purchase (agent_id, id);
CREATE INDEX purchase_recent ON purchase (created_ms);
CREATE INDEX purchase_open ON purchase (id)
  WHERE state IN ('signed', 'unknown', 'reported') AND channel IS NULL;
CREATE INDEX purchase_in_doubt ON purchase (channel, id)
  WHERE state IN ('signed', 'unknown') AND channel IS NOT NULL;
CREATE INDEX purchase_by_hash ON purchase (tx_hash) WHERE state = 'paid';
CREATE INDEX purchase_counted ON purchase (block_time_s)
  WHERE state = 'paid' AND payer_kind = 'erc7710';

-- What agents bought, or still may have, by host and minute (since 1970, UTC): the sums that limits are held
-- against. A purchase counts in the minute in which it was signed.
CREATE TABLE bought (
  agent_id TEXT NOT NULL,
  minute   BIGINT NOT NULL,
  host     TEXT NOT NULL,
  amount   BIGINT NOT NULL,
  PRIMARY KEY (agent_id, minute, host)
);

-- What the paywall sold: one row a payment that was verified. `payment` names it as the facilitator does,
-- `identifier` is the buyer's name for it while the sale lives, `proof` what it showed that no chain shows.
CREATE TABLE sale (
  id             TEXT PRIMARY KEY,
  payment        TEXT NOT NULL UNIQUE,
  identifier     TEXT UNIQUE,
  proof          TEXT,
  fingerprint    TEXT NOT NULL,
  route          TEXT NOT NULL,
  method         TEXT NOT NULL,
  target         TEXT NOT NULL,
  protocol       TEXT NOT NULL,
  payer          TEXT NOT NULL,
  pay_to         TEXT NOT NULL,
  amount         BIGINT NOT NULL,
  request        TEXT NOT NULL,
  state          TEXT NOT NULL,
  response       TEXT,
  refusal        TEXT,
  tx_hash        TEXT,
  valid_before_s BIGINT NOT NULL,
  due_ms         BIGINT NOT NULL,
  created_ms     BIGINT NOT NULL,
  updated_ms     BIGINT NOT NULL
);
CREATE INDEX sale_due ON sale (due_ms) WHERE state IN ('open', 'served', 'settled');
CREATE INDEX sale_kept ON sale (updated_ms) WHERE response IS NOT NULL;
CREATE INDEX sale_dead ON sale (valid_before_s) WHERE state IN ('void', 'closed');
CREATE INDEX sale_by_route ON sale (route, id);

CREATE TABLE audit_entry (
  seq        BIGINT PRIMARY KEY,
  at_ms      BIGINT NOT NULL,
  kind       TEXT NOT NULL,
  actor      TEXT NOT NULL,
  agent_id   TEXT,
  payment_id TEXT,
  tx_id      TEXT,
  data       TEXT NOT NULL,
  prev       TEXT NOT NULL,
  hash       TEXT NOT NULL
);
CREATE INDEX audit_by_payment ON audit_entry (payment_id) WHERE payment_id IS NOT NULL;
CREATE INDEX audit_by_tx ON audit_entry (tx_id) WHERE tx_id IS NOT NULL;
CREATE TABLE audit_head (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL, hash TEXT NOT NULL);

-- Differences between chain and books. One row a difference, kept when it is gone.
CREATE TABLE finding (
  id         TEXT PRIMARY KEY,
  kind       TEXT NOT NULL,
  block      BIGINT NOT NULL,
  tx_hash    TEXT,
  payment_id TEXT,
  what       TEXT NOT NULL,
  found_ms   BIGINT NOT NULL,
  cleared_ms BIGINT
);
CREATE INDEX finding_open ON finding (found_ms) WHERE cleared_ms IS NULL;

CREATE TABLE outbox (
  id         TEXT PRIMARY KEY,
  kind       TEXT NOT NULL,
  payment_id TEXT,
  body       TEXT NOT NULL,
  created_ms BIGINT NOT NULL
);

CREATE TABLE spent_nonce (
  key_id    TEXT NOT NULL,
  nonce     TEXT NOT NULL,
  expires_s BIGINT NOT NULL,
  PRIMARY KEY (key_id, nonce)
);
CREATE INDEX spent_nonce_stale ON spent_nonce (expires_s);

-- What is wrong now: a row while it is so.
CREATE TABLE alert (
  kind     TEXT NOT NULL,
  subject  TEXT NOT NULL,
  detail   TEXT NOT NULL,
  data     TEXT NOT NULL,
  since_ms BIGINT NOT NULL,
  PRIMARY KEY (kind, subject)
);

-- One row an event and endpoint. due_ms: when to send it next, or when the claim of the daemon that
-- sends it ends. created_ms is the event's.
CREATE INDEX outbox_by_time ON outbox (created_ms);
CREATE TABLE delivery (
  endpoint   TEXT NOT NULL,
  event_id   TEXT NOT NULL,
  state      TEXT NOT NULL,
  tries      BIGINT NOT NULL DEFAULT 0,
  due_ms     BIGINT NOT NULL,
  answer     TEXT,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (endpoint, event_id)
);
CREATE INDEX delivery_due ON delivery (endpoint, due_ms) WHERE state = 'pending';
CREATE INDEX delivery_dead ON delivery (endpoint, created_ms) WHERE state = 'dead';
CREATE INDEX delivery_by_time ON delivery (created_ms);

-- How an endpoint fares. disabled: why nothing is sent to it.
CREATE TABLE endpoint (
  name         TEXT PRIMARY KEY,
  disabled     TEXT,
  failures     BIGINT NOT NULL DEFAULT 0,
  answer       TEXT,
  delivered_ms BIGINT,
  failed_ms    BIGINT
);

-- On PostgreSQL every transaction takes a turn first: all writers of all daemons stand in one line.
CREATE TABLE writer (id BIGINT PRIMARY KEY, turn BIGINT NOT NULL, kept_from BIGINT NOT NULL);
-- What the other daemons must hear of a turn, as JSON.
CREATE TABLE word (turn BIGINT PRIMARY KEY, run TEXT NOT NULL, words TEXT NOT NULL);
-- Which daemon does what.
CREATE TABLE lease (
  name      TEXT PRIMARY KEY,
  holder    TEXT NOT NULL,
  fence     BIGINT NOT NULL,
  beat      BIGINT NOT NULL,
  length_ms BIGINT NOT NULL
);

-- Channels through which we are paid; the marks in their order: claimed, charged, ceiling, balance. `booked`
-- is what the ledger has of what was claimed; `refund` what is on its way back to the payer. What changes
-- with every call is in `voucher`, whose rows are short: many of them are written at once.
CREATE TABLE meter (
  id               TEXT PRIMARY KEY,
  config           TEXT NOT NULL,
  balance          BIGINT NOT NULL,
  claimed          BIGINT NOT NULL,
  booked           BIGINT NOT NULL,
  refund_nonce     BIGINT NOT NULL,
  withdraw_since_s BIGINT,
  read_ms          BIGINT NOT NULL,
  owed_since_ms    BIGINT,
  refund           TEXT,
  version          BIGINT NOT NULL
);
CREATE INDEX meter_owing ON meter (read_ms, id) WHERE owed_since_ms IS NOT NULL;

-- A channel's voucher: what was charged, up to where the payer signed, and `last`, the answer to the
-- request charged last, for a payer that did not get it. Each channel in `meter` has one.
CREATE TABLE voucher (
  id        TEXT PRIMARY KEY,
  charged   BIGINT NOT NULL,
  ceiling   BIGINT NOT NULL,
  signature TEXT NOT NULL,
  last      TEXT,
  version   BIGINT NOT NULL
);

-- What was charged in channels, by day (since 1970, UTC), route of the price list, and who earns. `booked`
-- is what of it was claimed, the oldest day first: the ledger has the same.
CREATE TABLE earning (
  day      BIGINT NOT NULL,
  route    TEXT NOT NULL,
  receiver TEXT NOT NULL,
  calls    BIGINT NOT NULL,
  amount   BIGINT NOT NULL,
  booked   BIGINT NOT NULL,
  PRIMARY KEY (day, route, receiver)
);
CREATE INDEX earning_owed ON earning (receiver, day, route) WHERE booked < amount;

-- Channels of the wallet's own, out of which an agent buys. What was charged and signed is the payer's own
-- count; `held_by` is the purchase whose voucher left last, while it is not known what that cost.
CREATE TABLE purse (
  id           TEXT PRIMARY KEY,
  agent_id     TEXT NOT NULL,
  key_index    BIGINT NOT NULL,
  host         TEXT NOT NULL,
  receiver     TEXT NOT NULL,
  config       TEXT NOT NULL,
  state        TEXT NOT NULL,
  charged      BIGINT NOT NULL,
  ceiling      BIGINT NOT NULL,
  signature    TEXT NOT NULL,
  held_by      TEXT,
  balance      BIGINT NOT NULL,
  claimed      BIGINT NOT NULL,
  returned     BIGINT NOT NULL,
  withdraw_since_s BIGINT,
  used_ms      BIGINT NOT NULL,
  read_ms      BIGINT NOT NULL,
  version      BIGINT NOT NULL,
  created_ms   BIGINT NOT NULL
);
CREATE INDEX purse_of_agent ON purse (agent_id, receiver) WHERE state <> 'closed';
CREATE INDEX purse_live ON purse (id) WHERE state <> 'closed';
