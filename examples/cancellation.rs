//! Attempts that take too long: they are told to stop, and those that do not listen are dropped.
//!
//! ```text
//! cargo run --example cancellation                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example cancellation        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::CancellationToken;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use taskhare::TaskError;

const SECOND: Duration = Duration::from_secs(1);

/// Counts the words of a library.
#[derive(Serialize, Deserialize)]
struct Count {
    listens: bool,
}

impl Task for Count {
    const NAME: &'static str = "count-words";
    const QUEUE: &'static str = "libraries";
    type Output = String;
}

/// A shelf at a time, until it is told to stop.
async fn count(token: CancellationToken) -> Option<u32> {
    for _shelf in 0..600 {
        tokio::select! {
            () = token.cancelled() => return None,
            () = tokio::time::sleep(SECOND / 10) => {}
        }
    }
    Some(1_000_000)
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let producer = Producer::builder(&broker).build().await?;
    let consumer = Consumer::builder(&broker)
        .run_timeout(SECOND) // of each attempt
        .cancel_grace(SECOND / 2) // from the token to the end
        .handler_fn(|task: Count, ctx| async move {
            match (task.listens, ctx.attempt()) {
                (true, 1) => {
                    // The token reaches whatever the handler starts.
                    let counting = tokio::spawn(count(ctx.cancellation()));
                    match counting.await? {
                        Some(words) => Ok(format!("{words} words")),
                        None => {
                            println!("told to stop: {:?}", ctx.cancel_reason());
                            Err(TaskError::retry_after(SECOND / 10, "not all shelves are counted"))
                        }
                    }
                }
                (false, 1) => {
                    tokio::time::sleep(3600 * SECOND).await; // never hears of it
                    Ok("an hour later".to_owned())
                }
                (_, attempt) => Ok(format!("counted with a good guess in attempt {attempt}")),
            }
        })
        .start()
        .await?;

    for listens in [true, false] {
        let counted = producer.enqueue(Count { listens }).await?.output().await?;
        println!("{counted}");
        assert_eq!(counted, "counted with a good guess in attempt 2");
    }
    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
