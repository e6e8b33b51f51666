//! The plugins there are: a search path of directories, and what has been loaded from it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use switchyard_plugin::{Hosting, Manifest, NetworkPlugin, Options};

use crate::deadline::Watched;
use crate::file::{Content, Form, InspectError, Inspected, inspect};
use crate::library::{Library, LoadError};
use crate::plugin::{Answers, Plugin, Started};
use crate::process::{Hosted, Image, ProcessHost};
use crate::state::{Listed, State};

/// Finds and starts plugins.
#[derive(Default)]
pub struct Registry {
    search: Vec<PathBuf>,
    linked: Vec<(Manifest, Arc<Library>)>,
    process_host: ProcessHost,
    /// What is known of each content, by its SHA-256: a file that did not change is opened once.
    known: Mutex<HashMap<String, Known>>,
}

/// What has happened to a plugin file's content.
#[derive(Default)]
struct Known {
    library: Option<Arc<Library>>,
    /// Why it did not load or start the last time.
    failed: Option<String>,
    /// The instance made last.
    last: Weak<Started>,
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
            Ok(inspected) => self.known().get(&inspected.sha256).map_or(State::Declared, Known::state),
        };
        Listed { path, inspected, state }
    }

    /// The file of a plugin, by its name or by a path to it.
    pub fn find(&self, name: &str) -> Result<PathBuf, OpenError> {
        if name.contains('/') {
            return Ok(PathBuf::from(name));
        }
        // Cargo writes `_` for `-`.
        let files = [library_name(name), library_name(&name.replace('-', "_")), program_name(name)];
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
        let options = serde_json::to_vec(options).expect("a JSON map serialises");
        if let Some((manifest, library)) = self.linked.iter().find(|(manifest, _)| manifest.name == name) {
            let instance = library.create(&options).map_err(|reply| reply.refusal(Path::new(name)))?;
            let (manifest, answers) = (manifest.clone(), Watched::new(instance, self.process_host.deadline));
            return Ok(Arc::new(Started::new(manifest, PathBuf::new(), String::new(), Box::new(answers))));
        }
        let (content, inspected) = self.read(name)?;
        let started = self.start(&content, inspected, options, hosting);
        let mut known = self.known();
        let entry = known.entry(content.sha256).or_default();
        match &started {
            Ok(started) => {
                entry.failed = None;
                entry.last = Arc::downgrade(started);
            }
            Err(error) => entry.failed = Some(error.to_string()),
        }
        Ok(started?)
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

    fn start(
        &self,
        content: &Content,
        inspected: Inspected,
        options: Vec<u8>,
        hosting: Hosting,
    ) -> Result<Arc<Started>, OpenError> {
        let answers: Box<dyn Answers> = match (hosting, inspected.form) {
            (Hosting::InProcess, Form::Library) => {
                let library = self.library(content)?;
                let instance = library.create(&options).map_err(|reply| reply.refusal(&content.path))?;
                Box::new(Watched::new(instance, self.process_host.deadline))
            }
            // A program cannot be but a process.
            (Hosting::Process, _) | (_, Form::Program) => {
                Box::new(Hosted::start(&self.process_host, Image::of(content, inspected.form)?, options)?)
            }
        };
        let Inspected { path, sha256, manifest, .. } = inspected;
        Ok(Arc::new(Started::new(manifest, path, sha256, answers)))
    }

    fn library(&self, content: &Content) -> Result<Arc<Library>, OpenError> {
        // Held while the library's constructors run, so that no content is opened twice.
        let mut known = self.known();
        let entry = known.entry(content.sha256.clone()).or_default();
        if let Some(library) = &entry.library {
            return Ok(Arc::clone(library));
        }
        let library = Arc::new(Library::open(&content.path, content.sealed()?)?);
        entry.library = Some(Arc::clone(&library));
        Ok(library)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    fn state(&self) -> State {
        match (self.last.upgrade(), &self.failed, &self.library) {
            (_, Some(reason), _) => State::Failed(reason.clone()),
            (Some(last), ..) => last.state(),
            (None, None, Some(_)) => State::Loaded,
            (None, None, None) => State::Declared,
        }
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
            Self::Process { .. } => "ProcessFailed",
        }
    }
}

fn library_name(name: &str) -> String {
    format!("libswitchyard_{name}.so")
}

fn program_name(name: &str) -> String {
    format!("switchyard_{name}.plugin")
}

fn directories(search: &[PathBuf]) -> String {
    search.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}
