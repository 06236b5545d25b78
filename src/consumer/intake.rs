//! [`Intake`]: the deliveries of one queue, from its three lanes, in the order in which they are to be started.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Sleep;

use super::ready::Ready;
use crate::clock::Clock;
use crate::envelope;
use crate::lane::Picker;
use crate::transport::Delivery;
use crate::transport::Subscription;

/// What has been delivered and not started, bounded by the subscriptions' prefetch.
pub(super) struct Intake {
    lanes: [LaneIntake; 3],
    picker: Picker,
    /// Not due yet. They take no slot, and nothing waits behind them.
    held: BinaryHeap<Reverse<Held>>,
    timer: Option<Pin<Box<Sleep>>>,
    clock: Clock,
}

struct LaneIntake {
    subscription: Box<dyn Subscription>,
    ready: Ready,
    ended: bool,
}

/// A delivery and when it is due, since the Unix epoch.
struct Held {
    due: Duration,
    lane: usize,
    delivery: Delivery,
}

impl Intake {
    /// `subscriptions` in the order of the lanes.
    pub(super) fn new(subscriptions: [Box<dyn Subscription>; 3], picker: Picker, clock: Clock) -> Self {
        Self {
            lanes: subscriptions.map(|subscription| LaneIntake {
                subscription,
                ready: Ready::default(),
                ended: false,
            }),
            picker,
            held: BinaryHeap::new(),
            timer: None,
            clock,
        }
    }

    /// The next delivery to start; `None` when all lanes have ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.receive(cx);
        self.release(cx);
        let waiting = [0, 1, 2].map(|lane: usize| self.lanes[lane].ready.is_waiting());
        if let Some(lane) = self.picker.pick(waiting) {
            return Poll::Ready(self.lanes[lane].ready.pop());
        }
        if self.held.is_empty() && self.lanes.iter().all(|lane| lane.ended) {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Takes in what has arrived.
    fn receive(&mut self, cx: &mut Context<'_>) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            while !lane.ended {
                match lane.subscription.poll_next(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => lane.ended = true,
                    Poll::Ready(Some(delivery)) => match envelope::due(&delivery.message) {
                        Some(due) => self.held.push(Reverse(Held { due, lane: index, delivery })),
                        None => lane.ready.push(delivery, self.clock),
                    },
                }
            }
        }
    }

    /// Lets go of what is due, and sets the timer for what is not.
    fn release(&mut self, cx: &mut Context<'_>) {
        while let Some(Reverse(next)) = self.held.peek() {
            let wait = next.due.saturating_sub(self.clock.now());
            if wait.is_zero() {
                if let Some(Reverse(held)) = self.held.pop() {
                    self.lanes[held.lane].ready.push(held.delivery, self.clock);
                }
                continue;
            }
            // Set anew each time: the time of day may have been changed under a timer that was set before.
            let mut timer = Box::pin(tokio::time::sleep(wait));
            if timer.as_mut().poll(cx).is_pending() {
                self.timer = Some(timer);
                return;
            }
        }
        self.timer = None;
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
        unstarted.extend(self.held.drain().map(|Reverse(held)| held.delivery));
        unstarted
    }

    /// Carries out what was settled and gives back what was not.
    pub(super) async fn close(mut self) {
        for lane in &mut self.lanes {
            lane.subscription.close().await;
        }
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Held {}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;

    use async_trait::async_trait;

    use super::*;
    use crate::message::Message;
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
    struct Given(VecDeque<Delivery>);

    #[async_trait]
    impl Subscription for Given {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Delivery>> {
            Poll::Ready(self.0.pop_front())
        }

        async fn cancel(&mut self) {}

        async fn close(&mut self) {}
    }

    #[tokio::test]
    async fn what_the_broker_has_taken_back_is_not_started() {
        let (old, new) = (Arc::new(Channel::default()), Arc::new(Channel::default()));
        let message = |id: &str| Message { id: Some(id.to_owned()), ..Message::default() };
        let from = |channel: &Arc<Channel>, id| Delivery::new(message(id), 1, channel.clone());
        let normal = Given([from(&old, "a"), from(&old, "b"), from(&old, "c"), from(&new, "b again")].into());
        let lanes: [Box<dyn Subscription>; 3] =
            [Box::<Given>::default(), Box::new(normal), Box::<Given>::default()];
        let mut intake = Intake::new(lanes, Picker::default(), Clock::tokio());
        assert_eq!(intake.next().await.unwrap().message, message("a"));
        old.0.store(true, Relaxed);
        assert_eq!(intake.next().await.unwrap().message, message("b again"));
        assert!(intake.next().await.is_none());
    }
}
