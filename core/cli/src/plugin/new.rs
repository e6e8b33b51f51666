//! `yard plugin new`: a plugin that works, to be changed into another.
//!
//! The templates are the examples of this repository, which are built, tested and checked with everything else; only names are
//! replaced.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::output;

/// Write a network plugin that works, to start from.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name: letters a-z, digits and `-`.
    name: String,
    /// The folder to make. Default: ./NAME.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// What it is written in.
    #[arg(long, value_enum, default_value_t)]
    lang: Language,
}

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Language {
    /// A crate.
    #[default]
    Rust,
    /// C 11, with a header.
    C,
    /// A script, in a process of its own.
    Python,
}

/// A file to write.
struct Template {
    path: String,
    text: String,
    executable: bool,
}

/// The sources that this program was built from, if they are still there.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    named(&args.name)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{}: is there and not empty; name another folder with --dir", dir.display());
    }
    let (templates, next) = match args.lang {
        Language::Rust => rust(&args.name)?,
        Language::C => c(&args.name),
        Language::Python => python(&args.name),
    };
    for Template { path, text, executable } in &templates {
        let path = dir.join(path);
        let folder = path.parent().expect("below a folder");
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        write(&path, text, *executable).with_context(|| format!("write {}", path.display()))?;
    }
    let mut page = format!("{}: a network plugin that works\n", dir.display());
    for template in &templates {
        page += &format!("    {}\n", template.path);
    }
    page += &format!("\nNext:\n    cd {}\n", dir.display());
    for line in next {
        page += &format!("    {line}\n");
    }
    output::print(&page)?;
    Ok(())
}

fn named(name: &str) -> anyhow::Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !starts || name.len() > 40 || !name.bytes().all(good) || name.ends_with('-') {
        bail!("name {name:?}: must be 1 to 40 of a-z, 0-9 and '-', beginning with a letter and not ending with '-'");
    }
    Ok(())
}

fn write(path: &Path, text: &str, executable: bool) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::File::options().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}

fn rust(name: &str) -> anyhow::Result<(Vec<Template>, Vec<String>)> {
    // The crates are not on crates.io: the plugin is built against the sources that this yard was built from.
    let sources = fs::canonicalize(SOURCES).ok().filter(|path| path.join("core/plugin/Cargo.toml").is_file());
    let sources = sources.with_context(|| {
        format!("the sources of this yard are not at {SOURCES} any more, and a Rust plugin is built against them; clone them there, or take --lang c")
    })?;
    let sources = sources.to_str().context("the path of the sources is not UTF-8")?;
    let library = name.replace('-', "_");
    let cargo = include_str!("rust/Cargo.toml.in")
        .replace("@SOURCES@", sources)
        .replace("@VERSION@", env!("CARGO_PKG_RUST_VERSION"));
    let source = include_str!("../../../../examples/hello-plugin/src/lib.rs").replace("Hello", "Network");
    let source = source.replace("//! A network in one screen:", &format!("//! {name}:"));
    let manifest = include_str!("../../../../examples/hello-plugin/manifest.json");
    let lock = fs::read_to_string(Path::new(sources).join("Cargo.lock")).unwrap_or_default();
    let file = |path: &str, text: String| Template { path: path.into(), text, executable: false };
    let fill = |text: &str| text.replace("@NAME@", name).replace("@LIBRARY@", &library);
    let templates = vec![
        file("Cargo.toml", fill(&cargo)),
        file("Cargo.lock", lock),
        file("manifest.json", manifest.replace("\"hello\"", &format!("\"{name}\""))),
        file("src/lib.rs", source),
        file("tests/answers.rs", fill(include_str!("rust/answers.rs.in"))),
        file("README.md", fill(include_str!("rust/README.md.in"))),
        file(".gitignore", "/target\n".into()),
    ];
    let built = format!("target/debug/libswitchyard_{library}.so");
    Ok((
        templates,
        vec!["cargo test".into(), "cargo build".into(), format!("yard plugin check {built}"), "less README.md".into()],
    ))
}

fn c(name: &str) -> (Vec<Template>, Vec<String>) {
    let file = |path: &str, text: &str| Template {
        path: path.into(),
        text: text.replace("c-plugin", name),
        executable: false,
    };
    let templates = vec![
        file("plugin.c", include_str!("../../../../examples/c-plugin/plugin.c")),
        file("json.h", include_str!("../../../../examples/c-plugin/json.h")),
        file("switchyard_plugin.h", include_str!("../../../plugin/include/switchyard_plugin.h")),
        file("Makefile", include_str!("../../../../examples/c-plugin/Makefile")),
        file("README.md", include_str!("../../../../examples/c-plugin/README.md")),
    ];
    (templates, vec!["make".into(), format!("yard plugin check ./libswitchyard_{name}.so"), "less README.md".into()])
}

fn python(name: &str) -> (Vec<Template>, Vec<String>) {
    let script = format!("switchyard_{name}.plugin");
    let script_text = include_str!("../../../../examples/python-plugin/switchyard_python-plugin.plugin");
    let readme = include_str!("../../../../examples/python-plugin/README.md");
    let templates = vec![
        Template { path: script.clone(), text: script_text.replace("python-plugin", name), executable: true },
        Template { path: "README.md".into(), text: readme.replace("python-plugin", name), executable: false },
    ];
    (templates, vec![format!("yard plugin check ./{script}"), "less README.md".into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_files_types_and_manifests_can_have() {
        for bad in ["", "-a", "a-", "A", "1a", "a/b", "ä", &"a".repeat(41)] {
            assert!(named(bad).unwrap_err().to_string().contains("must be 1 to 40"), "{bad}");
        }
        assert!(named("my-net2").is_ok());
    }
}
