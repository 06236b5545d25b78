//! [`Error`] and [`Result`] of the harness.

use std::fmt;
use std::sync::Arc;

/// What everything in [`testing`](crate::testing) returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the harness could not do what it was asked. `Debug`, which a failing test prints, tells the whole chain.
#[derive(Clone, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    what: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// For `map_err`: `what` could not be done because of the error.
    pub(super) fn because<E>(what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self { what: what.into(), source: Some(Arc::new(source)) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
