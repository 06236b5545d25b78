//! What an operator does to queues: deletes or purges them while they are in use.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Kind;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::testing::Management;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::*;

/// How long one thing may take to work; some of them until they know that they have to begin anew.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Act {
    Succeed,
    FailOnce,
    Reject,
}

impl Task for Act {
    const NAME: &'static str = "act";
    type Output = bool;
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Tock;

impl Task for Tock {
    const NAME: &'static str = "tock";
    type Output = ();
}

/// An application that uses everything, all in this process.
struct Application {
    broker: Broker,
    management: &'static Management,
    vhost: String,
    producer: Producer,
    ticks: Arc<AtomicUsize>,
    /// Of tasks that have succeeded, as a reader hears of them.
    heard: Arc<Mutex<BTreeSet<TaskId>>>,
    consumer: Consumer,
    scheduler: Scheduler,
}

impl Application {
    async fn start() -> Self {
        let lab = TestBroker::shared().await.unwrap();
        let url = lab.fresh_vhost().await.unwrap();
        let broker = Broker::connect(&url).await.unwrap();
        let (ticks, heard) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<BTreeSet<TaskId>>>::default());
        let (count, told) = (ticks.clone(), heard.clone());
        let consumer = Consumer::builder(&broker)
            .handler_fn(|act: Act, ctx| async move {
                match act {
                    Act::FailOnce if ctx.attempt() == 1 => Err(TaskError::retry("as told")),
                    Act::Reject => Err(TaskError::reject("as told")),
                    _ => Ok(true),
                }
            })
            .handler_fn(move |_: Tock, _| {
                count.fetch_add(1, Ordering::Relaxed);
                async { Ok(()) }
            })
            .retry(RetryPolicy::fixed(SILENCE))
            .start()
            .await
            .unwrap();
        let every = Cadence::every(SILENCE);
        let scheduler = Scheduler::builder(&broker).schedule(Schedule::new("tock", every, Tock));
        let scheduler = scheduler.start().await.unwrap();
        let mut events = broker.events().subscribe().await.unwrap();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let taskhare::Event::Task(event) = event
                    && event.change.kind() == Kind::Succeeded
                {
                    told.lock().unwrap().insert(event.id);
                }
            }
        });
        let producer = Producer::builder(&broker).timeout(LIMIT).build().await.unwrap();
        let (management, vhost) = (lab.management(), vhost_of(&url).unwrap());
        Self { broker, management, vhost, producer, ticks, heard, consumer, scheduler }
    }

    /// What does not work.
    async fn failing(&self) -> Vec<String> {
        let mut failing = Vec::new();
        let (run, unique, cancel, watch) = tokio::join!(
            self.tasks_end(),
            self.keys_are_unique(),
            self.tasks_are_cancelled(),
            self.time_goes_on()
        );
        for (what, outcome) in [("tasks", run), ("unique", unique), ("cancel", cancel), ("time", watch)] {
            failing.extend(outcome.err().map(|error| format!("{what}: {error}")));
        }
        failing
    }

    async fn tasks_end(&self) -> Result<(), String> {
        let enqueue = |act| self.producer.enqueue(act);
        let at_once = enqueue(Act::Succeed).await.map_err(text)?;
        let later = enqueue(Act::Succeed).delay(SILENCE).await.map_err(text)?;
        let again = enqueue(Act::FailOnce).await.map_err(text)?;
        let dead = enqueue(Act::Reject).await.map_err(text)?;
        let id = at_once.id();
        for (what, task) in [("at once", at_once), ("later", later), ("again", again)] {
            let output =
                timeout(LIMIT, task.output()).await.map_err(|_| format!("no output of one {what}"))?;
            output.map_err(text)?;
        }
        let outcome = timeout(LIMIT, dead.output()).await.map_err(|_| "no output of a dead one")?;
        matches!(outcome, Err(TaskhareError::Failed { .. })).then_some(()).ok_or("it is not dead")?;
        let letters = self.broker.dead_letters("default").unwrap().purge().await.map_err(text)?;
        (letters > 0).then_some(()).ok_or("no dead letter")?;
        let told = async || self.heard.lock().unwrap().contains(&id);
        within(told).await.then_some(()).ok_or_else(|| "no event".to_owned())
    }

    async fn keys_are_unique(&self) -> Result<(), String> {
        let key = TaskId::new().to_string();
        let first = self.producer.enqueue(Act::Succeed).delay(SILENCE).unique(&key).await.map_err(text)?;
        match self.producer.enqueue(Act::Succeed).unique(&key).await {
            Err(TaskhareError::Duplicate { .. }) => {}
            other => return Err(format!("{other:?} is no duplicate")),
        }
        timeout(LIMIT, first.output()).await.map_err(|_| "no output")?.map_err(text)?;
        let free = async || self.producer.enqueue(Act::Succeed).unique(&key).await.is_ok();
        within(free).await.then_some(()).ok_or_else(|| "the key is not free".to_owned())
    }

    async fn tasks_are_cancelled(&self) -> Result<(), String> {
        let task = self.producer.enqueue(Act::Succeed).delay(SILENCE).await.map_err(text)?;
        self.producer.cancel(task.id()).await.map_err(text)?;
        match timeout(LIMIT, task.output()).await {
            Ok(Err(TaskhareError::Cancelled { .. })) => Ok(()),
            other => Err(format!("{other:?} is not cancelled")),
        }
    }

    async fn time_goes_on(&self) -> Result<(), String> {
        let before = self.ticks.load(Ordering::Relaxed);
        let ticks = async || self.ticks.load(Ordering::Relaxed) >= before + 3;
        within(ticks).await.then_some(()).ok_or_else(|| "no ticks".to_owned())
    }

    async fn queues(&self) -> Vec<String> {
        let all = self.management.queues(&self.vhost).await.unwrap();
        all.into_iter().map(|queue| queue.name).collect()
    }

    async fn end(self) {
        self.scheduler.shutdown().await;
        self.consumer.shutdown().await;
        self.broker.close().await;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn text(error: TaskhareError) -> String {
    error.to_string()
}

async fn within(mut check: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    while !check().await {
        if started.elapsed() > LIMIT {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// All but those of the delay wheel, of which there are some hundred and which have a test of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_queue_is_deleted_everything_works_again() {
    let application = Application::start().await;
    assert_eq!(application.failing().await, [""; 0], "before");
    let mut queues = application.queues().await;
    queues.retain(|queue| !queue.starts_with("taskhare.delay"));
    assert!(queues.len() >= 10, "{queues:?}");
    for queue in queues {
        application.management.delete_queue(&application.vhost, &queue).await.unwrap();
        let (started, mut failing) = (Instant::now(), application.failing().await);
        while !failing.is_empty() {
            assert!(
                started.elapsed() < PATIENCE,
                "not within {PATIENCE:?} after the end of {queue}: {failing:?}"
            );
            failing = application.failing().await;
        }
    }
    application.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_takes_what_waits_and_leaves_what_consumers_have() {
    let lab = TestBroker::shared().await.unwrap();
    let url = lab.fresh_vhost().await.unwrap();
    let broker = Broker::connect(&url).await.unwrap();
    let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, count) = (gate.clone(), done.clone());
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Tock, _| {
            let (open, count) = (open.clone(), count.clone());
            async move {
                open.acquire().await.unwrap().forget();
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
        .concurrency(2)
        .prefetch(5)
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for enqueued in producer.enqueue_all((0..50).map(|_| Tock).collect::<Vec<_>>()).await {
        enqueued.unwrap();
    }
    let vhost = vhost_of(&url).unwrap();
    let totals = async || {
        let queues = lab.management().queues(&vhost).await.unwrap();
        queues.iter().find(|queue| queue.name == "taskhare.default.normal").unwrap().totals
    };
    eventually("its consumer has what it may have", async || totals().await.ready < 50).await;
    eventually("a purge finds all but that", async || {
        let (first, second) = (totals().await, totals().await);
        first == second && first.messages == 50
    })
    .await;
    let kept = usize::try_from(50 - totals().await.ready).unwrap();
    lab.management().purge(&vhost, "taskhare.default.normal").await.unwrap();
    producer.enqueue(Tock).await.unwrap();
    gate.add_permits(100);
    eventually("what it had and what came later is done", async || done.load(Ordering::Relaxed) == kept + 1)
        .await;
    eventually("nothing is left", async || totals().await.messages == 0).await;
    let receipt = consumer.shutdown().await;
    assert_eq!(done.load(Ordering::Relaxed), kept + 1, "{receipt:?}");
    broker.close().await;
}
