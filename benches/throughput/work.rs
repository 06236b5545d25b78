//! Tasks that do nothing, enqueued and run by taskhare.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use tokio::sync::Notify;

use crate::measure::Stopwatch;

/// A payload of about `size` bytes.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Payload {
    pub number: u64,
    pub data: String,
}

impl Payload {
    pub fn new(number: u64, size: usize) -> Self {
        // What MessagePack adds for names and lengths.
        Self { number, data: "x".repeat(size.saturating_sub(24)) }
    }
}

impl Task for Payload {
    const NAME: &'static str = "bench";
    type Output = ();
}

pub async fn fill(producer: &Producer, size: usize, tasks: u64) {
    for task in producer.enqueue_all((0..tasks).map(move |number| Payload::new(number, size))).await {
        task.unwrap();
    }
}

/// A consumer, and when it has run the first task and the last.
pub struct Counting {
    consumer: Consumer,
    first: Arc<OnceLock<Stopwatch>>,
    all: Arc<Notify>,
}

/// Runs `tasks` tasks, as many at once as are taken.
pub async fn consume(broker: &Broker, prefetch: u16, tasks: u64) -> Counting {
    let (first, all) = (Arc::new(OnceLock::new()), Arc::new(Notify::new()));
    let (count, begin, end) = (AtomicU64::new(0), first.clone(), all.clone());
    let consumer = Consumer::builder(broker)
        .handler_fn(move |_: Payload, _| {
            begin.get_or_init(Stopwatch::start);
            if count.fetch_add(1, Ordering::Relaxed) + 1 == tasks {
                end.notify_one();
            }
            async { Ok(()) }
        })
        .concurrency(prefetch.into())
        .prefetch(prefetch)
        .start()
        .await
        .unwrap();
    Counting { consumer, first, all }
}

impl Counting {
    /// Waits until the last acknowledgement has reached the broker.
    pub async fn done(self) -> Stopwatch {
        self.all.notified().await;
        self.consumer.shutdown().await;
        *self.first.get().unwrap()
    }
}

/// One of the rows that both benches have.
pub async fn run(
    row: &str,
    broker: &Broker,
    producer: &Producer,
    prefetch: u16,
    size: usize,
    tasks: u64,
) -> Stopwatch {
    match row {
        "enqueue" => {
            fill(producer, size, 1_000).await;
            let watch = Stopwatch::start();
            fill(producer, size, tasks).await;
            watch
        }
        "consume" => {
            fill(producer, size, tasks).await;
            consume(broker, prefetch, tasks).await.done().await
        }
        _ => {
            let consumer = consume(broker, prefetch, tasks).await;
            fill(producer, size, tasks).await;
            consumer.done().await
        }
    }
}
