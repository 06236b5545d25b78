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
use taskhare::Error;
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
    let server = is_up.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Mail, _ctx| {
            let is_up = server.load(Ordering::Relaxed);
            async move { if is_up { Ok(()) } else { Err(TaskError::retry("the mail server is down")) } }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(10)).max_attempts(2))
        .start()
        .await?;

    let producer = Producer::builder(&broker).build().await?;
    for to in ["ada", "grace", "edith"] {
        let mail = producer.enqueue(Mail { to: to.to_owned() }).await?;
        assert!(matches!(mail.output().await, Err(Error::Failed { .. })));
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
    while broker.dead("mail").await? > 0 || broker.waiting("mail").await? > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let receipt = consumer.shutdown().await;
    println!(
        "the mail server is back, and all mails are sent; {} tasks were still under way",
        receipt.finished()
    );
    assert_eq!(broker.dead("mail").await?, 0);
    scheduler.shutdown().await;
    broker.close().await;
    Ok(())
}
