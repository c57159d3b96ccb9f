//! A process that a test starts and that says on its first line when it is ready.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Starts it; gives what follows `ready ` on its first line, such as where it listens.
pub(crate) fn ready(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let what = line.trim().strip_prefix("ready ");
    let what = what.unwrap_or_else(|| panic!("{command:?} said {line:?}")).to_owned();
    (child, what)
}
