//! wip
fn main() { print!("{}", operator::crd::yaml().unwrap()); }
