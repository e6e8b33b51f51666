//! What a plugin file says about itself, read with an ELF parser and never executed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};
use ring::digest::{SHA256, digest};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use serde::Serialize;
use switchyard_plugin::{Manifest, abi};

/// Largest plugin file in bytes.
const LARGEST_FILE: u64 = 256 << 20;
/// Largest manifest in bytes.
const LARGEST_MANIFEST: u32 = 1 << 20;
/// What stands before the manifest in a script, in a comment of its language: `switchyard-plugin/1.0 {"name": ..}`.
const MARK: &str = "switchyard-plugin/";
/// So many bytes of a script are searched for it.
const HEAD: usize = 64 << 10;

/// The architecture that this program was built for.
#[cfg(target_arch = "x86_64")]
const HERE: object::Architecture = object::Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
const HERE: object::Architecture = object::Architecture::Aarch64;

/// A file as it was when it was read.
pub(crate) struct Content {
    pub(crate) path: PathBuf,
    /// SHA-256, hexadecimal.
    pub(crate) sha256: String,
    bytes: Vec<u8>,
}

/// How a plugin file is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A shared library: loaded, in this process or in a child.
    Library,
    /// A program that speaks the messages of [`process`](crate::child) by itself: a script, whatever it starts. Always a child.
    Program,
}

/// A plugin file that could be loaded.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Where it is.
    pub path: PathBuf,
    /// Library or program.
    pub form: Form,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
    /// Version of the boundary it was built for: major, minor.
    pub abi: (u32, u32),
    /// What it says about itself.
    pub manifest: Manifest,
}

/// Why a file is no plugin that could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large to be one.
    #[error("{}: {size} bytes: a plugin has at most {LARGEST_FILE}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// It is not a shared library, and no script either.
    #[error("{}: not a shared library: {why}", path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// It has no manifest.
    #[error("{}: not a plugin: it has no {what}", path.display())]
    NoManifest {
        /// The file.
        path: PathBuf,
        /// What would be there.
        what: String,
    },
    /// Its manifest is malformed.
    #[error("{}: manifest: {why}", path.display())]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It was built for another major version of the boundary.
    #[error("{}: built for plugin ABI {found}, this yard speaks {}: rebuild it with a matching switchyard-plugin", path.display(), abi::ABI_MAJOR)]
    AbiMismatch {
        /// The file.
        path: PathBuf,
        /// Its major version.
        found: u32,
    },
}

/// Reads what a plugin file says about itself. Runs none of its code.
pub fn inspect(path: &Path) -> Result<Inspected, InspectError> {
    Content::read(path)?.inspect()
}

// === impl Content ===

impl Content {
    pub(crate) fn read(path: &Path) -> Result<Self, InspectError> {
        let bytes = read(path)?;
        let sha256 = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), sha256, bytes })
    }

    pub(crate) fn inspect(&self) -> Result<Inspected, InspectError> {
        let (form, (abi, manifest)) = if self.bytes.starts_with(b"#!") {
            (Form::Program, comment(&self.path, &self.bytes)?)
        } else {
            (Form::Library, section(&self.path, &self.bytes)?)
        };
        Ok(Inspected { path: self.path.clone(), form, sha256: self.sha256.clone(), abi, manifest })
    }

    /// A private copy in memory that nobody can change any more.
    ///
    /// The dynamic linker knows a file by its inode and would give the old library for a path that was overwritten in place; and
    /// what was inspected must be what is opened.
    pub(crate) fn sealed(&self) -> Result<OwnedFd, InspectError> {
        let copy = || -> std::io::Result<OwnedFd> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let mut file = File::from(rustix::fs::memfd_create("switchyard-plugin", flags)?);
            file.write_all(&self.bytes)?;
            let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
            rustix::fs::fcntl_add_seals(&file, seals)?;
            Ok(file.into())
        };
        copy().map_err(|source| InspectError::Read { path: self.path.clone(), source })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    // A pipe in its place must not make us wait.
    let file =
        File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(InspectError::NotALibrary { path: path.to_owned(), why: "not a regular file".to_owned() });
    }
    if metadata.len() > LARGEST_FILE {
        return Err(InspectError::TooLarge { path: path.to_owned(), size: metadata.len() });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The manifest of a script: the rest of a line that has the mark, whatever begins a comment there.
fn comment(path: &Path, data: &[u8]) -> Result<((u32, u32), Manifest), InspectError> {
    let bad = |why: String| InspectError::BadManifest { path: path.to_owned(), why };
    let head = &data[..data.len().min(HEAD)];
    let text = head.split(|byte| *byte == b'\n').find_map(|line| {
        let at = line.windows(MARK.len()).position(|window| window == MARK.as_bytes())?;
        Some(&line[at + MARK.len()..])
    });
    let text = text.ok_or_else(|| {
        let what = format!("comment `{MARK}{}.{} {{..}}` in its first {HEAD} bytes", abi::ABI_MAJOR, abi::ABI_MINOR);
        InspectError::NoManifest { path: path.to_owned(), what }
    })?;
    let text = std::str::from_utf8(text).map_err(|error| bad(error.to_string()))?;
    let (version, json) = text.split_once(' ').unwrap_or((text, ""));
    let version = version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor): (u32, u32) =
        version.ok_or_else(|| bad(format!("{MARK} must be followed by a version such as 1.0 and by JSON")))?;
    if major != abi::ABI_MAJOR {
        return Err(InspectError::AbiMismatch { path: path.to_owned(), found: major });
    }
    Ok(((major, minor), Manifest::parse(json.trim().as_bytes()).map_err(bad)?))
}

/// The manifest of a library: an ELF section of its own.
fn section(path: &Path, data: &[u8]) -> Result<((u32, u32), Manifest), InspectError> {
    let no_library = |why: String| InspectError::NotALibrary { path: path.to_owned(), why };
    let bad = |why: String| InspectError::BadManifest { path: path.to_owned(), why };
    let elf = object::File::parse(data).map_err(|error| no_library(format!("not a complete ELF file: {error}")))?;
    if elf.kind() != object::ObjectKind::Dynamic {
        return Err(no_library(format!("it is of kind {:?}", elf.kind())));
    }
    let here = HERE;
    if elf.architecture() != here {
        return Err(no_library(format!("built for {:?}, this machine is {here:?}", elf.architecture())));
    }
    let section = elf.section_by_name(abi::SECTION).ok_or_else(|| {
        let what = format!("section {} (export_plugin! or switchyard_plugin.h puts it there)", abi::SECTION);
        InspectError::NoManifest { path: path.to_owned(), what }
    })?;
    let bytes = section.data().map_err(|error| bad(error.to_string()))?;
    if bytes.len() < size_of::<abi::Header>() {
        return Err(bad(format!(
            "section {} has {} bytes, a header has {}",
            abi::SECTION,
            bytes.len(),
            size_of::<abi::Header>()
        )));
    }
    if bytes[..8] != abi::MAGIC {
        return Err(bad(format!(
            "section {} does not begin with {:?}",
            abi::SECTION,
            String::from_utf8_lossy(&abi::MAGIC)
        )));
    }
    let word =
        |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes of a header that is there"));
    let (header_size, major, minor, length) = (word(8), word(12), word(16), word(20));
    if major != abi::ABI_MAJOR {
        return Err(InspectError::AbiMismatch { path: path.to_owned(), found: major });
    }
    if length > LARGEST_MANIFEST {
        return Err(bad(format!("{length} bytes: at most {LARGEST_MANIFEST}")));
    }
    let (start, length) = (header_size as usize, length as usize);
    let json = bytes.get(start..).and_then(|rest| rest.get(..length));
    let json =
        json.ok_or_else(|| bad(format!("{length} bytes of JSON at {start} do not fit its {} bytes", bytes.len())))?;
    let manifest = Manifest::parse(json).map_err(bad)?;
    Ok(((major, minor), manifest))
}
