//! What a plugin file says about itself, read with an ELF parser and never executed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use sha2::{Digest as _, Sha256};
use switchyard_plugin::{Manifest, abi};

/// Largest plugin file in bytes.
const LARGEST_FILE: u64 = 256 << 20;
/// Largest manifest in bytes.
const LARGEST_MANIFEST: u32 = 1 << 20;

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

/// A plugin file that could be loaded.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Where it is.
    pub path: PathBuf,
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
    /// It is not a shared library.
    #[error("{}: not a shared library: {why}", path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// It has no manifest.
    #[error("{}: not a plugin: it has no section {} (export_plugin! or switchyard_plugin.h puts it there)", path.display(), abi::SECTION)]
    NoManifest {
        /// The file.
        path: PathBuf,
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
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), sha256, bytes })
    }

    pub(crate) fn inspect(&self) -> Result<Inspected, InspectError> {
        let (abi, manifest) = manifest(&self.path, &self.bytes)?;
        Ok(Inspected { path: self.path.clone(), sha256: self.sha256.clone(), abi, manifest })
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

fn manifest(path: &Path, data: &[u8]) -> Result<((u32, u32), Manifest), InspectError> {
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
    let section =
        elf.section_by_name(abi::SECTION).ok_or_else(|| InspectError::NoManifest { path: path.to_owned() })?;
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
