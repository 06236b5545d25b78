//! What is urgent overtakes; what is not still moves. By weights, or strictly.
//!
//! ```text
//! cargo run --example priorities                             # no server needed
//! AMQP_URL=amqp://localhost cargo run --example priorities   # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::Task;
use tokio::sync::mpsc::unbounded_channel;

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}

impl Task for Mail {
    const NAME: &'static str = "mail";
    type Output = ();
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    for is_strict in [false, true] {
        let order = order(&broker, is_strict).await?;
        println!("{} {order}", if is_strict { "strictly:  " } else { "by weights:" });
        let (urgent, normal) = (order.rfind('U').unwrap_or(0), order.rfind('n').unwrap_or(0));
        assert!(urgent < normal, "what is urgent is done before what is normal");
        let low = order[..normal].matches('l').count();
        assert_eq!(low > 1, !is_strict, "by weights low ones move before the normal ones are done");
    }
    broker.close().await;
    Ok(())
}

/// The order in which tasks of all priorities start that wait when their consumer does: U, n and l.
async fn order(broker: &Broker, is_strict: bool) -> taskhare::Result<String> {
    let producer = Producer::builder(broker).build().await?;
    for (priority, count) in [(Priority::Low, 10), (Priority::Normal, 30), (Priority::Urgent, 20)] {
        let mails = (0..count).map(|number| Mail { to: format!("{number}@example.com") });
        for task in producer.enqueue_all(mails).priority(priority).await {
            task?;
        }
    }
    let (started, mut order) = unbounded_channel();
    let builder = Consumer::builder(broker).concurrency(1).prefetch(60);
    let builder = if is_strict { builder.strict_lanes() } else { builder.lane_weights(16, 4, 1) };
    let consumer = builder
        .handler_fn(move |_: Mail, ctx| {
            let _ = started.send(match ctx.priority() {
                Priority::Urgent => 'U',
                Priority::Normal => 'n',
                Priority::Low => 'l',
            });
            async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(())
            }
        })
        .start()
        .await?;
    let mut found = String::new();
    while found.len() < 60
        && let Some(letter) = order.recv().await
    {
        found.push(letter);
    }
    consumer.shutdown().await;
    Ok(found)
}
