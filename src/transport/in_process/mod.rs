//! A broker inside this process.
//!
//! It interprets the same topology as RabbitMQ, on tokio's clock: a test that pauses the clock moves every time to live
//! with it. It has no disk: what it holds ends with the process.
//!
//! ```text
//!   InProcess ─┐                      ┌─ Exchanges   where a message goes (pure)
//!              ├─► Shared ─► State ───┼─ Queue       what becomes of it there (pure)
//!   Subscription ┘   │        one lock └─ death       what a dead letter carries (pure)
//!                    └─ a task that sleeps until the next message expires
//! ```
//!
//! Where it is simpler than RabbitMQ: a message whose time to live is zero is never delivered; a full queue is exactly
//! full; a dead letter that no target takes is tried again at each change instead of every three minutes; a stream
//! loses what is too old or too much at once, and counts bodies only.

mod conflict;
mod death;
mod exchange;
mod queue;
mod state;
mod subscription;
mod tenure;

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::task::Waker;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Result;
use crate::lock::Lock;
use crate::message::Message;
use crate::name::Name;
use crate::topology::Topology;
use crate::transport::Health;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Subscribe;
use crate::transport::Subscription;
use crate::transport::Tenure;
use crate::transport::Transport;
use crate::transport::sealed::Sealed;

use self::queue::Queue;
use self::state::State;
use self::subscription::InProcessSubscription;
use self::tenure::InProcessTenure;

/// Tokio's timers end after two years. A longer time to live is slept in pieces.
const LONGEST_SLEEP: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A broker inside this process. Cheap to clone; all clones are the same broker, and closing one closes all.
#[derive(Clone, Default)]
pub struct InProcess(Arc<Shared>);

impl InProcess {
    /// A broker with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The messages that wait in `queue`, in order, without consuming them. What subscribers hold is not among them.
    pub fn messages(&self, queue: &Name) -> Vec<Message> {
        let all = |state: &mut State, _| Some(state.queue(queue)?.ready().cloned().collect());
        self.0.change(all).unwrap_or_default()
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.0.keep_time();
        self.0.change(|state, _| state.declare(topology))
    }

    /// Confirms at once; needs no timeout.
    async fn publish(&self, publish: &Publish, _timeout: Duration) -> Result<(), PublishError> {
        tokio::task::consume_budget().await;
        self.0.change(|state, now| state.publish(publish.clone(), now))
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        Ok(Box::new(InProcessSubscription::start(self.0.clone(), &subscribe)?))
    }

    async fn hold(&self, subscribe: Subscribe) -> Result<Box<dyn Tenure>> {
        let subscribe = Subscribe { start: None, ..subscribe };
        Ok(Box::new(InProcessTenure(InProcessSubscription::start(self.0.clone(), &subscribe)?)))
    }

    async fn depth(&self, queue: &Name) -> Result<Option<u64>> {
        self.0.change(|state, _| {
            state.must_be_open()?;
            Ok(state.queue(queue).map(Queue::depth))
        })
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        self.0.change(|state, _| {
            state.must_be_open()?;
            Ok(state.touch(queue).map_or(0, queue::Queue::purge))
        })
    }

    async fn delete(&self, queue: &Name) -> Result<()> {
        let woken = self.0.change(|state, _| state.delete(queue))?;
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn connection_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// It never changes.
    fn health(&self) -> watch::Receiver<Health> {
        watch::Sender::default().subscribe()
    }

    async fn close(&self) {
        let woken = self.0.change(|state, _| state.close());
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Sealed for InProcess {}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}

/// The state, and what is around it that is not pure.
#[derive(Default)]
struct Shared {
    state: Lock<State>,
    /// The alarm is set earlier than the timekeeper knows.
    rewound: Arc<Notify>,
    timekeeper: OnceLock<AbortOnDropHandle<()>>,
}

impl Shared {
    /// Changes the state, after what the time that has passed changes, and carries out what follows from it.
    fn change<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.state.lock();
        let alarm = state.alarm();
        let mut woken = state.catch_up(now);
        let done = act(&mut state, now);
        woken.extend(state.run(now));
        let is_rewound = state.alarm().is_some_and(|at| alarm.is_none_or(|before| at < before));
        drop(state);
        if is_rewound {
            self.rewound.notify_one();
        }
        woken.into_iter().for_each(Waker::wake);
        done
    }

    /// Starts the timekeeper. Called where queues are declared: without one nothing can expire.
    fn keep_time(self: &Arc<Self>) {
        self.timekeeper.get_or_init(|| {
            let (broker, rewound) = (Arc::downgrade(self), self.rewound.clone());
            AbortOnDropHandle::new(tokio::spawn(keep_time(broker, rewound)))
        });
    }
}

/// Expires messages when their time has come, until the broker is gone. Sleeps without a timer when there is nothing to
/// wait for, so that it does not move a paused clock.
async fn keep_time(broker: Weak<Shared>, rewound: Arc<Notify>) {
    loop {
        let Some(alarm) = broker.upgrade().map(|broker| broker.change(|state, _| state.alarm())) else {
            return;
        };
        match alarm {
            Some(at) => drop(timeout_at(at.min(Instant::now() + LONGEST_SLEEP), rewound.notified()).await),
            None => rewound.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::message::Value;
    use crate::topology::Binding;
    use crate::topology::DeadLetter;
    use crate::topology::Exchange;
    use crate::topology::ExchangeKind;
    use crate::topology::Queue;
    use crate::topology::QueueKind;
    use crate::topology::Target;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const QUORUM: QueueKind = QueueKind::Quorum { group_size: 1, delivery_limit: 5 };

    fn name(name: &str) -> Name {
        Name::new("name", name).unwrap()
    }

    /// One direct exchange `x`; each queue is bound with its own name, and dead-letters with the name given.
    async fn broker(queues: &[(&str, Option<&str>, QueueKind)], with: impl Fn(&mut Queue)) -> InProcess {
        let broker = InProcess::new();
        let mut topology = Topology::default();
        topology.exchanges.push(Exchange { name: name("x"), kind: ExchangeKind::Direct, alternate: None });
        for (queue, dead, kind) in queues {
            let mut queue = Queue::new(name(queue), *kind);
            queue.dead_letter = dead.map(|dead| DeadLetter { exchange: name("x"), key: Some(name(dead)) });
            with(&mut queue);
            let to = Target::Queue(queue.name.clone());
            topology.bindings.push(Binding { exchange: name("x"), key: queue.name.clone(), to });
            topology.queues.push(queue);
        }
        broker.declare(&topology).await.unwrap();
        broker
    }

    async fn publish(broker: &InProcess, queue: &str, body: &str, expiration: Option<Duration>) {
        let message = Message { body: body.into(), expiration, ..Message::default() };
        let publish = Publish { exchange: name("x"), key: name(queue), mandatory: true, message };
        broker.publish(&publish, Duration::ZERO).await.unwrap();
    }

    async fn reject(broker: &InProcess, queue: &str) {
        let subscribe = Subscribe::new(name(queue), 1, "");
        let mut subscription = broker.subscribe(subscribe).await.unwrap();
        subscription.next().await.unwrap().reject();
    }

    fn waiting(broker: &InProcess, queue: &str) -> String {
        let bodies = broker.messages(&name(queue)).into_iter().map(|m| String::from_utf8(m.body).unwrap());
        bodies.collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn years_pass_in_no_time() {
        let broker = broker(&[("from", Some("to"), QUORUM), ("to", None, QUORUM)], |_| ()).await;
        publish(&broker, "from", "a", Some(DAY * 3_650)).await;
        tokio::time::sleep(DAY * 3_650 - Duration::from_millis(1)).await;
        assert_eq!(waiting(&broker, "from"), "a");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(waiting(&broker, "to"), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_death_is_on_the_paused_clock() {
        let broker = broker(&[("from", Some("to"), QUORUM), ("to", None, QUORUM)], |_| ()).await;
        let mut times = Vec::new();
        for _ in 0..2 {
            publish(&broker, "from", "a", Some(DAY)).await;
            tokio::time::sleep(DAY).await;
            let last = broker.messages(&name("to")).pop().unwrap();
            let Some(Value::List(deaths)) = last.headers.get("x-death") else { panic!("{last:?}") };
            let Value::Table(death) = &deaths[0] else { panic!("{last:?}") };
            let Some(Value::Timestamp(time)) = death.get("time") else { panic!("{last:?}") };
            times.push(*time);
        }
        assert_eq!(times[1] - times[0], DAY.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_moves_a_paused_clock_when_nothing_expires() {
        let broker = broker(&[("queue", None, QUORUM)], |_| ()).await;
        publish(&broker, "queue", "a", None).await;
        let started = Instant::now();
        // The clock of a paused runtime goes on to the next timer as soon as all tasks wait: only ours is there.
        let real = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)));
        real.await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timekeeper_ends_with_the_last_handle() {
        let broker = broker(&[("queue", None, QUORUM)], |_| ()).await;
        publish(&broker, "queue", "a", Some(DAY)).await;
        let subscribe = Subscribe::new(name("queue"), 1, "");
        let mut subscription = broker.subscribe(subscribe).await.unwrap();
        let (shared, tasks) = (Arc::downgrade(&broker.0), tokio::runtime::Handle::current().metrics());
        assert_eq!(tasks.num_alive_tasks(), 1);
        drop(broker);
        let delivery = subscription.next().await;
        drop(subscription);
        assert!(shared.upgrade().is_some(), "a delivery is a handle too");
        drop(delivery);
        tokio::task::yield_now().await;
        assert!(shared.upgrade().is_none());
        assert_eq!(tasks.num_alive_tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_stays_in_a_quorum_queue_until_a_target_takes_it() {
        for (kind, stays) in [(QUORUM, true), (QueueKind::Classic, false)] {
            let queues = [("from", Some("to"), kind), ("to", None, QUORUM)];
            let broker = broker(&queues, |queue| queue.max_length = Some(1)).await;
            publish(&broker, "to", "full", None).await;
            publish(&broker, "from", "a", None).await;
            reject(&broker, "from").await;
            assert_eq!(waiting(&broker, "to"), "full");
            reject(&broker, "to").await;
            assert_eq!(waiting(&broker, "to"), if stays { "a" } else { "" });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_that_nobody_takes_waits_for_a_binding() {
        for (kind, stays) in [(QUORUM, true), (QueueKind::Classic, false)] {
            let broker = broker(&[("from", Some("later"), kind)], |_| ()).await;
            publish(&broker, "from", "a", Some(DAY)).await;
            tokio::time::sleep(DAY).await;
            let later = Queue::new(name("later"), QUORUM);
            let to = Target::Queue(later.name.clone());
            let bindings = vec![Binding { exchange: name("x"), key: name("later"), to }];
            broker.declare(&Topology { queues: vec![later], bindings, ..Topology::default() }).await.unwrap();
            assert_eq!(waiting(&broker, "later"), if stays { "a" } else { "" });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_that_nobody_takes_hold_up_the_rest() {
        let queues = [("from", Some("to"), QUORUM), ("to", None, QUORUM)];
        for (stuck, expected) in [(31, "a"), (32, "")] {
            let broker = broker(&queues, |_| ()).await;
            let nowhere = DeadLetter { exchange: name("x"), key: None };
            let bound = Queue { dead_letter: Some(nowhere), ..Queue::new(name("jammed"), QUORUM) };
            let to = |queue: &str| Target::Queue(name(queue));
            let bindings = vec![
                Binding { exchange: name("x"), key: name("jammed"), to: to("jammed") },
                Binding { exchange: name("x"), key: name("free"), to: to("jammed") },
            ];
            broker.declare(&Topology { queues: vec![bound], bindings, ..Topology::default() }).await.unwrap();
            // What came by the key `jammed` can only go round in a circle, and may not.
            for _ in 0..stuck {
                publish(&broker, "jammed", "stuck", Some(DAY)).await;
            }
            publish(&broker, "free", "a", Some(DAY)).await;
            let way_out = Binding { exchange: name("x"), key: name("free"), to: to("to") };
            broker.declare(&Topology { bindings: vec![way_out], ..Topology::default() }).await.unwrap();
            tokio::time::sleep(DAY).await;
            assert_eq!(waiting(&broker, "to"), expected, "{stuck} stuck");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_circle_of_dead_letters_ends() {
        for kind in [QUORUM, QueueKind::Classic] {
            let queues = [("a", Some("b"), kind), ("b", Some("a"), kind)];
            let broker = broker(&queues, |queue| queue.message_ttl = Some(Duration::ZERO)).await;
            publish(&broker, "a", "round", None).await;
            assert_eq!(waiting(&broker, "a") + &waiting(&broker, "b"), "");
        }
    }
}
