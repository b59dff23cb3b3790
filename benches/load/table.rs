//! Figures over the rounds, and the tables they are shown in.

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use serde_json::{Value, json};

/// A figure over the rounds.
#[derive(Clone)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// Lowest and highest, where there was more than one round.
    fn spread(&self) -> String {
        match self.0.as_slice() {
            [low, .., high] => format!("{} … {}", figure(*low), figure(*high)),
            _ => String::new(),
        }
    }

    fn json(&self) -> Value {
        let all: Vec<f64> = self.0.iter().map(|value| rounded(*value)).collect();
        json!({ "median": rounded(self.median()), "all": all })
    }

    /// The medians' ratio.
    pub fn over(&self, baseline: &Self) -> Self {
        Self(vec![self.median() / baseline.median()])
    }
}

/// The tables of a report.
#[derive(Default)]
pub struct Figures {
    pub json: serde_json::Map<String, Value>,
}

impl Figures {
    /// Prints a table of medians with their spread, and keeps it for the JSON.
    pub fn table(&mut self, title: &str, rows: Vec<(&str, &str, Series, &str)>) {
        let mut shown = Vec::new();
        let mut kept = BTreeMap::new();
        for (name, unit, series, aim) in rows {
            shown.push(vec![
                name.to_owned(),
                figure(series.median()),
                unit.to_owned(),
                series.spread(),
                aim.to_owned(),
            ]);
            let mut value = series.json();
            value["unit"] = json!(unit);
            value["aim"] = json!(aim);
            kept.insert(name.to_owned(), value);
        }
        println!("{}", section(title, &["", "median", "", "spread", "aim"], &shown));
        self.json.insert(title.to_owned(), json!(kept));
    }

    /// Prints what was measured in several settings of one run side by side, and each further
    /// setting as a multiple of the first; keeps all of it for the JSON.
    pub fn beside(&mut self, title: &str, settings: &[&str], rows: Vec<(&str, &str, Vec<Series>)>) {
        let ratios: Vec<String> =
            settings.iter().skip(1).map(|name| format!("{name} / {}", settings[0])).collect();
        let mut header = vec![""];
        header.extend(settings);
        header.push("");
        header.extend(ratios.iter().map(String::as_str));
        let (mut shown, mut kept) = (Vec::new(), BTreeMap::new());
        for (name, unit, columns) in rows {
            let mut row = vec![name.to_owned()];
            row.extend(columns.iter().map(|series| match series.spread() {
                spread if spread.is_empty() => figure(series.median()),
                spread => format!("{} ({spread})", figure(series.median())),
            }));
            row.push(unit.to_owned());
            // Nothing has no multiple.
            let is_known = columns[0].median() > 0.0;
            row.extend(columns.iter().skip(1).map(|other| match is_known {
                true => figure(other.over(&columns[0]).median()),
                false => String::new(),
            }));
            shown.push(row);
            let mut value: serde_json::Map<String, Value> = settings
                .iter()
                .zip(&columns)
                .map(|(setting, series)| ((*setting).to_owned(), series.json()))
                .collect();
            value.insert("unit".into(), json!(unit));
            kept.insert(name.to_owned(), value);
        }
        println!("{}", section(title, &header, &shown));
        self.json.insert(title.to_owned(), json!(kept));
    }
}

/// Sets a table under its title.
pub fn section(title: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(index, text)| {
            let is_figure = text.starts_with(|first: char| first.is_ascii_digit());
            let number = index >= 1 && row.len() > 2 && is_figure;
            Cell::new(text).set_alignment(if number {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            })
        }));
    }
    format!("{title}\n{table}\n")
}

/// Three significant digits, whole above a hundred.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

/// The value that `per_mille` of a thousand sorted ones stay within; 0 of none.
pub fn quantile(sorted: &[f64], per_mille: usize) -> f64 {
    let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Four decimals, for the JSON.
pub fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}
