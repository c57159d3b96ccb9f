//! The command line: what engineers see.
