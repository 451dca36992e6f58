//! `forebay`.
fn main() {}
