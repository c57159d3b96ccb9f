//! `deployctl-agent`.

fn main() {}
