//! [`Lane`]: which of a queue's three levels a task waits in, and in what proportion they are drained.

use std::fmt;

/// One priority level of a queue, and one queue on the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lane {
    Urgent,
    Normal,
    Low,
}

impl Lane {
    /// Most urgent first.
    pub(crate) const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Low];

    /// As it is written in the names of queues.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
