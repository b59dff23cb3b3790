//! Webhook secrets, by Standard Webhooks: a file of mode 0600 with one secret a line. Each signs, so
//! that a receiver can move from one to the next while both stand there.
//!
//! `whsec_` and base64 of 24 to 64 bytes signs with HMAC-SHA256 (`v1`); `whsk_` and base64 of an
//! Ed25519 seed, or of seed and public key, signs with Ed25519 (`v1a`).

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, Mac as _};
use rand::{RngCore as _, rngs::OsRng};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{KeyError, files};

/// Secrets in one file at most.
const MOST: usize = 4;
/// Bytes of such a file at most.
const MAX_FILE: usize = 1_024;
/// Bytes of a fresh secret.
const FRESH: usize = 32;

enum Secret {
    Shared(Zeroizing<Vec<u8>>),
    Own(Box<SigningKey>),
}

/// An endpoint's secrets. No `Debug`, no `Clone`; wiped on drop.
pub struct WebhookSecrets(Vec<Secret>);

impl WebhookSecrets {
    /// Reads an endpoint's file.
    ///
    /// # Errors
    /// Missing, open to other users, or not one to four secrets, one a line.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let bytes = files::read_private(path, MAX_FILE)?;
        let bad = || KeyError::BadWebhookSecret { path: path.to_owned() };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets: Vec<Secret> =
            lines.map(|line| parse(line).ok_or_else(bad)).collect::<Result<_, _>>()?;
        if secrets.is_empty() || secrets.len() > MOST {
            return Err(bad());
        }
        Ok(Self(secrets))
    }

    /// Signs a message: the value of `webhook-signature`, a signature for each secret.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp_s}.");
        let one = |secret: &Secret| match secret {
            Secret::Shared(key) => {
                // HMAC takes keys of any length.
                let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
                mac.update(head.as_bytes());
                mac.update(body);
                Some(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
            }
            Secret::Own(key) => {
                let signature = key.sign(&[head.as_bytes(), body].concat());
                Some(format!("v1a,{}", BASE64_STANDARD.encode(signature.to_bytes())))
            }
        };
        self.0.iter().filter_map(one).collect::<Vec<_>>().join(" ")
    }
}

fn parse(line: &str) -> Option<Secret> {
    let decode = |text: &str| BASE64_STANDARD.decode(text).ok().map(Zeroizing::new);
    if let Some(text) = line.strip_prefix("whsec_") {
        let key = decode(text)?;
        return (24..=64).contains(&key.len()).then_some(Secret::Shared(key));
    }
    let key = decode(line.strip_prefix("whsk_")?)?;
    if key.len() == 64 {
        // Refused unless the public half is the seed's.
        let pair = Zeroizing::new(<[u8; 64]>::try_from(key.as_slice()).ok()?);
        return SigningKey::from_keypair_bytes(&pair).ok().map(Box::new).map(Secret::Own);
    }
    let seed = Zeroizing::new(<[u8; 32]>::try_from(key.as_slice()).ok()?);
    Some(Secret::Own(Box::new(SigningKey::from_bytes(&seed))))
}

/// Makes a `whsec_` secret, and writes it to a new file of mode 0600.
///
/// # Errors
/// The name is taken; the directory cannot be written.
pub fn create_webhook_secret(path: &Path) -> Result<(), KeyError> {
    let mut key = Zeroizing::new([0; FRESH]);
    OsRng.fill_bytes(&mut *key);
    let line = Zeroizing::new(format!("whsec_{}\n", BASE64_STANDARD.encode(*key)));
    files::write_private_new(path, line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use ed25519_dalek::{Signature, Verifier as _};

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The example of the Standard Webhooks libraries' own tests.
    #[test]
    fn the_reference_vector() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let signed = WebhookSecrets::read(&path).unwrap().sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_secret_of_the_file_signs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create_webhook_secret(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create_webhook_secret(&path), Err(KeyError::Exists { .. })));
        let fresh = fs::read_to_string(&path).unwrap();
        let own = SigningKey::from_bytes(&[7; 32]);
        let seed = BASE64_STANDARD.encode(own.to_bytes());
        let pair = BASE64_STANDARD.encode(own.to_keypair_bytes());
        write(&path, &format!("{fresh}\nwhsk_{seed}\nwhsk_{pair}\n"));
        let signed = WebhookSecrets::read(&path).unwrap().sign("id", 1, b"{}");
        let parts: Vec<&str> = signed.split(' ').collect();
        assert_eq!(parts.len(), 3, "{signed}");
        assert!(parts[0].starts_with("v1,") && parts[1] == parts[2]);
        let bytes = BASE64_STANDARD.decode(parts[1].strip_prefix("v1a,").unwrap()).unwrap();
        let signature = Signature::from_slice(&bytes).unwrap();
        own.verifying_key().verify(b"id.1.{}", &signature).unwrap();
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let long = format!("whsec_{}\n", BASE64_STANDARD.encode([1; 32])).repeat(5);
        for text in ["", "\n", "hello", "whsec_", "whsec_AAAA", "whsk_AAAA", "whsec_!!!!", &long] {
            write(&path, text);
            let outcome = WebhookSecrets::read(&path);
            assert!(matches!(outcome, Err(KeyError::BadWebhookSecret { .. })), "{text}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let outcome = WebhookSecrets::read(&path);
        assert!(matches!(outcome, Err(KeyError::LoosePermissions { .. })));
    }
}
