//! Which hosts run an app: labels that must all be present.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::InvalidId;

/// A host's labels, such as `role=web`.
pub type Labels = BTreeMap<String, String>;

/// Labels that a host must carry, all of them; empty selects every host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Labels);

impl Selector {
    /// Whether a host with `labels` is selected.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Reads one `key=value`; keys and values are 1 to 63 of letters, digits and `-_./`.
///
/// # Errors
/// When the text has another shape.
pub fn parse_label(text: &str) -> Result<(String, String), InvalidId> {
    let sound = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
    };
    match text.split_once('=') {
        Some((key, value)) if sound(key) && sound(value) => Ok((key.into(), value.into())),
        _ => Err(InvalidId::new("label", text, "key=value of letters, digits and '-_./'")),
    }
}

impl FromStr for Selector {
    type Err = InvalidId;
    /// Reads `key=value,key=value`; the empty text selects every host.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(parse_label)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        f.pad(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_labels_must_match() {
        let selector: Selector = "role=web,tier=1".parse().unwrap();
        let host = |text: &str| text.parse::<Selector>().unwrap().0;
        assert!(selector.selects(&host("role=web,tier=1,rack=9")));
        assert!(!selector.selects(&host("role=web")));
        assert!(Selector::default().selects(&host("")));
        assert!("role".parse::<Selector>().is_err());
    }
}
