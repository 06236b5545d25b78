//! Shutting down, as on a deploy: no task is lost, and none loses an attempt.
//!
//! ```text
//! cargo run --example shutdown                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example shutdown        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use tokio::sync::Semaphore;

#[derive(Serialize, Deserialize)]
struct Report {
    takes: Duration,
}

impl Task for Report {
    const NAME: &'static str = "report";
    const QUEUE: &'static str = "reports";
    type Output = ();
}

/// How many reports have been started.
static STARTED: Semaphore = Semaphore::const_new(0);

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let producer = Producer::builder(&broker).build().await?;
    for seconds in [1, 3600, 1, 1] {
        producer.enqueue(Report { takes: Duration::from_secs(seconds) }).await?;
    }

    let consumer = Consumer::builder(&broker)
        .queue_with(Report::QUEUE, |queue| queue.concurrency(2).prefetch(3))
        .shutdown_grace(Duration::from_secs(2))
        .handler_fn(|task: Report, _ctx| async move {
            STARTED.add_permits(1);
            tokio::time::sleep(task.takes).await; // or stop early: `ctx.cancelled()`
            Ok(())
        })
        .start()
        .await?;
    let receipt = consumer.run_until(STARTED.acquire_many(2)).await; // usually `tokio::signal::ctrl_c()`

    for task in &receipt.tasks {
        println!("{} {:?}: {:?}", task.name, task.id, task.fate);
    }
    assert_eq!((receipt.finished(), receipt.aborted(), receipt.unstarted()), (1, 1, 1));
    assert_eq!(broker.waiting(Report::QUEUE).await?, 3, "for the next consumer");
    broker.close().await;
    Ok(())
}
