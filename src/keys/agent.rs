//! An agent's request key: the 32 secret bytes of Ed25519 in base64url, as the policy file writes the
//! public ones, in a file of one line and mode 0600. It asks for payments and can do nothing else; the
//! keys that move money never leave the daemon.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::{KeyError, files, passphrase::one_line};

/// 43 characters and a line's end; in bytes.
const MAX_FILE: usize = 45;
/// Characters of 32 bytes in base64url without padding.
const TEXT: usize = 43;

/// Reads a request key.
///
/// # Errors
/// Missing, open to other users, or not 32 bytes in base64url.
pub fn read_agent_key(path: &Path) -> Result<SigningKey, KeyError> {
    let bytes = files::read_private(path, MAX_FILE)?;
    let line = one_line(&bytes, path.display().to_string())?;
    // One byte more than fits: the decoder estimates by whole groups of four characters.
    let mut seed = Zeroizing::new([0; 33]);
    match BASE64_URL_SAFE_NO_PAD.decode_slice(line, &mut *seed) {
        Ok(32) => {
            let secret = Zeroizing::new(std::array::from_fn(|at| seed[at]));
            Ok(SigningKey::from_bytes(&secret))
        }
        _ => Err(KeyError::BadAgentKey { path: path.to_owned() }),
    }
}

/// Makes a request key and writes it to a new file of mode 0600.
///
/// # Errors
/// The name is taken; the directory cannot be written.
pub fn create_agent_key(path: &Path) -> Result<SigningKey, KeyError> {
    let key = SigningKey::generate(&mut OsRng);
    let mut line = Zeroizing::new([b'\n'; TEXT + 1]);
    BASE64_URL_SAFE_NO_PAD
        .encode_slice(key.as_bytes(), &mut line[..TEXT])
        .map_err(|_| KeyError::BadAgentKey { path: path.to_owned() })?;
    files::write_private_new(path, line.as_slice())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.key");
        let made = create_agent_key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_agent_key(&path).unwrap().to_bytes(), made.to_bytes());
        assert!(matches!(create_agent_key(&path), Err(KeyError::Exists { .. })));
    }

    #[test]
    fn a_loose_or_malformed_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.key");
        assert!(matches!(read_agent_key(&path), Err(KeyError::Missing { .. })));
        create_agent_key(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_agent_key(&path), Err(KeyError::LoosePermissions { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "abc", &"!".repeat(43), &"A".repeat(42), &"A".repeat(44)] {
            fs::write(&path, text).unwrap();
            let outcome = read_agent_key(&path);
            assert!(
                matches!(outcome, Err(KeyError::BadAgentKey { .. } | KeyError::NotOneLine { .. })),
                "{text}"
            );
        }
    }
}
