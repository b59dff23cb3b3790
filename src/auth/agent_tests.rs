use http::{HeaderName, Method};
use proptest::prelude::*;

use super::*;
use crate::auth::fresh_nonce;

const TARGET_URI: &str = "https://wallet.example.com/v1/payments";
const BODY: &[u8] = br#"{"amount":"1.25","payee":"acme"}"#;
const VECTOR_NONCE: &str = "bXktbm9uY2UtMTIzNDU2Nzg5MA";
const CREATED: u64 = 1_900_000_000;

/// RFC 9421 B.1.4 `test-key-ed25519`.
fn rfc_key() -> SigningKey {
    let d = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU")
        .unwrap();
    SigningKey::from_bytes(&d.try_into().unwrap())
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn post<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Request<'a> {
    Request { method: &Method::POST, target: TARGET_URI, headers, body }
}

/// The request of the known vector, signed.
fn signed() -> HeaderMap {
    let mut map =
        headers(&[("content-type", "application/json"), ("idempotency-key", "\"order-7f3a\"")]);
    let added = sign(post(&map, BODY), &rfc_key(), CREATED, VECTOR_NONCE).unwrap();
    map.extend(added);
    map
}

fn known(_: &str) -> Option<((), [u8; 32])> {
    Some(((), rfc_key().verifying_key().to_bytes()))
}

fn check(map: &HeaderMap, body: &[u8], now: u64) -> Result<Verified<()>, AuthError> {
    verify(post(map, body), now, known)
}

/// Signs a request of our own choice of input, to prove that the refusal is not for the signature.
fn with_input(input: &str, extra: &[(&'static str, &str)], names: &[&'static str]) -> HeaderMap {
    let mut map = signed();
    for (name, value) in extra {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let base = base(&post(&map, BODY), names, input).unwrap();
    let signature = BASE64.encode(rfc_key().sign(base.as_bytes()).to_bytes());
    map.insert("signature-input", HeaderValue::try_from(format!("sig={input}")).unwrap());
    map.insert("signature", HeaderValue::try_from(format!("sig=:{signature}:")).unwrap());
    map
}

fn input(change: impl Fn(&str) -> String) -> String {
    let map = signed();
    change(map["signature-input"].to_str().unwrap().strip_prefix("sig=").unwrap())
}

#[test]
fn the_key_of_the_rfc_has_its_known_thumbprint() {
    assert_eq!(key_id(&rfc_key().verifying_key()), "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U");
}

#[test]
fn rfc_9421_case_b_2_6_reproduces() {
    let base = "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\
                \"@authority\": example.com\n\"content-type\": application/json\n\
                \"content-length\": 18\n\"@signature-params\": (\"date\" \"@method\" \"@path\" \
                \"@authority\" \"content-type\" \"content-length\");created=1618884473\
                ;keyid=\"test-key-ed25519\"";
    assert_eq!(
        BASE64.encode(rfc_key().sign(base.as_bytes()).to_bytes()),
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    );
}

#[test]
fn our_profile_s_vector_reproduces_and_verifies() {
    let map = signed();
    assert_eq!(map["content-digest"], "sha-256=:B+r+ct9y+42k+c8yuKVJ2JhtOjn+5JbIwfAYH67bFAE=:");
    assert_eq!(
        map["signature-input"],
        "sig=(\"@method\" \"@target-uri\" \"content-digest\" \"content-type\" \
         \"idempotency-key\");created=1900000000;expires=1900000060;\
         nonce=\"bXktbm9uY2UtMTIzNDU2Nzg5MA\";\
         keyid=\"poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U\";alg=\"ed25519\";tag=\"bursar-agent\""
    );
    assert_eq!(
        map["signature"],
        "sig=:KxUdjmMEnQ2M/WlsxhjBROeouvNM0aN6fYajJWjNgdNr/kVaGdA6qTTZLScu1WrHBQSIDb7lNcdu3aayuNbdAA==:"
    );
    let verified = check(&map, BODY, CREATED + 30).unwrap();
    assert_eq!(verified.nonce, VECTOR_NONCE);
    assert_eq!(verified.expires, CREATED + 60);
    assert_eq!(verified.key_id, "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U");
}

#[test]
fn a_request_without_a_body_needs_no_digest() {
    let empty = HeaderMap::new();
    let target = "https://wallet.example.com/v1/payments?limit=5";
    let request = Request { method: &Method::GET, target, headers: &empty, body: b"" };
    let map = sign(request, &rfc_key(), CREATED, &fresh_nonce()).unwrap();
    assert!(!map.contains_key("content-digest"));
    verify(Request { headers: &map, ..request }, CREATED, known).unwrap();
    let other = Request { headers: &map, target: TARGET_URI, ..request };
    assert_eq!(verify(other, CREATED, known), Err(AuthError::Mismatch));
}

#[test]
fn whatever_is_covered_cannot_change() {
    let map = signed();
    assert_eq!(check(&map, b"{}", CREATED), Err(AuthError::DigestMismatch));
    let put = Request { method: &Method::PUT, ..post(&map, BODY) };
    assert_eq!(verify(put, CREATED, known), Err(AuthError::Mismatch));
    for (name, value) in [("idempotency-key", "\"other\""), ("content-type", "text/plain")] {
        let mut changed = map.clone();
        changed.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        assert_eq!(check(&changed, BODY, CREATED), Err(AuthError::Mismatch), "{name}");
        let mut repeated = map.clone();
        repeated.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        assert_eq!(check(&repeated, BODY, CREATED), Err(AuthError::Mismatch), "{name} twice");
    }
}

#[test]
fn time_is_bounded_on_both_sides() {
    let map = signed();
    assert!(check(&map, BODY, CREATED + 59).is_ok());
    assert_eq!(check(&map, BODY, CREATED + 60), Err(AuthError::Expired(0, CREATED + 60)));
    assert!(check(&map, BODY, CREATED - 5).is_ok());
    let early = CREATED - 6;
    assert_eq!(check(&map, BODY, early), Err(AuthError::FromTheFuture(6, early)));
    let long = input(|text| text.replace("expires=1900000060", "expires=1900000301"));
    assert_eq!(
        check(&with_input(&long, &[], &COMPONENTS), BODY, CREATED),
        Err(AuthError::LivesTooLong(301))
    );
    let longest = input(|text| text.replace("expires=1900000060", "expires=1900000300"));
    assert!(check(&with_input(&longest, &[], &COMPONENTS), BODY, CREATED).is_ok());
    let backwards = input(|text| text.replace("expires=1900000060", "expires=1899999999"));
    assert!(matches!(
        check(&with_input(&backwards, &[], &COMPONENTS), BODY, CREATED - 10),
        Err(AuthError::BadParameter { name, .. }) if name == "expires"
    ));
}

#[test]
fn every_parameter_is_needed_once_and_right() {
    for (name, part) in [
        ("created", ";created=1900000000"),
        ("expires", ";expires=1900000060"),
        ("nonce", ";nonce=\"bXktbm9uY2UtMTIzNDU2Nzg5MA\""),
        ("keyid", ";keyid=\"poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U\""),
        ("alg", ";alg=\"ed25519\""),
    ] {
        let without = input(|text| text.replace(part, ""));
        assert_eq!(
            check(&with_input(&without, &[], &COMPONENTS), BODY, CREATED),
            Err(AuthError::NoParameter(name))
        );
        let twice = input(|text| format!("{text}{part}"));
        assert_eq!(
            check(&with_input(&twice, &[], &COMPONENTS), BODY, CREATED),
            Err(AuthError::Malformed { header: INPUT, why: "a parameter stands twice" })
        );
    }
    let untagged = input(|text| text.replace(";tag=\"bursar-agent\"", ""));
    assert_eq!(
        check(&with_input(&untagged, &[], &COMPONENTS), BODY, CREATED),
        Err(AuthError::NoSignature)
    );
    for (from, to, name) in [
        ("alg=\"ed25519\"", "alg=\"hmac-sha256\"", "alg"),
        ("alg=\"ed25519\"", "alg=ed25519", "alg"),
        ("nonce=\"bXktbm9uY2UtMTIzNDU2Nzg5MA\"", "nonce=\"short\"", "nonce"),
        ("created=1900000000", "created=\"1900000000\"", "created"),
        ("created=1900000000", "created=-1", "created"),
        (";alg=", ";surprise;alg=", "surprise"),
    ] {
        let wrong = input(|text| text.replace(from, to));
        let outcome = check(&with_input(&wrong, &[], &COMPONENTS), BODY, CREATED);
        assert!(
            matches!(&outcome, Err(AuthError::BadParameter { name: found, .. }) if found == name),
            "{to}: {outcome:?}"
        );
    }
}

#[test]
fn coverage_is_complete_and_nothing_more() {
    for name in COMPONENTS {
        let less: Vec<&'static str> = COMPONENTS.into_iter().filter(|n| *n != name).collect();
        let quoted: Vec<String> = less.iter().map(|n| format!("\"{n}\"")).collect();
        let tail = input(|text| text.split_once(')').unwrap().1.to_owned());
        let map = with_input(&format!("({}){tail}", quoted.join(" ")), &[], &less);
        assert_eq!(check(&map, BODY, CREATED), Err(AuthError::NotCovered(name)));
    }
    for part in ["\"date\"", "\"@method\"", "\"content-type\";sf", "\"@authority\""] {
        let more = input(|text| text.replacen("(\"", &format!("({part} \""), 1));
        let outcome = check(&with_input(&more, &[], &COMPONENTS), BODY, CREATED);
        assert!(matches!(outcome, Err(AuthError::BadComponent { .. })), "{part}: {outcome:?}");
    }
    // The order is the signer's.
    let mut turned = COMPONENTS;
    turned.reverse();
    let quoted: Vec<String> = turned.iter().map(|n| format!("\"{n}\"")).collect();
    let tail = input(|text| text.split_once(')').unwrap().1.to_owned());
    let map = with_input(&format!("({}){tail}", quoted.join(" ")), &[], &turned);
    assert!(check(&map, BODY, CREATED).is_ok());
}

#[test]
fn the_signature_is_chosen_by_tag() {
    let mut map = signed();
    map.append("signature-input", HeaderValue::from_static("proxy=(\"@authority\");tag=\"edge\""));
    map.append("signature", HeaderValue::from_static("proxy=:AAAA:"));
    assert!(check(&map, BODY, CREATED).is_ok());
    let again = input(|text| format!("again={text}"));
    map.append("signature-input", HeaderValue::try_from(again).unwrap());
    assert_eq!(check(&map, BODY, CREATED), Err(AuthError::SeveralSignatures));
}

#[test]
fn missing_and_malformed_headers_are_named() {
    for name in ["signature-input", "signature", "content-digest", "content-type"] {
        let mut map = signed();
        map.remove(name);
        assert_eq!(check(&map, BODY, CREATED), Err(AuthError::Missing(name)));
        let mut binary = signed();
        binary.insert(HeaderName::from_static(name), HeaderValue::from_bytes(b"\xff=1").unwrap());
        assert!(matches!(
            check(&binary, BODY, CREATED),
            Err(AuthError::Malformed { header, .. }) if header == name
        ));
    }
    let mut long = signed();
    let many = HeaderValue::try_from(format!("sig=\"{}\"", "x".repeat(5_000))).unwrap();
    long.insert("signature-input", many);
    assert!(matches!(check(&long, BODY, CREATED), Err(AuthError::Malformed { .. })));
    for (header, value) in [
        ("signature", "sig=:AAAA:"),
        ("signature", "sig=1"),
        ("signature", "other=:AAAA:"),
        ("content-digest", "sha-512=:AAAA:"),
        ("content-digest", "sha-256=abc"),
        ("signature-input", "sig=1;tag=\"bursar-agent\";created=1"),
    ] {
        let mut map = signed();
        map.insert(HeaderName::from_static(header), HeaderValue::from_static(value));
        assert!(check(&map, BODY, CREATED).is_err(), "{header}: {value}");
    }
}

#[test]
fn only_the_key_s_owner_passes() {
    let map = signed();
    assert!(matches!(
        verify(post(&map, BODY), CREATED, |_| None::<((), [u8; 32])>),
        Err(AuthError::UnknownKey(_))
    ));
    let stranger = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    let lookup = |_: &str| Some(((), stranger));
    assert_eq!(verify(post(&map, BODY), CREATED, lookup), Err(AuthError::Mismatch));
    // A small-order key verifies almost anything unless the check is strict.
    let mut small = [0; 32];
    small[0] = 1;
    let lookup = |_: &str| Some(((), small));
    assert_eq!(verify(post(&map, BODY), CREATED, lookup), Err(AuthError::Mismatch));
}

proptest! {
    #[test]
    fn verify_never_panics(
        input in prop::collection::vec(any::<u8>(), 0..300),
        signature in prop::collection::vec(any::<u8>(), 0..200),
        digest in prop::collection::vec(any::<u8>(), 0..200),
        body in prop::collection::vec(any::<u8>(), 0..100),
        now: u64,
    ) {
        let mut map = HeaderMap::new();
        for (name, bytes) in [(INPUT, input), (SIGNATURE, signature), (DIGEST, digest)] {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                map.insert(HeaderName::from_static(name), value);
            }
        }
        prop_assert!(check(&map, &body, now).is_err());
    }

    #[test]
    fn a_bent_signature_input_never_passes(at in 0_usize..250, with in 0x20_u8..0x7f) {
        let mut map = signed();
        let mut bytes = map[INPUT].as_bytes().to_vec();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != with);
        bytes[at] = with;
        map.insert(INPUT, HeaderValue::from_bytes(&bytes).unwrap());
        prop_assert!(check(&map, BODY, CREATED).is_err());
    }
}
