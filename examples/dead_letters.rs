//! Dead letters: hear of them, look at them, put them back when the cause is gone, throw them away.
//!
//! ```text
//! cargo run --example dead_letters                           # no server needed
//! AMQP_URL=amqp://localhost cargo run --example dead_letters # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;

#[derive(Debug, Serialize, Deserialize)]
struct Charge {
    cents: i64,
}

impl Task for Charge {
    const NAME: &'static str = "charge";
    const QUEUE: &'static str = "charges";
    type Output = ();
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let is_bank_open = Arc::new(AtomicBool::new(false));
    let bank = is_bank_open.clone();
    let consumer = Consumer::builder(&broker)
        .retry(RetryPolicy::never())
        .handler_fn(move |task: Charge, _ctx| {
            let is_open = bank.load(Ordering::SeqCst);
            async move {
                match task.cents {
                    ..=0 => Err(TaskError::reject("nothing to charge")),
                    _ if is_open => Ok(()),
                    _ => Err(TaskError::retry("the bank does not answer")),
                }
            }
        })
        // After the broker has confirmed it, and apart from the tasks.
        .on_dead_letter(|letter| println!("dead: {letter:?}"))
        .start()
        .await?;
    let producer = Producer::builder(&broker).build().await?;
    let dead = broker.dead_letters(Charge::QUEUE)?;
    dead.purge().await?; // of an earlier run

    for cents in [995, 0, 20] {
        producer.enqueue(Charge { cents }).await?;
    }
    until(async || Ok(dead.count().await? == 3)).await?;

    // Looking consumes nothing.
    for letter in dead.list(100).await? {
        let Charge { cents } = letter.task()?;
        println!("{cents} cents: {} after {} attempt(s)", letter.reason(), letter.attempts());
        println!("  {}", letter.error().unwrap_or_default());
    }
    assert_eq!(dead.count().await?, 3);

    // The bank is back. What failed because of it runs again, 50 a second at most; what was wrong anyway goes.
    is_bank_open.store(true, Ordering::SeqCst);
    let requeued =
        dead.requeue_where(|letter| letter.reason() == DeadReason::AttemptsExhausted).rate(50).await?;
    let discarded = dead.discard_where(|letter| letter.reason() == DeadReason::Rejected).await?;
    assert_eq!((requeued, discarded), (2, 1));
    until(async || Ok(broker.waiting(Charge::QUEUE).await? == 0)).await?;

    consumer.shutdown().await; // by now they are done, or dead again
    assert_eq!(dead.count().await?, 0);
    println!("no dead letters are left");
    broker.close().await;
    Ok(())
}

async fn until(condition: impl AsyncFn() -> taskhare::Result<bool>) -> taskhare::Result<()> {
    while !condition().await? {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}
