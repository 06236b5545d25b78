//! [`Sweep`]: takes letters out of the dead letters, to requeue or to discard them.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::DeadLetter;
use super::DeadLetters;
use super::TRIES;
use super::scan::Scan;
use super::scan::Seen;
use crate::error::Error;
use crate::error::Result;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::journal::Journal;
use crate::route;
use crate::task::TaskId;
use crate::topology::QueueName;

/// How many requeued tasks await their confirm at a time.
const BATCH: usize = 32;
/// … and how many bytes of payloads, but for the last of them.
const LARGEST_BATCH: usize = 64 * 1024 * 1024;
/// How long one task may take to be confirmed.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// After this long, what stays is given back, and the sweep begins again behind what it has taken out. Well below any
/// consumer timeout of a broker (30 minutes by default), at which it would take everything back by itself.
const LONGEST_PASS: Duration = Duration::from_secs(20);
/// By how much a rate that was held up may be made good.
const SLACK: Duration = Duration::from_millis(10);

/// Goes through the letters that are there, and takes out those that its filter wants.
pub(super) struct Sweep {
    letters: DeadLetters,
    filter: Box<dyn FnMut(&DeadLetter) -> bool + Send>,
    fate: Fate,
    /// It ends with the first, which must be a task if it is to be requeued.
    is_for_one: bool,
    /// How many were requeued or discarded.
    done: u64,
    /// How many have left the dead letters in this pass.
    removed: u64,
    /// Those that are requeued and still in the dead letters: the connection was lost in between.
    in_both: HashSet<TaskId>,
    /// Where to tell of what is requeued; `None`: nowhere.
    journal: Option<Journal>,
}

/// What becomes of what is taken out.
#[derive(Debug)]
enum Fate {
    Requeue(Option<Pace>),
    Discard,
}

/// How one pass over the letters ended.
enum End {
    /// It has seen all.
    Complete,
    /// It took long.
    Paused,
    /// The connection was lost.
    Lost,
}

/// Letters to be taken out, each with its place in the scan.
type Batch = Vec<(u64, DeadLetter)>;

impl Sweep {
    pub(super) fn requeue(
        letters: &DeadLetters,
        filter: impl FnMut(&DeadLetter) -> bool + Send + 'static,
    ) -> Self {
        Self::new(letters, filter, Fate::Requeue(None))
    }

    pub(super) fn discard(
        letters: &DeadLetters,
        filter: impl FnMut(&DeadLetter) -> bool + Send + 'static,
    ) -> Self {
        Self::new(letters, filter, Fate::Discard)
    }

    fn new(
        letters: &DeadLetters,
        filter: impl FnMut(&DeadLetter) -> bool + Send + 'static,
        fate: Fate,
    ) -> Self {
        let (letters, filter) = (letters.clone(), Box::new(filter));
        let in_both = HashSet::new();
        Self { letters, filter, fate, is_for_one: false, done: 0, removed: 0, in_both, journal: None }
    }

    /// Only the first.
    pub(super) fn one(mut self) -> Self {
        self.is_for_one = true;
        self
    }

    pub(super) fn rate(mut self, per_second: u32) -> Self {
        self.fate = Fate::Requeue(Some(Pace::new(per_second)));
        self
    }

    /// How many were requeued or discarded.
    pub(super) async fn run(mut self) -> Result<u64> {
        let (mut left, mut losses) = (self.letters.count().await?, 0);
        if left > 0 && matches!(self.fate, Fate::Requeue(_)) {
            self.journal = self.letters.broker.kept_journal().await?;
        }
        while losses < TRIES {
            let Some(mut scan) = Scan::open(&self.letters.broker, self.letters.queue(), left).await? else {
                break;
            };
            self.removed = 0;
            let end = self.pass(&mut scan).await;
            scan.close().await;
            left = left.saturating_sub(self.removed);
            match end? {
                End::Complete => break,
                End::Paused => losses = 0,
                End::Lost => losses += 1,
            }
        }
        Ok(self.done)
    }

    async fn pass(&mut self, scan: &mut Scan) -> Result<End> {
        let started = Instant::now();
        loop {
            let (batch, end) = self.gather(scan).await?;
            let is_lost = self.take_out(batch, scan).await?;
            match end {
                _ if is_lost => return Ok(End::Lost),
                Some(end) => return Ok(end),
                None if started.elapsed() > LONGEST_PASS && self.removed > 0 => return Ok(End::Paused),
                None => {}
            }
        }
    }

    /// The next letters that are wanted; and the end, when it is there.
    async fn gather(&mut self, scan: &mut Scan) -> Result<(Batch, Option<End>)> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        // Nothing that was taken may wait for the pace of another.
        let most = if self.has_pace() { 1 } else { BATCH };
        while batch.len() < most && bytes < LARGEST_BATCH {
            let (place, message) = match scan.next().await? {
                Seen::Letter(place, message) => (place, message),
                Seen::End => return Ok((batch, Some(End::Complete))),
                Seen::Lost => return Ok((Vec::new(), Some(End::Lost))),
            };
            let letter = self.letters.read(message);
            if letter.id().is_some_and(|id| self.in_both.remove(&id)) {
                scan.remove(place);
                self.removed += 1;
            } else if self.wants(&letter) {
                bytes += letter.payload().len();
                batch.push((place, letter));
                if self.is_for_one {
                    return Ok((batch, Some(End::Complete)));
                }
            }
        }
        Ok((batch, None))
    }

    fn has_pace(&self) -> bool {
        matches!(self.fate, Fate::Requeue(Some(_)))
    }

    fn wants(&mut self, letter: &DeadLetter) -> bool {
        let is_possible = matches!(self.fate, Fate::Discard) || letter.is_task() || self.is_for_one;
        is_possible && (self.filter)(letter)
    }

    /// Requeues or discards a batch; whether the connection was lost meanwhile. Where one fails, the others are taken
    /// out.
    async fn take_out(&mut self, batch: Batch, scan: &mut Scan) -> Result<bool> {
        let (mut is_lost, mut failure) = (false, None);
        let places: Vec<(u64, Option<TaskId>)> =
            batch.iter().map(|(place, letter)| (*place, letter.id())).collect();
        let results = match &mut self.fate {
            Fate::Discard => batch.iter().map(|_| Ok(())).collect(),
            Fate::Requeue(pace) => {
                // First, so that what is told of a task is in order; all at once, and while the next turn is waited for.
                let told = tell(&self.letters, self.journal.as_ref(), &batch);
                match pace {
                    Some(pace) => drop(tokio::join!(told, pace.turn())),
                    None => told.await,
                }
                let journal = self.journal.as_ref();
                join_all(batch.into_iter().map(|(_, letter)| requeue(&self.letters, journal, letter))).await
            }
        };
        for ((place, id), result) in places.into_iter().zip(results) {
            if let Err(error) = result {
                failure.get_or_insert(error);
                continue;
            }
            self.done += 1;
            if scan.remove(place) {
                self.removed += 1;
            } else {
                self.in_both.extend(id);
                is_lost = true;
            }
        }
        failure.map_or(Ok(is_lost), Err)
    }
}

/// Tells that these tasks are taken out, and returns when that is written.
async fn tell(letters: &DeadLetters, journal: Option<&Journal>, batch: &Batch) {
    let Some(journal) = journal.filter(|_| !batch.is_empty()) else { return };
    let events: Vec<TaskEvent> = batch
        .iter()
        .filter_map(|(_, letter)| event(letters, journal, letter, TaskChange::Redriven))
        .collect();
    journal.confirm(events).await;
}

fn event(
    letters: &DeadLetters,
    journal: &Journal,
    letter: &DeadLetter,
    change: TaskChange,
) -> Option<TaskEvent> {
    Some(TaskEvent {
        id: letter.id().filter(|_| letter.is_task())?,
        name: letter.name().to_owned().into(),
        queue: letter.queue().into(),
        lane: None,
        attempt: 1,
        at: UNIX_EPOCH + letters.broker.clock().now(),
        by: journal.instance().name().clone(),
        change,
    })
}

/// Puts one task back into its queue.
async fn requeue(letters: &DeadLetters, journal: Option<&Journal>, letter: DeadLetter) -> Result<()> {
    let stays = journal.and_then(|journal| event(letters, journal, &letter, letter.change()));
    let requeued = publish(letters, letter).await;
    // It was told that it is taken out. One that was not confirmed may run all the same.
    if let Err(error) = &requeued
        && !matches!(error, Error::Unconfirmed { .. })
        && let Some((journal, stays)) = journal.zip(stays)
    {
        journal.record(stays);
    }
    requeued
}

async fn publish(letters: &DeadLetters, letter: DeadLetter) -> Result<()> {
    let queue = QueueName::new(letter.queue())?;
    let (broker, now) = (&letters.broker, letters.broker.clock().now());
    let envelope = letter.revive(now)?;
    let id = envelope.id;
    let publish = broker.route(queue.clone()).publish(envelope, now);
    let published = broker.transport().publish(&publish, PUBLISH_TIMEOUT).await;
    published.map_err(|error| route::refused(error, id, &queue))
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep")
            .field("letters", &self.letters)
            .field("fate", &self.fate)
            .finish_non_exhaustive()
    }
}

/// Keeps a rate.
#[derive(Debug)]
struct Pace {
    period: Duration,
    next: Option<Instant>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { period: Duration::from_secs(1) / per_second.max(1), next: None }
    }

    /// Waits until it is the next one's turn.
    async fn turn(&mut self) {
        let now = Instant::now();
        let turn = self.next.unwrap_or(now);
        tokio::time::sleep_until(turn).await;
        self.next = Some(after(turn, self.period, Instant::now()));
    }
}

/// When the turn after one at `turn` is, if it is `now`.
fn after(turn: Instant, period: Duration, now: Instant) -> Instant {
    turn.max(now.checked_sub(SLACK).unwrap_or(turn)) + period
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_up_is_hardly_made_good() {
        let ms = Duration::from_millis;
        let turn = Instant::now() + ms(60_000);
        for (late, expected) in [(0, 100), (5, 100), (10, 100), (15, 105), (1000, 1090)] {
            assert_eq!(after(turn, ms(100), turn + ms(late)), turn + ms(expected), "{late}");
        }
    }
}
