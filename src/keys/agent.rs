//! An agent's request key: Ed25519, in a file of one line, 64 hexadecimal digits, mode 0600. It asks
//! for payments and can do nothing else; the keys that move money never leave the daemon.

use std::path::Path;

use ed25519_dalek::SigningKey;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::{KeyError, files, passphrase::one_line};

/// 64 digits and a line's end; in bytes.
const MAX_FILE: usize = 68;

/// Reads a request key.
///
/// # Errors
/// Missing, open to other users, or not 64 hexadecimal digits.
pub fn read_agent_key(path: &Path) -> Result<SigningKey, KeyError> {
    let bytes = files::read_private(path, MAX_FILE)?;
    let line = one_line(&bytes, path.display().to_string())?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(line, &mut *seed)
        .map_err(|_| KeyError::BadAgentKey { path: path.to_owned() })?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Makes a request key and writes it to a new file of mode 0600.
///
/// # Errors
/// The name is taken; the directory cannot be written.
pub fn create_agent_key(path: &Path) -> Result<SigningKey, KeyError> {
    let key = SigningKey::generate(&mut OsRng);
    let mut line = Zeroizing::new([0; 65]);
    hex::encode_to_slice(key.as_bytes(), &mut line[..64])
        .map_err(|_| KeyError::BadAgentKey { path: path.to_owned() })?;
    line[64] = b'\n';
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
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(63)] {
            fs::write(&path, text).unwrap();
            let outcome = read_agent_key(&path);
            assert!(
                matches!(outcome, Err(KeyError::BadAgentKey { .. } | KeyError::NotOneLine { .. })),
                "{text}"
            );
        }
    }
}
