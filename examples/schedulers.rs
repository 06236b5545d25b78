//! Three schedulers in three processes, of which one is active. It is killed, and another goes on: no tick is missed, and
//! none is fired twice.
//!
//! ```text
//! AMQP_URL=amqp://localhost cargo run --example schedulers      # needs RabbitMQ: there are several processes
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;
use tokio::sync::mpsc;

const TICKS: u64 = 30;
const PERIOD: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
struct Beat;

impl Task for Beat {
    const NAME: &'static str = "beat";
    type Output = ();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").map_err(|_| "set AMQP_URL, to amqp://localhost perhaps")?;
    let broker = Broker::connect(&url).await?;
    match std::env::args().nth(1).as_deref() {
        Some("scheduler") => schedule(&broker).await,
        _ => watch(&broker).await,
    }
}

/// What each of the three does: there is one schedule, whoever declares it.
async fn schedule(broker: &Broker) -> Result<(), Box<dyn std::error::Error>> {
    let beat = Schedule::new("beat", PERIOD, Beat);
    let scheduler = Scheduler::builder(broker).schedule(beat).start().await?;
    while !scheduler.is_active() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("active");
    // Until it is killed.
    std::future::pending().await
}

/// Runs the tasks, starts three schedulers, and kills the active one.
async fn watch(broker: &Broker) -> Result<(), Box<dyn std::error::Error>> {
    let (tell, mut ticks) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(broker)
        .handler_fn(move |_: Beat, ctx| {
            let tell = tell.clone();
            async move {
                let _ = tell.send(ctx.tick().cloned());
                Ok(())
            }
        })
        .start()
        .await?;
    let (is_active, mut active) = mpsc::unbounded_channel();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("scheduler")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = child.stdout.take().ok_or("no output")?;
        let is_active = is_active.clone();
        tokio::spawn(async move {
            // It says one word.
            let _ = BufReader::new(said).lines().next_line().await;
            let _ = is_active.send(child);
        });
    }

    let mut running: Option<Child> = None;
    let mut planned = None;
    for number in 1..=TICKS {
        let tick = ticks.recv().await.flatten().ok_or("no tick")?;
        assert_eq!(tick.sequence(), number, "none is missed, none is doubled");
        assert!(planned.is_none_or(|planned| tick.planned_at() == planned), "each at its time");
        planned = Some(tick.planned_at() + PERIOD);
        if number % 10 == 1 {
            if let Some(mut killed) = running.take() {
                killed.start_kill()?;
                println!("tick {number}: killed process {:?}", killed.id());
            }
            running = active.recv().await;
            println!("tick {number}: process {:?} is active", running.as_ref().and_then(Child::id));
        }
    }
    println!("{TICKS} ticks, each once");
    broker.schedules().remove("beat").await?;
    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
