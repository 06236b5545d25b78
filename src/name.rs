//! [`Name`]: a name that a broker accepts.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;

/// The longest name AMQP 0-9-1 can carry (a "short string"), in bytes.
const LONGEST: usize = 255;

/// The name of an exchange or a queue, or a routing key: 1 to 255 bytes without control characters.
///
/// Parsed once at the door, so that no call below the seam has to wonder: the AMQP client panics on longer ones.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks `name`; `what` says in the error what it was to be the name of.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if it is empty, longer than 255 bytes or contains control characters.
    pub fn new(what: &'static str, name: impl Into<Arc<str>>) -> Result<Self> {
        let name = name.into();
        Self::check(what, &name)?;
        Ok(Self(name))
    }

    /// Whether `name` could be one.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn check(what: &'static str, name: &str) -> Result<()> {
        let reason = if name.is_empty() {
            "it is empty".to_owned()
        } else if name.len() > LONGEST {
            format!("it has {} bytes, and AMQP carries at most {LONGEST}", name.len())
        } else if name.chars().any(char::is_control) {
            "it contains control characters".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::InvalidName { what, name: excerpt(name), reason })
    }

    /// The same, shared.
    pub(crate) fn text(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As much of a name as fits an error message.
fn excerpt(name: &str) -> String {
    if name.chars().count() > 48 { name.chars().take(47).chain(['…']).collect() } else { name.to_owned() }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
