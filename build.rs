//! The migrations are embedded by a macro, which cannot tell cargo that a file was added.
fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
