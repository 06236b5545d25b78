//! A progress bar for a task that runs elsewhere: on RabbitMQ in a process of its own.
//!
//! ```text
//! cargo run --example progress                                  # no server needed, and one process
//! AMQP_URL=amqp://localhost cargo run --example progress        # the same on RabbitMQ, with a worker beside it
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::process::Stdio;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::Standing;
use taskhare::Task;
use taskhare::TaskChange;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::process::Command;

const PAGES: u64 = 200;

#[derive(Serialize, Deserialize)]
struct Print {
    pages: u64,
}

impl Task for Print {
    const NAME: &'static str = "print";
    type Output = ();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::from_env().await?;
    if std::env::args().nth(1).as_deref() == Some("worker") {
        let consumer = work(&broker).await?;
        // Until the other process says that it is enough.
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        consumer.shutdown().await;
        broker.close().await;
        return Ok(());
    }
    let mut worker = None;
    let mut consumer = None;
    if std::env::var_os("AMQP_URL").is_some() {
        worker = Some(start_worker()?);
    } else {
        consumer = Some(work(&broker).await?);
    }

    let producer = Producer::builder(&broker).build().await?;
    let task = producer.enqueue(Print { pages: PAGES }).await?;
    watch(&broker, task.id()).await?;

    if let Some(consumer) = consumer {
        consumer.shutdown().await;
    }
    if let Some(mut worker) = worker {
        drop(worker.stdin.take());
        assert!(worker.wait().await?.success());
    }
    broker.close().await;
    Ok(())
}

/// Draws how far the task is, until it has ended. Any process can: all it needs is the id.
async fn watch(broker: &Broker, id: taskhare::TaskId) -> Result<(), Box<dyn std::error::Error>> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(PAGES).with_style(style);
    let mut life = broker.follow(id).await?;
    let (mut said, mut last) = (0, 0);
    while let Some(event) = life.next().await {
        match event.change {
            TaskChange::Started { .. } => bar.set_message(format!("on {}", event.by)),
            TaskChange::Progress { done, total, note } => {
                assert!(done >= last, "in order");
                (said, last) = (said + 1, done);
                bar.set_length(total.unwrap_or(PAGES));
                bar.set_position(done);
                bar.set_message(note);
            }
            _ => {}
        }
    }
    bar.finish();
    let standing = life.state().map(|state| state.standing.clone());
    println!("{PAGES} pages, told in {said} steps: {standing:?}");
    assert_eq!((last, standing), (PAGES, Some(Standing::Done(Outcome::Succeeded))));
    Ok(())
}

/// Prints, and says after each page how far it is. That goes out every 100 ms.
async fn work(broker: &Broker) -> taskhare::Result<Consumer> {
    let builder = Consumer::builder(broker).handler_fn(|task: Print, ctx| async move {
        for page in 1..=task.pages {
            tokio::time::sleep(Duration::from_millis(5)).await; // the work
            ctx.progress(page, task.pages, &format!("page {page}"));
        }
        Ok(())
    });
    builder.start().await
}

fn start_worker() -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").stdin(Stdio::piped()).kill_on_drop(true).spawn()
}
