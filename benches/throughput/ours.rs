//! The work done with taskhare.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use tokio::sync::Notify;
use tokio::sync::mpsc;

use crate::PREFETCH;
use crate::Payload;
use crate::measure::Sample;
use crate::measure::Stopwatch;
use crate::measure::percentiles;

impl Task for Payload {
    const NAME: &'static str = "bench";
    type Output = ();
}

pub async fn run(row: &str, url: &str, size: usize, tasks: u64) -> Sample {
    let broker = Broker::connect(url).await.unwrap();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    let sample = match row {
        "enqueue" => {
            fill(&producer, size, 1_000).await;
            let watch = Stopwatch::start();
            fill(&producer, size, tasks).await;
            watch.stop(tasks)
        }
        "consume" => {
            fill(&producer, size, tasks).await;
            consume(&broker, tasks).await.done().await.stop(tasks)
        }
        "end-to-end" => {
            let consumer = consume(&broker, tasks).await;
            fill(&producer, size, tasks).await;
            consumer.done().await.stop(tasks)
        }
        _ => latency(&broker, &producer, size).await,
    };
    broker.close().await;
    sample
}

async fn fill(producer: &Producer, size: usize, tasks: u64) {
    for task in producer.enqueue_all((0..tasks).map(move |number| Payload::new(number, size))).await {
        task.unwrap();
    }
}

struct Counting {
    consumer: Consumer,
    first: Arc<OnceLock<Stopwatch>>,
    all: Arc<Notify>,
}

async fn consume(broker: &Broker, tasks: u64) -> Counting {
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
        .concurrency(PREFETCH.into())
        .prefetch(PREFETCH)
        .start()
        .await
        .unwrap();
    Counting { consumer, first, all }
}

impl Counting {
    /// Waits until the last acknowledgement has reached the broker.
    async fn done(self) -> Stopwatch {
        self.all.notified().await;
        self.consumer.shutdown().await;
        *self.first.get().unwrap()
    }
}

async fn latency(broker: &Broker, producer: &Producer, size: usize) -> Sample {
    let (started, mut starts) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(broker)
        .handler_fn(move |_: Payload, _| {
            started.send(Instant::now()).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let mut latencies = Vec::new();
    for number in 0..500 {
        let begin = Instant::now();
        producer.enqueue(Payload::new(number, size)).await.unwrap();
        latencies.push(starts.recv().await.unwrap() - begin);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    consumer.shutdown().await;
    percentiles(latencies)
}
