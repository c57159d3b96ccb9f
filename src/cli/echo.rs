//! A terminal that does not write `^C` into what is drawn anew on it.
//!
//! Two letters at the end of a line that fills the screen's width move the cursor on, and
//! what is then wiped is not what was drawn.

use std::io::{IsTerminal, Stdin, stdin};

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// While it lives, control characters are not shown as they are typed.
pub(super) struct Unechoed {
    before: Termios,
}

impl Unechoed {
    /// Nothing where stdin is no terminal, or another job's.
    #[must_use]
    pub(super) fn new() -> Option<Self> {
        let input = stdin();
        if !input.is_terminal() || !is_ours(&input) {
            return None;
        }
        let before = tcgetattr(&input).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        tcsetattr(&input, OptionalActions::Now, &quiet).ok()?;
        Some(Self { before })
    }
}

/// Whether this process may set the terminal: one in the background would be stopped.
fn is_ours(input: &Stdin) -> bool {
    tcgetpgrp(input).is_ok_and(|front| front == getpgrp())
}

impl Drop for Unechoed {
    fn drop(&mut self) {
        let input = stdin();
        if is_ours(&input) {
            // A terminal that went away has nothing to be put back.
            let _ = tcsetattr(&input, OptionalActions::Now, &self.before);
        }
    }
}
