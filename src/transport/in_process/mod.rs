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
//! full; a dead letter that no target takes is tried again at each change instead of every three minutes.

mod conflict;
mod death;
mod exchange;
mod queue;
mod state;
mod subscription;

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::Weak;
use std::task::Waker;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Result;
use crate::message::Message;
use crate::name::Name;
use crate::topology::Topology;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Subscribe;
use crate::transport::Subscription;
use crate::transport::Transport;
use crate::transport::sealed::Sealed;

use self::state::State;
use self::subscription::InProcessSubscription;

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
        self.0.wind();
        self.0.lock().queue(queue).map(|queue| queue.ready().cloned().collect()).unwrap_or_default()
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.0.keep_time();
        self.0.change(|state, _| state.declare(topology))
    }

    /// Confirms at once; needs no timeout.
    async fn publish(&self, publish: Publish, _timeout: Duration) -> Result<(), PublishError> {
        tokio::task::consume_budget().await;
        self.0.change(|state, now| state.publish(publish, now))
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        let id = self.0.change(|state, _| state.subscribe(&subscribe))?;
        Ok(Box::new(InProcessSubscription::new(self.0.clone(), subscribe.queue, id)))
    }

    async fn depth(&self, queue: &Name) -> Result<Option<u64>> {
        self.0.wind();
        let state = self.0.lock();
        state.must_be_open()?;
        Ok(state.queue(queue).map(|queue| queue.ready().len() as u64))
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
    state: Mutex<State>,
    /// The alarm is set earlier than the timekeeper knows.
    rewound: Arc<Notify>,
    timekeeper: OnceLock<AbortOnDropHandle<()>>,
}

impl Shared {
    /// Changes the state, and carries out what follows from it.
    fn change<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.lock();
        let alarm = state.alarm();
        let done = act(&mut state, now);
        let woken = state.run(now);
        let is_rewound = state.alarm().is_some_and(|at| alarm.is_none_or(|before| at < before));
        drop(state);
        if is_rewound {
            self.rewound.notify_one();
        }
        woken.into_iter().for_each(Waker::wake);
        done
    }

    /// Expires what has to, and returns when something will again.
    fn wind(&self) -> Option<Instant> {
        self.change(|state, now| state.wind(now));
        self.lock().alarm()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
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
        let Some(alarm) = broker.upgrade().map(|broker| broker.wind()) else { return };
        match alarm {
            Some(at) => drop(timeout_at(at.min(Instant::now() + LONGEST_SLEEP), rewound.notified()).await),
            None => rewound.notified().await,
        }
    }
}
