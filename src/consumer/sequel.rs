//! [`Sequel`]: what follows an attempt on the broker. Published and confirmed first; then the old message may go.

use std::time::Duration;

use super::feedback::Feedback;
use super::receipt::Report;
use super::suspicion::came_back;
use crate::broker::Broker;
use crate::broker::Part;
use crate::control::Verdict;
use crate::dead::DeadLetter;
use crate::envelope;
use crate::envelope::Envelope;
use crate::envelope::Foreign;
use crate::hook::Hook;
use crate::message::Message;
use crate::name::Name;
use crate::outcome::DeadReason;
use crate::outcome::Outcome;
use crate::reply::Reply;
use crate::route::Route;
use crate::schedule::Command;
use crate::schedule::What;
use crate::schedules::tell_undeclared;
use crate::task::TaskId;
use crate::telemetry;
use crate::tick::Tick;
use crate::topology::Names;
use crate::topology::QueueName;
use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::unique::Unique;

/// How long one try to publish a retry or a dead letter waits.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to look whether what is to be replaced was taken back, while its successor is not confirmed.
const LOOK: Duration = Duration::from_millis(50);
/// How long an output may take; the task is done without it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long giving back a unique key may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long telling the scheduler of an end may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the tasks of one queue go next.
pub(super) struct Sequel {
    broker: Broker,
    queue: QueueName,
    route: Route,
    dead: Name,
    outputs: Name,
    feedback: Feedback,
    hook: Option<Hook<DeadLetter>>,
}

impl Sequel {
    /// `hook` hears of dead letters.
    pub(super) fn new(
        broker: &Broker,
        queue: QueueName,
        feedback: Feedback,
        hook: Option<Hook<DeadLetter>>,
    ) -> Self {
        let names = broker.names();
        Self {
            route: broker.route(queue.clone()),
            dead: names.dead(),
            outputs: names.outputs(),
            broker: broker.clone(),
            queue,
            feedback,
            hook,
        }
    }

    pub(super) fn feedback(&self) -> &Feedback {
        &self.feedback
    }

    /// Publishes the next attempt.
    pub(super) async fn retry(
        &self,
        delivery: Delivery,
        envelope: Envelope,
        wait: Duration,
        error: &str,
    ) -> Outcome {
        let (id, name, attempt) = (envelope.id, envelope.name.clone(), envelope.attempt);
        tracing::warn!(task.id = %id, task.name = %name, queue = %self.queue, attempt, wait = ?wait, error, "attempt failed");
        let now = self.broker.clock().now();
        let next = envelope.retry(now.saturating_add(wait), error);
        self.replace(delivery, &self.route.publish(next, now)).await;
        Outcome::Retried
    }

    /// Publishes what came too early or has waited here for long once more: as it is, or due at another time, since the
    /// Unix epoch.
    pub(super) async fn put_back(&self, mut delivery: Delivery, until: Option<Duration>) {
        let was_delivered = delivery.redelivered || envelope::lease(&delivery.message).is_some();
        match Envelope::open(std::mem::take(&mut delivery.message)) {
            Ok(mut envelope) => {
                if let Some(until) = until {
                    envelope.defer(until);
                }
                envelope.returned = self.came_back(&delivery, envelope.returned);
                let mut next = self.route.publish(envelope, self.broker.clock().now());
                if was_delivered {
                    envelope::set_lease(&mut next.message, 0);
                }
                self.replace(delivery, &next).await;
            }
            Err(foreign) => drop(self.turn_away(delivery, *foreign).await),
        }
    }

    /// Publishes the dead letter.
    pub(super) async fn bury(
        &self,
        delivery: Delivery,
        envelope: Envelope,
        reason: DeadReason,
        error: &str,
    ) -> Outcome {
        let (id, name, attempt) = (envelope.id, envelope.name.clone(), envelope.attempt);
        if reason.is_expiry() {
            tracing::warn!(task.id = %id, task.name = %name, queue = %self.queue, attempt, %reason, error, "task has expired");
        } else {
            tracing::error!(task.id = %id, task.name = %name, queue = %self.queue, attempt, %reason, error, "task is dead");
        }
        self.reply(&envelope, Reply::dead(reason, error)).await;
        self.release(&envelope).await;
        self.dead_letter(delivery, envelope.seal(), reason, error).await
    }

    /// Publishes the dead letter of a task that has no handler.
    pub(super) async fn bury_unknown(&self, delivery: Delivery, envelope: Envelope) -> Report {
        let (id, name) = (Some(envelope.id), envelope.name.clone());
        let error = format!("no handler for tasks named {name:?}");
        let outcome = self.bury(delivery, envelope, DeadReason::UnknownTask, &error).await;
        Report { id, name, outcome }
    }

    /// Passes on what a later release has enqueued, for a consumer that can read it. What is not a task at all, or has waited
    /// for too long, is a dead letter.
    pub(super) async fn turn_away(&self, delivery: Delivery, foreign: Foreign) -> Report {
        let (id, name) = (foreign.message.id.clone(), foreign.message.kind.clone().unwrap_or_default());
        let now = self.broker.clock().now();
        let outcome = match foreign.wait(now) {
            Err(why) => {
                tracing::error!(message.id = id, message.kind = %name, queue = %self.queue, reason = why, "message is not a task");
                self.dead_letter(delivery, foreign.message, DeadReason::Foreign, &why).await
            }
            Ok(wait) => {
                if foreign.unread_since().is_none() {
                    tracing::warn!(message.id = id, message.kind = %name, queue = %self.queue, reason = foreign.why, "task of a later release: left to a consumer that can read it");
                }
                let was_delivered = delivery.redelivered || envelope::lease(&foreign.message).is_some();
                let returned = self.came_back(&delivery, foreign.returned());
                let message = foreign.pass_on(self.queue.as_str(), returned, now);
                let mut next = self.route.pass_on(message, wait, now);
                if was_delivered {
                    envelope::set_lease(&mut next.message, 0);
                }
                self.replace(delivery, &next).await;
                Outcome::Deferred
            }
        };
        Report { id: id.and_then(|id| id.parse().ok()), name, outcome }
    }

    /// How often it came back without an end: of the next message the broker counts from 0 again.
    fn came_back(&self, delivery: &Delivery, noted: u32) -> u32 {
        came_back(self.broker.counts_returns(), delivery.redelivered, delivery.returned, noted)
    }

    async fn dead_letter(
        &self,
        delivery: Delivery,
        message: Message,
        reason: DeadReason,
        error: &str,
    ) -> Outcome {
        let now = self.broker.clock().now();
        let message = envelope::dead_letter(message, reason, error, self.queue.as_str(), now);
        let letter = Publish {
            exchange: self.dead.clone(),
            key: Names::dead_key(&self.queue),
            mandatory: true,
            message,
        };
        if self.replace(delivery, &letter).await {
            let task = letter.message.kind.as_deref().unwrap_or_default();
            telemetry::dead(self.queue.as_str(), task, reason);
            if let Some(hook) = &self.hook {
                hook.tell(DeadLetter::read(letter.message, &self.queue));
            }
        }
        if reason.is_expiry() { Outcome::Expired(reason) } else { Outcome::DeadLettered(reason) }
    }

    /// Lets go of a task, or of a copy of it, that shall not be started.
    pub(super) async fn drop_unwanted(
        &self,
        delivery: Delivery,
        envelope: Envelope,
        verdict: Verdict,
    ) -> Report {
        let (id, name) = (Some(envelope.id), envelope.name.clone());
        let outcome = match verdict {
            Verdict::Superseded => {
                tracing::debug!(task.id = %envelope.id, task.name = %name, queue = %self.queue, "task was rescheduled: a copy is dropped");
                delivery.ack();
                Outcome::Superseded
            }
            Verdict::Cancelled | Verdict::Go => self.cancel(delivery, &envelope, "it had not started").await,
        };
        Report { id, name, outcome }
    }

    /// Gives back the unique key of a task that has ended, and tells the scheduler if it waits for that. Before its
    /// message goes: otherwise a crash in between would leave the key taken, and the schedule waiting.
    pub(super) async fn release(&self, envelope: &Envelope) {
        if let Some(key) = envelope.unique.clone() {
            let place = self.broker.unique();
            if let Err(error) = Unique::release(&place, envelope.id, key, RELEASE_TIMEOUT).await {
                tracing::warn!(task.id = %envelope.id, %error, "a unique key is not released; it is free when its window ends");
            }
        }
        if let Some(tick) = envelope.tick.as_ref().filter(|tick| tick.reports) {
            self.report(envelope.id, tick).await;
        }
    }

    /// Tells the scheduler that a tick has ended. Whoever fired it has declared the queue for that.
    async fn report(&self, id: TaskId, tick: &Tick) {
        let ended = What::Ended(tick.schedule().to_owned(), tick.sequence());
        let command = Command::new(ended, self.broker.clock().now());
        if let Err(error) = tell_undeclared(&self.broker, command, REPORT_TIMEOUT).await {
            tracing::warn!(task.id = %id, schedule = tick.schedule(), sequence = tick.sequence(), %error, "the end of a tick is not reported; it counts as running until its longest run is over");
        }
    }

    /// Lets go of a task that somebody cancelled.
    pub(super) async fn cancel(&self, delivery: Delivery, envelope: &Envelope, error: &str) -> Outcome {
        tracing::info!(task.id = %envelope.id, task.name = %envelope.name, queue = %self.queue, "task is cancelled");
        self.reply(envelope, Reply::cancelled(error)).await;
        self.release(envelope).await;
        self.feedback.cancelled(delivery, envelope).await;
        Outcome::Cancelled
    }

    /// Publishes what follows a message, and acknowledges it once that is confirmed: a crash in between repeats the
    /// task and never loses it. While the broker cannot take it the message stays ours, unsettled. If that is lost
    /// meanwhile, the task comes again, and what follows it would come twice: so it is not published. Whether it was
    /// confirmed.
    pub(super) async fn replace(&self, delivery: Delivery, next: &Publish) -> bool {
        let mut pause = Duration::from_millis(100);
        loop {
            let outcome = tokio::select! {
                biased;
                () = lost(&delivery) => {
                    tracing::debug!(queue = %self.queue, "a task that was taken back has no next message");
                    return false;
                }
                outcome = self.broker.transport().publish(next, PUBLISH_TIMEOUT) => outcome,
            };
            match outcome {
                Ok(()) => {
                    delivery.ack();
                    return true;
                }
                Err(error) if error.is_missing() => {
                    // Somebody deleted it; if this fails too, the next round tells.
                    tracing::warn!(queue = %self.queue, %error, "a task's next message found no queue");
                    let _ = self.broker.declare(Part::Wheel).await;
                    let _ = self.broker.replace_deleted(&self.queue).await;
                }
                // It will never take this one (we may not write there; it is too large for it with its headers): the
                // broker's own dead-lettering keeps the message.
                Err(PublishError::Forbidden(reason) | PublishError::Refused(reason)) => {
                    tracing::error!(queue = %self.queue, reason, "the broker refused to take a task's next message");
                    delivery.reject();
                    return false;
                }
                Err(PublishError::Closed) => {
                    delivery.requeue();
                    return false;
                }
                Err(error) => {
                    tracing::warn!(queue = %self.queue, %error, "a task's next message is not confirmed yet");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Tells the enqueuer what the task returned, if it wants to know.
    pub(super) async fn reply_output(&self, envelope: &Envelope, output: Vec<u8>) {
        self.reply(envelope, Reply::succeeded(output, self.broker.max_payload())).await;
    }

    /// Tells the enqueuer, if it wants to know. A lost output loses no task, so failures are only logged.
    async fn reply(&self, envelope: &Envelope, reply: Reply) {
        let Some(key) = envelope.reply_to.as_deref() else {
            return;
        };
        let Ok(key) = Name::new("reply key", key) else {
            return;
        };
        let message = reply.seal(envelope.id);
        let publish = Publish { exchange: self.outputs.clone(), key, mandatory: false, message };
        if let Err(error) = self.broker.transport().publish(&publish, REPLY_TIMEOUT).await {
            tracing::warn!(task.id = %envelope.id, task.name = %envelope.name, %error, "output not delivered");
        }
    }
}

/// Returns once the broker has taken it back.
async fn lost(delivery: &Delivery) {
    while !delivery.is_lost() {
        tokio::time::sleep(LOOK).await;
    }
}
