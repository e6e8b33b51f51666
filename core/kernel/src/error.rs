//! What can go wrong, and where.

use std::io;

use switchyard_netstate::{Conflict, Key, Place};

/// Why a change was not made. Whatever it had changed by then has been put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two units want different things.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The wish cannot be carried out by any kernel.
    #[error("{place}: {key}: {reason}")]
    Invalid {
        /// Where.
        place: Place,
        /// What.
        key: Box<Key>,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// No namespace is known for a place.
    #[error("{place}: no such place here")]
    UnknownPlace {
        /// Which.
        place: Place,
    },
    /// The kernel refused.
    #[error("{place}: {action} {key}: {} (errno {errno}){}", io::Error::from_raw_os_error(*errno).kind(), said(.message.as_deref()))]
    Refused {
        /// Where.
        place: Place,
        /// What.
        key: Box<Key>,
        /// `add`, `change` or `remove`.
        action: &'static str,
        /// The kernel's errno.
        errno: i32,
        /// The kernel's own words, if it had any.
        message: Option<String>,
    },
    /// Something that is not ours is in the way.
    #[error("{place}: add {key}: it is there already, is different, and belongs to somebody else")]
    Foreign {
        /// Where.
        place: Place,
        /// What.
        key: Box<Key>,
    },
    /// A namespace could not be entered, or a socket failed.
    #[error("{place}: {what}: {source}")]
    Io {
        /// Where.
        place: Place,
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A plan is prepared and neither finished nor given up.
    #[error("a prepared change has to be finished or given up first")]
    Pending,
    /// There is no prepared plan.
    #[error("there is no prepared change")]
    NothingPending,
}

fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(": {message}"))
}

impl Error {
    /// The kernel's errno, if the kernel had the last word.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Foreign { .. } => Some(libc::EEXIST),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Which object it is about, if it is about one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Conflict(conflict) => Some(&conflict.key),
            Self::Invalid { key, .. } | Self::Refused { key, .. } | Self::Foreign { key, .. } => Some(key),
            Self::UnknownPlace { .. } | Self::Io { .. } | Self::Pending | Self::NothingPending => None,
        }
    }

    /// Where it failed.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Conflict(conflict) => Some(&conflict.place),
            Self::Invalid { place, .. }
            | Self::UnknownPlace { place }
            | Self::Refused { place, .. }
            | Self::Foreign { place, .. }
            | Self::Io { place, .. } => Some(place),
            Self::Pending | Self::NothingPending => None,
        }
    }
}
