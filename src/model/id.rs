//! Names and numbers of things, each its own type.
//!
//! A name is checked once, here, at the border: on parsing and on
//! deserialising. Numbers print with the letter a person says: `b12`, `r411`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name or number that is not well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct InvalidId {
    /// What was to be named, for a person: "app name".
    pub kind: &'static str,
    /// What was given, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl InvalidId {
    pub(crate) fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), rule }
    }
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_machine_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

const LABEL_RULE: &str = "1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit";
const MACHINE_RULE: &str =
    "1 to 128 of letters, digits, '-', '_' and '.', starting with a letter or digit";

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident, $rule:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::new($kind, text, $rule))
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )*};
}

names! {
    /// An application: one thing that is built and deployed.
    AppName, "app name", is_label, LABEL_RULE;
    /// An environment, such as `prod`.
    EnvName, "environment name", is_label, LABEL_RULE;
    /// A region: hosts that share one regional blob store.
    RegionName, "region name", is_label, LABEL_RULE;
    /// A host. Given by its enrolment, never by a message's body alone.
    HostId, "host id", is_machine_name, MACHINE_RULE;
    /// A program that judges bakes.
    GateName, "gate name", is_label, LABEL_RULE;
    /// A webhook.
    WebhookName, "webhook name", is_label, LABEL_RULE;
    /// One start of one worker process; random, never reused.
    WorkerId, "worker id", is_machine_name, MACHINE_RULE;
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $letter:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub u64);

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix($letter).unwrap_or("");
                let plain = (1..=18).contains(&digits.len())
                    && digits.bytes().all(|b| b.is_ascii_digit())
                    && !digits.starts_with('0');
                plain
                    .then(|| digits.parse().ok())
                    .flatten()
                    .map(Self)
                    .ok_or_else(|| InvalidId::new($kind, text, concat!("'", $letter, "' and a number from 1, such as ", $letter, "12")))
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(number: $name) -> String {
                number.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($letter, "{}"), self.0))
            }
        }
    )*};
}

numbers! {
    /// A build job and, once it succeeded, its build; counts per coordinator.
    JobNo, "build number", "b";
    /// A release and the rollout that tries it; counts per app and env.
    ReleaseNo, "release number", "r";
    /// A freeze; counts per coordinator.
    FreezeNo, "freeze number", "f";
    /// A hold or a pin; counts per coordinator.
    HoldNo, "hold number", "h";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_be_a_path_or_a_flag() {
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a.b", &"x".repeat(64)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
        for bad in ["", ".", "..", "-h", "a/b", "a b", &"x".repeat(129)] {
            assert!(bad.parse::<HostId>().is_err(), "{bad}");
        }
        assert!("payments-api".parse::<AppName>().is_ok());
        assert!("ip-10-0-0-1.eu.internal".parse::<HostId>().is_ok());
    }

    #[test]
    fn numbers_read_back_what_they_print() {
        assert_eq!("r412".parse::<ReleaseNo>().unwrap().to_string(), "r412");
        for bad in ["", "r", "r0", "r01", "412", "b1", "r-1", "r9999999999999999999"] {
            assert!(bad.parse::<ReleaseNo>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<JobNo>("\"b9\"").is_ok());
    }
}
