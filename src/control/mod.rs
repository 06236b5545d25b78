//! [`Control`]: decisions about tasks that are already on the broker, read by every consumer before it starts one.
//!
//! Nobody can take a message out of the middle of a queue. So a cancellation is a fact that is told to all: on the
//! stream `{ns}.control`, which each consumer reads from its beginning before it starts anything, and then follows.

mod fact;
mod facts;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Result;
use crate::lock::Lock;
use crate::log::Log;
use crate::log::Place;
use crate::task::TaskId;
use crate::transport::Start;

pub(crate) use fact::Decision;
pub(crate) use fact::Fact;
use facts::Facts;
pub(crate) use facts::Verdict;

/// How long reading all facts may take when a consumer starts. A full stream holds some 200,000.
const READING_LIMIT: Duration = Duration::from_secs(60);

/// What is known of cancelled and rescheduled tasks.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// Mostly there is no fact at all, and then asking costs nothing.
    any: AtomicBool,
    facts: Lock<Facts>,
}

impl Decisions {
    /// Whether this copy of a task may start.
    pub(crate) fn verdict(&self, id: TaskId, revision: u64) -> Verdict {
        if !self.any.load(Ordering::Acquire) {
            return Verdict::Go;
        }
        self.facts.lock().verdict(id, revision)
    }

    fn learn(&self, fact: Fact) {
        self.facts.lock().learn(fact);
        self.any.store(true, Ordering::Release);
    }
}

/// Keeps [`Decisions`] up to date. Dropped, it stops.
#[derive(Debug)]
pub(crate) struct Control {
    /// Keeps reading.
    _log: Log<()>,
}

impl Control {
    /// How long a fact is remembered: 30 days.
    pub(crate) const AGE: Duration = Facts::AGE;

    /// Reads all there is, and follows. `stop` is called for each task that is cancelled.
    pub(crate) async fn follow(
        place: Place,
        decisions: Arc<Decisions>,
        stop: impl Fn(TaskId) + Send + 'static,
    ) -> Result<Self> {
        let log = Log::follow(place, Start::First, READING_LIMIT, move |message| {
            let Some(fact) = Fact::open(message) else { return };
            decisions.learn(fact);
            if fact.decision == Decision::Cancelled {
                stop(fact.id);
            }
        });
        Ok(Self { _log: log.await? })
    }
}
