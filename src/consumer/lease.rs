//! [`LeaseQueue`]: where a consumer holds what it runs for longer than the broker lets it hold a delivery.
//!
//! RabbitMQ takes back what has been unacknowledged for too long (the consumer timeout), together with all else on that
//! channel. So a running task is published once more before that, to a queue that only this consumer reads, is received
//! from there, and then the older delivery is acknowledged: whatever dies between two of these steps, the task is on
//! the broker at least once. What is unacknowledged does not expire. Should this process die, it is unheld, long past
//! the queue's time to live, and so at once on its way home: to its lane, or to quarantine.
//!
//! A process that dies after the copy and before the acknowledgement leaves both: then the task runs twice more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::OnceCell;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::term::Term;
use crate::broker::Broker;
use crate::envelope;
use crate::error::Result;
use crate::lock::Lock;
use crate::message::Message;
use crate::name::Name;
use crate::topology;
use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Settlement;
use crate::transport::Subscribe;
use crate::transport::Subscription;

/// As many as AMQP can say; twice what may be held, because each is there twice while it is replaced.
const PREFETCH: u16 = u16::MAX;
/// How many may be held at a time.
const MOST: usize = 30_000;

/// The lease queue of one consumer, made when it is first needed.
pub(super) struct LeaseQueue {
    broker: Broker,
    holder: Name,
    term: Term,
    desk: Arc<Desk>,
    reception: OnceCell<Reception>,
    stop: CancellationToken,
}

type Reception = Lock<Option<AbortOnDropHandle<()>>>;

impl fmt::Debug for LeaseQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseQueue").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl LeaseQueue {
    pub(super) fn new(broker: &Broker, term: Term) -> Result<Self> {
        Ok(Self {
            broker: broker.clone(),
            holder: Name::new("lease queue", format!("{:032x}", fastrand::u128(..)))?,
            term,
            desk: Arc::default(),
            reception: OnceCell::new(),
            stop: CancellationToken::new(),
        })
    }

    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// What the routing keys of leases begin with.
    pub(super) fn holder(&self) -> &Name {
        &self.holder
    }

    /// Publishes a copy of a task, and holds it.
    ///
    /// # Errors
    ///
    /// Why that did not succeed in time. The copy is then not held, and nobody starts it, unless it stays unreceived
    /// until it goes home.
    pub(super) async fn lease(&self, mut copy: Publish) -> std::result::Result<Delivery, String> {
        self.reception.get_or_try_init(|| self.open()).await.map_err(|error| error.to_string())?;
        let mut expected = Desk::expect(&self.desk).ok_or_else(|| format!("{MOST} leases are held"))?;
        envelope::set_lease(&mut copy.message, expected.number);
        let patience = self.term.patience();
        match self.broker.transport().publish(&copy, patience).await {
            // Perhaps it is there.
            Ok(()) | Err(PublishError::Unconfirmed { .. }) => {}
            Err(error) => {
                expected.was_sent = false;
                if error.is_missing() {
                    // Somebody deleted it; if this fails too, the next try tells.
                    let _ = self.broker.declare_lease(&self.holder).await;
                }
                return Err(error.to_string());
            }
        }
        let arrived = tokio::time::timeout(patience.min(topology::UNHELD_LEASE), &mut expected.arrival).await;
        match arrived {
            Ok(Ok(delivery)) => Ok(Desk::hold(&self.desk, delivery)),
            _ => Err("it was published, and was not received in time".to_owned()),
        }
    }

    async fn open(&self) -> Result<Reception> {
        let queue = self.broker.declare_lease(&self.holder).await?;
        let mut subscribe = Subscribe::new(queue, PREFETCH, "leases");
        subscribe.consumer_timeout = Some(self.term.timeout());
        let subscription = self.broker.transport().subscribe(subscribe).await?;
        let reception = receive(subscription, self.desk.clone(), self.stop.clone());
        Ok(Lock::new(Some(AbortOnDropHandle::new(tokio::spawn(reception)))))
    }

    /// Gives up what is still held, which goes home, and removes the queue if nothing can be in it any more. Otherwise
    /// the broker does, after a day.
    pub(super) async fn close(&self) {
        let Some(reception) = self.reception.get().and_then(|reception| reception.lock().take()) else {
            return;
        };
        let is_empty = tokio::time::timeout(topology::UNHELD_LEASE, self.desk.has_no_strays()).await.is_ok();
        self.stop.cancel();
        let _ = reception.await;
        if is_empty && self.desk.is_clean() {
            let queue = self.broker.names().lease_queue(&self.holder);
            if let Err(error) = self.broker.transport().delete(&queue).await {
                tracing::debug!(broker.queue = %queue, %error, "the broker will remove it");
            }
        }
    }
}

/// Hands out what arrives, until it is told to stop.
async fn receive(mut subscription: Box<dyn Subscription>, desk: Arc<Desk>, stop: CancellationToken) {
    while let Some(delivery) = stop.run_until_cancelled(subscription.next()).await.flatten() {
        desk.hand_over(delivery);
    }
    subscription.cancel().await;
    while let Some(delivery) = subscription.next().await {
        desk.hand_over(delivery);
    }
    subscription.close().await;
}

/// Where leases are handed to those who wait for them.
#[derive(Default)]
struct Desk {
    state: Lock<State>,
    cleared: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    awaited: BTreeMap<u64, oneshot::Sender<Delivery>>,
    /// How many were published, perhaps, and nobody waits for them any more.
    strays: usize,
    held: usize,
    /// Something may be in the queue of which nothing is known.
    is_unclear: bool,
}

impl Desk {
    /// A place to wait for the next lease; `None` if there are too many.
    fn expect(desk: &Arc<Self>) -> Option<Expected> {
        let mut state = desk.state.lock();
        if state.held + state.awaited.len() >= MOST {
            return None;
        }
        let (sender, arrival) = oneshot::channel();
        state.next += 1;
        let number = state.next;
        state.awaited.insert(number, sender);
        drop(state);
        Some(Expected { desk: desk.clone(), number, arrival, was_sent: true })
    }

    fn hand_over(&self, delivery: Delivery) {
        let number = envelope::lease(&delivery.message);
        let mut state = self.state.lock();
        if let Some(sender) = number.and_then(|number| state.awaited.remove(&number)) {
            // Whoever waits is there: it takes its place here away first.
            let _ = sender.send(delivery);
        } else if delivery.redelivered {
            // It was held, and given up when a connection was lost. Whoever runs it does not know of it.
            state.is_unclear = true;
            delivery.reject();
        } else {
            // What it is a copy of is still held, or was ended, or has gone back by itself.
            state.strays = state.strays.saturating_sub(1);
            delivery.ack();
            self.cleared.notify_one();
        }
    }

    /// Holds a lease. Given back it goes home, and not into the queue of this consumer again; that does not count as
    /// coming back without an end.
    fn hold(desk: &Arc<Self>, mut delivery: Delivery) -> Delivery {
        desk.state.lock().held += 1;
        // The attempt has its own.
        delivery.message = Message::default();
        let desk = desk.clone();
        delivery.intercepted(move |delivery, settlement| {
            let mut state = desk.state.lock();
            state.held -= 1;
            state.is_unclear |= settlement != Settlement::Ack || delivery.is_lost();
            match settlement {
                Settlement::Ack => delivery.ack(),
                Settlement::Requeue | Settlement::Reject => delivery.reject(),
            }
        })
    }

    async fn has_no_strays(&self) {
        while self.state.lock().strays > 0 {
            self.cleared.notified().await;
        }
    }

    /// Whether nothing is in the queue.
    fn is_clean(&self) -> bool {
        let state = self.state.lock();
        state.held == 0 && state.strays == 0 && state.awaited.is_empty() && !state.is_unclear
    }
}

/// A lease that is on its way.
struct Expected {
    desk: Arc<Desk>,
    number: u64,
    arrival: oneshot::Receiver<Delivery>,
    was_sent: bool,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.desk.state.lock();
        if state.awaited.remove(&self.number).is_some() {
            state.strays += usize::from(self.was_sent);
        } else if let Ok(delivery) = self.arrival.try_recv() {
            // It came, and nobody wants it any more.
            delivery.ack();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::Part;
    use crate::envelope::Envelope;
    use crate::lane::Lane;
    use crate::producer::Producer;
    use crate::route::Home;
    use crate::task::Task;
    use crate::topology::QueueName;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Long;

    impl Task for Long {
        const NAME: &'static str = "long";
        type Output = ();
    }

    struct Setting {
        broker: Broker,
        queue: QueueName,
        leases: LeaseQueue,
        lane: Box<dyn Subscription>,
    }

    impl Setting {
        async fn new() -> Self {
            let broker = Broker::in_process();
            let leases = LeaseQueue::new(&broker, Term::default()).unwrap();
            let queue = QueueName::new("default").unwrap();
            broker.declare(Part::Queue(queue.clone())).await.unwrap();
            let lane = Subscribe::new(broker.names().lane(&queue, Lane::Normal), 1, "");
            let lane = broker.transport().subscribe(lane).await.unwrap();
            Self { broker, queue, leases, lane }
        }

        /// A lease of a task that is not in its lane any more.
        async fn lease(&mut self) -> Delivery {
            let producer = Producer::builder(&self.broker).build().await.unwrap();
            producer.enqueue(Long).await.unwrap();
            let mut delivery = self.lane.next().await.unwrap();
            let envelope = Envelope::open(std::mem::take(&mut delivery.message)).unwrap();
            let (route, now) = (self.broker.route(self.queue.clone()), self.broker.clock().now());
            let copy = route.lease(envelope, now, self.leases.holder(), Home::Lane);
            let lease = self.leases.lease(copy).await.unwrap();
            delivery.ack();
            lease
        }

        async fn exists(&self) -> bool {
            let queue = self.broker.names().lease_queue(self.leases.holder());
            self.broker.transport().depth(&queue).await.unwrap().is_some()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_dead_process_held_goes_home_in_seconds_and_counts() {
        for (age, limit) in [(0, 5), (60, 0)] {
            let mut setting = Setting::new().await;
            std::mem::forget(setting.lease().await);
            tokio::time::sleep(Duration::from_secs(age)).await;
            let died = tokio::time::Instant::now();
            drop(setting.leases.reception.get().unwrap().lock().take());
            let again = setting.lane.next().await.unwrap();
            assert!(died.elapsed() <= Duration::from_secs(limit), "{:?}", died.elapsed());
            assert_eq!(envelope::returned(&again.message), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_goes_home_at_once_and_does_not_count() {
        let mut setting = Setting::new().await;
        let (lease, now) = (setting.lease().await, tokio::time::Instant::now());
        drop(lease);
        let again = setting.lane.next().await.unwrap();
        assert_eq!((envelope::returned(&again.message), now.elapsed()), (0, Duration::ZERO));
        assert!(envelope::lease(&again.message).is_some(), "it can be told that it was started");
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_removed_when_nothing_can_be_in_it() {
        let mut setting = Setting::new().await;
        assert!(!setting.exists().await, "nothing is held");
        setting.lease().await.ack();
        assert!(setting.exists().await);
        setting.leases.close().await;
        assert!(!setting.exists().await);

        let mut setting = Setting::new().await;
        let lease = setting.lease().await;
        drop(lease);
        setting.leases.close().await;
        assert!(setting.exists().await, "it may be on its way home");
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_nobody_waits_for_is_not_kept() {
        let mut setting = Setting::new().await;
        setting.lease().await.ack();
        let expected = Desk::expect(&setting.leases.desk).unwrap();
        let mut message = Message::default();
        envelope::set_lease(&mut message, expected.number);
        let exchange = setting.broker.names().leases();
        let key = Name::new("key", format!("{}.x", setting.leases.holder())).unwrap();
        drop(expected);
        assert_eq!(setting.leases.desk.state.lock().strays, 1);
        let stray = Publish { exchange, key, mandatory: true, message };
        setting.broker.transport().publish(&stray, Duration::ZERO).await.unwrap();
        setting.leases.close().await;
        assert!(!setting.exists().await);
        assert_eq!(setting.leases.desk.state.lock().strays, 0);
    }
}
