//! The journal: the activation under way, durable before each of its stages.

use std::io;

use crate::agent::state::AppFolder;
use crate::host::fs;
use crate::rules::activation::Activation;

/// The activation that was under way; `None` when there was none.
///
/// # Errors
/// When it can't be read.
pub fn read(folder: &AppFolder) -> io::Result<Option<Activation>> {
    fs::read_json(&folder.path().join("journal"))
}

/// Notes the stage that comes next; only then may it be begun.
///
/// # Errors
/// When it can't be written; the stage must then not be begun.
pub fn write(folder: &AppFolder, activation: &Activation) -> io::Result<()> {
    fs::write_json(&folder.path().join("journal"), activation)
}

/// Ends the activation; its outcome must be in the state by then.
///
/// # Errors
/// When it can't be removed; the last stage is then done again.
pub fn clear(folder: &AppFolder) -> io::Result<()> {
    fs::remove_durable(&folder.path().join("journal"))
}
