//! Which hosts a person picks by hand: names, patterns and labels, as `--hosts` takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::{HostId, InvalidId};
use super::selector::{Labels, Selector, parse_label};

/// Most names, patterns and labels together: more hosts than that can't be picked anyway.
pub const PARTS_MAX: usize = 64;
/// Labels, and values of one, that a person is told at most.
const TOLD: usize = 8;
/// Why two values of one label are none.
const ONE_VALUE: &str = "a host has one value of a label: for hosts of several, give patterns";
/// What a part may look like.
const RULE: &str = "names or patterns of hosts and key=value labels, with commas between: \
                    web-1,web-2 or 'web-*' or rack=14";

/// Hosts that carry every one of `labels` and, if there are `names`, are called like one of
/// them. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostSelector {
    /// Names, and patterns with `*` (any text) and `?` (one character).
    names: Vec<String>,
    /// Labels; `region`, `rack` and `zone` are also what is known of their place.
    labels: Selector,
}

impl HostSelector {
    /// Several choices as one list, as with commas between them; `None`: there are none.
    ///
    /// # Errors
    /// When they are too many together, or want two values of one label.
    pub fn joined(choices: &[Self]) -> Result<Option<Self>, InvalidId> {
        let texts: Vec<String> = choices.iter().map(Self::to_string).collect();
        if texts.is_empty() { Ok(None) } else { texts.join(",").parse().map(Some) }
    }

    /// Names without a `*` or `?`: each must be a host.
    pub fn exact(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| !is_pattern(name))
    }

    /// How the names of all hosts begin that it may pick, and whether that is the whole name;
    /// `None`: any host may be picked by its name.
    #[must_use]
    pub fn beginnings(&self) -> Option<Vec<(&str, bool)>> {
        let beginning = |name: &String| name.find(['*', '?']).unwrap_or(name.len());
        let begins = |name| (&name[..beginning(name)], !is_pattern(name));
        let all: Vec<(&str, bool)> = self.names.iter().map(begins).collect();
        let some = !all.is_empty() && all.iter().all(|(text, _)| !text.is_empty());
        some.then_some(all)
    }

    /// The labels that it asks for.
    #[must_use]
    pub fn labels(&self) -> &Selector {
        &self.labels
    }

    /// Whether it picks `host`, which says `labels` of itself and stands in `place`.
    #[must_use]
    pub fn picks(&self, host: &HostId, labels: &Labels, place: Place<'_>) -> bool {
        let named = self.names.is_empty()
            || self.names.iter().any(|name| matches(name.as_bytes(), host.as_str().as_bytes()));
        let carries = |(key, value): (&String, &String)| {
            labels.get(key) == Some(value) || place.says(key) == Some(value.as_str())
        };
        named && self.labels.0.iter().all(carries)
    }

    /// Which of its labels nobody has, and what there is in their place, as hosts have `said`;
    /// `None` when each is somebody's.
    #[must_use]
    pub fn unsaid(&self, said: &Said) -> Option<String> {
        let has = |(key, value): &(&String, &String)| {
            said.0.get(*key).is_some_and(|values| values.contains(*value))
        };
        let (key, value) = self.labels.0.iter().find(|label| !has(label))?;
        Some(match said.0.get(key) {
            Some(values) => format!("no host has {key}={value}; there is {key}={}", told(values)),
            None => format!("no host has a label {key}; they have {}", told(said.0.keys())),
        })
    }
}

/// Where a host stands: `region`, `rack` and `zone` are labels that it need not give itself.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its region.
    pub region: &'a str,
    /// Its rack; empty: it says none.
    pub rack: &'a str,
    /// Its zone; empty: it says none.
    pub zone: &'a str,
}

impl<'a> Place<'a> {
    /// As labels.
    fn labels(self) -> [(&'static str, &'a str); 3] {
        [("region", self.region), ("rack", self.rack), ("zone", self.zone)]
    }

    fn says(self, key: &str) -> Option<&'a str> {
        let mut labels = self.labels().into_iter();
        labels.find(|(own, value)| *own == key && !value.is_empty()).map(|(_, value)| value)
    }
}

/// Labels that hosts say of themselves and of their place: the values of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(BTreeMap<String, BTreeSet<String>>);

impl Said {
    /// Hears one host.
    pub fn hear(&mut self, labels: &Labels, place: Place<'_>) {
        let own = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in own.chain(place.labels()).filter(|(_, value)| !value.is_empty()) {
            self.0.entry(key.to_owned()).or_default().insert(value.to_owned());
        }
    }
}

/// "14, 15, 16 and 9 more".
fn told<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let words: Vec<&str> = words.into_iter().map(String::as_str).collect();
    match words.len().saturating_sub(TOLD) {
        0 if words.is_empty() => "none".to_owned(),
        0 => words.join(", "),
        more => format!("{} and {more} more", words[..TOLD].join(", ")),
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether `text` is as `pattern` says: where a `*` took too little, it takes one more.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(own) if *own == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|left| *left == b'*')
}

impl FromStr for HostSelector {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = || InvalidId::new("choice of hosts", text, RULE);
        let parts: Vec<&str> =
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || parts.len() > PARTS_MAX {
            return Err(refuse());
        }
        let (mut names, mut labels) = (Vec::new(), BTreeMap::new());
        for part in parts {
            if part.contains('=') {
                let (key, value) = parse_label(part)?;
                // Nobody carries two values of one label.
                if labels.insert(key, value.clone()).is_some_and(|other| other != value) {
                    return Err(InvalidId::new("choice of hosts", text, ONE_VALUE));
                }
                continue;
            }
            let plain = part.replace(['*', '?'], "x");
            plain.parse::<HostId>().map_err(|_| refuse())?;
            names.push(part.to_owned());
        }
        Ok(Self { names, labels: Selector(labels) })
    }
}

impl fmt::Display for HostSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels.0.iter().map(|(key, value)| format!("{key}={value}"));
        let parts: Vec<String> = self.names.iter().cloned().chain(labels).collect();
        f.pad(&parts.join(","))
    }
}

impl TryFrom<String> for HostSelector {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<HostSelector> for String {
    fn from(selector: HostSelector) -> Self {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(selector: &str) -> Vec<&'static str> {
        let selector: HostSelector = selector.parse().unwrap();
        let hosts = [("web-1", "rack=14", "a"), ("web-12", "rack=15", "b"), ("db-1", "", "a")];
        let picks = |(host, labels, zone): &(&str, &str, &str)| {
            let labels = labels.parse::<Selector>().unwrap().0;
            selector.picks(&host.parse().unwrap(), &labels, Place { region: "eu", rack: "", zone })
        };
        hosts.into_iter().filter(picks).map(|(host, ..)| host).collect()
    }

    #[test]
    fn names_and_patterns_tell_how_the_picked_begin() {
        let selector: HostSelector = "web-1,web-*,d?-*,rack=14".parse().unwrap();
        let all = vec![("web-1", true), ("web-", false), ("d", false)];
        assert_eq!(selector.beginnings(), Some(all));
        for any in ["rack=14", "web-1,*-2", "?eb"] {
            assert_eq!(any.parse::<HostSelector>().unwrap().beginnings(), None, "{any}");
        }
    }

    #[test]
    fn one_of_the_names_and_all_of_the_labels() {
        for (selector, hosts) in [
            ("web-1", &["web-1"][..]),
            ("web-1, db-1", &["web-1", "db-1"]),
            ("web-*", &["web-1", "web-12"]),
            ("*-1", &["web-1", "db-1"]),
            ("web-1?", &["web-12"]),
            ("w*b-*2", &["web-12"]),
            ("*", &["web-1", "web-12", "db-1"]),
            ("rack=14", &["web-1"]),
            ("zone=a", &["web-1", "db-1"]),
            ("zone=a,web-*", &["web-1"]),
            ("rack=14,zone=b", &[]),
            ("region=eu,rack=15", &["web-12"]),
            ("region=us", &[]),
            ("web", &[]),
            ("web-1*2*", &["web-12"]),
        ] {
            assert_eq!(picked(selector), hosts, "{selector}");
        }
    }

    #[test]
    fn a_label_that_nobody_has_is_answered_with_those_that_there_are() {
        let mut said = Said::default();
        for (labels, zone) in [("rack=14", "a"), ("rack=15", "b"), ("", "")] {
            let labels = labels.parse::<Selector>().unwrap().0;
            said.hear(&labels, Place { region: "eu", rack: "", zone });
        }
        let unsaid = |text: &str| text.parse::<HostSelector>().unwrap().unsaid(&said);
        assert_eq!(unsaid("rack=9").unwrap(), "no host has rack=9; there is rack=14, 15");
        assert_eq!(
            unsaid("web-*,role=x").unwrap(),
            "no host has a label role; they have rack, region, zone"
        );
        assert_eq!(unsaid("region=us").unwrap(), "no host has region=us; there is region=eu");
        assert_eq!(unsaid("rack=14,zone=b"), None, "somebody has each");
        for n in 0..20 {
            let labels = format!("rack={n}").parse::<Selector>().unwrap().0;
            said.hear(&labels, Place { region: "eu", rack: "", zone: "" });
        }
        let many = "rack=x".parse::<HostSelector>().unwrap().unsaid(&said).unwrap();
        assert!(many.ends_with(" and 12 more"), "{many}");
    }

    #[test]
    fn what_is_said_is_read_back_and_nonsense_is_refused() {
        let selector: HostSelector = "rack=14, web-*,,db-1".parse().unwrap();
        assert_eq!(selector.to_string(), "web-*,db-1,rack=14");
        assert_eq!(selector.to_string().parse::<HostSelector>().unwrap(), selector);
        assert_eq!(selector.exact().collect::<Vec<_>>(), ["db-1"]);
        let more = "web-7,zone=a".parse::<HostSelector>().unwrap();
        let both = HostSelector::joined(&[selector.clone(), more]).unwrap().unwrap();
        assert_eq!(both.to_string(), "web-*,db-1,web-7,rack=14,zone=a");
        assert_eq!(HostSelector::joined(&[]), Ok(None));
        let other = "rack=15".parse::<HostSelector>().unwrap();
        let refused = HostSelector::joined(&[selector, other]).unwrap_err().to_string();
        assert!(refused.contains("one value of a label"), "{refused}");
        let many = vec!["h"; PARTS_MAX + 1].join(",");
        for bad in ["", " , ", "rack=", "=x", "a b", "-x", "rack=1,rack=2", "a/b", &many] {
            assert!(bad.parse::<HostSelector>().is_err(), "{bad}");
        }
    }
}
