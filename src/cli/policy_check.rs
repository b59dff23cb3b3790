//! `bursar policy check`: reads policy files and says what is wrong, too broad, or without effect.

use std::{fs, path::PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::{CliError, Kind, table::table};
use crate::{
    config::Config,
    policy::{Categories, Finding, Level, Policy, lint, lint_together},
};

/// Read policy files and say what is wrong, too broad, or without effect.
///
/// Exit code 4 if a file has an error; warnings and notes do not change the exit code.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Policy files, one for each agent.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The daemon's configuration file: its categories are the known ones.
    #[arg(long, value_name = "PATH", env = "BURSAR_CONFIG")]
    config: Option<PathBuf>,
    /// The wallet's categories in the order of their bits, instead of a configuration's. Without
    /// either, every name counts as known.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    categories: Option<Vec<String>>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// One file and what was found in it.
#[derive(Serialize)]
struct Report {
    file: String,
    /// The agent, if the file could be read.
    agent: Option<String>,
    findings: Vec<Finding>,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be opened, categories that cannot stand, or at least one finding that is an
/// error.
pub fn run(args: &Args) -> Result<(), CliError> {
    let now_s = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let reports = read(args, now_s)?;
    println!("{}", if args.json { json(&reports)? } else { text(&reports) });
    let errors = count(&reports, Level::Error);
    if errors == 0 {
        return Ok(());
    }
    let plural = if errors == 1 { "" } else { "s" };
    Err(CliError::new(Kind::Mismatch, format!("{errors} error{plural} in policy files"))
        .hint("correct the lines above and check again"))
}

fn read(args: &Args, now_s: u64) -> Result<Vec<Report>, CliError> {
    let names = match (&args.categories, &args.config) {
        (Some(names), _) => Some(names.clone()),
        (None, Some(config)) => Some(Config::read(config)?.categories),
        (None, None) => None,
    };
    let wallet = names.map(Categories::new).transpose().map_err(|error| {
        CliError::new(Kind::Usage, error).hint("write --categories data,compute, in bit order")
    })?;
    let mut reports = Vec::with_capacity(args.files.len());
    let mut policies = Vec::new();
    for (place, file) in args.files.iter().enumerate() {
        let text = fs::read_to_string(file).map_err(|error| {
            CliError::new(Kind::Unreachable, format!("{}: {error}", file.display()))
                .hint("name readable text files")
        })?;
        let (policy, findings) = check(&text, wallet.as_ref(), now_s);
        let agent = policy.as_ref().map(|policy| policy.agent.to_string());
        reports.push(Report { file: file.display().to_string(), agent, findings });
        policies.extend(policy.map(|policy| (place, policy)));
    }
    let parsed: Vec<&Policy> = policies.iter().map(|(_, policy)| policy).collect();
    for (which, finding) in lint_together(&parsed) {
        reports[policies[which].0].findings.push(finding);
    }
    Ok(reports)
}

fn check(text: &str, wallet: Option<&Categories>, now_s: u64) -> (Option<Policy>, Vec<Finding>) {
    let own;
    let known = match wallet {
        Some(known) => known,
        None => {
            own = Categories::named_in(text);
            &own
        }
    };
    match Policy::parse(text, known) {
        Ok(policy) => {
            let findings = lint(text, &policy, wallet, now_s);
            (Some(policy), findings)
        }
        Err(error) => {
            let key = error.key.unwrap_or_default();
            let (level, line, message) = (Level::Error, error.line, error.message);
            (None, vec![Finding { level, line, key, message }])
        }
    }
}

fn count(reports: &[Report], level: Level) -> usize {
    reports.iter().flat_map(|report| &report.findings).filter(|f| f.level == level).count()
}

fn json(reports: &[Report]) -> Result<String, CliError> {
    serde_json::to_string_pretty(reports).map_err(|error| CliError::new(Kind::Refused, error))
}

fn text(reports: &[Report]) -> String {
    let mut rows = table(&["file", "line", "level", "key", "finding"]);
    for report in reports {
        for finding in &report.findings {
            rows.add_row(vec![
                report.file.clone(),
                finding.line.map(|line| line.to_string()).unwrap_or_default(),
                finding.level.as_str().to_owned(),
                finding.key.clone(),
                finding.message.clone(),
            ]);
        }
    }
    let mut out = if rows.row_count() > 0 { format!("{rows}\n") } else { String::new() };
    out.push_str(&format!(
        "files {}, errors {}, warnings {}, notes {}",
        reports.len(),
        count(reports, Level::Error),
        count(reports, Level::Warning),
        count(reports, Level::Note)
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
agent = "research"
key_index = 0
public_key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
sponsor = "ana@example.com"
categories = ["data"]
expires = "2999-01-01T00:00:00Z"
[limits]
ceiling = "250"
day = "1000"
"#;

    fn args(folder: &tempfile::TempDir, files: &[(&str, &str)], known: Option<&str>) -> Args {
        let write = |(name, text): &(&str, &str)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let categories = known.map(|names| names.split(',').map(String::from).collect());
        let files = files.iter().map(write).collect();
        Args { files, config: None, categories, json: false }
    }

    #[test]
    fn warnings_are_shown_and_pass() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(&folder, &[("a.toml", GOOD)], None);
        let shown = text(&read(&args, 1_782_864_000).unwrap());
        assert!(shown.contains("limits.month"), "{shown}");
        assert!(shown.ends_with("files 1, errors 0, warnings 4, notes 2"), "{shown}");
        run(&args).unwrap();
    }

    #[test]
    fn errors_are_shown_with_file_and_line_and_exit_4() {
        let folder = tempfile::tempdir().unwrap();
        let bad = GOOD.replace("\"1000\"", "1000");
        let both = args(&folder, &[("a.toml", GOOD), ("b.toml", &bad)], None);
        let shown = text(&read(&both, 1_782_864_000).unwrap());
        let row = shown.lines().find(|line| line.contains("b.toml")).unwrap();
        assert!(row.contains("10") && row.contains("error") && row.contains("limits.day"), "{row}");
        let error = run(&both).unwrap_err();
        assert_eq!(
            (error.kind, error.to_string().as_str()),
            (Kind::Mismatch, "1 error in policy files")
        );
        let strange = args(&folder, &[("a.toml", GOOD)], Some("compute"));
        let reports = read(&strange, 1_782_864_000).unwrap();
        assert!(reports[0].findings[0].message.contains("write one of: compute"));
    }

    #[test]
    fn json_names_every_finding() {
        let folder = tempfile::tempdir().unwrap();
        let twice = args(&folder, &[("a.toml", GOOD), ("b.toml", GOOD)], None);
        let shown = json(&read(&twice, 1_782_864_000).unwrap()).unwrap();
        let reports: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(reports[0]["agent"], "research");
        let last = reports[1]["findings"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["level"], &last["key"]), (&"error".into(), &"agent".into()));
    }

    #[test]
    fn what_cannot_be_read_and_what_cannot_stand_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let mut missing = args(&folder, &[], None);
        missing.files.push(folder.path().join("missing.toml"));
        assert_eq!(run(&missing).unwrap_err().kind, Kind::Unreachable);
        let mut lost = args(&folder, &[("a.toml", GOOD)], None);
        lost.config = Some(folder.path().join("bursar.toml"));
        assert_ne!(run(&lost).unwrap_err().kind, Kind::Mismatch);
        let twice = args(&folder, &[("a.toml", GOOD)], Some("a,a"));
        assert_eq!(run(&twice).unwrap_err().kind, Kind::Usage);
    }
}
