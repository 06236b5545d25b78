//! [`Active`]: the scheduler that is active: fires what is due, carries out commands, and keeps its entries fresh.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::agenda::Agenda;
use super::held::Held;
use super::ledger::Event;
use super::ledger::Fate;
use super::ledger::Ledger;
use super::load::Loaded;
use super::queues::Queues;
use crate::broker::Broker;
use crate::cadence::Times;
use crate::clock::SetBack;
use crate::schedule::Command;
use crate::schedule::Entry;
use crate::schedule::Move;
use crate::schedule::Record;
use crate::schedule::What;
use crate::schedule::Why;
use crate::schedule::plan;
use crate::tick::Tick;
use crate::transport::Delivery;
use crate::transport::PublishError;

/// A process that has not been awake for so long, and naps at most [`NAP`], was stopped by somebody.
const FROZEN: Duration = Duration::from_secs(3);
/// Queues that are well have confirmed a tick within this time.
const HEALTHY: Duration = Duration::from_secs(1);
/// How long before a tick is due the lease is renewed for it, if it would have ended.
const AHEAD: Duration = Duration::from_millis(250);
/// How often to look whether the clock was set, at least.
const NAP: Duration = Duration::from_secs(1);
/// Tokio's timers end after two years.
const LONGEST_SLEEP: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How many publishes may be without a confirm; twice as many for those of commands. The channel takes 4,096.
const WINDOW: usize = 512;
/// How many moves about one schedule are made before the others have their turn.
const MOVES: usize = 64;
/// After so many bytes in the ledger what was stored before is stored anew: before 4.3 an entry pins the log of its queue.
const MOST_PINNED: u64 = 64 * 1024 * 1024;
/// Over how long that is spread.
const SPREAD: Duration = Duration::from_secs(30);
/// How long to wait until what a queue refused is sent again, at first; it doubles.
const REFUSED: Duration = Duration::from_millis(50);
const SILENT: &str = "the queue of the schedules does not answer";

/// Why it is not active any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Shutdown,
    Lost(&'static str),
}

/// The active scheduler.
pub(super) struct Active<'a> {
    pub(super) broker: &'a Broker,
    pub(super) settings: &'a Settings,
    pub(super) ledger: Ledger,
    /// Tells what we have fired from what others have. Positive, as headers count.
    tenure: u64,
    pub(super) queues: Queues,
    pub(super) schedules: HashMap<Arc<str>, Held>,
    /// When to look at which schedule, since the Unix epoch.
    due: Agenda<Duration>,
    set_back: SetBack,
    /// When to store which entry anew.
    refresh: Agenda<Instant>,
    /// Commands that wait until fewer publishes are without a confirm, in their order.
    backlog: VecDeque<(Box<Command>, Delivery)>,
    /// How much was written when all were last looked at.
    written: u64,
    /// Fires nothing any more.
    is_leaving: bool,
    /// When this process was last awake after it had not been for a while.
    thawed: Option<Instant>,
}

impl<'a> Active<'a> {
    /// Takes over what was loaded.
    pub(super) async fn take_over(
        broker: &'a Broker,
        settings: &'a Settings,
        ledger: Ledger,
        loaded: Loaded,
    ) -> Self {
        let mut active = Self {
            broker,
            settings,
            ledger,
            tenure: fastrand::u64(..) >> 1,
            queues: Queues::new(broker),
            schedules: HashMap::with_capacity(loaded.entries.len()),
            due: Agenda::new(),
            set_back: SetBack::default(),
            refresh: Agenda::new(),
            backlog: loaded.commands.into(),
            written: 0,
            is_leaving: false,
            thawed: None,
        };
        let queues = loaded.entries.values().map(|(entry, _)| entry.definition.queue.clone());
        active.queues.add_all(queues.collect::<BTreeSet<_>>()).await;
        for (name, (entry, message)) in loaded.entries {
            active.adopt(&name, entry, message);
        }
        active
    }

    /// Works until it is told to stop, or is not active any more.
    pub(super) async fn run(&mut self, shutdown: &CancellationToken) -> End {
        loop {
            self.work_off().await;
            let (wake, turn) = (self.act(), Instant::now());
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => return End::Shutdown,
                event = self.ledger.next() => {
                    Some(event.ok_or("the broker has ended the channel, or it was lost"))
                }
                () = tokio::time::sleep_until(wake) => None,
            };
            if self.broker.clock().may_be_set() && turn.elapsed() > FROZEN {
                self.thawed = Some(Instant::now());
            }
            let taken = match next {
                Some(Ok(event)) => self.take(event).await,
                Some(Err(why)) => Err(why),
                None => Ok(()),
            };
            if let Err(why) = taken {
                return End::Lost(why);
            }
            if self.ledger.is_silent() {
                return End::Lost(SILENT);
            }
        }
    }

    /// The ticks whose task may be in its lane or not, after the connection was lost.
    ///
    /// A broker that is there has put a tick into both of its queues, or into none. One that dies in between may have put
    /// it into one: into the lane alone, and it is fired again as it is due; or into the ledger alone, and it is not, so
    /// these are to be looked after. But if the broker has closed the connection and lives on, it has done so with all
    /// ticks but those of a queue without a majority, for which it kept them until then; and if this process was frozen it
    /// is not the broker that was gone.
    pub(super) fn doubts(&mut self) -> Vec<What> {
        let was_frozen = self.thawed.is_some_and(|thawed| thawed.elapsed() < 10 * FROZEN);
        if was_frozen {
            return Vec::new();
        }
        let (tenure, patience) =
            (self.tenure, if self.ledger.is_orderly() { HEALTHY } else { Duration::ZERO });
        let pending = self.schedules.values_mut().filter_map(Held::pending);
        pending.filter(|it| it.sent.elapsed() >= patience).filter_map(|it| it.doubt(tenure)).collect()
    }

    /// Waits, for a while, for what is on its way, and hands over.
    pub(super) async fn leave(mut self, limit: Duration) {
        self.is_leaving = true;
        let rest = async {
            while self.schedules.values().any(Held::is_pending)
                && let Some(event) = self.ledger.next().await
            {
                let is_command = matches!(event, Event::Delivered(Record::Command(_), _));
                // A command goes back, to whoever is next.
                if !is_command && self.take(event).await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(limit, rest).await;
        self.ledger.close().await;
    }

    /// Does what is due, and says when to do so again.
    fn act(&mut self) -> Instant {
        let (now, instant) = (self.broker.clock().now(), Instant::now());
        if self.broker.clock().may_be_set() && self.set_back.look(now, instant) {
            // What is due in an hour may have been due in a second.
            self.due.hasten(Duration::ZERO);
        }
        self.store_anew(instant);
        // Whether it is active at all, who waits for what does not come back does not know.
        if self.ledger.unconfirmed() > 0 && self.ledger.lease().is_none_or(|end| end <= instant) {
            self.ledger.mark();
        }
        let pinned = self.ledger.pinned().zip(self.settings.refresh_after()).map(|(since, age)| since + age);
        if pinned.is_some_and(|until| until <= instant) {
            self.ledger.mark();
        }
        let is_leased = |until: Instant| self.ledger.lease().is_some_and(|end| end > until);
        let mut wake = self.refresh.first().unwrap_or(instant + LONGEST_SLEEP);
        if let Some(until) = pinned.filter(|until| *until > instant) {
            wake = wake.min(until);
        }
        if self.broker.clock().may_be_set() {
            wake = wake.min(instant + NAP);
        }
        if self.ledger.unconfirmed() >= WINDOW {
            // A confirm is the event that goes on.
            return instant + NAP;
        }
        let at = |due: Duration| instant + due.saturating_sub(now).min(LONGEST_SLEEP);
        let Some(first) = self.due.first().map(at) else { return wake };
        if is_leased(first) {
            self.fire_due(now);
            return self.due.first().map_or(wake, |next| wake.min(at(next)));
        }
        let renew = first.checked_sub(AHEAD).unwrap_or(instant);
        if renew <= instant {
            // Its return is the event that goes on.
            self.ledger.mark();
            return wake;
        }
        wake.min(renew)
    }

    /// Carries out commands, also while ticks use up all of their window.
    async fn work_off(&mut self) {
        while self.ledger.unconfirmed() < 2 * WINDOW
            && let Some((command, message)) = self.backlog.pop_front()
        {
            self.carry_out(command, message).await;
        }
    }

    fn fire_due(&mut self, now: Duration) {
        while self.ledger.unconfirmed() < WINDOW
            && let Some(name) = self.due.pop(now)
        {
            self.decide(&name, now);
        }
    }

    /// Something about a schedule has changed: looks at it as soon as ticks may be fired.
    pub(super) fn look_at(&mut self, name: &Arc<str>) {
        self.due.set(name, Some(Duration::ZERO));
    }

    /// Does what is to be done about a schedule now.
    fn decide(&mut self, name: &Arc<str>, now: Duration) {
        let Some(held) = self.schedules.get_mut(name) else { return };
        if self.is_leaving {
            return;
        }
        if let Some((entry, tick)) = held.refused() {
            return self.send(name, &entry, tick, now);
        }
        for _ in 0..MOVES {
            let Entry { definition, state } = &*held.entry;
            match plan(definition, &held.times, state, now, self.settings.misfire_after) {
                Move::Wait(until) => {
                    self.due.set(name, until);
                    return;
                }
                Move::PassOver { passed, why } => {
                    passed_over(name, why);
                    held.entry.state.pass_over(passed, now);
                    if why == Why::Overlapping {
                        held.skipped();
                    }
                }
                Move::Fire { planned, passed } => {
                    let mut next = held.entry.clone();
                    let tick = next.state.fire(&next.definition, planned, passed, now);
                    self.store(name, next, Some(tick), None);
                    return;
                }
            }
        }
        self.due.set(name, Some(now));
    }

    /// Publishes a schedule's next entry, and with it the task of a tick.
    pub(super) fn store(
        &mut self,
        name: &Arc<str>,
        mut next: Box<Entry>,
        tick: Option<Tick>,
        cause: Option<(Box<Command>, Delivery)>,
    ) {
        self.due.set(name, None);
        self.refresh.set(name, None);
        next.state.version += 1;
        if tick.is_some() {
            next.state.fired_by(self.tenure);
        }
        let sent = Instant::now();
        self.send(name, &next, tick.clone(), self.broker.clock().now());
        if let Some(held) = self.schedules.get_mut(name) {
            held.send(next, sent, tick, cause);
        }
    }

    fn send(&mut self, name: &Arc<str>, entry: &Entry, tick: Option<Tick>, now: Duration) {
        let publish = match tick {
            None => self.ledger.only(entry.envelope(None, now).seal()),
            Some(tick) => {
                tracing::debug!(schedule = %name, sequence = tick.sequence, "tick");
                let envelope = entry.envelope(Some(tick), now);
                self.queues.route(&entry.definition.queue).tick(envelope, now, self.ledger.key())
            }
        };
        self.ledger.publish(name, entry.state.version, &publish);
    }

    async fn take(&mut self, event: Event) -> Result<(), &'static str> {
        match event {
            Event::Marked | Event::Roused | Event::Delivered(Record::Marker(_), _) => Ok(()),
            Event::Delivered(Record::Command(command), message) => {
                self.backlog.push_back((command, message));
                Ok(())
            }
            Event::Delivered(Record::Entry(entry), message) => self.entry_came(entry, message).await,
            Event::Confirmed(fate) => self.confirmed(fate).await,
        }
    }

    async fn entry_came(&mut self, entry: Box<Entry>, message: Delivery) -> Result<(), &'static str> {
        let name: Arc<str> = entry.definition.name.as_str().into();
        let Some(held) = self.schedules.get_mut(&name) else {
            self.adopt(&name, entry, message);
            return Ok(());
        };
        if let Some(pending) = held.pending()
            && pending.next.is_same_version_as(&entry)
        {
            pending.came_back(message);
            let sent = pending.sent;
            self.ledger.prove(sent);
            self.advance(&name).await;
        } else if entry.is_newer_than(held.latest()) || message.redelivered {
            // What we hold was taken from us, and given back: a partition of the cluster does so without a word. What
            // was removed meanwhile did not come, so nothing that we know counts any more.
            message.requeue();
            return Err("another scheduler was active meanwhile");
        } else if held.is_refused(&entry) {
            message.ack();
        } else {
            let sequence = entry.state.sequence;
            tracing::warn!(schedule = %name, sequence, "another scheduler has stored this entry too, or one before it");
            message.ack();
        }
        Ok(())
    }

    async fn confirmed(&mut self, Fate { schedule, version, result }: Fate) -> Result<(), &'static str> {
        let Some(held) = self.schedules.get_mut(&schedule) else { return Ok(()) };
        let Some(pending) = held.pending().filter(|pending| pending.next.state.version == version) else {
            return Ok(());
        };
        match result {
            Ok(()) => {
                pending.confirmed();
                if let Some(journal) = self.broker.journal() {
                    let sent = self.broker.clock().now().saturating_sub(pending.sent.elapsed());
                    let accepted = pending.accepted(journal.instance().name(), sent);
                    accepted.into_iter().for_each(|event| journal.record(event));
                }
            }
            // Refused, or never sent.
            Err(PublishError::Rejected | PublishError::Unavailable { .. }) => {
                let wait = REFUSED * 2_u32.pow(pending.refusals.min(6));
                pending.refuse();
                let at = self.broker.clock().now() + wait;
                tracing::warn!(%schedule, ?wait, "a queue refused its tick: it is sent again");
                self.due.set(&schedule, Some(at));
                return Ok(());
            }
            // It is over with the channel, which the next event tells.
            Err(PublishError::Unconfirmed { last_loss: Some(_), .. }) => return Ok(()),
            // Cut off from the rest of its cluster, a node keeps what it cannot pass on until it is healed. It forgets
            // that with the channel, so this one must not be kept.
            Err(PublishError::Unconfirmed { .. }) if !self.ledger.is_proven_since(pending.sent) => {
                return Err(SILENT);
            }
            // Its own return tells whether the ledger has it. The lane may have it too, as soon as it can.
            Err(error @ PublishError::Unconfirmed { .. }) => {
                tracing::error!(%schedule, %error, "it is not known whether its tick was fired");
                pending.unknown();
            }
            Err(PublishError::Unroutable) => return Err("the queue of the schedules is gone"),
            Err(PublishError::Closed) => return Err("the broker handle is closed"),
            Err(error @ (PublishError::Forbidden(_) | PublishError::Refused(_))) => {
                tracing::error!(%schedule, %error, "the broker refuses its tick, which is left out");
                if let Some(given_up) = held.give_up() {
                    held.entry.state.passed = given_up.next.state.passed;
                }
                self.look_at(&schedule);
                return Ok(());
            }
        }
        self.advance(&schedule).await;
        Ok(())
    }

    /// Goes on with a schedule whose next entry may be stored.
    async fn advance(&mut self, name: &Arc<str>) {
        let Some(held) = self.schedules.get_mut(name) else { return };
        let Some(command) = held.advance() else { return };
        self.answer_done(command);
        self.is_fresh(name);
        while let Some(held) = self.schedules.get_mut(name)
            && !held.is_pending()
        {
            let Some((command, message)) = held.waiting.pop_front() else { break };
            self.carry_out(command, message).await;
        }
        if self.schedules.get(name).is_some_and(|held| !held.is_pending()) {
            self.look_at(name);
        }
    }

    /// Takes a schedule in whose entry is stored.
    fn adopt(&mut self, name: &Arc<str>, entry: Box<Entry>, message: Delivery) {
        match Times::of(&entry.definition.cadence) {
            Ok(times) => {
                self.schedules.insert(name.clone(), Held::new(entry, times, Some(message)));
                self.is_fresh(name);
                self.look_at(name);
            }
            // Of a later release. It stays in the ledger for one that can read it.
            Err(error) => {
                tracing::error!(schedule = %name, %error, "this schedule is not understood");
                self.ledger.leave_alone(message);
            }
        }
    }

    /// An entry was stored, or handed to us, just now.
    fn is_fresh(&mut self, name: &Arc<str>) {
        let Some(held) = self.schedules.get_mut(name) else { return };
        // Spread, because after a takeover all are equally old.
        let spread = 0.5 + fastrand::f64() / 2.0;
        let at = self.settings.refresh_after().map(|time| Instant::now() + time.mul_f64(spread));
        held.written = self.ledger.written();
        self.refresh.set(name, at);
    }

    /// Stores entries anew that are as old as the broker may let us hold them, or pin too much of its log.
    fn store_anew(&mut self, now: Instant) {
        if self.ledger.written() - self.written > MOST_PINNED {
            let limit = self.written;
            self.written = self.ledger.written();
            for (name, _) in self.schedules.iter().filter(|(_, held)| held.written <= limit) {
                if let Some(at) = self.refresh.get(name) {
                    self.refresh.set(name, Some(at.min(now + SPREAD.mul_f64(fastrand::f64()))));
                }
            }
        }
        while self.ledger.unconfirmed() < WINDOW
            && let Some(name) = self.refresh.pop(now)
        {
            let Some(held) = self.schedules.get(&name) else { continue };
            // One on its way is as good.
            if !held.is_pending() {
                let entry = held.entry.clone();
                self.store(&name, entry, None, None);
            }
        }
    }

    /// Takes a schedule out.
    pub(super) fn forget(&mut self, name: &Arc<str>) -> Option<Held> {
        self.due.set(name, None);
        self.refresh.set(name, None);
        self.schedules.remove(name)
    }
}

fn passed_over(schedule: &str, why: Why) {
    match why {
        Why::Misfired => tracing::warn!(schedule, "ticks that nobody could fire in time are left out"),
        Why::Overlapping => tracing::debug!(schedule, "a tick is left out: the one before it has not ended"),
        Why::ClockSetBack => {
            tracing::warn!(schedule, "the clock was set back: ticks are planned anew from now on");
        }
    }
}
