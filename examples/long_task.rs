//! A task that runs for longer than RabbitMQ lets a consumer hold a message, and one that waits behind it.
//!
//! ```text
//! cargo run --example long_task                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example long_task        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;

const SECOND: Duration = Duration::from_secs(1);

/// Makes a film smaller.
#[derive(Serialize, Deserialize)]
struct Transcode {
    film: String,
    takes: Duration,
}

impl Task for Transcode {
    const NAME: &'static str = "transcode";
    const QUEUE: &'static str = "films";
    type Output = String;
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let producer = Producer::builder(&broker).build().await?;
    let consumer = Consumer::builder(&broker)
        .consumer_timeout(4 * SECOND) // RabbitMQ's is 30 minutes, as is our default
        .concurrency(1)
        .handler_fn(|task: Transcode, ctx| async move {
            tokio::time::sleep(task.takes).await; // held by a fresh copy every 2 s; nothing to do here
            assert!(!ctx.is_redelivered(), "nobody has had it before");
            Ok(format!("{} is done", task.film))
        })
        .start()
        .await?;

    let film = |film: &str, takes| Transcode { film: film.to_owned(), takes };
    let long = producer.enqueue(film("The Hare", 7 * SECOND)).await?;
    let short = producer.enqueue(film("The Tortoise", SECOND / 10)).await?;
    for task in [long, short] {
        println!("{}", task.output().await?);
    }

    consumer.shutdown().await;
    assert_eq!((broker.waiting(Transcode::QUEUE).await?, broker.dead(Transcode::QUEUE).await?), (0, 0));
    broker.close().await;
    Ok(())
}
