//! Why a fetch failed, said in one line for a person.

use crate::agent::source::FetchFailure;
use crate::model::fleet::FailureClass;

/// A disk error for a person.
pub(super) fn disk_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            let text = error.to_string();
            if text.starts_with("no room") { text } else { format!("no room on disk: {text}") }
        }
        _ => format!("disk: {error}"),
    }
}

/// A failure with its reason cut to one line of at most 300 bytes.
pub(super) fn failure(class: FailureClass, reason: impl Into<String>) -> FetchFailure {
    let mut reason: String = reason.into().lines().next().unwrap_or_default().to_owned();
    let end = (0..=reason.len().min(300)).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    FetchFailure { class, reason }
}
