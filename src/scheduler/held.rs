//! [`Held`]: one schedule, as the active scheduler holds it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::cadence::Times;
use crate::schedule::Command;
use crate::schedule::Entry;
use crate::schedule::What;
use crate::tick::Tick;
use crate::transport::Delivery;
use crate::transport::Publish;

/// One schedule.
pub(super) struct Held {
    pub(super) entry: Box<Entry>,
    pub(super) times: Times,
    /// The message that is its entry; `None` until the first is stored.
    message: Option<Delivery>,
    /// The last tick that somebody else has fired.
    inherited: u64,
    /// Messages that have changed the entry without it being stored anew: the next one that is includes them.
    reports: Vec<Delivery>,
    /// Its next entry on its way. One at a time: so the order of its changes is the order of its versions.
    pending: Option<Pending>,
    /// Commands that came meanwhile.
    pub(super) waiting: VecDeque<(Box<Command>, Delivery)>,
    /// When to look at it next, since the Unix epoch.
    pub(super) due: Option<Duration>,
    /// When to store it anew.
    pub(super) refresh_at: Option<Instant>,
    /// How much had been written to the ledger when it was stored.
    pub(super) written: u64,
}

/// An entry on its way to the ledger.
pub(super) struct Pending {
    pub(super) next: Box<Entry>,
    pub(super) publish: Publish,
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
            inherited: entry.state.sequence,
            entry,
            times,
            message,
            reports: Vec::new(),
            pending: None,
            waiting: VecDeque::new(),
            due: None,
            refresh_at: None,
            written: 0,
        }
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

    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether it is for us to fire that tick, or was, whatever a scheduler before us tried.
    pub(super) fn is_ours(&self, sequence: u64) -> bool {
        sequence > self.inherited
    }

    /// Its next entry is sent.
    pub(super) fn send(
        &mut self,
        next: Box<Entry>,
        tick: Option<Tick>,
        publish: Publish,
        cause: Option<(Box<Command>, Delivery)>,
    ) {
        let mut settles = std::mem::take(&mut self.reports);
        let command = cause.map(|(command, message)| {
            settles.push(message);
            command
        });
        self.pending = Some(Pending {
            next,
            publish,
            sent: Instant::now(),
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
        // Twice, if one of its queues refused it and it was sent again.
        if let Some(first) = self.echo.replace(message) {
            first.ack();
        }
    }

    /// All its queues have it.
    pub(super) fn confirmed(&mut self) {
        self.confirm = Confirm::Stored;
    }

    /// Nobody will tell any more whether they have.
    pub(super) fn unknown(&mut self) {
        self.confirm = Confirm::Unknown;
    }

    /// The tick whose task may be in its lane or not.
    pub(super) fn doubt(&self) -> Option<What> {
        let tick = self.tick.as_ref().filter(|_| self.confirm != Confirm::Stored)?;
        Some(What::Doubt(tick.clone(), self.next.state.origin))
    }
}
