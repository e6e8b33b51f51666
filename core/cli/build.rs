//! Links `yard` at a fixed address. Nearly every process of a cluster is this program: position independent, each would write 120,000
//! addresses into 1.7 MiB of its own before its first line, pages that all of them share this way. Given up is that the program's own code
//! lies somewhere else at each start; stack, heap, libraries and plugins still do.

fn main() {
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
