//! BIP-39 phrases: the words that bring every key back.

use coins_bip39::{English, MnemonicError, Wordlist};
use rand::rngs::OsRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{KeyError, ask, files};

type Bip39 = coins_bip39::Mnemonic<English>;

/// The longest phrase in bytes: 24 words of at most 8 letters, and 23 spaces, rounded up.
pub(super) const MAX_PHRASE: usize = 216;

/// The longest text that is read as a phrase: the words with generous white space; in bytes.
const MAX_INPUT: usize = 4096;

/// A valid BIP-39 phrase in the English list, wiped on drop. No `Debug`, no `Clone`.
///
/// The optional BIP-39 passphrase ("25th word") is not used: the seed file has its own passphrase.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Mnemonic {
    /// Lower case, single spaces, checksum verified.
    phrase: String,
}

impl Mnemonic {
    /// 24 new words (256 bits) from the system's random source.
    ///
    /// # Errors
    /// None in practice: 24 is a word count that BIP-39 knows.
    pub fn generate() -> Result<Self, KeyError> {
        let words = Bip39::new_with_count(&mut OsRng, 24).map_err(|_| KeyError::WordCount(24))?;
        Ok(Self { phrase: words.to_phrase() })
    }

    /// Reads 12, 15, 18, 21 or 24 English words, in any case, separated by any white space.
    ///
    /// # Errors
    /// Wrong number of words, a word that is not on the list (named by its place, from 1), or a
    /// wrong checksum. No error contains a word.
    pub fn parse(phrase: &str) -> Result<Self, KeyError> {
        let count = phrase.split_whitespace().count();
        if !matches!(count, 12 | 15 | 18 | 21 | 24) {
            return Err(KeyError::WordCount(count));
        }
        // Room for all of it at once: a string that grows leaves copies of itself behind.
        let mut plain = Zeroizing::new(String::with_capacity(phrase.len()));
        for word in phrase.split_whitespace() {
            if !plain.is_empty() {
                plain.push(' ');
            }
            plain.push_str(word);
        }
        plain.make_ascii_lowercase();
        if let Some(at) = plain.split(' ').position(|word| English::get_index(word).is_err()) {
            return Err(KeyError::UnknownWord(at + 1));
        }
        checked(&plain)?;
        Ok(Self { phrase: std::mem::take(&mut *plain) })
    }

    /// The words, lower case, separated by single spaces.
    #[must_use]
    pub fn phrase(&self) -> &str {
        &self.phrase
    }

    /// The 64-byte BIP-39 seed (PBKDF2-HMAC-SHA512, 2048 rounds, salt "mnemonic").
    pub(super) fn to_seed(&self) -> Result<Zeroizing<[u8; 64]>, KeyError> {
        let words = checked(&self.phrase)?;
        words.to_seed(None).map(Zeroizing::new).map_err(|_| KeyError::PhraseChecksum)
    }
}

/// A phrase from a descriptor, or typed at the terminal.
///
/// # Errors
/// The source cannot be read; as [`Mnemonic::parse`].
pub(crate) fn read_mnemonic(fd: Option<u32>) -> Result<Mnemonic, KeyError> {
    let Some(fd) = fd else {
        let typed = Zeroizing::new(ask("The words, separated by spaces: ", "--mnemonic-fd")?);
        return Mnemonic::parse(&typed);
    };
    let bytes = files::read_fd(fd, MAX_INPUT)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| KeyError::NotOneLine { origin: format!("descriptor {fd}") })?;
    Mnemonic::parse(text)
}

/// Parses, and wipes the copy of the phrase that the library's error would carry.
fn checked(phrase: &str) -> Result<Bip39, KeyError> {
    Bip39::new_from_phrase(phrase).map_err(|error| {
        if let MnemonicError::InvalidPhrase(mut words) = error {
            words.zeroize();
        }
        KeyError::PhraseChecksum
    })
}

#[cfg(test)]
mod tests {
    use alloy::hex;

    use super::*;

    /// Phrases of 12, 18 and 24 words from BIP-39's reference vectors (trezor/python-mnemonic), of
    /// 15 and 21 from eth-account for the entropy 0, 1, 2, ...; and anvil's. The reference seeds use
    /// the passphrase "TREZOR", which bursar does not have: the seeds here are those of the empty
    /// one, computed with Python's `hashlib.pbkdf2_hmac`.
    const VECTORS: &[(&str, &str)] = &[
        (
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
            "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc19a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4",
        ),
        (
            "legal winner thank year wave sausage worth useful legal winner thank yellow",
            "878386efb78845b3355bd15ea4d39ef97d179cb712b77d5c12b6be415fffeffe5f377ba02bf3f8544ab800b955e51fbff09828f682052a20faa6addbbddfb096",
        ),
        (
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon agent",
            "4975bb3d1faf5308c86a30893ee903a976296609db223fd717e227da5a813a34dc1428b71c84a787fc51f3b9f9dc28e9459f48c08bd9578e9d1b170f2d7ea506",
        ),
        (
            "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo when",
            "d2911131a6dda23ac4441d1b66e2113ec6324354523acfa20899a2dcb3087849264e91f8ec5d75355f0f617be15369ffa13c3d18c8156b97cd2618ac693f759f",
        ),
        (
            "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy gospel tennis maple dilemma loan word shrug inflict delay length",
            "17e4b5661796eeff8904550f8572289317ece7c1cc1316469f8f4c986c1ffd7b9f4c3aeac3e1713ffc21fa33707d09d57a2ece358d72111ef7c7658e7b33f2d5",
        ),
        (
            "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group space point ten exist slush involve unfold",
            "b873212f885ccffbf4692afcb84bc2e55886de2dfa07d90f5c3c239abc31c0a6ce047e30fd8bf6a281e71389aa82d73df74c7bbfb3b06b4639a5cee775cccd3c",
        ),
        (
            "abandon amount liar amount expire adjust cage candy arch gather drum bullet absurd math exhibit",
            "85a7ff16b142e4fe20330f991bfd55e44543aace2d3f4be68fbef96bde85db6e7cc839fecd8fa573ad501a4335aca11140f0d37a218e05e2de0a15fe5c69a8a9",
        ),
        (
            "abandon amount liar amount expire adjust cage candy arch gather drum bullet absurd math era live bid rhythm alien crouch saddle",
            "7ab9c1dd402609b43e6e672bc5f760705becf3b7e85678ae8318bd651042c11f5f6a65971157f861af25f624117443ce4ce6260c6592a9b091b260b850d5033d",
        ),
        (
            "test test test test test test test test test test test junk",
            "9dfc3c64c2f8bede1533b6a79f8570e5943e0b8fd1cf77107adf7b72cef42185d564a3aee24cab43f80e3c4538087d70fc824eabbad596a23c97b6ee8322ccc0",
        ),
    ];

    #[test]
    fn reference_vectors() {
        for (phrase, seed) in VECTORS {
            let mnemonic = Mnemonic::parse(phrase).unwrap();
            assert_eq!(mnemonic.phrase(), *phrase);
            assert_eq!(hex::encode(*mnemonic.to_seed().unwrap()), *seed);
        }
    }

    #[test]
    fn case_and_white_space_do_not_matter() {
        let spaced = VECTORS[0].0.to_uppercase().replace(' ', " \t\n ");
        assert_eq!(Mnemonic::parse(&spaced).unwrap().phrase(), VECTORS[0].0);
    }

    #[test]
    fn new_phrases_have_24_words_and_differ() {
        let (one, two) = (Mnemonic::generate().unwrap(), Mnemonic::generate().unwrap());
        assert_eq!(one.phrase().split(' ').count(), 24);
        assert!(one.phrase() != two.phrase());
        assert_eq!(Mnemonic::parse(one.phrase()).unwrap().phrase(), one.phrase());
        assert!(one.phrase().len() <= MAX_PHRASE);
    }

    #[test]
    fn the_longest_possible_phrase_fits() {
        let longest = English::get_all().iter().map(|word| word.len()).max().unwrap();
        assert!(24 * longest + 23 <= MAX_PHRASE);
    }

    #[test]
    fn bad_phrases_are_refused_without_repeating_them() {
        let twelve = "abandon ".repeat(11);
        for count in [0, 1, 11, 13, 23, 25] {
            let error = Mnemonic::parse(&"abandon ".repeat(count)).err().unwrap();
            assert!(matches!(error, KeyError::WordCount(found) if found == count));
        }
        let error = Mnemonic::parse(&format!("{twelve} abuot")).err().unwrap();
        assert!(matches!(error, KeyError::UnknownWord(12)));
        assert!(!error.to_string().contains("abuot"));
        let error = Mnemonic::parse(&format!("{twelve} abandon")).err().unwrap();
        assert!(matches!(error, KeyError::PhraseChecksum));
        assert!(!error.to_string().contains("abandon"));
    }
}
