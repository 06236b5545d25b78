//! [`Uniqueness`]: what a producer does so that of tasks with the same key only one waits or runs.

use std::time::Duration;

use tokio::sync::OnceCell;

use super::Producer;
use crate::broker::Broker;
use crate::broker::Part;
use crate::control::Decision;
use crate::error::Error;
use crate::error::Result;
use crate::name::Name;
use crate::task::TaskId;
use crate::transport::PublishError;
use crate::unique::Record;
use crate::unique::Unique;
use crate::unique::Verdict;
use crate::unique::What;

/// What happens to a task whose [unique key](crate::Enqueue::unique) another one has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// It is not enqueued: [`Error::Duplicate`](crate::Error::Duplicate), which names the other.
    #[default]
    Refuse,
    /// It is not enqueued, and that is fine: the other one's id is returned.
    Coalesce,
    /// It is enqueued, and the other one is cancelled, waiting or running.
    Replace,
}

/// A key, for how long it is claimed, and what happens to the second.
#[derive(Clone, Debug)]
pub(super) struct UniqueKey {
    pub(super) key: String,
    pub(super) window: Duration,
    pub(super) on_duplicate: OnDuplicate,
}

/// Whose a key is after a claim.
#[derive(Debug)]
pub(super) enum Claimed {
    /// The claimant's.
    Ours(Claim),
    /// Still that task's, and the claimant is content.
    Theirs(TaskId),
}

/// A key that a task has.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) key: String,
    /// Whose it was before; that one is to be cancelled.
    replaces: Option<TaskId>,
}

impl Default for UniqueKey {
    fn default() -> Self {
        Self {
            key: String::new(),
            window: Duration::from_secs(60 * 60),
            on_duplicate: OnDuplicate::default(),
        }
    }
}

impl UniqueKey {
    /// `wait` is how long the task waits before it is due.
    fn check(&self, wait: Duration) -> Result<()> {
        Name::check("unique key", &self.key)?;
        let window = self.window;
        let reason = if window > Unique::LONGEST_WINDOW {
            format!("{window:?}; the most is {:?}", Unique::LONGEST_WINDOW)
        } else if window <= wait {
            format!("{window:?}, and the task is due only after {wait:?}")
        } else {
            return Ok(());
        };
        Err(Error::InvalidSetting { setting: "unique_for", reason })
    }
}

/// A producer's view of who has which key. Nothing is read before the first unique task.
#[derive(Debug, Default)]
pub(super) struct Uniqueness(OnceCell<Unique>);

impl Uniqueness {
    /// All claims; the first time they are read from the stream.
    async fn follow(&self, broker: &Broker) -> Result<&Unique> {
        let follow = async {
            broker.declare(Part::Unique).await?;
            Unique::follow(broker.unique()).await
        };
        self.0.get_or_try_init(|| follow).await
    }
}

impl Producer {
    /// Claims the key, from now on, for a task that is due after `wait`.
    pub(super) async fn claim(
        &self,
        unique: &UniqueKey,
        id: TaskId,
        wait: Duration,
        limit: Duration,
    ) -> Result<Claimed> {
        unique.check(wait)?;
        let producer = &*self.0;
        let claims = producer.uniqueness.follow(&producer.broker).await?;
        let at = producer.broker.clock().now();
        let replace = unique.on_duplicate == OnDuplicate::Replace;
        let key = unique.key.clone();
        let what = What::Claimed { at, until: at + unique.window, replace };
        let verdict = claims.claim(Record { id, key: key.clone(), what }, limit).await?;
        match (verdict, unique.on_duplicate) {
            (Verdict::Granted, _) => Ok(Claimed::Ours(Claim { key, replaces: None })),
            (Verdict::Taken(holder), _) => Ok(Claimed::Ours(Claim { key, replaces: Some(holder) })),
            (Verdict::Held(holder), OnDuplicate::Coalesce) => Ok(Claimed::Theirs(holder)),
            (Verdict::Held(holder), _) => Err(Error::Duplicate { key, of: holder.to_string() }),
        }
    }

    /// What follows a claim once its task is published, or is not.
    pub(super) async fn settle_claim(
        &self,
        claim: Claim,
        id: TaskId,
        published: &Result<(), PublishError>,
        limit: Duration,
    ) -> Result<()> {
        match published {
            Ok(()) => match claim.replaces {
                Some(replaced) => self.decide(replaced, Decision::Cancelled, limit).await,
                None => Ok(()),
            },
            // It may be there: its key stays taken, and the same id may claim it again.
            Err(PublishError::Unconfirmed { .. }) => Ok(()),
            // The failure that counts is that of the task; what is not released is free at the end of its window.
            Err(_) => {
                let _ = Unique::release(&self.0.broker.unique(), id, claim.key, limit).await;
                Ok(())
            }
        }
    }
}
