//! Tasks that start later: after a while, or at a time of day. They wait on the broker, not in a process.
//!
//! ```text
//! cargo run --example delay                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example delay        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;

#[derive(Serialize, Deserialize)]
struct Remind {
    of: String,
}

impl Task for Remind {
    const NAME: &'static str = "remind";
    type Output = SystemTime; // when it started
}

fn remind(of: &str) -> Remind {
    Remind { of: of.to_owned() }
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let producer = Producer::builder(&broker).build().await?;

    let tea = SystemTime::now() + Duration::from_secs(2);
    let for_tea = producer.enqueue(remind("the tea")).at(tea).await?;
    let cake = SystemTime::now() + Duration::from_millis(1500);
    let for_cake = producer.enqueue(remind("the cake")).delay(Duration::from_millis(1500)).await?;
    let for_guests = producer.enqueue(remind("the guests")).await?;
    println!("{} tasks wait for their time", broker.delayed().await?);

    // Whoever runs then, runs them. It could be started after all of them were due.
    let consumer = Consumer::builder(&broker)
        .handler_fn(|task: Remind, _| async move {
            println!("it is time for {}", task.of);
            Ok(SystemTime::now())
        })
        .start()
        .await?;
    let guests = for_guests.output().await?;
    for (reminder, due) in [(for_cake, cake), (for_tea, tea)] {
        let started = reminder.output().await?;
        assert!(started >= due && started > guests, "never early");
        println!("{:?} late", started.duration_since(due).unwrap_or_default());
    }

    consumer.shutdown().await;
    assert_eq!(broker.delayed().await?, 0);
    broker.close().await;
    Ok(())
}
