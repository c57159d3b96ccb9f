//! `deployctl-worker`.

fn main() {}
