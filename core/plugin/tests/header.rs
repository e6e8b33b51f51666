//! `include/switchyard_plugin.h` says the same as `src/abi.rs`: it is generated from it, and a C compiler lays it out alike.
//!
//! After a change of `abi.rs`, `SWITCHYARD_BLESS=1 cargo test -p switchyard-plugin --test header` writes it anew.

use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::Path;
use std::process::Command;

use cbindgen::{Config, DocumentationStyle, Language, Style};
use switchyard_plugin::abi::{self, Bytes, Header, Host, Sink, Table};

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/switchyard_plugin.h");
/// Sizes and offsets of ABI 1.0. A released field never moves; a longer table gets a file of its own.
const LAYOUT: &str = include_str!("abi-1.0.txt");

#[test]
fn the_header_is_generated_from_the_source() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/abi.rs");
    let mut generated = Vec::new();
    let bindings = cbindgen::Builder::new().with_src(source).with_config(config()).generate().expect("abi.rs is plain");
    bindings.write(&mut generated);
    let generated = in_c_words(&String::from_utf8(generated).unwrap());
    if std::env::var_os("SWITCHYARD_BLESS").is_some() {
        std::fs::write(HEADER, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(HEADER).unwrap_or_default();
    assert!(generated == committed, "{HEADER} is not what src/abi.rs says; SWITCHYARD_BLESS=1 writes it anew");
}

#[test]
fn rust_lays_the_tables_out_as_released() {
    assert_eq!(layout(), LAYOUT);
}

#[test]
fn c_lays_the_tables_out_as_rust_does() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    std::fs::write(&source, layout_in_c()).unwrap();
    let include = Path::new(HEADER).parent().unwrap();
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(include)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output();
    let Ok(compiled) = compiled else {
        assert!(std::env::var_os("CI").is_none(), "not to be skipped on CI: there is no C compiler");
        eprintln!("skipped: there is no C compiler");
        return;
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let printed = Command::new(&program).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), LAYOUT);
}

macro_rules! describe {
    ($text:ident, $c:ident, $type:ident, $name:literal: $($field:ident),+) => {
        writeln!($text, "{} size {} align {}", $name, size_of::<$type>(), align_of::<$type>()).unwrap();
        writeln!($c, r#"SIZE({});"#, $name).unwrap();
        $(
            writeln!($text, "{}.{} at {}", $name, stringify!($field), offset_of!($type, $field)).unwrap();
            writeln!($c, r#"FIELD({}, {});"#, $name, stringify!($field)).unwrap();
        )+
    };
}

macro_rules! constants {
    ($text:ident, $c:ident: $($name:ident),+) => {
        $(
            writeln!($text, "SWITCHYARD_{} {}", stringify!($name), abi::$name).unwrap();
            writeln!($c, r#"printf("SWITCHYARD_{0} %d\n", (int)SWITCHYARD_{0});"#, stringify!($name)).unwrap();
        )+
    };
}

fn both() -> (String, String) {
    let (mut text, mut c) = (String::new(), String::new());
    constants!(text, c: ABI_MAJOR, ABI_MINOR, OK, NOT_IMPLEMENTED, INVALID, PANICKED, FAILED);
    describe!(text, c, Header, "switchyard_header": magic, header_size, abi_major, abi_minor, manifest_len);
    describe!(text, c, Bytes, "switchyard_bytes": data, len);
    describe!(text, c, Sink, "switchyard_sink": struct_size, context, write);
    describe!(text, c, Host, "switchyard_host": struct_size, abi_major, abi_minor);
    describe!(text, c, Table, "switchyard_table": struct_size, create, destroy, call, manifest);
    (text, c)
}

fn layout() -> String {
    both().0
}

fn layout_in_c() -> String {
    let prints = both().1;
    format!(
        r#"#include <stdio.h>
#include <stddef.h>
#include "switchyard_plugin.h"
#define SIZE(type) do {{ struct probe {{ char c; struct type t; }}; \
    printf(#type " size %zu align %zu\n", sizeof(struct type), offsetof(struct probe, t)); }} while (0)
#define FIELD(type, field) printf(#type "." #field " at %zu\n", offsetof(struct type, field))
SWITCHYARD_MANIFEST("{{}}");
int main(void) {{
{prints}
return switchyard_manifest.header.abi_major == SWITCHYARD_ABI_MAJOR ? 0 : 1;
}}
"#
    )
}

/// How C calls what `abi.rs` calls otherwise.
fn config() -> Config {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        cpp_compat: true,
        usize_is_size_t: true,
        pragma_once: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        documentation_style: DocumentationStyle::C99,
        header: Some(rules()),
        after_includes: Some(texts()),
        trailer: Some(TRAILER.into()),
        ..Config::default()
    };
    config.export.include = ["Header", "Bytes", "Sink", "Host", "Table", "EntryFn"].map(String::from).into();
    let types = [
        ("Header", "header"),
        ("Bytes", "bytes"),
        ("Sink", "sink"),
        ("Host", "host"),
        ("Table", "table"),
        ("EntryFn", "entry_fn"),
    ];
    let constants = ["ABI_MAJOR", "ABI_MINOR", "OK", "NOT_IMPLEMENTED", "INVALID", "PANICKED", "FAILED"];
    let types = types.map(|(rust, c)| (rust.to_owned(), format!("switchyard_{c}")));
    let constants = constants.map(|name| (name.to_owned(), format!("SWITCHYARD_{name}")));
    config.export.rename = types.into_iter().chain(constants).collect();
    config
}

/// The rules at the top of `abi.rs`.
fn rules() -> String {
    let source = include_str!("../src/abi.rs");
    let rules = source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| format!("//{line}\n"));
    format!("// Generated from core/plugin/src/abi.rs; do not edit.\n//\n{}", rules.collect::<String>())
}

/// Constants that are text, which the generator leaves out.
fn texts() -> String {
    use abi::operation::{NODE, PEER, POD, POOL, REMOTE, UNDERLAY};
    let magic = abi::MAGIC.map(|byte| format!("'{}'", char::from(byte))).join(", ");
    let mut text = format!(
        "\n// The ELF section that holds the manifest, and its first bytes.\n\
         #define SWITCHYARD_SECTION \"{}\"\n#define SWITCHYARD_MAGIC {{{magic}}}\n\n\
         // The operations of `call`: each takes a JSON object of its arguments and answers with JSON.\n",
        abi::SECTION
    );
    for (name, operation, arguments) in [
        ("POOL", POOL, "{facts, node, pod} -> {block, reserved}"),
        ("NODE", NODE, "{facts, node} -> fragment"),
        ("PEER", PEER, "{facts, node, peer} -> fragment"),
        ("POD", POD, "{facts, node, pod} -> fragment"),
        ("REMOTE", REMOTE, "{facts, node, peer, pod} -> fragment"),
        ("UNDERLAY", UNDERLAY, "{facts, node} -> fragment"),
    ] {
        writeln!(text, "#define SWITCHYARD_OPERATION_{name} \"{operation}\" // {arguments}").unwrap();
    }
    text
}

const TRAILER: &str = r#"// Puts the manifest's record into its section; `json` is a string literal. Once a plugin, at file scope, with a semicolon.
#define SWITCHYARD_MANIFEST(json) \
  static const struct { \
    struct switchyard_header header; \
    char text[sizeof(json)]; \
  } switchyard_manifest __attribute__((used, section(SWITCHYARD_SECTION))) = { \
    { SWITCHYARD_MAGIC, sizeof(struct switchyard_header), SWITCHYARD_ABI_MAJOR, SWITCHYARD_ABI_MINOR, sizeof(json) - 1 }, \
    json \
  }

// The entry symbol, for the plugin to define.
#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default")))
int32_t switchyard_plugin_v1(const struct switchyard_host *host, struct switchyard_table *plugin);
"#;

/// Rust's doc links as C's words.
fn in_c_words(header: &str) -> String {
    let names = [
        ("[`Header`]", "`struct switchyard_header`"),
        ("[`ENTRY`]", "`switchyard_plugin_v1`"),
        ("[`MAGIC`]", "`SWITCHYARD_MAGIC`"),
        ("[`SECTION`]", "`SWITCHYARD_SECTION`"),
        ("[`ABI_MAJOR`]", "`SWITCHYARD_ABI_MAJOR`"),
        ("[`ABI_MINOR`]", "`SWITCHYARD_ABI_MINOR`"),
    ];
    let mut header = names.into_iter().fold(header.to_owned(), |text, (rust, c)| text.replace(rust, c));
    header.truncate(header.trim_end().len());
    header + "\n"
}
