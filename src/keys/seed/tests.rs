//! The format against an independent implementation, and every fault against the file's bytes.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use alloy::hex;
use tempfile::TempDir;

use super::*;
use crate::keys::tests::JUNK;

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

/// Made with Python: argon2-cffi 25.1, PyNaCl 1.6 (libsodium), hashlib. The phrase is [`JUNK`], the
/// passphrase [`RIGHT`], the salt 0, 1, ... 15, the nonce 100, 101, ... 123.
const GOLDEN: &str = "\
6275727361722d736565640a00000001000000080000000100000001000102030405060708090a0b0c0d0e0f6465\
666768696a6b6c6d6e6f707172737475767778797a7b93c8321e6d06972bd345fc91c469030f2908f86a54d95e84\
26d505941effe69d3bece31a5ecff861c2ecb69ec279ad7299398ad40a9a837e6db0e777966abcb3223d54de78a1\
ae92355723ee36850042cded43d672881a6b330b6d3430de1bab8c0056578b7cc1d3507f1e1ee742278af462c561\
9f2ff1ac3cff9db5a0853815286307c69fdfbfdf44d7d0590baca4b789dbe6b80032a47e9e9101eba0000b230bd8\
c52886b67469461c4a03c32f674dbe610a162f5e21d090296bd8ce404d492458c49dede5a33343c34ae68c2beef5\
b299bea6fff91af65bc58ec7b9a7a255626f668b9c7ce4dd31e84fbd110c34b682a5a900257416db480d37901a44\
0f318083eeeb53f82901";

const RIGHT: &str = "correct horse battery staple";

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

fn junk() -> Mnemonic {
    Mnemonic::parse(JUNK).unwrap()
}

/// A directory with a file `seed` of these bytes and mode.
fn file(bytes: &[u8], mode: u32) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

fn golden() -> Vec<u8> {
    hex::decode(GOLDEN).unwrap()
}

/// The checksum that somebody who alters a file on purpose would put there.
fn resum(bytes: &mut [u8]) {
    let at = bytes.len() - CHECKSUM;
    let sum = Sha256::digest(&bytes[..at]);
    bytes[at..].copy_from_slice(&sum);
}

/// Reading these bytes fails, and leaves bytes, mode and directory as they were.
fn fault(bytes: &[u8], mode: u32, pass: &str) -> KeyError {
    let (dir, path) = file(bytes, mode);
    let error = read(&path, &passphrase(pass)).err().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let shown = error.to_string();
    assert!(shown.contains(&*path.to_string_lossy()), "{shown}");
    assert!(!shown.contains(pass) && !shown.contains("junk"), "{shown}");
    error
}

#[test]
fn golden_file() {
    let salt = std::array::from_fn(|i| i.to_le_bytes()[0]);
    let nonce = std::array::from_fn(|i| 100 + i.to_le_bytes()[0]);
    let sealed = seal(&junk(), &passphrase(RIGHT), CHEAP, salt, nonce).unwrap();
    assert_eq!(hex::encode(&sealed), GOLDEN);
    assert_eq!(sealed.len(), FILE_LEN);
    let (_dir, path) = file(&sealed, 0o600);
    assert_eq!(read(&path, &passphrase(RIGHT)).unwrap().phrase(), JUNK);
}

#[test]
fn written_files_are_private_whole_and_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    write(&path, &junk(), &passphrase(RIGHT), CHEAP).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    assert_eq!(read(&path, &passphrase(RIGHT)).unwrap().phrase(), JUNK);
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(4).any(|w| w == b"test" || w == b"junk"));

    // Salt and nonce are fresh each time, and the length tells nothing about the words.
    let other = dir.path().join("other");
    let new = Mnemonic::generate().unwrap();
    write(&other, &new, &passphrase(RIGHT), CHEAP).unwrap();
    let others = fs::read(&other).unwrap();
    assert_eq!(others.len(), bytes.len());
    assert_ne!(others[28..44], bytes[28..44]);
    assert_ne!(others[44..68], bytes[44..68]);
    assert_eq!(read(&other, &passphrase(RIGHT)).unwrap().phrase(), new.phrase());
}

#[test]
fn nothing_is_overwritten() {
    for present in [&b""[..], b"precious"] {
        let (dir, path) = file(present, 0o644);
        let error = write(&path, &junk(), &passphrase(RIGHT), CHEAP).err().unwrap();
        assert!(matches!(error, KeyError::Exists { .. }));
        assert_eq!(fs::read(&path).unwrap(), present);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("seed");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
    let error = write(&link, &junk(), &passphrase(RIGHT), CHEAP).err().unwrap();
    assert!(matches!(error, KeyError::Exists { .. }));
    assert!(!dir.path().join("elsewhere").exists());
}

/// Two writers that both saw the name free: one wins, the other's file never appears.
#[test]
fn of_racing_writers_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seed");
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8u8)
            .map(|i| {
                let path = &path;
                scope.spawn(move || files::write_private_new(path, &[i; 4096]).is_ok())
            })
            .collect();
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1);
    let winner = outcomes.iter().position(|won| *won).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [winner.to_le_bytes()[0]; 4096]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/seed");
    let error = write(&path, &junk(), &passphrase(RIGHT), CHEAP).err().unwrap();
    assert!(matches!(error, KeyError::Io { .. }), "{error}");
    assert!(matches!(read(&path, &passphrase(RIGHT)), Err(KeyError::NoSeedFile { .. })));
}

#[test]
fn wrong_passphrase() {
    for pass in ["correct horse battery stapl", "Correct horse battery staple", "?"] {
        assert!(matches!(fault(&golden(), 0o600, pass), KeyError::WrongPassphrase { .. }));
    }
}

#[test]
fn truncated_anywhere() {
    for length in (0..FILE_LEN).step_by(7).chain([FILE_LEN - 1]) {
        match fault(&golden()[..length], 0o600, RIGHT) {
            KeyError::Truncated { have, want, .. } => assert_eq!((have, want), (length, FILE_LEN)),
            other => panic!("{length} bytes: {other}"),
        }
    }
}

/// Every bit of the file, one by one: never decrypted, and never blamed on the passphrase.
#[test]
fn any_flipped_bit() {
    for bit in 0..FILE_LEN * 8 {
        let mut bytes = golden();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = open(&bytes, &passphrase(RIGHT), Path::new("seed")).err().unwrap();
        let named = match bit / 8 {
            0..12 => matches!(error, KeyError::NotASeedFile { .. }),
            _ => matches!(error, KeyError::Damaged { .. }),
        };
        assert!(named, "bit {bit}: {error}");
    }
    let mut bytes = golden();
    bytes[100] ^= 0x10;
    assert!(matches!(fault(&bytes, 0o600, RIGHT), KeyError::Damaged { .. }));
    bytes = golden();
    bytes.push(0);
    assert!(matches!(fault(&bytes, 0o600, RIGHT), KeyError::Damaged { .. }));
}

/// With a checksum made to fit, the tag still covers every byte from the parameters on.
#[test]
fn any_altered_byte_is_caught_by_the_tag() {
    for at in (16..FILE_LEN - CHECKSUM).step_by(3) {
        let mut bytes = golden();
        bytes[at] ^= 1;
        resum(&mut bytes);
        let error = open(&bytes, &passphrase(RIGHT), Path::new("seed")).err().unwrap();
        let refused =
            matches!(error, KeyError::WrongPassphrase { .. } | KeyError::UnreasonableKdf { .. });
        assert!(refused, "byte {at}: {error}");
    }
    let mut bytes = golden();
    bytes[150] ^= 1;
    resum(&mut bytes);
    assert!(matches!(fault(&bytes, 0o600, RIGHT), KeyError::WrongPassphrase { .. }));
}

/// Every header byte is associated data, beside what it may do to the key: under the right key, a
/// header with one byte changed does not open.
#[test]
fn the_header_is_associated_data() {
    let file = golden();
    let key = CHEAP.derive(&passphrase(RIGHT), &file[28..44]).unwrap();
    let opens = |header: &[u8]| {
        let mut body = file[HEADER..HEADER + MAX_PHRASE].to_vec();
        let tag = &file[HEADER + MAX_PHRASE..FILE_LEN - CHECKSUM];
        XChaCha20Poly1305::new((&*key).into())
            .decrypt_in_place_detached(
                XNonce::from_slice(&file[44..68]),
                header,
                &mut body,
                Tag::from_slice(tag),
            )
            .is_ok()
    };
    assert!(opens(&file[..HEADER]));
    for at in 0..HEADER {
        let mut header = file[..HEADER].to_vec();
        header[at] ^= 1;
        assert!(!opens(&header), "byte {at}");
    }
}

#[test]
fn hostile_parameters_cost_nothing() {
    for (at, value) in [
        (16, 1_073_741_824u32), // 1 TiB
        (16, KdfParams::MAX_MEMORY_KIB + 1),
        (16, 7),
        (16, 0),
        (20, u32::MAX),
        (20, 0),
        (24, u32::MAX),
        (24, 0),
    ] {
        let mut bytes = golden();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        resum(&mut bytes);
        let error = fault(&bytes, 0o600, RIGHT);
        assert!(matches!(error, KeyError::UnreasonableKdf { .. }), "{at} {value}: {error}");
    }
    assert!(matches!(KdfParams::new(1 << 30, 1, 1), Err(KeyError::BadKdfParams(_))));
    assert!(matches!(KdfParams::new(64, 17, 1), Err(KeyError::BadKdfParams(_))));
    assert_eq!(KdfParams::new(65_536, 3, 1).unwrap(), KdfParams::default());
}

#[test]
fn loose_permissions() {
    for mode in [0o644, 0o640, 0o604, 0o660, 0o666, 0o610] {
        let error = fault(&golden(), mode, RIGHT);
        assert!(matches!(error, KeyError::LoosePermissions { mode: m, .. } if m == mode));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for mode in [0o600, 0o400, 0o700] {
        let (_dir, path) = file(&golden(), mode);
        assert!(read(&path, &passphrase(RIGHT)).is_ok());
    }
}

#[test]
fn other_files_are_not_seed_files() {
    for bytes in [&b"{\"crypto\": {}}"[..], &[0; 332], b"bursar-Seed\n", &[b'x'; MAX_FILE + 1]] {
        assert!(matches!(fault(bytes, 0o600, RIGHT), KeyError::NotASeedFile { .. }));
    }
    let dir = tempfile::tempdir().unwrap();
    let error = read(dir.path(), &passphrase(RIGHT)).err().unwrap();
    assert!(matches!(error, KeyError::NotAFile { .. }));
}

#[test]
fn newer_versions_are_told_from_damage() {
    let mut bytes = golden();
    bytes[15] = 2;
    bytes.extend_from_slice(b"whatever version 2 holds beside it, and room for the checksum");
    resum(&mut bytes);
    let error = fault(&bytes, 0o600, RIGHT);
    assert!(matches!(error, KeyError::NewerVersion { found: 2, known: 1, .. }), "{error}");
    // The same number by accident, and version 0, which never was.
    bytes[200] ^= 1;
    assert!(matches!(fault(&bytes, 0o600, RIGHT), KeyError::Damaged { .. }));
    bytes = golden();
    bytes[15] = 0;
    resum(&mut bytes);
    assert!(matches!(fault(&bytes, 0o600, RIGHT), KeyError::Damaged { .. }));
}
