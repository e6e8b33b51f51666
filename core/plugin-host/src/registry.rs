//! The plugins there are: a search path of directories, and what has been loaded from it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use switchyard_plugin::{Hosting, Manifest, NetworkPlugin, Options};

use crate::file::{Content, Form, InspectError, Inspected, inspect};
use crate::library::{Library, LoadError};
use crate::linker::Linker;
use crate::maker::{Code, Maker};
use crate::plugin::{Plugin, Started};
use crate::process::{Image, ProcessHost};
use crate::state::{Listed, State};
use crate::tended::Tended;

/// Finds and starts plugins.
#[derive(Default)]
pub struct Registry {
    search: Vec<PathBuf>,
    linked: Vec<(Manifest, Arc<Library>)>,
    process_host: ProcessHost,
    linker: Arc<Linker>,
    /// What is known of each content, by its SHA-256.
    known: Mutex<HashMap<String, Known>>,
}

/// What has happened to a plugin file's content.
#[derive(Default)]
struct Known {
    /// Why it did not load or start the last time.
    failed: Option<String>,
    /// The instance made last.
    last: Option<Weak<dyn Plugin>>,
}

/// Why a plugin did not start. [`OpenError::reason`] is the word for a condition.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No file of that name is on the search path.
    #[error(
        "plugin {name:?} not found: no {} or {} in {}",
        library_name(name),
        program_name(name),
        directories(search)
    )]
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
    /// Its process did not come up.
    #[error("{}: hosting: process: {why}", path.display())]
    Process {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// Its own code was not over in time, and is left to itself.
    #[error("{}: {what} not returned within {seconds} s", path.display())]
    Late {
        /// The file.
        path: PathBuf,
        /// What hangs.
        what: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The constructors of another library hang, and with them the dynamic linker.
    #[error(
        "{}: not opened, as the constructors of {} have not returned: restart this process, or use hosting: process",
        path.display(),
        other.display()
    )]
    Stuck {
        /// The file.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// Too many calls hang in its code.
    #[error(
        "{}: {threads} calls have not returned from its code: restart this process, or use hosting: process",
        path.display()
    )]
    Crowded {
        /// The file.
        path: PathBuf,
        /// How many.
        threads: usize,
    },
    /// There is no thread for its code.
    #[error("{}: start a thread: {why}", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// In the kernel's words.
        why: String,
    },
}

// === impl Registry ===

impl Registry {
    /// Plugins in these directories, the first one wins. Libraries are named `libswitchyard_NAME.so`, programs
    /// `switchyard_NAME.plugin`.
    pub fn new(search: Vec<PathBuf>) -> Self {
        Self { search, ..Self::default() }
    }

    /// Adds a plugin that is linked into the program; it goes through the same table as a loaded one.
    ///
    /// # Panics
    /// If `manifest`, a constant of the program, is malformed.
    #[must_use]
    pub fn with_static<P: NetworkPlugin>(mut self, manifest: &str) -> Self {
        let manifest = Manifest::parse(manifest.as_bytes()).expect("the manifest of a linked plugin is well-formed");
        self.linked.push((manifest, Arc::new(Library::linked::<P>())));
        self
    }

    /// Says how to host a plugin in a process, in place of the default.
    #[must_use]
    pub fn with_process_host(mut self, host: ProcessHost) -> Self {
        self.process_host = host;
        self
    }

    /// All plugin files on the search path, also those that cannot be loaded.
    pub fn list(&self) -> Vec<Listed> {
        let mut names = BTreeMap::new();
        for dir in &self.search {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let is_library = name.starts_with("libswitchyard_") && name.ends_with(".so");
                if is_library || name.starts_with("switchyard_") && name.ends_with(".plugin") {
                    names.entry(name).or_insert_with(|| entry.path());
                }
            }
        }
        names.into_values().map(|path| self.listed(path)).collect()
    }

    fn listed(&self, path: PathBuf) -> Listed {
        let inspected = inspect(&path);
        let state = match &inspected {
            Err(error) => State::Failed(error.to_string()),
            Ok(inspected) => self.state(&inspected.sha256),
        };
        Listed { path, inspected, state }
    }

    /// The file of a plugin, by its name or by a path to it.
    pub fn find(&self, name: &str) -> Result<PathBuf, OpenError> {
        if name.contains('/') {
            return Ok(PathBuf::from(name));
        }
        let [plain, cargos] = library_names(name);
        let files = [plain, cargos, program_name(name)];
        let candidates = self.search.iter().flat_map(|dir| files.iter().map(move |file| dir.join(file)));
        let not_found = || OpenError::NotFound { name: name.to_owned(), search: self.search.clone() };
        candidates.into_iter().find(|path| path.exists()).ok_or_else(not_found)
    }

    /// What a plugin, by its name or by a path, says about itself. Runs none of its code.
    pub fn inspect(&self, name: &str) -> Result<Inspected, OpenError> {
        Ok(self.read(name)?.1)
    }

    /// Starts a plugin, by its name or by a path to its file, with these options.
    pub fn open(&self, name: &str, options: &Options, hosting: Hosting) -> Result<Arc<dyn Plugin>, OpenError> {
        self.start(name, options, hosting, |_, started| started)
    }

    /// The same, for whoever goes on with a plugin that fails: an instance that panicked or hung makes room for another one after a
    /// pause. What a call failed with is not asked again for a while.
    pub fn tend(&self, name: &str, options: &Options, hosting: Hosting) -> Result<Arc<dyn Plugin>, OpenError> {
        self.start(name, options, hosting, Tended::new)
    }

    fn start<P: Plugin + 'static>(
        &self,
        name: &str,
        options: &Options,
        hosting: Hosting,
        finish: impl FnOnce(Maker, Started) -> P,
    ) -> Result<Arc<dyn Plugin>, OpenError> {
        let options = serde_json::to_vec(options).expect("a JSON map serialises");
        let made = |maker: Maker| -> Result<Arc<dyn Plugin>, OpenError> {
            let started = maker.make()?;
            Ok(Arc::new(finish(maker, started)))
        };
        if let Some((manifest, library)) = self.linked.iter().find(|(manifest, _)| manifest.name == name) {
            let code = Code::Library(Arc::clone(library));
            return made(self.maker(manifest.clone(), PathBuf::new(), String::new(), options, code));
        }
        let (content, Inspected { path, form, sha256, manifest, .. }) = self.read(name)?;
        let code = self.code(&content, form, hosting);
        let started = code.and_then(|code| made(self.maker(manifest, path, sha256, options, code)));
        let mut known = self.known();
        let entry = known.entry(content.sha256).or_default();
        match &started {
            Ok(started) => {
                entry.failed = None;
                entry.last = Some(Arc::downgrade(started));
            }
            Err(error) => entry.failed = Some(error.to_string()),
        }
        started
    }

    fn maker(&self, manifest: Manifest, path: PathBuf, sha256: String, options: Vec<u8>, code: Code) -> Maker {
        Maker { manifest, path, sha256, options, host: self.process_host.clone(), code }
    }

    fn code(&self, content: &Content, form: Form, hosting: Hosting) -> Result<Code, OpenError> {
        Ok(match (hosting, form) {
            (Hosting::InProcess, Form::Library) => {
                Code::Library(self.linker.open(content, self.process_host.deadline)?)
            }
            // A program cannot be but a process.
            (Hosting::Process, _) | (_, Form::Program) => Code::Process(Arc::new(Image::of(content, form)?)),
        })
    }

    fn read(&self, name: &str) -> Result<(Content, Inspected), OpenError> {
        let path = self.find(name)?;
        let content = Content::read(&path)?;
        let inspected = content.inspect()?;
        if !name.contains('/') && inspected.manifest.name != name {
            return Err(OpenError::OtherName { path, found: inspected.manifest.name, wanted: name.to_owned() });
        }
        Ok((content, inspected))
    }

    fn state(&self, sha256: &str) -> State {
        let known = self.known();
        let known = known.get(sha256);
        if let Some(reason) = known.and_then(|known| known.failed.clone()) {
            return State::Failed(reason);
        }
        match known.and_then(|known| known.last.as_ref()?.upgrade()) {
            Some(last) => last.state(),
            None if self.linker.library(sha256).is_some() => State::Loaded,
            None => State::Declared,
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl OpenError ===

impl OpenError {
    pub(crate) fn thread(path: &Path, error: &std::io::Error) -> Self {
        Self::Thread { path: path.to_owned(), why: error.to_string() }
    }

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
            Self::Process { .. } => "ProcessFailed",
            Self::Late { .. } | Self::Stuck { .. } | Self::Crowded { .. } => "PluginHung",
            Self::Thread { .. } => "LoadFailed",
        }
    }
}

fn library_name(name: &str) -> String {
    format!("libswitchyard_{name}.so")
}

/// What the library of a plugin may be called. Cargo writes `_` for `-`.
pub fn library_names(name: &str) -> [String; 2] {
    [library_name(name), library_name(&name.replace('-', "_"))]
}

/// What the program of a plugin is called.
pub fn program_name(name: &str) -> String {
    format!("switchyard_{name}.plugin")
}

fn directories(search: &[PathBuf]) -> String {
    search.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}
