//! [`Held`]: one schedule, as the active scheduler holds it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use tokio::time::Instant;

use crate::cadence::Times;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::schedule::Command;
use crate::schedule::Doubt;
use crate::schedule::Entry;
use crate::schedule::What;
use crate::telemetry;
use crate::tick::Tick;
use crate::transport::Delivery;

/// One schedule.
pub(super) struct Held {
    pub(super) entry: Box<Entry>,
    pub(super) times: Times,
    /// The message that is its entry; `None` until the first is stored.
    message: Option<Delivery>,
    /// Ticks were passed over because the one before them ran, and its entry does not say so yet.
    has_skipped: bool,
    /// Messages that have changed the entry without it being stored anew: the next one that is includes them.
    reports: Vec<Delivery>,
    /// Its next entry on its way. One at a time: so the order of its changes is the order of its versions.
    pending: Option<Pending>,
    /// Commands that came meanwhile.
    pub(super) waiting: VecDeque<(Box<Command>, Delivery)>,
    /// How much had been written to the ledger when it was stored.
    pub(super) written: u64,
}

/// An entry on its way to the ledger.
pub(super) struct Pending {
    pub(super) next: Box<Entry>,
    pub(super) sent: Instant,
    /// How often a queue has refused it.
    pub(super) refusals: u32,
    /// It has come back.
    echo: Option<Delivery>,
    confirm: Confirm,
    /// The tick whose task it is.
    tick: Option<Tick>,
    /// What it carries out.
    settles: Vec<Delivery>,
    /// What is to be answered then.
    pub(super) command: Option<Box<Command>>,
}

/// What is known of where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirm {
    Awaited,
    /// All its queues have it.
    Stored,
    /// Nobody will tell.
    Unknown,
}

impl Held {
    pub(super) fn new(entry: Box<Entry>, times: Times, message: Option<Delivery>) -> Self {
        Self {
            entry,
            times,
            message,
            has_skipped: false,
            reports: Vec::new(),
            pending: None,
            waiting: VecDeque::new(),
            written: 0,
        }
    }

    /// A tick was passed over because the one before it runs. Whoever takes over sees that it runs, and does the same; but
    /// not any more once it has ended.
    pub(super) fn skipped(&mut self) {
        self.has_skipped = true;
    }

    pub(super) fn has_skipped(&self) -> bool {
        self.has_skipped
    }

    /// Something else than a new entry has changed it.
    pub(super) fn report(&mut self, message: Delivery) {
        self.reports.push(message);
    }

    pub(super) fn pending(&mut self) -> Option<&mut Pending> {
        self.pending.as_mut()
    }

    /// The newest entry that is known of it.
    pub(super) fn latest(&self) -> &Entry {
        self.pending.as_ref().map_or(&self.entry, |pending| &pending.next)
    }

    /// Its next entry and the tick it carries, if a queue has refused it.
    pub(super) fn refused(&self) -> Option<(Box<Entry>, Option<Tick>)> {
        let pending = self.pending.as_ref().filter(|pending| pending.refusals > 0)?;
        Some((pending.next.clone(), pending.tick.clone()))
    }

    /// Whether a queue has refused it, and the ledger has not.
    pub(super) fn is_refused(&self, entry: &Entry) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.refusals > 0) && entry.is_newer_than(&self.entry)
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether what somebody wants of it is on its way. Not while a queue is full: nobody knows how long that is.
    pub(super) fn is_changing(&self) -> bool {
        let is_change = |what: &What| what.schedule().is_some() && !matches!(what, What::Ended(..));
        self.pending.as_ref().is_some_and(|pending| {
            let mut wanted = pending.command.iter().chain(self.waiting.iter().map(|(command, _)| command));
            pending.refusals == 0 && wanted.any(|command| is_change(&command.what))
        })
    }

    /// Its next entry is sent.
    pub(super) fn send(
        &mut self,
        next: Box<Entry>,
        sent: Instant,
        tick: Option<Tick>,
        cause: Option<(Box<Command>, Delivery)>,
    ) {
        self.has_skipped = false;
        let mut settles = std::mem::take(&mut self.reports);
        let command = cause.map(|(command, message)| {
            settles.push(message);
            command
        });
        self.pending = Some(Pending {
            next,
            sent,
            refusals: 0,
            echo: None,
            confirm: Confirm::Awaited,
            tick,
            settles,
            command,
        });
    }

    /// Its next entry is not going to be stored.
    pub(super) fn give_up(&mut self) -> Option<Pending> {
        let mut pending = self.pending.take()?;
        self.reports.append(&mut pending.settles);
        Some(pending)
    }

    /// Once its next entry is confirmed and here, the older one goes, and all that it carries out. Returns the command
    /// that asked for it, if one did.
    pub(super) fn advance(&mut self) -> Option<Option<Box<Command>>> {
        let is_stored = |pending: &mut Pending| pending.confirm != Confirm::Awaited && pending.echo.is_some();
        let Pending { next, echo, settles, command, .. } = self.pending.take_if(is_stored)?;
        if next.definition.cadence != self.entry.definition.cadence
            && let Ok(times) = Times::of(&next.definition.cadence)
        {
            self.times = times;
        }
        self.entry = next;
        for old in std::mem::replace(&mut self.message, echo).into_iter().chain(settles) {
            old.ack();
        }
        Some(command)
    }

    /// It is over with it: nothing of it stays in the ledger.
    pub(super) fn remove(self) -> VecDeque<(Box<Command>, Delivery)> {
        for message in self.message.into_iter().chain(self.reports) {
            message.ack();
        }
        self.waiting
    }
}

impl Pending {
    /// It has come back.
    pub(super) fn came_back(&mut self, message: Delivery) {
        // Twice, if somebody has put it there by hand.
        if let Some(first) = self.echo.replace(message) {
            first.ack();
        }
    }

    /// One of its queues has refused it: it is to be sent again, as another version. What the ledger has of it is not to stay:
    /// whoever took over from us would take the tick for fired. And nothing of it is behind the one that stays.
    pub(super) fn refuse(&mut self) {
        self.refusals += 1;
        self.next.state.version += 1;
        if let Some(copy) = self.echo.take() {
            copy.ack();
        }
    }

    /// All its queues have it.
    pub(super) fn confirmed(&mut self) {
        self.confirm = Confirm::Stored;
        if self.tick.is_some() {
            let definition = &self.next.definition;
            telemetry::tick_confirmed(definition.queue.as_str(), &definition.task);
        }
    }

    /// Nobody will tell any more whether they have.
    pub(super) fn unknown(&mut self) {
        self.confirm = Confirm::Unknown;
    }

    /// What `by` has to tell of the task of its tick, if it is one, which was sent at that time, since the Unix epoch.
    pub(super) fn accepted(&self, by: &Arc<str>, at: Duration) -> Option<TaskEvent> {
        let tick = self.tick.as_ref()?;
        let Entry { definition, state } = &*self.next;
        Some(TaskEvent {
            id: tick.task_id(state.origin),
            name: definition.task.clone().into(),
            queue: definition.queue.text(),
            lane: None,
            attempt: 1,
            at: UNIX_EPOCH + at,
            by: by.clone(),
            change: TaskChange::Accepted {
                priority: definition.priority,
                due: None,
                deadline: definition.deadline(tick, at).map(|deadline| UNIX_EPOCH + deadline),
                schedule: Some(tick.schedule.clone()),
                again: false,
            },
        })
    }

    /// The tick whose task may be in its lane or not.
    pub(super) fn doubt(&self, tenure: u64) -> Option<What> {
        let tick = self.tick.as_ref().filter(|_| self.confirm != Confirm::Stored)?;
        let (tick, origin) = (tick.clone(), self.next.state.origin);
        Some(What::Doubt(Box::new(Doubt { tick, origin, tenure })))
    }
}
