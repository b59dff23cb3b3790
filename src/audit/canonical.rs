//! RFC 8785 (JSON Canonicalization Scheme) for values whose numbers are integers.

use serde_json::Value;

/// The largest integer that every JSON reader keeps exactly.
const MAX_INTEGER: u64 = (1 << 53) - 1;
/// Levels of nesting, well above anything that is logged.
const MAX_DEPTH: usize = 32;

/// A value without a canonical form here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// A number with a fraction, or an integer beyond 2^53 - 1.
    #[error("{0} is not an integer within 2^53 - 1; write it as a string")]
    Number(String),
    /// Nested too deeply.
    #[error("nested more than {MAX_DEPTH} levels deep")]
    Depth,
}

/// Writes a value in its one canonical form: keys sorted by UTF-16 units, no white space, the
/// shortest escapes.
///
/// # Errors
/// [`NotCanonical`].
pub fn canonical(value: &Value) -> Result<String, NotCanonical> {
    let mut out = String::new();
    write(value, &mut out, MAX_DEPTH)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String, depth: usize) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            let size = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
            if size.is_none_or(|size| size > MAX_INTEGER) {
                return Err(NotCanonical::Number(number.to_string()));
            }
            out.push_str(&number.to_string());
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            let depth = depth.checked_sub(1).ok_or(NotCanonical::Depth)?;
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write(item, out, depth)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let depth = depth.checked_sub(1).ok_or(NotCanonical::Depth)?;
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (place, (name, field)) in sorted.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_text(name, out);
                out.push(':');
                write(field, out, depth)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

// RFC 8785 §3.2.2.2: two-character escapes where JSON has them, \u00xx for other controls.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn sorts_as_rfc_8785_section_3_2_3_does() {
        let value = json!({
            "\u{20ac}": "Euro Sign",
            "\r": "Carriage Return",
            "\u{fb33}": "Hebrew Letter Dalet With Dagesh",
            "1": "One",
            "\u{1f600}": "Emoji: Grinning Face",
            "\u{80}": "Control",
            "\u{f6}": "Latin Small Letter O With Diaeresis",
        });
        let expected = concat!(
            r#"{"\r":"Carriage Return","1":"One","#,
            "\"\u{80}\":\"Control\",\"\u{f6}\":\"Latin Small Letter O With Diaeresis\",",
            "\"\u{20ac}\":\"Euro Sign\",\"\u{1f600}\":\"Emoji: Grinning Face\",",
            "\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}"
        );
        assert_eq!(canonical(&value).unwrap(), expected);
    }

    #[test]
    fn escapes_as_rfc_8785_section_3_2_2_does() {
        let value = json!({
            "string": "\u{20ac}$\u{f}\nA'B\"\\\\\"/",
            "literals": [null, true, false],
            "numbers": [0, -7, 9_007_199_254_740_991_i64],
        });
        assert_eq!(
            canonical(&value).unwrap(),
            "{\"literals\":[null,true,false],\"numbers\":[0,-7,9007199254740991],\
             \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
    }

    #[test]
    fn refuses_what_readers_would_round() {
        for value in [json!(1.5), json!(1.0), json!(9_007_199_254_740_992_u64), json!(u64::MAX)] {
            assert!(matches!(canonical(&value), Err(NotCanonical::Number(_))), "{value}");
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(canonical(&deep), Err(NotCanonical::Depth));
    }

    proptest! {
        #[test]
        fn the_form_is_stable_and_reads_back(
            fields in prop::collection::hash_map(any::<String>(), any::<String>(), 0..8),
            number in -9_007_199_254_740_991_i64..=9_007_199_254_740_991,
        ) {
            let value = json!({ "fields": fields, "list": [number, null, true] });
            let text = canonical(&value).unwrap();
            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&back, &value);
            prop_assert_eq!(canonical(&back).unwrap(), text);
        }
    }
}
