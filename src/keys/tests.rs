//! Derivation against published vectors, and what the types must not do.

use std::{fmt::Debug, marker::PhantomData};

use alloy::{hex, primitives::address, signers::Signer};
use ed25519_dalek::Signer as _;

use super::*;

/// The phrase of anvil's and hardhat's accounts.
pub(super) const JUNK: &str = "test test test test test test test test test test test junk";

/// Whether a type implements a trait, known while compiling: an inherent constant, which exists only
/// if it does, goes before a trait's constant of the same name.
struct Probe<T: ?Sized>(PhantomData<T>);
trait Absent {
    const DEBUG: bool = false;
    const CLONE: bool = false;
}
impl<T: ?Sized> Absent for Probe<T> {}
impl<T: ?Sized + Debug> Probe<T> {
    const DEBUG: bool = true;
}
impl<T: Clone> Probe<T> {
    const CLONE: bool = true;
}
// The probe sees what is there ...
const _: () = assert!(Probe::<KdfParams>::DEBUG && Probe::<KdfParams>::CLONE);
// ... and these can be neither printed nor copied.
const _: () = assert!(!Probe::<Keys>::DEBUG && !Probe::<Keys>::CLONE);
const _: () = assert!(!Probe::<Mnemonic>::DEBUG && !Probe::<Mnemonic>::CLONE);
const _: () = assert!(!Probe::<Passphrase>::DEBUG && !Probe::<Passphrase>::CLONE);
const _: () = assert!(!Probe::<Branch>::DEBUG && !Probe::<Branch>::CLONE);

const fn wiped_on_drop<T: zeroize::ZeroizeOnDrop>() {}
const _: () = wiped_on_drop::<Mnemonic>();
const _: () = wiped_on_drop::<Passphrase>();
// What `Keys` is made of: the nodes' and signers' scalars, and the audit key.
const _: () = wiped_on_drop::<ecdsa::SigningKey>();
const _: () = wiped_on_drop::<SigningKey>();

fn junk() -> Keys {
    Keys::from_mnemonic(&Mnemonic::parse(JUNK).unwrap()).unwrap()
}

/// Accounts 0 and 1 are those that anvil prints; the rest was computed with eth-account 0.13.
#[test]
fn agents_and_relayers_are_those_of_other_wallets() {
    let keys = junk();
    for (index, expected) in [
        (0, address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")),
        (1, address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")),
        (HARDENED - 1, address!("0x9d90537E6c8631CF4cBf3F3049519844027a3d68")),
    ] {
        assert_eq!(keys.agent_address(index).unwrap(), expected);
        assert_eq!(keys.agent(index).unwrap().address(), expected);
    }
    assert_eq!(
        hex::encode(keys.agent(0).unwrap().to_bytes()),
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
    );
    for (index, expected) in [
        (0, address!("0x8C8d35429F74ec245F8Ef2f4Fd1e551cFF97d650")),
        (7, address!("0x931D948F347c2EB3a863b8AdF53d12b536960C44")),
    ] {
        assert_eq!(keys.relayer(index).unwrap().address(), expected);
    }
}

/// Test vector 1 of BIP-32, private keys of the first three nodes.
#[test]
fn bip32_vector_1() {
    let seed: Vec<u8> = (0..16).collect();
    let root = XPriv::root_from_seed(&seed, None).unwrap();
    for (path, expected) in [
        ("m", "e8f32e723decf4051aefac8e2c93c9c5b214313817cdb01a1494b917c8436b35"),
        ("m/0'", "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
        ("m/0'/1", "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
    ] {
        assert_eq!(hex::encode(private_key(&descend(&root, path).unwrap()).to_bytes()), expected);
    }
}

/// Computed with eth-account's BIP-32 and Python's hmac and PyNaCl.
#[test]
fn the_audit_key_is_hkdf_of_its_node() {
    let key = junk().audit_key();
    assert_eq!(
        hex::encode(key.verifying_key().to_bytes()),
        "57a10b231550df84c4b3fd94210b0d4a48f08cde5d1fba8044429ef3f41a0d89"
    );
    key.verifying_key().verify_strict(b"anchor", &key.sign(b"anchor")).unwrap();
}

#[test]
fn hardened_indexes_are_refused() {
    for index in [HARDENED, u32::MAX] {
        let keys = junk();
        assert!(matches!(keys.agent(index).err().unwrap(), KeyError::IndexRange(i) if i == index));
        assert!(matches!(keys.relayer(index).err().unwrap(), KeyError::IndexRange(_)));
        assert!(matches!(keys.agent_address(index).err().unwrap(), KeyError::IndexRange(_)));
    }
}

#[test]
fn signers_sign_and_are_cached_up_to_the_bound() {
    let keys = junk();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..2 {
        let signer = keys.agent(3).unwrap();
        let signature = runtime.block_on(signer.sign_message(b"pay")).unwrap();
        assert_eq!(signature.recover_address_from_msg(b"pay").unwrap(), signer.address());
    }
    assert_eq!(keys.agents.signers.read().unwrap().len(), 1);
    // A full cache still answers, and right.
    let filler = keys.agent(3).unwrap();
    let full = (HARDENED..).take(CACHED).map(|i| (i, filler.clone())).collect();
    *keys.agents.signers.write().unwrap() = full;
    assert_eq!(keys.agent(0).unwrap().address(), junk().agent_address(0).unwrap());
    assert_eq!(keys.agents.signers.read().unwrap().len(), CACHED);
}

#[test]
fn debug_of_a_signer_shows_no_key() {
    let shown = format!("{:?}", junk().agent(0).unwrap());
    assert!(!shown.contains("ac0974be") && shown.contains("f39f"), "{shown}");
    let audit = junk().audit_key();
    assert!(!format!("{audit:?}").contains(&format!("{:?}", audit.to_bytes())));
}
