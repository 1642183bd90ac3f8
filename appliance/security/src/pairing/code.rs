//! The code that a person carries.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::PairingError;

/// Six decimal digits, wiped from memory after use; `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingCode(Zeroizing<String>);

/// A text is not a [`PairingCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code has six digits, like 123 456")]
pub struct ParseCodeError;

impl PairingCode {
    /// How many codes there are.
    pub(super) const COUNT: u32 = 1_000_000;

    /// A new code from the system's random number generator, each equally likely.
    ///
    /// # Errors
    ///
    /// [`PairingError::Random`].
    pub fn generate() -> Result<Self, PairingError> {
        let random = SystemRandom::new();
        // Numbers in the incomplete last million would favour some codes.
        let limit = u32::MAX - u32::MAX % Self::COUNT;
        loop {
            let mut bytes = [0; 4];
            random.fill(&mut bytes).map_err(|_| PairingError::Random)?;
            let number = u32::from_le_bytes(bytes);
            if number < limit {
                return Ok(Self(Zeroizing::new(format!("{:06}", number % Self::COUNT))));
            }
        }
    }

    /// The six digits, for a person's eyes only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for PairingCode {
    type Err = ParseCodeError;

    /// Reads six digits as people type them: with spaces or hyphens, half or full width.
    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        let mut digits = Zeroizing::new(String::with_capacity(6));
        for c in text.chars() {
            match c {
                '0'..='9' if digits.len() < 6 => digits.push(c),
                '０'..='９' if digits.len() < 6 => {
                    let value = u32::from(c) - u32::from('０');
                    digits.push(char::from_digit(value, 10).ok_or(ParseCodeError)?);
                }
                ' ' | '-' | '\u{3000}' | '\t' | '\r' | '\n' => {}
                _ => return Err(ParseCodeError),
            }
        }
        if digits.len() == 6 {
            Ok(Self(digits))
        } else {
            Err(ParseCodeError)
        }
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode(..)")
    }
}
