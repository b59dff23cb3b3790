//! Keystores of others, hostile keystores, raw keys, passphrase sources.

use std::{io::Write, os::fd::AsRawFd, os::unix::fs::PermissionsExt};

use alloy::primitives::address;
use clap::Parser;
use tempfile::TempDir;

use super::*;

/// The PBKDF2 example of the Web3 Secret Storage Definition; its passphrase is "testpassword".
const PUBLISHED: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":
"6087dab2f9fdbbfaddc31a909735c1e6"},"ciphertext":
"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2","kdfparams":
{"c":262144,"dklen":32,"prf":"hmac-sha256","salt":
"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},"mac":
"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;

/// The same key and passphrase with scrypt, written by eth-account 0.13.
const SCRYPT: &str = r#"{"address":"008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b","crypto":{"cipher":"aes-128-ctr",
"cipherparams":{"iv":"16b2f1d019089a29a1061402baa613cb"},"ciphertext":
"d4c6be3a469c94340fd9cc915a6307834615def7b6045bcf4600d18a11c75de2","kdf":"scrypt","kdfparams":
{"dklen":32,"n":4096,"r":8,"p":1,"salt":"460f2e0c4d81a53d778a6588f130aeec"},"mac":
"10117956018a6dd00fbeb3b46d6d8debca678c0f3d5a979c00b5f119898607a1"},
"id":"a6a370fe-6140-45e2-b0c9-6b5094a60a1a","version":3}"#;

const HOLDER: Address = address!("0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b");

fn private(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    key: OperatorKeyArgs,
}

fn parse(args: &[&str]) -> Result<OperatorKeyArgs, clap::Error> {
    Command::try_parse_from([&["bursar"], args].concat()).map(|command| command.key)
}

/// An open file that holds this text, as a descriptor that a caller would hand over.
fn descriptor(text: &str) -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn raw(text: &str) -> Result<PrivateKeySigner, KeyError> {
    let file = descriptor(text);
    parse(&["--key-fd", &file.as_raw_fd().to_string()]).unwrap().load()
}

#[test]
fn keystores_of_others_open() {
    let dir = tempfile::tempdir().unwrap();
    for json in [PUBLISHED, SCRYPT] {
        let path = private(&dir, "k", json);
        let signer = open_keystore(&path, &passphrase("testpassword")).unwrap();
        assert_eq!(signer.address(), HOLDER);
        let error = open_keystore(&path, &passphrase("wrong")).err().unwrap();
        assert!(matches!(error, KeyError::WrongKeystorePassphrase { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), json);
    }
}

#[test]
fn created_keystores_are_private_and_open_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.json");
    let key = PrivateKeySigner::random();
    create_keystore(&path, &key, &passphrase("of the operator")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let written = fs::read(&path).unwrap();
    let again = create_keystore(&path, &key, &passphrase("other")).err().unwrap();
    assert!(matches!(again, KeyError::Exists { .. }));
    assert_eq!(fs::read(&path).unwrap(), written);

    let file = private(&dir, "passphrase", "of the operator\n");
    let (keystore, from) = (path.to_str().unwrap(), file.to_str().unwrap());
    let args = parse(&["--keystore", keystore, "--passphrase-file", from]).unwrap();
    assert_eq!(args.load().unwrap().address(), key.address());

    let pass = descriptor("of the operator");
    let fd = pass.as_raw_fd().to_string();
    let args = parse(&["--keystore", keystore, "--passphrase-fd", &fd]).unwrap();
    assert_eq!(args.load().unwrap().address(), key.address());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(args.load().err().unwrap(), KeyError::LoosePermissions { .. }));
}

/// What the keystore library would panic on, or spend all memory on, is refused first.
#[test]
fn hostile_keystores_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (json, from, to) in [
        (SCRYPT, "\"n\":4096", "\"n\":1073741824"),
        (SCRYPT, "\"n\":4096", "\"n\":4095"),
        (SCRYPT, "\"n\":4096", "\"n\":0"),
        (SCRYPT, "\"r\":8", "\"r\":4294967295"),
        (SCRYPT, "\"r\":8", "\"r\":0"),
        (SCRYPT, "\"p\":1", "\"p\":4294967295"),
        (SCRYPT, "\"r\":8,\"p\":1", "\"r\":1000,\"p\":16777216"),
        (SCRYPT, "\"dklen\":32", "\"dklen\":16"),
        (SCRYPT, "16b2f1d019089a29a1061402baa613cb", "83db"),
        (SCRYPT, "d4c6be3a469c9434", ""),
        (SCRYPT, "aes-128-ctr", "aes-256-ctr"),
        (SCRYPT, "\"version\":3", "\"version\":4"),
        (SCRYPT, "008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b", "nonsense"),
        (
            SCRYPT,
            "008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b",
            "0000000000000000000000000000000000000001",
        ),
        (PUBLISHED, "\"c\":262144", "\"c\":4294967295"),
        (PUBLISHED, "\"c\":262144", "\"c\":0"),
        (PUBLISHED, "\"dklen\":32", "\"dklen\":16"),
        (PUBLISHED, "hmac-sha256", "hmac-sha512"),
        (PUBLISHED, PUBLISHED, "not json"),
        (PUBLISHED, PUBLISHED, "{}"),
    ] {
        let changed = json.replace(from, to);
        assert_ne!(changed, json);
        let path = private(&dir, "k", &changed);
        let error = open_keystore(&path, &passphrase("testpassword")).err().unwrap();
        assert!(matches!(error, KeyError::BadKeystore { .. }), "{to}: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), changed);
    }
}

#[test]
fn raw_keys() {
    let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    for text in [key.to_owned(), format!("0x{key}\n"), format!("{}\r\n", key.to_uppercase())] {
        assert_eq!(
            raw(&text).unwrap().address(),
            address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
        );
    }
    for text in [String::new(), key[2..].to_owned(), "00".repeat(32), "ff".repeat(32)] {
        let error = raw(&text).err().unwrap();
        assert!(matches!(error, KeyError::BadRawKey { .. }), "{error}");
        assert!(!error.to_string().contains("ac09"));
    }
    assert!(matches!(raw(&format!("{key}\n\n\n\n\n")).err().unwrap(), KeyError::TooLong { .. }));
    assert!(matches!(raw("ab\ncd").err().unwrap(), KeyError::NotOneLine { .. }));
    let closed = parse(&["--key-fd", "987"]).unwrap().load().err().unwrap();
    assert!(matches!(closed, KeyError::Fd { fd: 987, .. }), "{closed}");
}

#[test]
fn one_key_and_no_more() {
    assert!(parse(&[]).is_err());
    assert!(parse(&["--keystore", "k", "--key-fd", "3"]).is_err());
    assert!(parse(&["--key-fd", "3", "--passphrase-fd", "4"]).is_err());
    assert!(parse(&["--keystore", "k", "--passphrase-fd", "4", "--passphrase-file", "p"]).is_err());
    assert!(parse(&["--keystore", "k"]).is_ok());
}

#[test]
fn passphrases_from_files_and_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let from_file = |text: &str| {
        let path = private(&dir, "p", text);
        PassphraseArgs { passphrase_file: Some(path), ..PassphraseArgs::default() }
    };
    for text in ["with spaces ", "with spaces \n", "with spaces \r\n"] {
        assert_eq!(from_file(text).read("").unwrap().as_bytes(), b"with spaces ");
    }
    assert!(matches!(from_file("\n").read("").err().unwrap(), KeyError::EmptyPassphrase));
    assert!(matches!(from_file("a\nb").read("").err().unwrap(), KeyError::NotOneLine { .. }));
    let long = from_file(&"x".repeat(1025)).read("").err().unwrap();
    assert!(matches!(long, KeyError::TooLong { limit: 1024, .. }), "{long}");
    let short = from_file("eleven char").read_new("").err().unwrap();
    assert!(matches!(short, KeyError::ShortPassphrase(12)));
    assert!(from_file("twelve chars").read_new("").is_ok());

    let loose = from_file("twelve chars");
    fs::set_permissions(dir.path().join("p"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(loose.read("").err().unwrap(), KeyError::LoosePermissions { .. }));
    fs::remove_file(dir.path().join("p")).unwrap();
    assert!(matches!(loose.read("").err().unwrap(), KeyError::Missing { .. }));

    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"through a pipe\n").unwrap();
    drop(writer);
    let args = PassphraseArgs {
        passphrase_fd: Some(u32::try_from(reader.as_raw_fd()).unwrap()),
        ..PassphraseArgs::default()
    };
    assert_eq!(args.read("").unwrap().as_bytes(), b"through a pipe");
}
