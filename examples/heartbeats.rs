//! What a consumer says of itself while it works: that it has started, is alive and with what, drains, has stopped.
//!
//! ```text
//! cargo run --example heartbeats                                # no server needed
//! AMQP_URL=amqp://localhost cargo run --example heartbeats      # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerChange;
use taskhare::Event;
use taskhare::Producer;
use taskhare::Task;

#[derive(Serialize, Deserialize)]
struct Report {
    takes: Duration,
}

impl Task for Report {
    const NAME: &'static str = "report";
    type Output = ();
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let mut events = broker.events().subscribe().await?;
    let producer = Producer::builder(&broker).build().await?;
    producer.enqueue(Report { takes: Duration::from_secs(2) }).await?;
    let builder = Consumer::builder(&broker).beat_every(Duration::from_millis(500)).handler_fn(
        |task: Report, _ctx| async move {
            tokio::time::sleep(task.takes).await;
            Ok(())
        },
    );
    let consumer = builder.start().await?;
    // Usually somewhere else: a dashboard, say.
    let watching = tokio::spawn(async move {
        let mut oldest = Duration::ZERO;
        while let Some(event) = events.next().await {
            let Event::Consumer(event) = event else { continue };
            match event.change {
                ConsumerChange::Started(beat) => println!("{} has started: {}", event.consumer, beat.version),
                ConsumerChange::Alive(beat) => {
                    for task in &beat.running {
                        println!("{} runs {} for {:?}", event.consumer, task.name, task.age);
                        oldest = oldest.max(task.age);
                    }
                }
                ConsumerChange::Draining => println!("{} takes no more tasks", event.consumer),
                ConsumerChange::Stopped { finished, .. } => {
                    println!("{} has stopped, {finished} finished meanwhile", event.consumer);
                    return (oldest, finished);
                }
                other => println!("{} {other:?}", event.consumer),
            }
        }
        (oldest, 0)
    });
    let receipt = consumer.run_until(tokio::time::sleep(Duration::from_millis(1_700))).await;
    assert_eq!(receipt.finished(), 1);
    let (oldest, finished) = watching.await.unwrap_or_default();
    assert!(oldest >= Duration::from_secs(1), "it was seen to run, and for how long");
    assert_eq!(finished, 1, "and that it was finished");
    broker.close().await;
    Ok(())
}
