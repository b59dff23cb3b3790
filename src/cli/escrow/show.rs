//! One escrow as people read it: who, how much, and its story down the page.

use crate::{
    escrow::{ActionState, EscrowState, EscrowView, Release},
    review::one_line,
};

/// Cells of the bar that shows where the money is.
const BAR: u64 = 30;

/// Where it stands; before its money is held, where its payment stands.
pub(super) fn state(escrow: &EscrowView) -> String {
    match escrow.state {
        EscrowState::Opening | EscrowState::Unfunded => {
            format!("{} ({})", escrow.state, escrow.payment.state)
        }
        state => state.to_string(),
    }
}

pub(super) fn payee(escrow: &EscrowView) -> String {
    escrow.payee_label.clone().unwrap_or_else(|| escrow.payee.to_string())
}

/// Writes all of it.
pub(super) fn text(escrow: &EscrowView) -> String {
    let mut lines = vec![("escrow", escrow.id.to_string())];
    let place = format!("milestone {} of {}", escrow.milestone, escrow.milestones);
    let title = escrow.title.as_ref().map_or(String::new(), |title| format!(": {title}"));
    lines.push(("job", format!("{}, {place}{title}", escrow.job_id)));
    let work = escrow.job.text.clone().or_else(|| escrow.job.url.clone());
    lines.push(("work", work.unwrap_or_else(|| escrow.job.hash.to_string())));
    lines.push(("agent", escrow.agent.to_string()));
    let label = escrow.payee_label.as_ref().map_or(String::new(), |label| format!("{label} "));
    lines.push(("payee", format!("{label}({})", escrow.payee)));
    for part in &escrow.payouts {
        let who = part.payee_label.clone().unwrap_or_else(|| part.payee.to_string());
        lines.push(("of that", format!("{} to {who}", percent(part.bps))));
    }
    let nobody = || "none: there are no disputes".to_owned();
    lines.push(("arbiter", escrow.arbiter.map_or_else(nobody, |arbiter| arbiter.to_string())));
    lines.push(("released by", rule(&escrow.any_of, &escrow.all_of)));
    lines.push(("on silence", format!("{} to the payee", percent(escrow.silence_bps))));
    lines.push(("payment", escrow.payment.id.to_string()));
    lines.push(("state", state(escrow)));
    let mut text: Vec<String> =
        lines.iter().map(|(name, value)| format!("{name:<13}{}", one_line(value))).collect();
    text.push(format!("{:<13}{}", "money", money(escrow)));
    text.push(String::new());
    text.extend(timeline(escrow));
    text.join("\n")
}

/// `[█████▒▒▒░░░░] 40 USDC: 15 released, 10 back, 15 held`
fn money(escrow: &EscrowView) -> String {
    let whole = escrow.amount.units().max(1);
    let cells = |units: u64| {
        usize::try_from(u128::from(units) * u128::from(BAR) / u128::from(whole)).unwrap_or(0)
    };
    let released = cells(escrow.captured.units());
    let back = cells(escrow.captured.units() + escrow.refunded.units()) - released;
    let held = usize::try_from(BAR).unwrap_or(0).saturating_sub(released + back);
    let bar = format!("{}{}{}", "█".repeat(released), "▒".repeat(back), "░".repeat(held));
    let mut text = format!(
        "[{bar}] {} USDC: {} released, {} back, {} held",
        escrow.amount, escrow.captured, escrow.refunded, escrow.held
    );
    if escrow.returned.units() != 0 {
        text.push_str(&format!("; {} given back later", escrow.returned));
    }
    text
}

fn rule(any_of: &[Release], all_of: &[Release]) -> String {
    let words = |list: &[Release], between: &str| {
        let words: Vec<&str> = list
            .iter()
            .map(|one| match one {
                Release::Payer => "payer",
                Release::Arbiter => "arbiter",
                Release::Preimage => "preimage",
                Release::Condition => "condition",
            })
            .collect();
        words.join(between)
    };
    match (any_of, all_of) {
        (any, []) => words(any, " or "),
        ([], all) => words(all, " and "),
        (any, all) => format!("{}, and one of {}", words(all, " and "), words(any, " or ")),
    }
}

fn percent(bps: u16) -> String {
    match bps % 100 {
        0 => format!("{} %", bps / 100),
        rest => format!("{}.{rest:02} %", bps / 100),
    }
}

/// What happened, what is under way, what comes next by itself.
fn timeline(escrow: &EscrowView) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in &escrow.timeline {
        let mut line = format!("{}  ●  {:<10}", entry.at, entry.what);
        if let Some(amount) = entry.amount {
            line.push_str(&format!("  {amount} USDC"));
        }
        if let Some(by) = &entry.by {
            line.push_str(&format!("  by {by}"));
        }
        if let Some(hash) = entry.hash {
            line.push_str(&format!("  {hash}"));
        }
        if let Some(block) = entry.block {
            line.push_str(&format!("  block {block}"));
        }
        lines.push(line);
    }
    for action in &escrow.actions {
        let mut line = match action.state {
            ActionState::Failed => format!("{}  ✗  {:<10}", action.created_at, action.kind),
            _ => format!("{}  ◌  {:<10}", action.created_at, action.kind),
        };
        line.push_str(&match action.state {
            ActionState::AwaitingApproval => {
                format!("  waits for operators: bursar escrow approve {}", action.id)
            }
            ActionState::Sent => "  on its way".to_owned(),
            ActionState::Done => "  done".to_owned(),
            ActionState::Failed => {
                let why = action.refusal.as_ref().map(|refusal| refusal.detail.as_str());
                format!("  failed: {}", why.unwrap_or("no reason given"))
            }
        });
        lines.push(line);
    }
    if let Some(next) = &escrow.next {
        let warned = if next.warned { "; the operators were warned" } else { "" };
        lines.push(format!("{}  ○  {:<10}  if nobody acts by then{warned}", next.at, next.then));
    }
    lines.iter().map(|line| one_line(line)).collect()
}
