//! What the active scheduler does when somebody wants something: [`Active::carry_out`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use super::active::Active;
use super::held::Held;
use crate::broker::Broker;
use crate::cadence::Times;
use crate::message::Message;
use crate::name::Name;
use crate::schedule::Answer;
use crate::schedule::Command;
use crate::schedule::Definition;
use crate::schedule::Entry;
use crate::schedule::State;
use crate::schedule::What;
use crate::transport::Delivery;
use crate::transport::Publish;

/// How many schedules a namespace can have: somewhat fewer than messages can be held by one consumer (65,535), because
/// commands and what has just been stored anew are held beside them.
pub(super) const MOST_SCHEDULES: usize = 60_000;
/// How long a message of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many of them are on their way at a time.
const ANSWERS: usize = 128;
/// How long the task of a tick in doubt may take.
const TASK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long until it is tried again.
const TASK_PAUSE: Duration = Duration::from_secs(1);

impl Active<'_> {
    /// Does what a command wants. Its message is acknowledged once that is stored.
    pub(super) async fn carry_out(&mut self, command: Box<Command>, message: Delivery) {
        let Some(name) = command.what.schedule().map(Arc::<str>::from) else {
            return self.tell(command, message);
        };
        let Some(held) = self.schedules.get_mut(&name) else {
            return match &command.what {
                What::Declare(definition) => {
                    let definition = definition.clone();
                    self.declare(&name, definition, command, message).await;
                }
                // Its schedule was removed meanwhile.
                What::Ended(..) | What::Doubt(..) => message.ack(),
                _ => self.refuse(&command, message, Answer::Missing),
            };
        };
        if held.is_pending() {
            held.waiting.push_back((command, message));
            return;
        }
        let now = self.broker.clock().now();
        let state = &held.entry.state;
        let is_done = match &command.what {
            What::Declare(definition) => **definition == held.entry.definition,
            What::Pause(_) => state.is_paused,
            What::Resume(_) => !state.is_paused,
            _ => false,
        };
        if is_done || state.knows(command.id) {
            message.ack();
            self.answer_done(Some(command));
            return;
        }
        let mut next = held.entry.clone();
        match &command.what {
            What::Declare(definition) => {
                let definition = definition.clone();
                return self.declare(&name, definition, command, message).await;
            }
            What::Remove(_) => return self.remove(&name, command, message).await,
            What::Ended(_, sequence) => {
                if held.entry.state.running.iter().any(|running| running.sequence == *sequence) {
                    held.entry.state.ended(*sequence, now);
                    held.report(message);
                    if held.has_skipped() {
                        let next = held.entry.clone();
                        self.store(&name, next, None, None);
                    } else {
                        self.look_at(&name);
                    }
                } else {
                    message.ack();
                }
                return;
            }
            What::Doubt(doubt) => {
                let tick = &doubt.tick;
                if !doubt.holds(&held.entry.state) {
                    return message.ack();
                }
                tracing::warn!(schedule = %name, sequence = tick.sequence, "it is not known whether this tick was fired: its task is enqueued once more");
                let task = next.envelope(Some(tick.clone()), now).without_schedule();
                let publish = self.queues.route(&next.definition.queue).publish(task, now);
                return self.enqueue(publish, message);
            }
            What::Trigger(_) => {
                if next.definition.limit.is_some_and(|limit| next.state.sequence >= limit) {
                    let answer = Answer::Refused("its limit of ticks is reached".to_owned());
                    return self.refuse(&command, message, answer);
                }
                let tick = next.state.trigger(&next.definition, now);
                next.state.remember(command.id);
                return self.store(&name, next, Some(tick), Some((command, message)));
            }
            What::Pause(_) => next.state.pause(),
            What::Resume(_) => next.state.resume(now),
            What::List(_) => {}
        }
        next.state.remember(command.id);
        self.store(&name, next, None, Some((command, message)));
    }

    /// Makes a schedule, or changes it.
    async fn declare(
        &mut self,
        name: &Arc<str>,
        definition: Box<Definition>,
        command: Box<Command>,
        message: Delivery,
    ) {
        let times = match Times::of(&definition.cadence) {
            Ok(times) => times,
            // Of a later release. It stays in the ledger for one that can read it: nobody would declare it again.
            Err(error) => {
                tracing::error!(schedule = %name, %error, "a declaration that is not understood: it is left alone");
                return self.ledger.leave_alone(message);
            }
        };
        self.queues.add(&definition.queue).await;
        // Whoever declares it may have a clock that is ahead of ours.
        let declared = command.at.min(self.broker.clock().now());
        let next = match self.schedules.get(name) {
            Some(held) => {
                let mut next = held.entry.clone();
                next.state.edit(&definition, &held.entry.definition, declared);
                next.state.remember(command.id);
                next.definition = *definition;
                next
            }
            None if self.schedules.len() >= MOST_SCHEDULES => {
                let reason = format!("a namespace has at most {MOST_SCHEDULES} schedules");
                return self.refuse(&command, message, Answer::Refused(reason));
            }
            None => {
                let state = State::new(command.id, &definition, declared);
                let entry = Box::new(Entry { definition: *definition, state });
                self.schedules.insert(name.clone(), Held::new(entry.clone(), times, None));
                entry
            }
        };
        tracing::info!(schedule = %name, cadence = %next.definition.cadence, "schedule is declared or changed");
        self.store(name, next, None, Some((command, message)));
    }

    async fn remove(&mut self, name: &Arc<str>, command: Box<Command>, message: Delivery) {
        let Some(held) = self.forget(name) else { return };
        tracing::info!(schedule = %name, "schedule is removed");
        // The entry goes first: if only the command went, the schedule would be there again.
        let waiting = held.remove();
        message.ack();
        self.answer_done(Some(command));
        for (command, message) in waiting {
            Box::pin(self.carry_out(command, message)).await;
        }
    }

    /// Publishes a task over another connection than that of the ledger, and lets the command go that asked for it.
    fn enqueue(&self, task: Publish, message: Delivery) {
        let broker = self.broker.clone();
        tokio::spawn(async move {
            match broker.transport().publish(&task, TASK_TIMEOUT).await {
                Ok(()) => message.ack(),
                Err(error) => {
                    tracing::warn!(%error, "the task of a tick in doubt is not enqueued yet");
                    tokio::time::sleep(TASK_PAUSE).await;
                    message.requeue();
                }
            }
        });
    }

    fn refuse(&self, command: &Command, message: Delivery, answer: Answer) {
        if let Answer::Refused(reason) = &answer {
            let schedule = command.what.schedule();
            tracing::error!(schedule, reason, "what is asked for a schedule cannot be done");
        }
        message.ack();
        self.answer(command, vec![], answer);
    }

    /// Answers a question, once the changes that came before it are made.
    fn tell(&mut self, command: Box<Command>, message: Delivery) {
        let What::List(name) = &command.what else { return message.ack() };
        if command.is_stale(self.broker.clock().now()) {
            return message.ack();
        }
        let is_wanted = |known: &Arc<str>| name.as_ref().is_none_or(|name| **name == **known);
        let mut wanted = self.schedules.iter_mut().filter(|(known, _)| is_wanted(known));
        if let Some((_, held)) = wanted.find(|(_, held)| held.is_changing()) {
            held.waiting.push_back((command, message));
            return;
        }
        message.ack();
        let wanted = self.schedules.iter().filter(|(known, _)| is_wanted(known));
        let entries: Vec<_> = wanted.map(|(_, held)| Answer::Entry(held.entry.clone())).collect();
        let last = if name.is_some() && entries.is_empty() { Answer::Missing } else { Answer::Done };
        self.answer(&command, entries, last);
    }

    /// Tells whoever has sent a command that it is carried out.
    pub(super) fn answer_done(&self, command: Option<Box<Command>>) {
        if let Some(command) = command {
            self.answer(&command, vec![], Answer::Done);
        }
    }

    /// Sends an answer, over another connection than that of the ledger: it is not to hold up ticks.
    fn answer(&self, command: &Command, entries: Vec<Answer>, last: Answer) {
        let Some(reply_to) = &command.reply_to else { return };
        let Ok(key) = Name::new("reply key", reply_to.as_str()) else { return };
        let (broker, to) = (self.broker.clone(), command.id);
        tokio::spawn(async move {
            let now = broker.clock().now();
            let send = |answer: Answer| send(&broker, key.clone(), answer.seal(to, now));
            stream::iter(entries).map(send).buffer_unordered(ANSWERS).for_each(|()| async {}).await;
            send(last).await;
        });
    }
}

/// A lost answer is asked for again.
async fn send(broker: &Broker, key: Name, message: Message) {
    let publish = Publish { exchange: broker.names().outputs(), key, mandatory: false, message };
    if let Err(error) = broker.transport().publish(&publish, ANSWER_TIMEOUT).await {
        tracing::warn!(%error, "an answer about schedules is not delivered");
    }
}
