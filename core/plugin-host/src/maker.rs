//! What instances of a plugin are made of: its code, open or ready to be run, and its options. No file is read for another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use switchyard_plugin::Manifest;

use crate::deadline::{Watched, within};
use crate::library::Library;
use crate::plugin::{Answers, Started};
use crate::process::{Hosted, Image, ProcessHost};
use crate::registry::OpenError;

/// Makes instances of a plugin with certain options.
pub(crate) struct Maker {
    pub(crate) manifest: Manifest,
    /// The file it came from; empty for one that is linked in.
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
    /// A JSON object.
    pub(crate) options: Vec<u8>,
    pub(crate) host: ProcessHost,
    pub(crate) code: Code,
}

/// Where the code is.
pub(crate) enum Code {
    /// In this process.
    Library(Arc<Library>),
    /// To be run in a child.
    Process(Arc<Image>),
}

/// So many threads may be in a library's code when another instance is wanted. Those that hang there stay for ever.
const MOST_INSIDE: usize = 16;

// === impl Maker ===

impl Maker {
    /// Makes an instance.
    pub(crate) fn make(&self) -> Result<Started, OpenError> {
        let answers: Box<dyn Answers> = match &self.code {
            Code::Library(library) => Box::new(self.create(library)?),
            Code::Process(image) => Box::new(Hosted::start(&self.host, Arc::clone(image), self.options.clone())?),
        };
        Ok(Started::new(self.manifest.clone(), self.path.clone(), self.sha256.clone(), answers))
    }

    fn create(&self, library: &Arc<Library>) -> Result<Watched, OpenError> {
        let threads = library.inside();
        if threads >= MOST_INSIDE {
            return Err(OpenError::Crowded { path: self.said(), threads });
        }
        let (library, options, deadline) = (Arc::clone(library), self.options.clone(), self.host.deadline);
        match within(Instant::now() + deadline, move || library.create(&options)) {
            Ok(Some(created)) => Ok(Watched::new(created.map_err(|reply| reply.refusal(&self.said()))?, deadline)),
            Ok(None) => Err(OpenError::Late { path: self.said(), what: "create has", seconds: deadline.as_secs() }),
            Err(error) => Err(OpenError::thread(&self.said(), &error)),
        }
    }

    /// What errors speak about.
    fn said(&self) -> PathBuf {
        if self.path.as_os_str().is_empty() { Path::new(&self.manifest.name).to_owned() } else { self.path.clone() }
    }
}
