//! Which cluster a command means.

use anyhow::Context as _;
use switchyard_lab::control::Control;
use switchyard_lab::home::{Directory, Home};

/// What the command line and the environment said about it.
#[derive(Debug)]
pub(crate) struct Which {
    name: Option<String>,
}

/// No cluster fits.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCluster {
    /// None was ever started.
    #[error("there is no cluster; start one with: yard up -f FILE|FOLDER")]
    None,
    /// The one that was named does not exist.
    #[error("there is no cluster {name}; {known}")]
    Unknown {
        /// Its name.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// It exists but does not run.
    #[error("cluster {0} is not running; start it with: yard up --cluster {0}")]
    Stopped(String),
    /// Several would do.
    #[error("several clusters are {state}: {names}; say which with --cluster NAME or $SWITCHYARD_CLUSTER")]
    Several {
        /// What they have in common.
        state: &'static str,
        /// Their names.
        names: String,
    },
}

// === impl Which ===

impl Which {
    pub(crate) fn new(name: Option<String>) -> Self {
        Self { name: name.filter(|name| !name.is_empty()) }
    }

    /// The name that was given, if any.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The folder of the cluster that was named, or of the only running one, or of the only one.
    pub(crate) fn directory(&self) -> anyhow::Result<Directory> {
        let home = Home::from_env()?;
        let all = home.clusters().context("list clusters")?;
        let names = |of: &[Directory]| of.iter().map(Directory::name).collect::<Vec<_>>().join(", ");
        if let Some(name) = &self.name {
            let known =
                || if all.is_empty() { "there is none at all".into() } else { format!("known: {}", names(&all)) };
            let unknown = || NoCluster::Unknown { name: name.clone(), known: known() };
            return Ok(all.iter().find(|cluster| cluster.name() == *name).cloned().ok_or_else(unknown)?);
        }
        let running: Vec<_> = all.iter().filter(|cluster| cluster.is_running()).cloned().collect();
        match (&running[..], &all[..]) {
            ([one], _) | ([], [one]) => Ok(one.clone()),
            ([], []) => Err(NoCluster::None.into()),
            ([], several) => Err(NoCluster::Several { state: "known", names: names(several) }.into()),
            (several, _) => Err(NoCluster::Several { state: "running", names: names(several) }.into()),
        }
    }

    /// A connection to the cluster's supervisor.
    pub(crate) fn control(&self) -> anyhow::Result<(Directory, Control)> {
        let directory = self.directory()?;
        if !directory.is_running() {
            return Err(NoCluster::Stopped(directory.name()).into());
        }
        let control =
            Control::connect(&directory).with_context(|| format!("reach the supervisor of {}", directory.name()))?;
        Ok((directory, control))
    }
}
