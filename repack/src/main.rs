//! `forebay-repack`.
fn main() {}
