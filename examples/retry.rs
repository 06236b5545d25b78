//! What becomes of tasks that fail: another attempt, after a while; or the dead letters.
//!
//! ```text
//! cargo run --example retry                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example retry        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;

#[derive(Serialize, Deserialize)]
struct Charge {
    cents: i64,
}

impl Task for Charge {
    const NAME: &'static str = "charge";
    type Output = u32;
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let consumer = Consumer::builder(&broker)
        .retry(RetryPolicy::exponential(Duration::from_millis(50)).max_attempts(5))
        .handler_fn(|task: Charge, ctx| async move {
            println!("charging {} in attempt {} of task {}", task.cents, ctx.attempt(), ctx.id());
            match (task.cents, ctx.attempt()) {
                (..=0, _) => Err(TaskError::reject("nothing to charge")), // never to be tried again
                (_, 1 | 2) => Err(TaskError::retry("the bank does not answer")), // what `?` does with any error
                (_, attempt) => Ok(attempt),
            }
        })
        .start()
        .await?;
    let producer = Producer::builder(&broker).build().await?;
    let dead_before = broker.dead(Charge::QUEUE).await?;

    let attempt = producer.enqueue(Charge { cents: 995 }).await?.output().await?;
    assert_eq!(attempt, 3);
    let failed = producer.enqueue(Charge { cents: 0 }).await?.output().await;
    println!("{failed:?}");
    assert!(matches!(failed, Err(Error::Failed { .. })));

    // A policy of the task's own goes before the consumer's: exactly 0.2 s between attempts, and none after 0.3 s.
    let policy = RetryPolicy::fixed(Duration::from_millis(200)).within(Duration::from_millis(300));
    let failed = producer.enqueue(Charge { cents: 995 }).retry(policy).await?.output().await;
    println!("{failed:?}");
    assert!(matches!(failed, Err(Error::Failed { reason, .. }) if reason == DeadReason::TimeExhausted));

    consumer.shutdown().await; // by now the dead letters are confirmed
    assert_eq!(broker.dead(Charge::QUEUE).await?, dead_before + 2);
    broker.close().await;
    Ok(())
}
