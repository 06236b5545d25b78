//! What runs in the other processes: this very binary again, with what to be in its environment.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Event;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// `application`: enqueues, schedules, and listens; `consumer`.
pub const ROLE: &str = "TASKHARE_SOAK_ROLE";
/// The broker.
pub const URL: &str = "TASKHARE_SOAK_URL";

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Each hand enqueues a task in this time, and what the broker takes: 60 a second, about.
const HANDS: u64 = 4;
const PACE: Duration = Duration::from_millis(50);
/// How long a task takes.
const WORK: Duration = Duration::from_millis(2);
/// How long what is left may take at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);
/// How many keys there are for unique tasks.
const KEYS: u64 = 50;
const SECOND: Duration = Duration::from_secs(1);

/// What its number says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Work {
    number: u64,
}

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = u64;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tock;

impl Task for Tock {
    const NAME: &'static str = "tock";
    type Output = ();
}

/// What is done with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Output,
    Delayed,
    Fails,
    Dies,
    Deadline,
    Cancelled,
    Unique,
    Rescheduled,
    Urgent,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Plain,
        Self::Output,
        Self::Delayed,
        Self::Fails,
        Self::Dies,
        Self::Deadline,
        Self::Cancelled,
        Self::Unique,
        Self::Rescheduled,
        Self::Urgent,
    ];

    fn of(number: u64) -> Self {
        Self::ALL[(number % Self::ALL.len() as u64) as usize]
    }
}

#[ignore = "run by the other tests, as a process"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let (Ok(role), Ok(url)) = (std::env::var(ROLE), std::env::var(URL)) else { return };
    // Ends the line that libtest has begun.
    println!();
    let stop = stop();
    let sampling = tokio::spawn(sample());
    let broker = Broker::connect(&url).await.unwrap();
    match role.as_str() {
        "application" => apply(&broker, &stop).await,
        _ => consume(&broker, &stop).await,
    }
    broker.close().await;
    sampling.abort();
}

/// Cancelled when the parent has closed our standard input, or is gone.
fn stop() -> CancellationToken {
    let stop = CancellationToken::new();
    let tell = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        tell.cancel();
    });
    stop
}

/// Says what this process takes.
async fn sample() {
    loop {
        let resident = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = resident.split(' ').nth(1).unwrap().parse().unwrap();
        let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        // Of 4 KiB, on all that this is run on.
        say(&format!("sample {} {tasks} {files}", 4 * pages));
        sleep(SAMPLE_EVERY).await;
    }
}

/// What [`sample`] says.
pub fn read_sample(values: &str) -> Vec<(String, f64)> {
    let names = ["resident KiB", "tasks", "open files"];
    let values = values.split(' ').map(|value| value.parse().unwrap());
    names.into_iter().map(str::to_owned).zip(values).collect()
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Again, as long as what is wrong may pass.
async fn at_last<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    loop {
        match attempt().await {
            Err(error) if error.is_transient() => sleep(SECOND / 10).await,
            outcome => return outcome,
        }
    }
}

async fn consume(broker: &Broker, stop: &CancellationToken) {
    let start = || async {
        Consumer::builder(broker)
            .handler_fn(|task: Work, ctx| async move {
                sleep(WORK).await;
                match Kind::of(task.number) {
                    Kind::Fails if ctx.attempt() < 3 => Err(TaskError::retry("as its number says")),
                    Kind::Dies => Err(TaskError::reject("as its number says")),
                    _ => Ok(task.number),
                }
            })
            .handler_fn(|_: Tock, _| async { Ok(()) })
            .retry(RetryPolicy::fixed(SECOND / 2))
            .start()
            .await
    };
    at_last(start).await.unwrap().run_until(stop.cancelled()).await;
}

/// Tasks that have been enqueued, or are being so, and have not ended.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<HashSet<TaskId>>>);

impl Open {
    fn insert(&self, id: TaskId) {
        self.0.lock().unwrap().insert(id);
    }

    fn remove(&self, id: TaskId) {
        self.0.lock().unwrap().remove(&id);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

async fn apply(broker: &Broker, stop: &CancellationToken) {
    let producer = at_last(|| Producer::builder(broker).build()).await.unwrap();
    let schedules =
        (1..=5).map(|number| Schedule::new(&format!("s{number}"), Cadence::every(SECOND / 5 * number), Tock));
    let scheduler = at_last(|| async {
        schedules.clone().fold(Scheduler::builder(broker), taskhare::SchedulerBuilder::schedule).start().await
    });
    let scheduler = scheduler.await.unwrap();
    let (open, enqueued) = (Open::default(), Arc::new(AtomicU64::new(0)));
    let listening = tokio::spawn(listen(broker.clone(), open.clone()));
    let burying = tokio::spawn(bury(broker.clone()));
    let hands = (0..HANDS).map(|_| {
        let (producer, open, enqueued, stop) =
            (producer.clone(), open.clone(), enqueued.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                work(&producer, enqueued.fetch_add(1, Ordering::Relaxed), &open).await;
                sleep(PACE).await;
            }
        })
    });
    for hand in hands.collect::<Vec<_>>() {
        hand.await.unwrap();
    }
    scheduler.shutdown().await;
    let drain = async {
        while open.count() > 0 || broker.waiting("default").await.is_ok_and(|count| count > 0) {
            sleep(SECOND / 5).await;
        }
    };
    let _ = timeout(DRAIN_LIMIT, drain).await;
    burying.abort();
    let _ = burying.await;
    say(&format!("end {} tasks enqueued, {} have not ended", enqueued.load(Ordering::Relaxed), open.count()));
    listening.abort();
}

/// Notes which tasks have ended.
async fn listen(broker: Broker, open: Open) {
    let mut events = at_last(|| broker.events().subscribe()).await.unwrap();
    while let Some(event) = events.next().await {
        if let Event::Task(event) = event
            && event.change.kind().is_end()
        {
            open.remove(event.id);
        }
    }
}

/// Empties the dead letters again and again, and asks how the last task stands.
async fn bury(broker: Broker) {
    loop {
        sleep(5 * SECOND).await;
        let _ = broker.dead_letters("default").unwrap().purge().await;
        let _ = broker.status(TaskId::new()).await;
    }
}

/// Enqueues one task, whatever it takes, and does with it what its number says.
async fn work(producer: &Producer, number: u64, open: &Open) {
    let (id, kind, task) = (TaskId::new(), Kind::of(number), Work { number });
    open.insert(id);
    let enqueued = at_last(|| async {
        let enqueue = producer.enqueue(task).id(id);
        match kind {
            Kind::Delayed => enqueue.delay(Duration::from_millis(100 + number % 5_000)),
            Kind::Cancelled | Kind::Rescheduled => enqueue.delay(2 * SECOND),
            Kind::Deadline => enqueue.deadline_in(60 * SECOND),
            Kind::Unique => enqueue.unique(&format!("key {}", number % KEYS)),
            Kind::Urgent => enqueue.priority(Priority::Urgent),
            _ => enqueue,
        }
        .await
    })
    .await;
    let enqueued = match enqueued {
        Ok(enqueued) => enqueued,
        // Our own, unconfirmed one, perhaps. Then it ends as any other.
        Err(Error::Duplicate { of, .. }) if of == id.to_string() => return,
        Err(Error::Duplicate { .. }) => return open.remove(id),
        Err(error) => panic!("{kind:?}: {error}"),
    };
    match kind {
        // A connection that is lost may take the output along.
        Kind::Output => drop(timeout(SECOND, enqueued.output()).await),
        Kind::Cancelled => at_last(|| producer.cancel(id)).await.unwrap(),
        Kind::Rescheduled => {
            at_last(|| async { producer.reschedule(id, task).delay(SECOND).await.map(drop) }).await.unwrap();
        }
        _ => {}
    }
}
