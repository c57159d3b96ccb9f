//! `[collector]`: how long what nobody needs is kept.

use serde::Deserialize;

/// `[collector]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collector {
    /// Whether artifacts that nobody needs are collected without being asked to, from a main
    /// store that names this installation as its owner. Off, also what was marked before stays.
    pub enabled: bool,
    /// Nothing goes that was built or released within so many days, 1 to 3,650.
    pub keep_days: u32,
    /// Known-good artifacts that are kept per app and env, whatever their age, 3 to 1,000: a
    /// host keeps 3.
    pub keep_good: u32,
    /// How long after the decision objects are deleted, minutes, 0 to 10,080: until then
    /// building the same again brings an artifact back.
    pub delay_minutes: u32,
    /// How often it is looked for what may go, milliseconds, 10 to 86,400,000.
    pub every_ms: u64,
    /// How long logs of builds are kept, days, 1 to 3,650; those of artifacts that are there stay.
    pub keep_log_days: u32,
    /// How long events are kept, days, 7 to 36,500.
    pub keep_event_days: u32,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            enabled: true,
            keep_days: 14,
            keep_good: 10,
            delay_minutes: 60,
            every_ms: 3_600_000,
            keep_log_days: 30,
            keep_event_days: 400,
        }
    }
}
