//! One half of a pair: enqueues tasks on RabbitMQ and ends. The other half is `consumer`; start them in any order, as
//! often as you like, and kill either: no task is lost.
//!
//! ```text
//! export AMQP_URL=amqp://localhost
//! cargo run --example producer        # 100 tasks
//! cargo run --example producer 1000
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Producer;
use taskhare::Task;

/// The same in both programs: in an application, a crate that both use.
#[derive(Serialize, Deserialize)]
struct Thumbnail {
    image: u32,
}

impl Task for Thumbnail {
    const NAME: &'static str = "thumbnail";
    type Output = ();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").map_err(|_| "set AMQP_URL, to amqp://localhost perhaps")?;
    let count = std::env::args().nth(1).map_or(Ok(100), |count| count.parse())?;
    let broker = Broker::connect(&url).await?;
    let producer = Producer::builder(&broker).build().await?;

    let enqueued = producer.enqueue_all((0..count).map(|image| Thumbnail { image })).await;
    for task in enqueued {
        task?; // Ok: the broker has it, durably
    }
    println!("enqueued {count} tasks");

    broker.close().await;
    Ok(())
}
