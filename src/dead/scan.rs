//! [`Scan`]: takes letters to look at, and gives them back in their order.
//!
//! RabbitMQ's quorum queues make that an effort (measured on 3.10 and 4.3). What comes back goes before what was never
//! taken, but behind what came back earlier: so whoever takes some of these takes them all. It keeps its order only if
//! no more than 32 are on their way back: then the channel begins to sort them by consumer, in no order.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::error::Error;
use crate::error::Result;
use crate::message::Message;
use crate::name::Name;
use crate::transport::Delivery;
use crate::transport::Subscribe;
use crate::transport::Subscription;

/// How many letters are held at a time, at most.
pub(super) const LONGEST_LOOK: usize = 10_000;
/// … and when those that came back earlier are taken as well. Where there are more of these, they change their order.
const LONGEST_RETURN: usize = 2 * LONGEST_LOOK;
/// How much may be on its way to us at a time, in bytes: RabbitMQ counts messages only, so their number is limited by
/// what the largest may have.
const ON_ITS_WAY: usize = 64 * 1024 * 1024;
/// More messages on their way at a time are no faster.
const WIDEST_WINDOW: usize = 256;
/// After this long without a letter the broker is asked whether there are more.
const QUIET: Duration = Duration::from_millis(100);
/// How long it may say so without sending one.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many are given back at a time: the broker may not have noticed yet that those before are there.
const GROUP: usize = 16;
/// How long a group may take to be there again.
const GLANCE: Duration = Duration::from_millis(100);
/// How long all that was given back may take to be there again.
const RETURN: Duration = Duration::from_secs(1);

/// The letters of one queue, the oldest first, each taken and unacknowledged.
///
/// What is not [removed](Self::remove) goes back when it is closed, or dropped. Of a letter only its number on the
/// channel is kept here.
pub(super) struct Scan {
    broker: Broker,
    queue: Name,
    /// There until it is closed.
    hold: Option<Hold>,
    /// How many letters there were, without those it has removed.
    there: u64,
    /// How many letters it looks at yet.
    left: u64,
    runtime: Handle,
}

/// What a scan has taken.
struct Hold {
    subscription: Box<dyn Subscription>,
    /// By their places.
    letters: BTreeMap<u64, Delivery>,
    /// How many were taken.
    taken: u64,
    /// Whether the last one had been taken by somebody before.
    is_again: bool,
    /// How many may come at a time, and how many of these have not.
    window: u16,
    room: u16,
}

/// What a scan finds next.
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
pub(super) enum Seen {
    /// A letter, and its place in this scan.
    Letter(u64, Message),
    /// There are no more.
    End,
    /// What was taken has gone back by itself, and would come again: the connection was lost.
    Lost,
}

impl Scan {
    /// For at most `most` of the letters that are there now; `None` if there are none.
    pub(super) async fn open(broker: &Broker, queue: Name, most: u64) -> Result<Option<Self>> {
        let there = broker.depth(&queue).await?;
        let left = there.min(most);
        if left == 0 {
            return Ok(None);
        }
        let window = window(broker.max_payload());
        let room = window.min(u16::try_from(left).unwrap_or(u16::MAX));
        let subscribe = Subscribe::new(queue.clone(), room, "dead letters");
        let subscription = broker.transport().subscribe(subscribe).await?;
        let letters = BTreeMap::new();
        let hold = Some(Hold { subscription, letters, taken: 0, is_again: false, window, room });
        let (broker, runtime) = (broker.clone(), Handle::current());
        Ok(Some(Self { broker, queue, hold, there, left, runtime }))
    }

    /// The next letter. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Seen> {
        let Some(hold) = self.hold.as_mut().filter(|_| self.left > 0) else { return Ok(Seen::End) };
        if hold.letters.len() >= LONGEST_LOOK {
            return Ok(Seen::End);
        }
        let asked = Instant::now();
        loop {
            match timeout(QUIET, hold.receive()).await {
                Ok(Some(_)) if hold.is_lost() => return Ok(Seen::Lost),
                Ok(Some(delivery)) => {
                    self.left -= 1;
                    let (place, message) = hold.take(delivery);
                    return Ok(Seen::Letter(place, message));
                }
                Ok(None) => return Err(Error::Closed),
                // Somebody else has taken the rest, or it has expired.
                Err(_) if self.broker.depth(&self.queue).await? == 0 => return Ok(Seen::End),
                Err(_) if asked.elapsed() >= PATIENCE => {
                    let action = format!("read queue '{}'", self.queue);
                    return Err(Error::Timeout { action, waited: PATIENCE });
                }
                Err(_) => {}
            }
        }
    }

    /// Takes a letter out of the queue for good. `false` if the broker will not hear of it and gives the letter to
    /// somebody again.
    pub(super) fn remove(&mut self, place: u64) -> bool {
        let Some(delivery) = self.hold.as_mut().and_then(|hold| hold.letters.remove(&place)) else {
            return false;
        };
        let is_ours = !delivery.is_lost();
        self.there = self.there.saturating_sub(u64::from(is_ours));
        delivery.ack();
        is_ours
    }

    /// Gives back what was taken, and waits until it is there again, so that the next look finds it. Dropped meanwhile,
    /// it still gives it back.
    pub(super) async fn close(mut self) {
        let Some(hold) = self.hold.take() else { return };
        let _ = self.runtime.spawn(hold.give_back(self.broker.clone(), self.queue.clone())).await;
        // Somebody else may have taken it by now.
        let _ = timeout(RETURN, until_there(&self.broker, &self.queue, self.there)).await;
    }
}

impl Hold {
    async fn receive(&mut self) -> Option<Delivery> {
        if self.room == 0 {
            self.subscription.set_prefetch(self.window);
            self.room = self.window;
        }
        self.subscription.next().await
    }

    fn take(&mut self, mut delivery: Delivery) -> (u64, Message) {
        self.taken += 1;
        self.room = self.room.saturating_sub(1);
        self.is_again = delivery.redelivered;
        let message = std::mem::take(&mut delivery.message);
        self.letters.insert(self.taken, delivery);
        (self.taken, message)
    }

    /// Whether the broker has taken back what was taken. It does so with all of it, because all came on one channel.
    fn is_lost(&self) -> bool {
        self.letters.values().next().is_some_and(Delivery::is_lost)
    }

    async fn give_back(mut self, broker: Broker, queue: Name) {
        self.complete().await;
        self.subscription.cancel().await;
        // With what had arrived and was not looked at.
        while let Some(delivery) = self.subscription.next().await {
            self.take(delivery);
        }
        if !self.is_lost() {
            return_in_order(&broker, &queue, self.letters.into_values().collect()).await;
        }
        self.subscription.close().await;
    }

    /// Takes the rest of those that came back earlier.
    async fn complete(&mut self) {
        let widest = self.window;
        // Few at first, so that not many are touched that were not.
        self.window = 1;
        while self.is_again && self.letters.len() < LONGEST_RETURN && !self.is_lost() {
            if self.room == 0 {
                self.window = self.window.saturating_mul(2).min(widest);
            }
            let Ok(Some(delivery)) = timeout(QUIET, self.receive()).await else { return };
            drop(self.take(delivery));
        }
    }
}

/// Requeues a few at a time, each after those before it are there. One alone at first: what was acknowledged just
/// before may be on its way as well.
async fn return_in_order(broker: &Broker, queue: &Name, letters: Vec<Delivery>) {
    let (mut group, mut limit) = (1, RETURN);
    let mut letters = letters.into_iter();
    let mut there = broker.depth(queue).await.unwrap_or(0);
    while letters.len() > group {
        letters.by_ref().take(group).for_each(Delivery::requeue);
        there += group as u64;
        // The order is lost where somebody else takes them at the same time.
        if timeout(limit, until_there(broker, queue, there)).await.is_err() {
            there = broker.depth(queue).await.unwrap_or(0);
        }
        (group, limit) = (GROUP, GLANCE);
    }
    letters.for_each(Delivery::requeue);
}

/// Waits until so many letters are there to be taken.
async fn until_there(broker: &Broker, queue: &Name, letters: u64) {
    while broker.depth(queue).await.is_ok_and(|depth| depth < letters) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.runtime.spawn(hold.give_back(self.broker.clone(), self.queue.clone()));
        }
    }
}

/// How many messages may be on their way at a time, if none is larger than `largest` bytes.
fn window(largest: usize) -> u16 {
    let messages = (ON_ITS_WAY / largest.max(1)).clamp(1, WIDEST_WINDOW);
    u16::try_from(messages).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_limited_by_bytes() {
        for (largest, expected) in
            [(0, 256), (1000, 256), (1024 * 1024, 64), (15 * 1024 * 1024, 4), (usize::MAX, 1)]
        {
            assert_eq!(window(largest), expected, "{largest}");
        }
    }
}
