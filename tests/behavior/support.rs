//! Fixtures: a task, a handler that obeys a script, and ways to wait.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Priority;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskHandler;
use taskhare::TaskId;
use taskhare::Tick;
use taskhare::async_trait;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Subscribe;
use taskhare::transport::Value;
use tokio::time::Instant;

/// A task that does what it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Act {
    Succeed,
    Fail,
    FailOnce,
    Reject,
    RetryAfter(Duration),
    Panic,
    Sleep(Duration),
    UntilCancelled,
}

impl Task for Act {
    const NAME: &'static str = "act";
    type Output = ();
}

/// What a handler saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: TaskId,
    pub attempt: u32,
    pub at: Duration,
    pub queue: String,
    pub priority: Priority,
    pub enqueued_at: SystemTime,
    pub deadline: Option<SystemTime>,
    pub tick: Option<Tick>,
}

impl Seen {
    pub fn tick(&self) -> &Tick {
        self.tick.as_ref().expect("the task of a tick")
    }
}

/// Obeys, and writes down what it saw when it started.
#[derive(Clone)]
pub struct Actor {
    started: Instant,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Actor {
    pub fn new() -> Self {
        Self { started: Instant::now(), seen: Arc::default() }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until `count` attempts have started.
    pub async fn wait_for(&self, count: usize) -> Vec<Seen> {
        eventually("attempts start", async || self.seen.lock().unwrap().len() >= count).await;
        self.seen()
    }
}

#[async_trait]
impl TaskHandler for Actor {
    type Task = Act;

    async fn handle(&self, task: Act, ctx: &TaskContext) -> Result<(), TaskError> {
        let seen = Seen {
            id: ctx.id(),
            attempt: ctx.attempt(),
            at: self.started.elapsed(),
            queue: ctx.queue().to_owned(),
            priority: ctx.priority(),
            enqueued_at: ctx.enqueued_at(),
            deadline: ctx.deadline(),
            tick: ctx.tick().cloned(),
        };
        self.seen.lock().unwrap().push(seen);
        match task {
            Act::Succeed => Ok(()),
            Act::Fail => Err(TaskError::retry("as told")),
            Act::FailOnce if ctx.attempt() == 1 => Err(TaskError::retry("as told, once")),
            Act::FailOnce => Ok(()),
            Act::Reject => Err(TaskError::reject("as told, for good")),
            Act::RetryAfter(wait) => Err(TaskError::retry_after(wait, "as told, later")),
            Act::Panic => panic!("as told, loudly"),
            Act::Sleep(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Act::UntilCancelled => {
                ctx.cancelled().await;
                Err(TaskError::retry("stopped early"))
            }
        }
    }
}

/// A broker for days and years: without heartbeats, of which there are millions in them.
pub fn quiet() -> Broker {
    Broker::builder().without_events().in_process().unwrap()
}

/// Waits until `condition` holds, at most an hour of the paused clock.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    for _ in 0..360_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited an hour for: {what}");
}

/// Waits until `queue` has `count` dead letters.
pub async fn dead_letters(broker: &Broker, queue: &str, count: u64) {
    eventually("dead letters", async || broker.dead(queue).await.unwrap() == count).await;
}

/// Takes the next dead letter of the queue `default`.
pub async fn dead_letter(broker: &Broker) -> Message {
    let queue = Name::new("queue", "taskhare.default.dead").unwrap();
    let subscribe = Subscribe::new(queue, 1, "test");
    let mut dead = broker.transport().subscribe(subscribe).await.unwrap();
    let mut delivery = tokio::time::timeout(Duration::from_secs(3600), dead.next()).await.unwrap().unwrap();
    let message = std::mem::take(&mut delivery.message);
    delivery.ack();
    dead.close().await;
    message
}

/// Why it is dead, and its last error.
pub fn reason(letter: &Message) -> (&str, &str) {
    let text = |name| letter.headers.get(name).and_then(Value::as_text).unwrap_or_default();
    (text("taskhare-reason"), text("taskhare-error"))
}

/// Not before `time`, and not much later: the clock is paused.
pub fn soon_after(at: Duration, time: Duration) -> bool {
    at >= time && at < time + Duration::from_millis(500)
}
