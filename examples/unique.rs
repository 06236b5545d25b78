//! Of all tasks with the same key one at a time waits or runs: refused, merged or replaced. And a task that waits can
//! be cancelled, or rescheduled.
//!
//! ```text
//! cargo run --example unique                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example unique        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::OnDuplicate;
use taskhare::Producer;
use taskhare::Task;

#[derive(Serialize, Deserialize)]
struct Report {
    customer: u32,
    of: String,
}

impl Task for Report {
    const NAME: &'static str = "report";
    type Output = String;
}

fn report(of: &str) -> Report {
    Report { customer: 7, of: of.to_owned() }
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let consumer = Consumer::builder(&broker)
        .handler_fn(|task: Report, _| async move {
            println!("customer {} gets a report of {}", task.customer, task.of);
            Ok(task.of)
        })
        .start()
        .await?;
    let producer = Producer::builder(&broker).build().await?;
    let second = Duration::from_secs(1);

    // One for each customer at a time.
    let first = producer.enqueue(report("June")).delay(second).unique("report 7").await?;
    let refused = producer.enqueue(report("July")).unique("report 7").await;
    assert!(matches!(refused, Err(Error::Duplicate { of, .. }) if of == first.id().to_string()));

    // The same task is meant: fine.
    let again =
        producer.enqueue(report("June")).unique("report 7").on_duplicate(OnDuplicate::Coalesce).await?;
    assert!(!again.is_new() && again.id() == first.id());

    // The last one counts: the one that waits is cancelled.
    let newer =
        producer.enqueue(report("August")).unique("report 7").on_duplicate(OnDuplicate::Replace).await?;
    assert_eq!(newer.output().await?, "August");
    let replaced = first.output().await;
    assert!(matches!(replaced, Err(Error::Cancelled { .. })));

    // What waits can be cancelled by its id, or rescheduled: here it runs now.
    let unwanted = producer.enqueue(report("September")).delay(second).await?;
    producer.cancel(unwanted.id()).await?;
    let early = producer.enqueue(report("October")).delay(3600 * second).await?;
    let now = producer.reschedule(early.id(), report("October")).await?;
    assert_eq!(now.output().await?, "October");
    let cancelled = unwanted.output().await;
    assert!(matches!(cancelled, Err(Error::Cancelled { .. })));

    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
