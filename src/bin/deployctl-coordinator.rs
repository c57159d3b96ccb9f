//! `deployctl-coordinator`.

fn main() {}
