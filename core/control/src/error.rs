//! Why a step of a controller did not succeed. Every such step is tried again, with back-off.

use crate::cache::Key;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server said no, or was not there.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// Something that has to exist first does not yet.
    #[error("{0} is not there yet")]
    Missing(Key),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

// === impl Error ===

impl Error {
    /// Somebody else was faster: nothing to tell anybody, look again.
    pub(crate) fn is_race(&self) -> bool {
        matches!(self, Self::Missing(_)) || matches!(self.code(), Some(409 | 404))
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(error) => code(error),
            _ => None,
        }
    }
}

/// The status the API server answered with; none if it did not answer.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What came of a write that is also fine when its object is gone.
pub(crate) fn unless_gone<T>(result: std::result::Result<T, kube::Error>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
