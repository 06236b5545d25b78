//! [`Beat`]: a consumer's word that it is alive, and what it has; at its start, at regular intervals, and at its end.
//!
//! In a task of its own, so that it waits for no task of the consumer's.

use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio::time::interval_at;
use tokio_util::sync::CancellationToken;

use super::attempt::Running;
use super::receipt::ShutdownReceipt;
use super::tally::Tally;
use crate::clock::Clock;
use crate::event::ConsumerChange;
use crate::event::ConsumerEvent;
use crate::event::Heartbeat;
use crate::event::QueueLoad;
use crate::journal::Journal;
use crate::transport::Health;
use crate::transport::Outage;

/// What a consumer tells of itself, and from what.
pub(super) struct Beat {
    pub(super) journal: Journal,
    pub(super) consumer: Arc<str>,
    pub(super) clock: Clock,
    /// What the consumer's connections are called.
    pub(super) connections: Vec<String>,
    pub(super) interval: Duration,
    pub(super) queues: Vec<(Arc<str>, Arc<Tally>)>,
    pub(super) running: Arc<Running>,
    pub(super) health: watch::Receiver<Health>,
}

/// A consumer's beat, until its end.
#[derive(Debug)]
pub(super) struct Beating {
    end: oneshot::Sender<ConsumerChange>,
    task: JoinHandle<()>,
}

impl Beating {
    /// The consumer has stopped. Returns when that is written.
    pub(super) async fn stop(self, receipt: &ShutdownReceipt) {
        let [finished, unstarted, aborted] =
            [receipt.finished(), receipt.unstarted(), receipt.aborted()].map(|count| count as u64);
        // It ends only with its runtime.
        let _ = self.end.send(ConsumerChange::Stopped { finished, unstarted, aborted });
        let _ = self.task.await;
    }
}

impl Beat {
    /// Says that the consumer has started, and so on, until it has stopped; its shutdown begins with `shutdown`.
    pub(super) fn start(self, shutdown: CancellationToken) -> Beating {
        let (end, ended) = oneshot::channel();
        Beating { end, task: tokio::spawn(self.run(shutdown, ended)) }
    }

    async fn run(mut self, shutdown: CancellationToken, mut ended: oneshot::Receiver<ConsumerChange>) {
        let (mut last, mut before) = (Instant::now(), Vec::new());
        self.say(ConsumerChange::Started(self.heartbeat(Duration::ZERO, &mut before)));
        let mut beats = interval_at(last + self.interval, self.interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_draining = false;
        let mut health = self.health.borrow_and_update().clone();
        let end = loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !is_draining => {
                    is_draining = true;
                    self.say(ConsumerChange::Draining);
                }
                end = &mut ended => break end,
                Ok(()) = self.health.changed() => {
                    let now = self.health.borrow_and_update().clone();
                    for change in changes(&health, &now) {
                        self.say(change);
                    }
                    health = now;
                }
                _ = beats.tick() => {
                    let heartbeat = self.heartbeat(last.elapsed(), &mut before);
                    last = Instant::now();
                    self.say(ConsumerChange::Alive(heartbeat));
                }
            }
        };
        // It was dropped, and nobody counts.
        let stopped = ConsumerChange::Stopped { finished: 0, unstarted: 0, aborted: 0 };
        self.say(end.unwrap_or(stopped));
        self.journal.flush().await;
    }

    fn say(&self, change: ConsumerChange) {
        let at = UNIX_EPOCH + self.clock.now();
        self.journal.announce(ConsumerEvent { consumer: self.consumer.clone(), at, change });
    }

    /// `before` is how many attempts had ended in each queue, so long ago.
    fn heartbeat(&self, ago: Duration, before: &mut Vec<u64>) -> Box<Heartbeat> {
        before.resize(self.queues.len(), 0);
        let queues = self.queues.iter().zip(before).map(|((queue, tally), before)| {
            let (succeeded, failed) = (tally.succeeded(), tally.failed());
            let ended = succeeded + failed - std::mem::replace(before, succeeded + failed);
            QueueLoad {
                queue: queue.to_string(),
                slots: tally.concurrency() as u64,
                running: tally.running() as u64,
                prefetch: u64::from(tally.prefetch()),
                waiting: tally.waiting() as u64,
                succeeded,
                failed,
                rate: rate(ended, ago),
            }
        });
        Box::new(Heartbeat {
            host: self.journal.instance().host().to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: self.connections.clone(),
            interval: self.interval,
            queues: queues.collect(),
            running: self.running.oldest(Heartbeat::MOST_RUNNING),
        })
    }
}

/// What there is to tell of how the broker is reached.
fn changes(before: &Health, now: &Health) -> Vec<ConsumerChange> {
    let mut changes = Vec::new();
    if before.stalled.is_some() && now.stalled.is_none() {
        changes.push(ConsumerChange::Unblocked);
    }
    if let Some(Outage { reason, time }) = now.outage.as_ref().filter(|_| now.reconnects > before.reconnects)
    {
        changes.push(ConsumerChange::Reconnected { reason: reason.to_string(), after: *time });
    }
    if let (None, Some(time)) = (before.stalled, now.stalled) {
        let reason = format!(
            "nothing that is published is confirmed since {time:?}, though the broker is connected: it may be short of \
             memory or disk, or a queue without a majority"
        );
        changes.push(ConsumerChange::Blocked { reason });
    }
    changes
}

/// So many per second; 0 in no time.
#[expect(clippy::cast_precision_loss, reason = "it is no exact figure")]
fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_between_two_looks_at_the_broker_is_told() {
        let stalled = Some(Duration::from_secs(5));
        let health = |reconnects, stalled| {
            let outage = Outage { reason: "320 CONNECTION_FORCED".into(), time: Duration::from_secs(2) };
            Health { reconnects, outage: Some(outage).filter(|_| reconnects > 0), stalled }
        };
        let table = [
            (health(0, None), health(0, None), &[][..]),
            (health(0, None), health(1, None), &["reconnected"]),
            (health(1, None), health(4, None), &["reconnected"]),
            (health(1, None), health(1, stalled), &["blocked"]),
            (health(1, stalled), health(1, None), &["unblocked"]),
            (health(1, stalled), health(1, stalled), &[]),
            (health(1, stalled), health(2, None), &["unblocked", "reconnected"]),
            (health(1, None), health(2, stalled), &["reconnected", "blocked"]),
        ];
        for (before, now, expected) in table {
            let told = changes(&before, &now);
            let told: Vec<&str> = told.iter().map(name).collect();
            assert_eq!(told, expected, "{before:?} {now:?}");
        }
    }

    fn name(change: &ConsumerChange) -> &'static str {
        match change {
            ConsumerChange::Reconnected { .. } => "reconnected",
            ConsumerChange::Blocked { .. } => "blocked",
            ConsumerChange::Unblocked => "unblocked",
            _ => "something else",
        }
    }
}
