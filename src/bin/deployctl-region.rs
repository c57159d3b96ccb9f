//! `deployctl-region`.

fn main() {}
