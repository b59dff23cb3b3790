//! Is the code on chain this crate's?

use alloy::primitives::Bytes;
use serde::Deserialize;

/// The opcode that puts 32 bytes of the code on the stack; immutables stand in them.
const PUSH32: u8 = 0x7f;
/// The opcode of one byte; those up to [`PUSH32`] carry one more each.
const PUSH1: u8 = 0x60;

const WALLET: &str = include_str!("../../contracts/artifacts/PolicyWallet.json");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    deployed_bytecode: Bytecode,
}

#[derive(Deserialize)]
struct Bytecode {
    object: Bytes,
}

/// Is this the code of the PolicyWallet that this crate was built with, whatever its immutables
/// (its USDC, its EIP-712 domain) are?
#[must_use]
pub fn is_policy_wallet(code: &[u8]) -> bool {
    serde_json::from_str::<Artifact>(WALLET)
        .is_ok_and(|artifact| is_instance(code, &artifact.deployed_bytecode.object))
}

/// Is `code` the template, but for 32-byte constants that are zero in the template?
fn is_instance(code: &[u8], template: &[u8]) -> bool {
    if code.len() != template.len() {
        return false;
    }
    let mut at = 0;
    while let Some(&opcode) = template.get(at) {
        let width =
            if (PUSH1..=PUSH32).contains(&opcode) { usize::from(opcode - PUSH1) + 1 } else { 0 };
        let end = (at + 1 + width).min(template.len());
        let blank = opcode == PUSH32 && template[at + 1..end].iter().all(|byte| *byte == 0);
        if code[at] != opcode || (!blank && code[at + 1..end] != template[at + 1..end]) {
            return false;
        }
        at = end;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immutables_may_differ_and_nothing_else() {
        let template = [&[0x5f, 0x60, 7, PUSH32][..], &[0; 32], &[0x01]].concat();
        let code = [&[0x5f, 0x60, 7, PUSH32][..], &[9; 32], &[0x01]].concat();
        assert!(is_instance(&code, &template) && is_instance(&template, &template));
        for at in [0, 1, 2, 3, 36] {
            let mut other = code.clone();
            other[at] ^= 1;
            assert!(!is_instance(&other, &template), "{at}");
        }
        assert!(!is_instance(&code[..36], &template) && !is_instance(&[], &template));
        assert!(!is_policy_wallet(&code));
    }

    #[test]
    fn the_embedded_code_is_its_own() {
        let artifact: Artifact = serde_json::from_str(WALLET).unwrap();
        let code = artifact.deployed_bytecode.object;
        assert!(code.len() > 10_000 && is_policy_wallet(&code));
    }
}
