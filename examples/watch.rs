//! A scheduler that watches: it tells what is wrong, knows who consumes and what runs, and gives dead letters another
//! chance.
//!
//! ```text
//! cargo run --example watch                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example watch        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Alert;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Redrive;
use taskhare::RetryPolicy;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::Thresholds;
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}

impl Task for Mail {
    const NAME: &'static str = "mail";
    const QUEUE: &'static str = "mail";
    type Output = ();
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;

    // In each process of a service, or in some: one of them is active.
    let (tell, mut alerts) = mpsc::unbounded_channel();
    let scheduler = Scheduler::builder(&broker)
        .thresholds(Thresholds::default().dead_letters(2))
        .on_alert(move |alert| {
            println!("{alert:?}"); // a page, a message to a channel
            let _ = tell.send(alert.clone());
        })
        .redrive(Redrive::after(Duration::from_secs(2)).times(3).queue("mail"))
        .start()
        .await?;

    let is_up = Arc::new(AtomicBool::new(false));
    let (sent, mut all_sent) = mpsc::unbounded_channel();
    let server = is_up.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |mail: Mail, _ctx| {
            let (is_up, sent) = (server.load(Ordering::Relaxed), sent.clone());
            async move {
                if !is_up {
                    return Err(TaskError::retry("the mail server is down"));
                }
                let _ = sent.send(mail.to);
                Ok(())
            }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(10)).max_attempts(2))
        .start()
        .await?;

    let producer = Producer::builder(&broker).build().await?;
    for to in ["ada", "grace", "edith"] {
        producer.enqueue(Mail { to: to.to_owned() }).await?;
    }
    let is_many = |alert: &Alert| matches!(alert, Alert::DeadLetters { .. });
    while let Some(alert) = alerts.recv().await
        && !is_many(&alert)
    {}
    for consumer in scheduler.consumers() {
        println!("{} {:?}, heard {:?} ago", consumer.consumer, consumer.presence, consumer.heard);
    }
    assert_eq!(scheduler.consumers().len(), 1);

    is_up.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        println!("sent after all: {:?}", all_sent.recv().await);
    }
    consumer.shutdown().await;
    scheduler.shutdown().await;
    assert_eq!(broker.dead("mail").await?, 0);
    broker.close().await;
    Ok(())
}
