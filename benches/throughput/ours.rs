//! The work done with taskhare.

use std::time::Duration;
use std::time::Instant;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use tokio::sync::mpsc;

use crate::PREFETCH;
use crate::measure::Sample;
use crate::measure::percentiles;
use crate::work;
use crate::work::Payload;

pub async fn run(row: &str, url: &str, size: usize, tasks: u64) -> Sample {
    let broker = Broker::connect(url).await.unwrap();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    let sample = match row {
        "latency" => latency(&broker, &producer, size).await,
        _ => work::run(row, &broker, &producer, PREFETCH, size, tasks).await.stop(tasks),
    };
    broker.close().await;
    sample
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
