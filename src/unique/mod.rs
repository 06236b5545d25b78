//! [`Unique`]: of all tasks with the same key only one at a time waits or runs.
//!
//! Who has a key is decided by the order of the stream `{ns}.unique`: a producer appends its claim and reads on until
//! it meets it. What it has met before that, all others have met before it too. No gate, no lock, no queue for each
//! key.

mod claim;
mod claims;

use std::time::Duration;

use crate::error::Result;
use crate::log::Log;
use crate::log::Place;
use crate::task::TaskId;
use crate::transport::Start;

pub(crate) use claim::Record;
pub(crate) use claim::What;
use claims::Claims;
pub(crate) use claims::Verdict;

/// How long reading the claims of a day may take, for the first unique task of a producer.
const READING_LIMIT: Duration = Duration::from_secs(60);

/// All claims of the last day, in their order.
#[derive(Debug)]
pub(crate) struct Unique(Log<Option<Verdict>>);

impl Unique {
    /// The longest time that a claim holds, and how far back the stream is read: a day.
    pub(crate) const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

    /// Reads all there is, and follows.
    pub(crate) async fn follow(place: Place) -> Result<Self> {
        let mut claims = Claims::default();
        let read = move |message: &_| claims.learn(Record::open(message)?);
        Ok(Self(Log::follow(place, Start::Ago(Self::LONGEST_WINDOW), READING_LIMIT, read).await?))
    }

    /// Gives a key back. Otherwise it is taken until its window ends.
    pub(crate) async fn release(place: &Place, id: TaskId, key: String, limit: Duration) -> Result<()> {
        place.append(Record { id, key, what: What::Released }.seal(), limit).await
    }

    /// Appends a claim and says what became of it.
    pub(crate) async fn claim(&self, claim: Record, limit: Duration) -> Result<Verdict> {
        let id = claim.id;
        // What is no claim is never asked for here, and would be held by nobody else.
        Ok(self.0.append(claim.seal(), limit).await?.unwrap_or(Verdict::Held(id)))
    }
}
