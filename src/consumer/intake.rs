//! [`Intake`]: the deliveries of one queue, from its three lanes, in the order in which they are to be started.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tokio::time::interval_at;

use super::held::Held;
use super::held::Room;
use super::held::Turn;
use super::put_back::PutBack;
use super::ready::Ready;
use super::skew::Difference;
use super::skew::Skew;
use super::tally::Tally;
use super::term::Term;
use crate::clock::Clock;
use crate::envelope;
use crate::lane::Picker;
use crate::transport::Delivery;
use crate::transport::Subscription;

/// What has been delivered and not started, bounded by the subscriptions' prefetch.
pub(super) struct Intake {
    lanes: [LaneIntake; 3],
    picker: Picker,
    /// Not due yet.
    held: Held,
    put_back: PutBack,
    skew: Skew,
    clock: Clock,
    term: Term,
    tally: Arc<Tally>,
    /// When those that wait are looked at next.
    look: Interval,
    looked: Instant,
    /// There was nothing to look at.
    was_idle: bool,
    /// Counts deliveries, round and round.
    taken: u8,
}

struct LaneIntake {
    subscription: Box<dyn Subscription>,
    room: Room,
    ready: Ready,
    ended: bool,
}

impl Intake {
    /// `subscriptions` in the order of the lanes. `tally` is told what waits, if nothing starts at least every `beat`.
    pub(super) fn new(
        subscriptions: [Box<dyn Subscription>; 3],
        tally: Arc<Tally>,
        beat: Option<Duration>,
        picker: Picker,
        put_back: PutBack,
        clock: Clock,
        term: Term,
    ) -> Self {
        let looked = Instant::now();
        let every = beat.map_or(term.tick(), |beat| beat.min(term.tick()));
        let mut look = interval_at(looked + every, every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            lanes: subscriptions.map(|subscription| LaneIntake {
                subscription,
                room: Room::new(tally.prefetch()),
                ready: Ready::default(),
                ended: false,
            }),
            picker,
            held: Held::new(clock),
            put_back,
            skew: Skew::default(),
            clock,
            term,
            tally,
            look,
            looked,
            was_idle: false,
            taken: 0,
        }
    }

    /// The next delivery to start and its lane; `None` when all lanes have ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(usize, Delivery)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Delivery)>> {
        self.taken = self.taken.wrapping_add(1);
        if std::mem::take(&mut self.was_idle) {
            // What has come since then has just come.
            self.looked = Instant::now();
        } else if self.taken == 0 {
            // Who always has something at hand does not come to it otherwise.
            self.poll_look(cx);
        }
        self.receive(cx);
        while let Some((lane, delivery)) = self.held.poll_due(cx) {
            self.lanes[lane].ready.push(delivery, self.clock);
        }
        let waiting = [0, 1, 2].map(|lane: usize| self.lanes[lane].ready.is_waiting());
        if let Some(lane) = self.picker.pick(waiting) {
            let next = self.lanes[lane].ready.pop().map(|delivery| (lane, delivery));
            self.tally.waits(self.count(), false);
            return Poll::Ready(next);
        }
        if self.held.is_empty() && self.lanes.iter().all(|lane| lane.ended) {
            return Poll::Ready(None);
        }
        self.was_idle = true;
        self.tally.waits(self.count(), true);
        Poll::Pending
    }

    /// How many are here.
    fn count(&self) -> usize {
        self.held.len() + self.lanes.iter().map(|lane| lane.ready.len()).sum::<usize>()
    }

    /// Waits for `other`, and looks after what waits here meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|cx| {
            let polled = other.as_mut().poll(cx);
            while polled.is_pending() && self.poll_look(cx) {}
            polled
        })
        .await
    }

    /// When it is time, takes those that have waited for so long that the broker would soon take them back, and puts a
    /// fresh copy of each into its lane. Whether it was.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> bool {
        if self.look.poll_tick(cx).is_pending() {
            return false;
        }
        // What has come since the last look is at hand, and counts from there.
        self.receive(cx);
        let now = Instant::now();
        let then = self.term.oldest(now);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            for delivery in lane.ready.take_older(then).into_iter().filter(|delivery| !delivery.is_lost()) {
                self.put_back.start(index, delivery, None);
            }
        }
        self.looked = now;
        self.tally.waits(self.count(), false);
        true
    }

    /// Takes in what has arrived.
    fn receive(&mut self, cx: &mut Context<'_>) {
        let room = self.tally.room();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            while !lane.ended {
                match lane.subscription.poll_next(cx) {
                    Poll::Pending => {
                        let held = self.held.count(index) + self.put_back.count(index);
                        match lane.room.adjust(held, room) {
                            Some(prefetch) => lane.subscription.set_prefetch(prefetch),
                            None => break,
                        }
                    }
                    Poll::Ready(None) => lane.ended = true,
                    Poll::Ready(Some(mut delivery)) => {
                        delivery.arrived = Some(self.looked);
                        if let Some(left) = envelope::expired_at(&delivery.message) {
                            let is_alone = self.held.is_empty() && !lane.ready.is_waiting();
                            warn(self.skew.observe(left, self.clock.now(), is_alone));
                        }
                        match Turn::of(&delivery, || self.clock.now()) {
                            Turn::Now => lane.ready.push(delivery, self.clock),
                            Turn::At(start) => self.held.hold(start, index, delivery),
                            Turn::TooEarly => self.put_back.start(index, delivery, None),
                        }
                    }
                }
            }
        }
    }

    /// Takes one back that must not start before `until`, since the Unix epoch: nothing is to wait behind it.
    pub(super) fn defer(&mut self, lane: usize, delivery: Delivery, until: Duration) {
        match self.held.has_room(lane, until) {
            true => self.held.hold(until, lane, delivery),
            false => self.put_back.start(lane, delivery, Some(until)),
        }
    }

    /// Stops new deliveries and returns those that were not started.
    pub(super) async fn cancel(&mut self) -> Vec<Delivery> {
        let mut unstarted = Vec::new();
        for lane in &mut self.lanes {
            lane.subscription.cancel().await;
            unstarted.extend(lane.ready.drain());
            while let Some(delivery) = lane.subscription.next().await {
                unstarted.push(delivery);
            }
        }
        unstarted.extend(self.held.take());
        self.tally.waits(0, false);
        unstarted
    }

    /// Carries out what was settled and gives back what was not.
    pub(super) async fn close(mut self) {
        self.put_back.finish().await;
        for lane in &mut self.lanes {
            lane.subscription.close().await;
        }
    }
}

fn warn(difference: Option<Difference>) {
    let (how, by) = match difference {
        None => return,
        Some(Difference::Ahead(by)) => ("ahead of", by),
        Some(Difference::Behind(by)) => ("behind", by),
    };
    tracing::warn!(clock.difference = ?by, "this machine's clock is {how} the broker's; let both follow a time server");
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;

    use async_trait::async_trait;
    use futures_util::FutureExt;

    use super::*;
    use crate::broker::Broker;
    use crate::consumer::feedback::Feedback;
    use crate::consumer::sequel::Sequel;
    use crate::lock::Lock;
    use crate::message::Message;
    use crate::topology::QueueName;
    use crate::transport::Settle;
    use crate::transport::Settlement;

    /// A channel that may be lost.
    #[derive(Debug, Default)]
    struct Channel(AtomicBool);

    impl Settle for Channel {
        fn settle(&self, _: u64, _: Settlement) {}

        fn is_lost(&self) -> bool {
            self.0.load(Relaxed)
        }
    }

    /// Hands out what it is given.
    #[derive(Debug, Default)]
    struct Given {
        deliveries: VecDeque<Delivery>,
        prefetches: Arc<Lock<Vec<u16>>>,
        ends: bool,
    }

    #[async_trait]
    impl Subscription for Given {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Delivery>> {
            match self.deliveries.pop_front() {
                None if !self.ends => Poll::Pending,
                next => Poll::Ready(next),
            }
        }

        fn set_prefetch(&mut self, prefetch: u16) {
            self.prefetches.lock().push(prefetch);
        }

        async fn cancel(&mut self) {}

        async fn close(&mut self) {}
    }

    fn intake(lanes: [Given; 3], tally: &Arc<Tally>) -> Intake {
        let mail = QueueName::new("mail").unwrap();
        let broker = Broker::in_process();
        let feedback = Feedback::new(&broker, None, "test".into(), &mail, tally.clone());
        let put_back = PutBack::new(Arc::new(Sequel::new(&broker, mail, feedback, None)));
        let lanes = lanes.map(|lane| Box::new(lane) as Box<dyn Subscription>);
        let (picker, clock, term) = (Picker::default(), Clock::tokio(), Term::default());
        Intake::new(lanes, tally.clone(), None, picker, put_back, clock, term)
    }

    #[tokio::test]
    async fn what_the_broker_has_taken_back_is_not_started() {
        let (old, new) = (Arc::new(Channel::default()), Arc::new(Channel::default()));
        let message = |id: &str| Message { id: Some(id.to_owned()), ..Message::default() };
        let from = |channel: &Arc<Channel>, id| Delivery::new(message(id), 1, channel.clone());
        let deliveries = [from(&old, "a"), from(&old, "b"), from(&old, "c"), from(&new, "b again")].into();
        let given = |deliveries| Given { deliveries, ends: true, ..Given::default() };
        let lanes = [given(VecDeque::new()), given(deliveries), given(VecDeque::new())];
        let mut intake = intake(lanes, &Arc::new(Tally::new(1, 10)));
        assert_eq!(intake.next().await.unwrap().1.message, message("a"));
        old.0.store(true, Relaxed);
        assert_eq!(intake.next().await.unwrap().1.message, message("b again"));
        assert!(intake.next().await.is_none());
    }

    #[tokio::test]
    async fn while_tasks_are_short_there_is_room_for_those_that_wait_for_their_acknowledgement() {
        let (prefetches, tally) = (Arc::<Lock<Vec<u16>>>::default(), Arc::new(Tally::new(4, 10)));
        let lanes = [0, 1, 2].map(|_| Given { prefetches: prefetches.clone(), ..Given::default() });
        let mut intake = intake(lanes, &tally);
        for (ms, expected) in [(1, [16; 3]), (100, [10; 3])] {
            assert!(intake.next().now_or_never().is_none());
            assert!(prefetches.lock().is_empty(), "as asked for, or as it was");
            (0..1_000).for_each(|_| tally.succeeds(Duration::from_millis(ms)));
            assert!(intake.next().now_or_never().is_none());
            assert_eq!(std::mem::take(&mut *prefetches.lock()), expected);
        }
    }
}
