//! Vouchers: what one microfee costs, one verification against a key that is known.
//!
//! A signature names its key only through its recovery bit. Recovering costs more than verifying, so
//! a channel's key is recovered from its first voucher, held against `payerAuthorizer`, and kept. A
//! verification does not look at the recovery bit, and the contract does: [`whole`] finds the right
//! one before a voucher is claimed. Digests are [`crate::contract::hub::Hub`]'s.

use alloy::primitives::{Address, B256};
use secp256k1::{
    Message, PublicKey, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId, Signature},
};

/// Bytes of a signature on the wire: r, s, and 27 or 28.
pub const SIGNATURE: usize = 65;

/// Why a signature is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoucherError {
    /// Another length than r, s and v have.
    #[error("a voucher's signature has 65 bytes: r, s and v")]
    Length,
    /// Out of range, or the upper of two values of s.
    #[error("the voucher's signature is no ECDSA signature with a low s")]
    Malformed,
    /// By another key.
    #[error("the voucher is not signed by the channel's payerAuthorizer")]
    OtherKey,
}

/// The key that signs a channel's vouchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoucherKey(PublicKey);

impl VoucherKey {
    /// Recovers the key from a signature, if it is `authorizer`'s.
    ///
    /// # Errors
    /// [`VoucherError`].
    pub fn recover(
        digest: B256,
        signature: &[u8],
        authorizer: Address,
    ) -> Result<Self, VoucherError> {
        let (compact, v) = split(signature)?;
        // Contracts know 27 and 28; some signers write 0 and 1.
        let bit = i32::from(if v >= 27 { v - 27 } else { v });
        let bit = RecoveryId::try_from(bit).map_err(|_| VoucherError::Malformed)?;
        let signature = RecoverableSignature::from_compact(compact, bit)
            .map_err(|_| VoucherError::Malformed)?;
        low(&signature.to_standard())?;
        let key = SECP256K1
            .recover_ecdsa(&message(digest), &signature)
            .map_err(|_| VoucherError::Malformed)?;
        if address(&key) == authorizer { Ok(Self(key)) } else { Err(VoucherError::OtherKey) }
    }

    /// Is it this key's signature? The recovery bit is not looked at.
    ///
    /// # Errors
    /// [`VoucherError`].
    pub fn verify(&self, digest: B256, signature: &[u8]) -> Result<(), VoucherError> {
        let (compact, _) = split(signature)?;
        let signature = Signature::from_compact(compact).map_err(|_| VoucherError::Malformed)?;
        // libsecp256k1 refuses the upper s, as the contract does.
        SECP256K1
            .verify_ecdsa(&message(digest), &signature, &self.0)
            .map_err(|_| VoucherError::OtherKey)
    }
}

/// Returns a verified signature with the recovery bit under which a contract recovers `authorizer`,
/// whatever bit it came with: without it a payer could make vouchers that nobody can claim.
///
/// # Errors
/// [`VoucherError::OtherKey`] if no bit does.
pub fn whole(
    digest: B256,
    signature: &[u8],
    authorizer: Address,
) -> Result<[u8; SIGNATURE], VoucherError> {
    let (compact, _) = split(signature)?;
    let mut whole = [0; SIGNATURE];
    whole[..64].copy_from_slice(compact);
    for v in [27, 28] {
        whole[64] = v;
        if VoucherKey::recover(digest, &whole, authorizer).is_ok() {
            return Ok(whole);
        }
    }
    Err(VoucherError::OtherKey)
}

fn split(signature: &[u8]) -> Result<(&[u8], u8), VoucherError> {
    match signature {
        [compact @ .., v] if compact.len() == 64 => Ok((compact, *v)),
        _ => Err(VoucherError::Length),
    }
}

fn low(signature: &Signature) -> Result<(), VoucherError> {
    let mut normal = *signature;
    normal.normalize_s();
    if normal == *signature { Ok(()) } else { Err(VoucherError::Malformed) }
}

fn message(digest: B256) -> Message {
    Message::from_digest(digest.0)
}

fn address(key: &PublicKey) -> Address {
    Address::from_raw_public_key(&key.serialize_uncompressed()[1..])
}

#[cfg(test)]
mod tests {
    use alloy::{
        hex,
        primitives::U256,
        signers::{SignerSync as _, local::PrivateKeySigner},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::contract::hub::Hub;

    fn signed(signer: &PrivateKeySigner, digest: B256) -> [u8; SIGNATURE] {
        signer.sign_hash_sync(&digest).unwrap().as_bytes()
    }

    proptest! {
        #[test]
        fn only_its_own_key_and_words(secret in 1_u64.., units in 1_u64..1_000_000_000) {
            let signer =
                PrivateKeySigner::from_bytes(&B256::from(U256::from(secret))).unwrap();
            let other = PrivateKeySigner::from_bytes(&B256::from(U256::from(secret) + U256::from(1)))
                .unwrap();
            let hub = Hub::new(1, Address::repeat_byte(7));
            let digest = |units: u64| hub.voucher_digest(B256::ZERO, units.into());
            let signature = signed(&signer, digest(units));
            let key = VoucherKey::recover(digest(units), &signature, signer.address()).unwrap();
            key.verify(digest(units), &signature).unwrap();
            prop_assert_eq!(key.verify(digest(units + 1), &signature), Err(VoucherError::OtherKey));
            let foreign = signed(&other, digest(units));
            prop_assert_eq!(key.verify(digest(units), &foreign), Err(VoucherError::OtherKey));
            prop_assert_eq!(
                VoucherKey::recover(digest(units), &foreign, signer.address()),
                Err(VoucherError::OtherKey)
            );
        }
    }

    #[test]
    fn a_wrong_recovery_bit_is_set_right() {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(3)).unwrap();
        let digest = B256::repeat_byte(9);
        let right = signed(&signer, digest);
        let key = VoucherKey::recover(digest, &right, signer.address()).unwrap();
        for v in [0, 1, 27, 28, 255] {
            let mut turned = right;
            turned[64] = v;
            key.verify(digest, &turned).unwrap();
            assert_eq!(whole(digest, &turned, signer.address()).unwrap(), right);
        }
    }

    #[test]
    fn the_upper_s_and_other_lengths_are_refused() {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(3)).unwrap();
        let digest = B256::repeat_byte(9);
        let right = signed(&signer, digest);
        let key = VoucherKey::recover(digest, &right, signer.address()).unwrap();
        let order = U256::from_be_bytes(hex_literal(
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        ));
        let mut upper = right;
        let s = order - U256::from_be_slice(&right[32..64]);
        upper[32..64].copy_from_slice(&s.to_be_bytes::<32>());
        upper[64] = 55 - right[64];
        assert_eq!(key.verify(digest, &upper), Err(VoucherError::OtherKey));
        assert_eq!(
            VoucherKey::recover(digest, &upper, signer.address()),
            Err(VoucherError::Malformed)
        );
        for length in [0, 64, 66] {
            assert_eq!(key.verify(digest, &vec![1; length]), Err(VoucherError::Length));
        }
        assert_eq!(key.verify(digest, &[0; SIGNATURE]), Err(VoucherError::OtherKey));
        assert_eq!(key.verify(digest, &[0xff; SIGNATURE]), Err(VoucherError::Malformed));
    }

    fn hex_literal(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }
}
