//! The part of structured fields (RFC 8941) that signatures need: dictionaries of items and inner
//! lists. Small, bounded, and strict where the RFC lets a repeated key replace the first.

use base64::Engine as _;

use super::BASE64;

/// Members, items or parameters in one list at most.
const MAX_MANY: usize = 16;

/// A value without its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bare {
    Integer(i64),
    Text(String),
    Token(String),
    Bytes(Vec<u8>),
    Boolean(bool),
}

pub(super) type Params = Vec<(String, Bare)>;

/// A member's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Item(Bare),
    List(Vec<(Bare, Params)>),
}

/// One member of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member<'a> {
    pub key: String,
    pub value: Value,
    pub params: Params,
    /// The value with its parameters, exactly as sent.
    pub raw: &'a str,
}

type Parsed<T> = Result<T, &'static str>;

/// Parses a dictionary; keys are unique.
pub(super) fn dictionary(text: &str) -> Parsed<Vec<Member<'_>>> {
    let mut cursor = Cursor { text, at: 0 };
    let mut members: Vec<Member<'_>> = Vec::new();
    cursor.skip(b" ");
    loop {
        let key = cursor.key()?;
        if members.iter().any(|member| member.key == key) {
            return Err("a key stands twice");
        }
        if members.len() == MAX_MANY {
            return Err("it has more than 16 members");
        }
        let (value, start) = if cursor.eat(b'=') {
            let start = cursor.at;
            let value = if cursor.eat(b'(') {
                Value::List(cursor.inner_list()?)
            } else {
                Value::Item(cursor.bare()?)
            };
            (value, start)
        } else {
            (Value::Item(Bare::Boolean(true)), cursor.at)
        };
        let params = cursor.params()?;
        let raw = text.get(start..cursor.at).ok_or("it is not plain ASCII")?;
        members.push(Member { key, value, params, raw });
        cursor.skip(b" \t");
        if cursor.peek().is_none() {
            return Ok(members);
        }
        if !cursor.eat(b',') {
            return Err("members must be separated by commas");
        }
        cursor.skip(b" \t");
    }
}

/// Reads the value of `Idempotency-Key`: a structured-field string of 1 to 128 printable
/// characters, or the same bare where no character could mean something else.
///
/// # Errors
/// What is wrong with it, in words.
pub fn idempotency_key(text: &str) -> Result<String, &'static str> {
    let key = if text.starts_with('"') {
        let mut cursor = Cursor { text, at: 0 };
        let Bare::Text(key) = cursor.bare()? else { return Err("it is not a string") };
        if cursor.peek().is_some() {
            return Err("something follows the closing quote");
        }
        key
    } else {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:~/+".contains(&b);
        if !text.bytes().all(plain) {
            return Err("put it in double quotes");
        }
        text.to_owned()
    };
    if (1..=128).contains(&key.len()) { Ok(key) } else { Err("it must have 1 to 128 characters") }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip(&mut self, any: &[u8]) {
        while self.peek().is_some_and(|byte| any.contains(&byte)) {
            self.at += 1;
        }
    }

    fn take(&mut self, good: impl Fn(u8) -> bool) -> &str {
        let start = self.at;
        while self.peek().is_some_and(&good) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn key(&mut self) -> Parsed<String> {
        if !self.peek().is_some_and(|b| b.is_ascii_lowercase() || b == b'*') {
            return Err("a key must start with a lower-case letter");
        }
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b);
        Ok(self.take(good).to_owned())
    }

    fn inner_list(&mut self) -> Parsed<Vec<(Bare, Params)>> {
        let mut items = Vec::new();
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                return Ok(items);
            }
            if items.len() == MAX_MANY {
                return Err("a list has more than 16 items");
            }
            let item = (self.bare()?, self.params()?);
            items.push(item);
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return Err("items of a list must be separated by spaces");
            }
        }
    }

    fn params(&mut self) -> Parsed<Params> {
        let mut params: Params = Vec::new();
        while self.eat(b';') {
            self.skip(b" ");
            let key = self.key()?;
            if params.iter().any(|(known, _)| *known == key) {
                return Err("a parameter stands twice");
            }
            if params.len() == MAX_MANY {
                return Err("it has more than 16 parameters");
            }
            let value = if self.eat(b'=') { self.bare()? } else { Bare::Boolean(true) };
            params.push((key, value));
        }
        Ok(params)
    }

    fn bare(&mut self) -> Parsed<Bare> {
        match self.peek() {
            Some(b'"') => self.text(),
            Some(b':') => {
                self.at += 1;
                let encoded = self.take(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                let bytes = BASE64.decode(encoded).map_err(|_| "a byte sequence is not base64")?;
                if self.eat(b':') { Ok(Bare::Bytes(bytes)) } else { Err("a `:` is missing") }
            }
            Some(b'?') => {
                self.at += 1;
                match self.next() {
                    Some(b'0') => Ok(Bare::Boolean(false)),
                    Some(b'1') => Ok(Bare::Boolean(true)),
                    _ => Err("a boolean is ?0 or ?1"),
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                self.at += 1;
                self.take(|b| b.is_ascii_digit());
                // RFC 8941: at most 15 digits.
                let digits = self.text.get(start..self.at).filter(|d| d.len() <= 16);
                digits
                    .and_then(|digits| digits.parse().ok())
                    .map(Bare::Integer)
                    .ok_or("a number is not an integer")
            }
            Some(b) if b.is_ascii_alphabetic() || b == b'*' => {
                let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b);
                Ok(Bare::Token(self.take(good).to_owned()))
            }
            _ => Err("a value is missing or malformed"),
        }
    }

    fn text(&mut self) -> Parsed<Bare> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.next() {
                Some(b'"') => return Ok(Bare::Text(text)),
                Some(b'\\') => match self.next() {
                    Some(b @ (b'"' | b'\\')) => text.push(char::from(b)),
                    _ => return Err("only \\\" and \\\\ may be escaped in a string"),
                },
                Some(b @ 0x20..=0x7e) => text.push(char::from(b)),
                Some(_) => return Err("a string has a character outside printable ASCII"),
                None => return Err("a closing quote is missing"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_signatures_send() {
        let text =
            r#"sig=("@method" "x";req);created=5;keyid="a\"b", b=?0;x, c=:AQI=:,d=tok/en, e"#;
        let members = dictionary(text).unwrap();
        assert_eq!(members.len(), 5);
        assert_eq!(members[0].raw, r#"("@method" "x";req);created=5;keyid="a\"b""#);
        assert_eq!(members[0].params[1], ("keyid".into(), Bare::Text("a\"b".into())));
        let Value::List(items) = &members[0].value else { panic!("not a list") };
        assert_eq!(items[1].1, [("req".to_owned(), Bare::Boolean(true))]);
        assert_eq!(members[1].value, Value::Item(Bare::Boolean(false)));
        assert_eq!(members[2].value, Value::Item(Bare::Bytes(vec![1, 2])));
        assert_eq!(members[3].value, Value::Item(Bare::Token("tok/en".into())));
        assert_eq!(members[4].value, Value::Item(Bare::Boolean(true)));
    }

    #[test]
    fn refuses_what_is_malformed_repeated_or_endless() {
        let many: String = (0..17).map(|n| format!("k{n}=1,")).collect();
        for text in [
            "",
            " ",
            "a=",
            "a=1,",
            "a=1 b=2",
            "A=1",
            "a=1,a=2",
            "a=(1",
            "a=(1 2",
            "a=(1\"x\")",
            "a=1;b=1;b=2",
            "a=\"x",
            "a=\"\\x\"",
            "a=:AQI",
            "a=:A:",
            "a=?2",
            "a=--1",
            "a=1.5",
            "a=9999999999999999999",
            "a=\"\u{e9}\"",
            "\u{e9}=1",
            many.trim_end_matches(','),
        ] {
            assert!(dictionary(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_idempotency_key_is_a_string_or_unambiguous() {
        assert_eq!(idempotency_key("\"order 7\\\"\"").unwrap(), "order 7\"");
        assert_eq!(idempotency_key("0192f-ab_c.d").unwrap(), "0192f-ab_c.d");
        assert_eq!(idempotency_key("\"a\"").unwrap(), idempotency_key("a").unwrap());
        let long = "x".repeat(129);
        for text in ["", "\"\"", "a b", "a, b", "\"a\", \"b\"", "\"a", "\"a\";x", "a;b", &long] {
            assert!(idempotency_key(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}", noise in "[a-c=();:\"\\\\?, 0-9-]{0,80}") {
            let _ = dictionary(&text);
            let _ = dictionary(&noise);
            let _ = idempotency_key(&text);
        }
    }
}
