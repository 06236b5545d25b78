//! Services that may not declare: a deployment does it before they start. `docs/security.md` has the permissions of each.
//!
//! ```text
//! cargo run --example deployment                             # no server needed
//! AMQP_URL=amqp://localhost cargo run --example deployment   # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Task;

#[derive(Serialize, Deserialize)]
struct Send {
    to: String,
}

impl Task for Send {
    const NAME: &'static str = "send";
    const QUEUE: &'static str = "mail";
    type Output = String;
}

/// As each service has it, with a user of its own.
async fn broker() -> taskhare::Result<Broker> {
    let builder = Broker::builder().namespace("deployment-example").without_declaring();
    match std::env::var("AMQP_URL") {
        Ok(url) => builder.url(&url).connect().await,
        Err(_) => builder.in_process(),
    }
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = broker().await?;
    let producer = Producer::builder(&broker).build().await?;
    let send = || Send { to: "ada@example.com".into() };

    // Nobody declares anything by the way: a queue with a typing error is an error, not a new queue.
    let error =
        producer.enqueue(send()).queue("mial").without_output().await.expect_err("there is no such queue");
    println!("{error}");

    // The deployment, by a user who may. As often as you like.
    broker.declare_queues(&["mail"]).await?;

    let consumer = Consumer::builder(&broker)
        .handler_fn(|task: Send, _| async move { Ok(format!("sent to {}", task.to)) })
        .start()
        .await?;
    let output = producer.enqueue(send()).await?.output().await?;
    println!("{output}");
    assert_eq!(output, "sent to ada@example.com");

    let error = producer.enqueue(send()).queue("mial").await.expect_err("there is no such queue");
    assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
