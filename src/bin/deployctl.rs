//! `deployctl`, the command line.

fn main() {}
