//! Parameters of HTTP authentication (RFC 9110, section 11): `Scheme key="value", key=token`, several
//! schemes in one header.

use super::{HEADER_LIMIT, MppError};

/// Reads the parameters of every `Payment` in a header's value; other schemes are passed over. A key
/// that comes twice, or a value that does not end, is an error.
pub(super) fn read(header: &str) -> Result<Vec<Vec<(String, String)>>, MppError> {
    if header.len() > HEADER_LIMIT {
        return Err(MppError::TooLong(header.len()));
    }
    let mut rest = header;
    let mut found: Vec<Vec<(String, String)>> = Vec::new();
    let mut is_ours = false;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(found);
        }
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(MppError::Syntax("a name was expected"));
        }
        let (name, after) = rest.split_at(end);
        let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            is_ours = name.eq_ignore_ascii_case("payment");
            if is_ours {
                found.push(Vec::new());
            }
            rest = after;
            continue;
        };
        let (value, after) = read_value(value.trim_start_matches([' ', '\t']))?;
        rest = after;
        if let Some(params) = found.last_mut().filter(|_| is_ours) {
            let name = name.to_ascii_lowercase();
            if params.iter().any(|(known, _)| *known == name) {
                return Err(MppError::Syntax("a parameter comes twice"));
            }
            params.push((name, value));
        }
    }
}

const fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(
            c,
            '!' | '#'
                | '$'
                | '%'
                | '&'
                | '\''
                | '*'
                | '+'
                | '-'
                | '.'
                | '^'
                | '_'
                | '`'
                | '|'
                | '~'
        )
}

/// Reads a quoted text or a bare one, and returns what follows it.
fn read_value(text: &str) -> Result<(String, &str), MppError> {
    let Some(quoted) = text.strip_prefix('"') else {
        // `token68` of other schemes ends in `=`.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let mut units: Vec<u16> = Vec::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let value = String::from_utf16(&units)
                    .map_err(|_| MppError::Syntax("a broken character"))?;
                return Ok((value, &quoted[at + 1..]));
            }
            '\\' => {
                let Some((at, escaped)) = chars.next() else { break };
                // Not of the RFC: how characters above Latin-1 travel.
                let unit = (escaped == 'u')
                    .then(|| quoted.get(at + 1..at + 5))
                    .flatten()
                    .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .and_then(|hex| u16::from_str_radix(hex, 16).ok());
                match unit {
                    Some(unit) => {
                        units.push(unit);
                        chars.nth(3);
                    }
                    None => units.extend_from_slice(escaped.encode_utf16(&mut [0; 2])),
                }
            }
            plain => units.extend_from_slice(plain.encode_utf16(&mut [0; 2])),
        }
    }
    Err(MppError::Syntax("a quoted text does not end"))
}

/// Writes one parameter. Control characters become blanks; what is above ASCII is escaped.
pub(super) fn write(out: &mut String, name: &str, value: &str) {
    if !out.ends_with(' ') {
        out.push_str(", ");
    }
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c if c.is_ascii() => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn reads_ours_among_others() {
        let read = |text| read(text).unwrap();
        assert_eq!(
            read(
                r#"Basic realm="x, Payment id=\"no\"", payment id="a\"b\\", Realm = c , Negotiate abc==, Payment id="2""#
            ),
            [pairs(&[("id", "a\"b\\"), ("realm", "c")]), pairs(&[("id", "2")])]
        );
        assert!(read("Bearer").is_empty() && read("").is_empty());
    }

    #[test]
    fn what_is_broken_is_refused() {
        for text in [
            r#"Payment id="a"#,
            r#"Payment id="a\"#,
            r#"Payment id="a", id="b""#,
            r#"Payment "a""#,
            r#"Payment id="\ud800""#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(matches!(read(&" ".repeat(HEADER_LIMIT + 1)), Err(MppError::TooLong(_))));
    }

    #[test]
    fn any_text_comes_back() {
        let mut out = "Payment ".to_owned();
        write(&mut out, "a", "quote \" back \\ é 漢 🦀 \\u0041");
        write(&mut out, "b", "line\r\nbreak");
        assert!(out.is_ascii());
        assert_eq!(
            read(&out).unwrap(),
            [pairs(&[("a", "quote \" back \\ é 漢 🦀 \\u0041"), ("b", "line  break")])]
        );
    }
}
