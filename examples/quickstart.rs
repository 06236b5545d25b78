//! Start here: one task, one handler, one output.
//!
//! ```text
//! cargo run --example quickstart                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example quickstart        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskHandler;
use taskhare::async_trait;

/// The work: its payload.
#[derive(Serialize, Deserialize)]
struct Resize {
    image: String,
    width: u32,
}

impl Task for Resize {
    const NAME: &'static str = "resize";
    type Output = String;
}

/// Who does it.
struct Resizer;

#[async_trait]
impl TaskHandler for Resizer {
    type Task = Resize;

    async fn handle(&self, task: Resize, ctx: &TaskContext) -> Result<String, TaskError> {
        println!("resizing {} in attempt {} of task {}", task.image, ctx.attempt(), ctx.id());
        Ok(format!("{}@{}", task.image, task.width)) // `?` on any error would mean: try again later
    }
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?; // AMQP_URL, or inside this process when it is unset
    let consumer = Consumer::builder(&broker).handler(Resizer).start().await?;
    let producer = Producer::builder(&broker).build().await?;

    // Ok: the broker has it, durably.
    let task =
        producer.enqueue(Resize { image: "hare.png".into(), width: 640 }).priority(Priority::Urgent).await?;
    let output = task.output().await?;
    println!("done: {output}");
    assert_eq!(output, "hare.png@640");

    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
