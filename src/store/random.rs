//! Names that nobody else draws.

use crate::model::digest::to_hex;

/// 128 random bits as hexadecimal digits.
///
/// # Panics
/// When the operating system has no random numbers: nothing is safe then.
#[must_use]
pub fn name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    to_hex(&bytes)
}
