//! `bursar fetch`, `bursar purchases`: an agent's calls that cost something.

use std::{fs, io::Read as _, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args as ClapArgs;

use super::{CliError, Kind, block_on, pay::AgentArgs, remote::Remote, table::table};
use crate::{
    buyer::{FetchRequest, FetchView, OfferView, PurchasePage, PurchaseState, Receipt},
    money::Usdc,
    payment::PaymentId,
    review::one_line,
};

/// Call a URL as an agent, and pay for it where the server asks for payment (HTTP 402).
///
/// The body goes to standard output, the receipt to standard error. The daemon pays only what the
/// agent's policy allows: hosts, payees, price of a call, per host and day, in all. Exit code 1 also
/// where the server answered 400 or more, or nobody knows yet whether the payment was used: ask
/// again with the same --key, which never pays twice.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar fetch https://api.example.com/weather --max-price 0.01\n\
    \x20 bursar fetch https://api.example.com/weather --inspect\n\
    \x20 bursar fetch https://api.example.com/jobs --method POST --body @job.json \\\n\
    \x20     --header 'content-type: application/json' --key job-7f3a")]
pub struct FetchArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// What to call.
    #[arg(value_name = "URL")]
    target: String,
    /// Pay nothing dearer than this, in decimal USDC, whatever the policy allows.
    #[arg(long, value_name = "USDC")]
    max_price: Option<Usdc>,
    /// Only show what it costs and what would be paid.
    #[arg(long, conflicts_with = "key")]
    inspect: bool,
    /// The method; POST where there is a body, else GET.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The body: a text, @FILE, or @- for standard input.
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// A header to send, like 'accept: text/plain'. Credentials are not sent.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Pay exactly this offer, as an earlier --inspect named it.
    #[arg(long, value_name = "HASH")]
    quote: Option<alloy::primitives::B256>,
    /// Names the purchase: asking again with the same key never pays twice. Made up and printed
    /// where absent.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// List what an agent paid for calls, or show one purchase.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar purchases\n\
    \x20 bursar purchases pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f")]
pub struct PurchasesArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Show this one.
    id: Option<PaymentId>,
    /// Purchases on the page: 1 to 200.
    #[arg(long, default_value_t = 20, conflicts_with = "id",
          value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// The page after: `next_cursor` of the one before.
    #[arg(long, conflicts_with = "id")]
    cursor: Option<String>,
}

/// Runs `bursar fetch`.
///
/// # Errors
/// The key or the body cannot be read, the daemon is out of reach or refuses, the server answered
/// 400 or more.
pub fn fetch(args: &FetchArgs, remote: &Remote) -> Result<(), CliError> {
    let client = args.agent.client(remote)?;
    let request = args.request()?;
    if args.inspect {
        let view = block_on(async { Ok(client.inspect(&request).await?) })?;
        return remote.print(&view, inspection);
    }
    let key = args.key.clone().unwrap_or_else(|| {
        let key = uuid::Uuid::now_v7().to_string();
        eprintln!("key {key}; if you must ask again, add --key {key}");
        key
    });
    let view = block_on(async { Ok(client.fetch(&request, &key).await?) })?;
    if remote.json {
        remote.print(&view, |_| String::new())?;
    } else {
        if let Some(receipt) = &view.receipt {
            eprintln!("{}", receipt_text(receipt));
        }
        write_body(&view)?;
    }
    let open = view.receipt.as_ref().is_some_and(|receipt| {
        matches!(receipt.state, PurchaseState::Signed | PurchaseState::Unknown)
    });
    match view.answer.status {
        status @ 400.. if open => Err(CliError::new(
            Kind::Refused,
            format!("the server answered {status}; the payment is with it and may be used"),
        )
        .hint(format!("ask again with --key {key}, which never pays twice"))),
        status @ 400.. => {
            Err(CliError::new(Kind::Refused, format!("the server answered {status}")))
        }
        _ => Ok(()),
    }
}

/// Runs `bursar purchases`.
///
/// # Errors
/// As [`fetch`].
pub fn purchases(args: &PurchasesArgs, remote: &Remote) -> Result<(), CliError> {
    let client = args.agent.client(remote)?;
    if let Some(id) = args.id {
        let receipt = block_on(async { Ok(client.purchase(id).await?) })?;
        return remote.print(&receipt, receipt_text);
    }
    let cursor = args.cursor.as_deref();
    let page = block_on(async { Ok(client.purchases(cursor, args.limit).await?) })?;
    remote.print(&page, page_text)
}

impl FetchArgs {
    fn request(&self) -> Result<FetchRequest, CliError> {
        let usage = |what: String| CliError::new(Kind::Usage, what);
        let mut headers = std::collections::BTreeMap::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| usage(format!("`{header}` is no header; write 'name: value'")))?;
            headers.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        let unreadable = |name: &str, error: std::io::Error| {
            CliError::new(Kind::Unreachable, format!("cannot read {name}: {error}"))
        };
        let bytes = match self.body.as_deref().map(|body| (body, body.strip_prefix('@'))) {
            None => None,
            Some((text, None)) => Some(text.as_bytes().to_vec()),
            Some((_, Some("-"))) => {
                let mut bytes = Vec::new();
                let read = std::io::stdin().read_to_end(&mut bytes);
                read.map_err(|error| unreadable("standard input", error))?;
                Some(bytes)
            }
            Some((_, Some(file))) => {
                Some(fs::read(PathBuf::from(file)).map_err(|error| unreadable(file, error))?)
            }
        };
        let method = self.method.clone().or_else(|| bytes.as_ref().map(|_| "POST".to_owned()));
        let (body, body_base64) = match bytes.map(String::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes.as_bytes()))),
        };
        Ok(FetchRequest {
            url: self.target.clone(),
            method,
            headers,
            body,
            body_base64,
            max_price: self.max_price.map(|most| most.to_string()),
            quote: self.quote,
            inspect: self.inspect,
        })
    }
}

/// Writes the body as it came.
fn write_body(view: &FetchView) -> Result<(), CliError> {
    use std::io::Write as _;
    let answer = &view.answer;
    let bytes = match (&answer.body, &answer.body_base64) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(coded)) => BASE64_STANDARD
            .decode(coded)
            .map_err(|error| CliError::new(Kind::Refused, format!("the body: {error}")))?,
        (None, None) => Vec::new(),
    };
    // A closed pipe (`| head`) is not worth an error.
    let _ = std::io::stdout().write_all(&bytes);
    if answer.truncated {
        eprintln!("the body is cut off: it is longer than the daemon reads");
    }
    Ok(())
}

fn lines(fields: &[(&str, String)]) -> String {
    let lines: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name:<13}{}", one_line(value))).collect();
    lines.join("\n")
}

/// What was paid, field by field.
fn receipt_text(receipt: &Receipt) -> String {
    let mut fields = vec![
        ("purchase", receipt.id.to_string()),
        ("call", receipt.call.clone()),
        ("state", receipt.state.as_str().to_owned()),
        ("amount", format!("{} USDC", receipt.amount)),
        ("pay to", receipt.pay_to.to_string()),
        ("payer", format!("{} {}", receipt.payer_kind.as_str(), receipt.payer)),
        ("scheme", receipt.scheme.clone()),
        ("key", receipt.idempotency_key.clone()),
    ];
    if let Some(channel) = &receipt.channel {
        fields.push(("channel", channel.id.to_string()));
        if let Some(charged) = channel.charged {
            fields.push(("charged", format!("{charged} USDC")));
        }
        fields.push(("left in it", format!("{} USDC", channel.left)));
    }
    if let Some(transaction) = receipt.transaction {
        fields.push(("transaction", transaction.to_string()));
    }
    if let Some(block) = receipt.block {
        fields.push(("block", block.to_string()));
    }
    if let Some(note) = &receipt.note {
        fields.push(("note", note.clone()));
    }
    if receipt.repeated {
        fields.push(("repeated", "yes: delivered before, nothing was paid now".to_owned()));
    }
    lines(&fields)
}

fn inspection(view: &FetchView) -> String {
    if view.answer.status != 402 {
        return format!("status {}: nothing to pay", view.answer.status);
    }
    let mut rows = table(&["", "scheme", "network", "price", "pay to", "verdict", "quote"]);
    for offer in &view.offers {
        rows.add_row([
            if offer.chosen { "*" } else { "" }.to_owned(),
            format!("{} {}", offer.protocol, offer.scheme),
            offer.network.clone(),
            offer.price.clone(),
            offer.pay_to.clone(),
            verdict(offer),
            offer.quote.to_string(),
        ]);
    }
    format!("{rows}\n* would be paid")
}

fn verdict(offer: &OfferView) -> String {
    match (&offer.payer, &offer.refusal) {
        (Some(payer), _) => format!("acceptable, by {}", payer.as_str()),
        (None, Some(refusal)) => one_line(&refusal.detail),
        (None, None) => "refused".to_owned(),
    }
}

fn page_text(page: &PurchasePage) -> String {
    let mut rows = table(&["purchase", "state", "amount", "call", "signed"]);
    for receipt in &page.purchases {
        rows.add_row([
            receipt.id.to_string(),
            receipt.state.as_str().to_owned(),
            receipt.amount.to_string(),
            one_line(&receipt.call),
            receipt.created_at.to_string(),
        ]);
    }
    match &page.next_cursor {
        Some(cursor) => format!("{rows}\nmore: --cursor {}", one_line(cursor)),
        None => rows.to_string(),
    }
}
