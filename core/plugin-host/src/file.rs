//! What a plugin file says about itself, read with an ELF parser and never executed.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};
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
    let data = read(path)?;
    let (abi, manifest) = manifest(path, &data)?;
    let sha256 = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Inspected { path: path.to_owned(), sha256, abi, manifest })
}

fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(InspectError::NotALibrary { path: path.to_owned(), why: "not a regular file".to_owned() });
    }
    if metadata.len() > LARGEST_FILE {
        return Err(InspectError::TooLarge { path: path.to_owned(), size: metadata.len() });
    }
    let mut data = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(LARGEST_FILE).read_to_end(&mut data).map_err(failed)?;
    Ok(data)
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
    let manifest: Manifest = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if manifest.name.is_empty() || manifest.name.len() > 63 || !manifest.name.bytes().all(good) {
        return Err(bad(format!("name {:?}: must be 1 to 63 of a-z, 0-9 and '-'", manifest.name)));
    }
    Ok(((major, minor), manifest))
}
