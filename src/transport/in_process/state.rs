//! [`State`]: everything inside the broker, under one lock.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Weak;
use std::task::Waker;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::Error;
use crate::error::Result;
use crate::message::Message;
use crate::name::Name;
use crate::topology;
use crate::topology::Target;
use crate::topology::Topology;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Settlement;
use crate::transport::Start;
use crate::transport::Subscribe;

use super::conflict::queue_conflict;
use super::death::Reason;
use super::death::dead_letter;
use super::death::is_cycle;
use super::exchange::Exchanges;
use super::exchange::Origin;
use super::exchange::unbound;
use super::queue::Dead;
use super::queue::Next;
use super::queue::Queue;
use super::queue::SubscriberId;

#[derive(Debug)]
pub(super) struct State {
    clock: Clock,
    exchanges: Exchanges,
    queues: HashMap<Name, Queue>,
    /// Those that wait for a delivery.
    wakers: HashMap<SubscriberId, Waker>,
    next_subscriber: SubscriberId,
    /// The queues that [`run`](Self::run) has to look at.
    changed: BTreeSet<Name>,
    /// The queues with dead letters that no target took. Any change may help them.
    stuck: BTreeSet<Name>,
    /// When something may expire next.
    alarm: Option<Instant>,
    closed: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            clock: Clock::tokio(),
            exchanges: Exchanges::default(),
            queues: HashMap::new(),
            wakers: HashMap::new(),
            next_subscriber: 0,
            changed: BTreeSet::new(),
            stuck: BTreeSet::new(),
            alarm: None,
            closed: false,
        }
    }
}

impl State {
    pub(super) fn declare(&mut self, topology: &Topology) -> Result<()> {
        self.must_be_open()?;
        for exchange in &topology.exchanges {
            self.exchanges.declare(exchange)?;
        }
        for queue in &topology.queues {
            self.declare_queue(queue)?;
        }
        for binding in &topology.bindings {
            match &binding.to {
                Target::Queue(queue) if !self.queues.contains_key(queue) => {
                    return Err(unbound(binding, format!("no queue '{queue}'")));
                }
                _ => self.exchanges.bind(binding)?,
            }
        }
        Ok(())
    }

    fn declare_queue(&mut self, ours: &topology::Queue) -> Result<()> {
        match self.queues.get(&ours.name) {
            Some(theirs) => queue_conflict(ours, theirs.declared()),
            None => {
                self.queues.insert(ours.name.clone(), Queue::new(ours.clone()));
                Ok(())
            }
        }
    }

    pub(super) fn publish(&mut self, publish: Publish, now: Instant) -> Result<(), PublishError> {
        if self.closed {
            return Err(PublishError::Closed);
        }
        let Publish { exchange, key, mandatory, message } = publish;
        let origin = Origin { exchange, key };
        let Some(targets) = self.exchanges.route(&origin.exchange, &origin.keys(&message)) else {
            return Err(PublishError::Refused(format!("no exchange '{}'", origin.exchange)));
        };
        if mandatory && targets.is_empty() {
            return Err(PublishError::Unroutable);
        }
        // Like RabbitMQ: one queue's refusal does not take the message back from the others.
        match self.store(targets, &origin, &message, now) {
            0 => Ok(()),
            _ => Err(PublishError::Rejected),
        }
    }

    /// Stores a message in each of `targets`, and returns how many refused it.
    fn store(&mut self, targets: Vec<Name>, origin: &Origin, message: &Message, now: Instant) -> usize {
        let mut refused = 0;
        for name in targets {
            match self.queues.get_mut(&name) {
                Some(queue) if !queue.is_full() => {
                    queue.push(origin.clone(), message.clone(), now);
                    self.changed.insert(name);
                }
                _ => refused += 1,
            }
        }
        refused
    }

    /// Which subscriber it is, and for how long.
    pub(super) fn subscribe(
        &mut self,
        subscribe: &Subscribe,
        now: Instant,
    ) -> Result<(SubscriberId, Weak<()>)> {
        self.must_be_open()?;
        let Subscribe { queue: name, prefetch, start, .. } = subscribe;
        let Some(queue) = self.queues.get_mut(name) else {
            let reason = format!("no queue '{name}'");
            return Err(Error::Consume { queue: name.to_string(), reason });
        };
        self.next_subscriber += 1;
        let presence = queue.subscribe(self.next_subscriber, *prefetch, start.unwrap_or(Start::Next), now);
        self.changed.insert(name.clone());
        Ok((self.next_subscriber, presence))
    }

    /// What `id` finds in `queue`. If nothing, it is woken for the next one; the waker it had before is returned,
    /// because what dropping it does is not for under the lock.
    pub(super) fn next(&mut self, queue: &Name, id: SubscriberId, waker: &Waker) -> (Next, Option<Waker>) {
        let next = self.queues.get_mut(queue).map_or(Next::End, |queue| queue.next(id));
        let old = match next {
            Next::Nothing => self.wakers.insert(id, waker.clone()),
            _ => self.wakers.remove(&id),
        };
        (next, old)
    }

    pub(super) fn settle(&mut self, queue: &Name, id: SubscriberId, tag: u64, settlement: Settlement) {
        if let Some(queue) = self.touch(queue) {
            queue.settle(id, tag, settlement);
        }
    }

    pub(super) fn set_prefetch(&mut self, queue: &Name, id: SubscriberId, prefetch: u16) {
        if let Some(queue) = self.touch(queue) {
            queue.set_prefetch(id, prefetch);
        }
    }

    /// The subscriber's waker, if it has one, is returned: whoever waits has come to the end.
    pub(super) fn cancel(&mut self, queue: &Name, id: SubscriberId) -> Option<Waker> {
        self.touch(queue)?.cancel(id);
        self.wakers.remove(&id)
    }

    pub(super) fn unsubscribe(&mut self, queue: &Name, id: SubscriberId) -> Option<Waker> {
        self.touch(queue)?.close(id);
        self.wakers.remove(&id)
    }

    /// The queue, which [`run`](Self::run) looks at afterwards.
    pub(super) fn touch(&mut self, name: &Name) -> Option<&mut Queue> {
        let queue = self.queues.get_mut(name)?;
        self.changed.insert(name.clone());
        Some(queue)
    }

    pub(super) fn queue(&self, name: &Name) -> Option<&Queue> {
        self.queues.get(name)
    }

    /// Ends the subscriptions of a queue, and forgets it.
    pub(super) fn delete(&mut self, name: &Name) -> Result<Vec<Waker>> {
        self.must_be_open()?;
        let ids = self.queues.remove(name).map(|queue| queue.subscribers()).unwrap_or_default();
        self.exchanges.unbind(name);
        Ok(ids.into_iter().filter_map(|id| self.wakers.remove(&id)).collect())
    }

    /// Ends all subscriptions. What was unsettled goes back to its queue.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        self.queues.values_mut().for_each(Queue::close_all);
        self.wakers.drain().map(|(_, waker)| waker).collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn must_be_open(&self) -> Result<()> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// The earliest moment at which anything may expire.
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.alarm
    }

    /// Expires what the time that has passed expires. Returns whom to wake.
    pub(super) fn catch_up(&mut self, now: Instant) -> Vec<Waker> {
        if self.alarm.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.alarm = None;
        for (name, queue) in &self.queues {
            match queue.expires() {
                Some(at) if at <= now => {
                    self.changed.insert(name.clone());
                }
                at => self.alarm = sooner(self.alarm, at),
            }
        }
        self.run(now)
    }

    /// Carries out what follows from the changes: expiry, deliveries, dead letters, and what follows from those.
    /// Returns whom to wake. It ends, because every turn takes a message on, and none dies twice in one queue without
    /// somebody who rejects it.
    pub(super) fn run(&mut self, now: Instant) -> Vec<Waker> {
        let mut woken = Vec::new();
        self.changed.append(&mut self.stuck);
        while let Some(name) = self.changed.pop_first() {
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            let waited = queue.ready().len();
            let ids = queue.dispatch(now);
            let has_moved = queue.ready().len() < waited;
            self.alarm = sooner(self.alarm, queue.expires());
            woken.extend(ids.into_iter().filter_map(|id| self.wakers.remove(&id)));
            let has_died = self.bury(&name, now);
            if has_moved || has_died {
                self.changed.append(&mut self.stuck);
            }
        }
        woken
    }

    /// Publishes the dead letters of a queue, and keeps those that have to stay. Whether any could go.
    fn bury(&mut self, name: &Name, now: Instant) -> bool {
        let Some(queue) = self.queues.get_mut(name) else { return false };
        let window = queue.dead_letter_window();
        let mut dead = queue.take_dead();
        let all = dead.len();
        let mut kept = VecDeque::new();
        while window.is_none_or(|window| kept.len() < window) {
            let Some(next) = dead.pop_front() else { break };
            if !self.dead_letter(name, &next, window.is_some(), now) {
                kept.push_back(next);
            }
        }
        kept.append(&mut dead);
        let has_died = kept.len() < all;
        if let Some(queue) = self.queues.get_mut(name)
            && !kept.is_empty()
        {
            queue.keep_dead(kept);
            self.stuck.insert(name.clone());
        }
        has_died
    }

    /// Publishes one dead letter; whether it may be forgotten.
    fn dead_letter(&mut self, queue: &Name, dead: &Dead, at_least_once: bool, now: Instant) -> bool {
        let Some(to) = self.queues.get(queue).and_then(|queue| queue.declared().dead_letter.as_ref()) else {
            return true;
        };
        let (origin, message) = dead_letter(dead, queue, to, self.clock.now().as_secs());
        let routed = self.exchanges.route(&origin.exchange, &origin.keys(&message));
        let mut targets = routed.unwrap_or_default();
        targets.retain(|target| dead.reason == Reason::Rejected || !is_cycle(&message.headers, target));
        let is_full = |target: &Name| self.queues.get(target).is_none_or(Queue::is_full);
        if at_least_once && (targets.is_empty() || targets.iter().any(is_full)) {
            return false;
        }
        self.store(targets, &origin, &message, now);
        true
    }
}

fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
