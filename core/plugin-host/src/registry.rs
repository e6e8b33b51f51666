//! The plugins there are: a search path of directories, and what has been loaded from it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use switchyard_plugin::{Hosting, Manifest, NetworkPlugin, Options};

use crate::file::{InspectError, Inspected, inspect};
use crate::library::{Library, LoadError};
use crate::plugin::{Loaded, Plugin};
use crate::statics::Static;

/// Finds and starts plugins.
#[derive(Default)]
pub struct Registry {
    search: Vec<PathBuf>,
    statics: Vec<Static>,
    /// Open libraries by the SHA-256 of their content: a file that did not change is opened once.
    libraries: Mutex<HashMap<String, Arc<Library>>>,
}

/// A plugin file on the search path.
#[derive(Debug)]
pub struct Listed {
    /// Where it is.
    pub path: PathBuf,
    /// What it says about itself, or why it cannot be loaded.
    pub inspected: Result<Inspected, InspectError>,
}

/// Why a plugin did not start. [`OpenError::reason`] is the word for a condition.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No file of that name is on the search path.
    #[error("plugin {name:?} not found: no {} in {}", file_name(name), directories(search))]
    NotFound {
        /// The plugin's name.
        name: String,
        /// Where it was looked for.
        search: Vec<PathBuf>,
    },
    /// The file is no plugin that could be loaded.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// It did not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file says it is another plugin.
    #[error("{}: is plugin {found:?}, not {wanted:?}", path.display())]
    OtherName {
        /// The file.
        path: PathBuf,
        /// Its own name.
        found: String,
        /// The name asked for.
        wanted: String,
    },
    /// The hosting is not available.
    #[error("hosting: process: not supported by this version; use in-process")]
    Hosting,
}

// === impl Registry ===

impl Registry {
    /// Plugins in these directories, the first one wins. Files are named `libswitchyard_NAME.so`.
    pub fn new(search: Vec<PathBuf>) -> Self {
        Self { search, ..Self::default() }
    }

    /// Adds a plugin that is linked into the program.
    ///
    /// # Panics
    /// If `manifest`, a constant of the program, is malformed.
    #[must_use]
    pub fn with_static<P: NetworkPlugin>(mut self, manifest: &str) -> Self {
        let manifest: Manifest =
            serde_json::from_str(manifest).expect("the manifest of a linked plugin is well-formed");
        self.statics.push(Static::of::<P>(manifest));
        self
    }

    /// All plugin files on the search path, also those that cannot be loaded.
    pub fn list(&self) -> Vec<Listed> {
        let mut names = std::collections::BTreeMap::new();
        for dir in &self.search {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("libswitchyard_") && name.ends_with(".so") {
                    names.entry(name).or_insert_with(|| entry.path());
                }
            }
        }
        names.into_values().map(|path| Listed { inspected: inspect(&path), path }).collect()
    }

    /// The file of a plugin, by its name or by a path to it.
    pub fn find(&self, name: &str) -> Result<PathBuf, OpenError> {
        if name.contains('/') {
            return Ok(PathBuf::from(name));
        }
        let candidates = self.search.iter().map(|dir| dir.join(file_name(name)));
        let not_found = || OpenError::NotFound { name: name.to_owned(), search: self.search.clone() };
        candidates.into_iter().find(|path| path.exists()).ok_or_else(not_found)
    }

    /// What a plugin, by its name or by a path, says about itself. Runs none of its code.
    pub fn inspect(&self, name: &str) -> Result<Inspected, OpenError> {
        let path = self.find(name)?;
        let inspected = inspect(&path)?;
        if !name.contains('/') && inspected.manifest.name != name {
            return Err(OpenError::OtherName { path, found: inspected.manifest.name, wanted: name.to_owned() });
        }
        Ok(inspected)
    }

    /// Starts a plugin, by its name or by a path to its file, with these options.
    pub fn open(&self, name: &str, options: &Options, hosting: Hosting) -> Result<Arc<dyn Plugin>, OpenError> {
        if let Some(linked) = self.statics.iter().find(|linked| linked.manifest.name == name) {
            let refused = |error: switchyard_plugin::OptionsError| LoadError::BadOptions {
                option: error.option,
                problem: error.problem,
            };
            return Ok(linked.start(options).map_err(refused)?);
        }
        if hosting == Hosting::Process {
            return Err(OpenError::Hosting);
        }
        let inspected = self.inspect(name)?;
        let library = self.library(&inspected)?;
        let instance = library.create(options)?;
        Ok(Arc::new(Loaded {
            manifest: inspected.manifest,
            file: inspected.path,
            sha256: inspected.sha256,
            instance,
            poisoned: AtomicBool::new(false),
        }))
    }

    fn library(&self, inspected: &Inspected) -> Result<Arc<Library>, OpenError> {
        let mut libraries = self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries.get(&inspected.sha256) {
            return Ok(Arc::clone(library));
        }
        let library = Arc::new(open_content(&inspected.path)?);
        libraries.insert(inspected.sha256.clone(), Arc::clone(&library));
        Ok(library)
    }
}

// === impl OpenError ===

impl OpenError {
    /// One word in CamelCase, for a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "PluginNotFound",
            Self::Inspect(InspectError::Read { .. }) => "PluginUnreadable",
            Self::Inspect(InspectError::TooLarge { .. } | InspectError::NotALibrary { .. }) => "NotALibrary",
            Self::Inspect(InspectError::NoManifest { .. }) => "NotAPlugin",
            Self::Inspect(InspectError::BadManifest { .. }) => "BadManifest",
            Self::Inspect(InspectError::AbiMismatch { .. }) => "ABIMismatch",
            Self::Load(LoadError::Open { .. }) => "LoadFailed",
            Self::Load(LoadError::MissingSymbol { .. }) => "MissingSymbol",
            Self::Load(LoadError::BadTable { .. }) => "BadTable",
            Self::Load(LoadError::BadOptions { .. }) => "BadOptions",
            Self::Load(LoadError::Create { .. }) => "CreateFailed",
            Self::OtherName { .. } => "OtherPlugin",
            Self::Hosting => "HostingNotSupported",
        }
    }
}

/// Opens the library by the content it has now. The dynamic linker knows a file by its inode and would give the old library for
/// a path that was overwritten in place, so what is opened is a private copy.
fn open_content(path: &Path) -> Result<Library, OpenError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    let content = std::fs::read(path).map_err(failed)?;
    let name = path.file_name().map_or_else(|| "plugin".into(), |name| name.to_string_lossy());
    let copy =
        rustix::fs::memfd_create(&*name, rustix::fs::MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut file = std::fs::File::from(copy);
    std::io::Write::write_all(&mut file, &content).map_err(failed)?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let library = Library::open(Path::new(&link)).map_err(|error| renamed(error, &link, path))?;
    Ok(library)
}

/// An error about the private copy, told about the file it is a copy of.
fn renamed(error: LoadError, link: &str, path: &Path) -> LoadError {
    let path = path.to_owned();
    match error {
        LoadError::Open { why, .. } => LoadError::Open { why: why.replace(&format!("{link}: "), ""), path },
        LoadError::MissingSymbol { .. } => LoadError::MissingSymbol { path },
        LoadError::BadTable { why, .. } => LoadError::BadTable { why, path },
        LoadError::Create { source, .. } => LoadError::Create { source, path },
        options @ LoadError::BadOptions { .. } => options,
    }
}

fn file_name(name: &str) -> String {
    format!("libswitchyard_{name}.so")
}

fn directories(search: &[PathBuf]) -> String {
    search.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}
