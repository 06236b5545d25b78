//! Deadlines: a task that comes too late is not started, and everybody is told.
//!
//! ```text
//! cargo run --example deadline                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example deadline        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Task;

const SECOND: Duration = Duration::from_secs(1);

/// Tells a customer when the taxi comes.
#[derive(Serialize, Deserialize)]
struct Notify {
    takes: Duration,
}

impl Task for Notify {
    const NAME: &'static str = "notify";
    const QUEUE: &'static str = "notifications";
    type Output = String;
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let producer = Producer::builder(&broker).build().await?;
    let consumer = Consumer::builder(&broker)
        .concurrency(1)
        .cancel_grace(SECOND / 4)
        .handler_fn(|task: Notify, ctx| async move {
            println!("started with {:?} left", ctx.remaining());
            tokio::time::sleep(task.takes).await; // dropped here when the deadline and the grace are over
            Ok("the customer knows".to_owned())
        })
        .start()
        .await?;

    // Too late already.
    let refused = producer.enqueue(Notify { takes: SECOND }).deadline(SystemTime::now() - SECOND).await;
    println!("{refused:?}");
    assert!(matches!(refused, Err(Error::DeadlinePassed { .. })));

    // In time; in time, but not to the end; and not started, because that one was in its way until it was too late.
    let done = producer.enqueue(Notify { takes: SECOND / 10 }).deadline_in(10 * SECOND).await?;
    let stopped = producer.enqueue(Notify { takes: 60 * SECOND }).deadline_in(2 * SECOND).await?;
    let unstarted = producer.enqueue(Notify { takes: SECOND }).deadline_in(2 * SECOND).await?;
    println!("{}", done.output().await?);
    for (task, expected) in [(stopped, DeadReason::ExpiredRunning), (unstarted, DeadReason::ExpiredUnstarted)]
    {
        let error = task.output().await.expect_err("it is too late");
        println!("{error}");
        assert!(matches!(error, Error::Failed { reason, .. } if reason == expected));
    }

    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
