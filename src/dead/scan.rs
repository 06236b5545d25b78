//! [`Scan`]: takes letters to look at, and gives them back.

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
/// How much may be on its way to us at a time, in bytes: RabbitMQ counts messages only, so their number is limited by
/// what the largest may have.
const ON_ITS_WAY: usize = 64 * 1024 * 1024;
/// More messages on their way at a time are no faster.
const WIDEST_WINDOW: usize = 256;
/// After this long without a letter the broker is asked whether there are more.
const QUIET: Duration = Duration::from_millis(100);
/// How long it may say so without sending one.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what was given back may take to be there again.
const RETURN: Duration = Duration::from_secs(1);

/// The letters of one queue, the oldest first, each taken and unacknowledged.
///
/// What is not [removed](Self::remove) goes back when it is closed, or dropped. Of a letter only its number on the channel
/// is kept here.
pub(super) struct Scan {
    broker: Broker,
    queue: Name,
    /// There until it is closed.
    subscription: Option<Box<dyn Subscription>>,
    /// By their places.
    held: BTreeMap<u64, Delivery>,
    /// How many letters it looks at yet.
    left: u64,
    /// How many it has looked at.
    taken: u64,
    /// How many may come at a time, and how many of these have not.
    window: u16,
    room: u16,
    runtime: Handle,
}

/// What a scan finds next.
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
        let left = broker.depth(&queue).await?.min(most);
        if left == 0 {
            return Ok(None);
        }
        let window = window(broker.max_payload());
        let subscribe = Subscribe::new(queue.clone(), window, "dead letters");
        let subscription = Some(broker.transport().subscribe(subscribe).await?);
        let (broker, runtime) = (broker.clone(), Handle::current());
        Ok(Some(Self {
            broker,
            queue,
            subscription,
            held: BTreeMap::new(),
            left,
            taken: 0,
            window,
            room: window,
            runtime,
        }))
    }

    /// How many letters may come at a time.
    pub(super) fn window(&self) -> usize {
        usize::from(self.window)
    }

    /// The next letter. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Seen> {
        if self.left == 0 || self.held.len() >= LONGEST_LOOK {
            return Ok(Seen::End);
        }
        let asked = Instant::now();
        loop {
            match timeout(QUIET, self.receive()).await {
                Ok(Some(delivery)) => return Ok(self.take(delivery)),
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

    async fn receive(&mut self) -> Option<Delivery> {
        let subscription = self.subscription.as_mut()?;
        if self.room == 0 {
            subscription.set_prefetch(self.window);
            self.room = self.window;
        }
        subscription.next().await
    }

    fn take(&mut self, mut delivery: Delivery) -> Seen {
        if self.is_lost() {
            return Seen::Lost;
        }
        self.left -= 1;
        self.taken += 1;
        self.room = self.room.saturating_sub(1);
        let message = std::mem::take(&mut delivery.message);
        self.held.insert(self.taken, delivery);
        Seen::Letter(self.taken, message)
    }

    /// Whether the broker has taken back what was taken. It does so with all of it, because all came on one channel.
    fn is_lost(&self) -> bool {
        self.held.values().next().is_some_and(Delivery::is_lost)
    }

    /// Takes a letter out of the queue for good. `false` if the broker will not hear of it and gives the letter to somebody
    /// again.
    pub(super) fn remove(&mut self, place: u64) -> bool {
        let Some(delivery) = self.held.remove(&place) else { return false };
        let is_ours = !delivery.is_lost();
        delivery.ack();
        is_ours
    }

    /// Gives back what is held, and waits until it is there again, so that the next look finds it. Dropped meanwhile, it
    /// still gives it back.
    pub(super) async fn close(mut self) {
        let returned = self.held.len() as u64;
        let Some(returning) = self.give_back() else { return };
        let _ = self.runtime.spawn(returning).await;
        let (broker, queue) = (&self.broker, &self.queue);
        let is_back = async {
            while broker.depth(queue).await.is_ok_and(|depth| depth < returned) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Somebody else may have taken it by now.
        let _ = timeout(RETURN, is_back).await;
    }

    fn give_back(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut subscription = self.subscription.take()?;
        let held = std::mem::take(&mut self.held);
        Some(async move {
            subscription.cancel().await;
            // With what had arrived and was not looked at.
            let mut returned: Vec<Delivery> = held.into_values().collect();
            while let Some(unseen) = subscription.next().await {
                returned.push(unseen);
            }
            // One by one and in order: by closing the channel they would go back consumer by consumer, and each change of
            // the prefetch made a new one.
            returned.into_iter().for_each(Delivery::requeue);
            subscription.close().await;
        })
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if let Some(returning) = self.give_back() {
            self.runtime.spawn(returning);
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
