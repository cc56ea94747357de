//! Parses, builds, runs and drains.
fn main() {}
