//! Recurring tasks: at an interval, by a cron expression, once; paused, triggered, listed. No database, no cron daemon.
//!
//! ```text
//! cargo run --example schedule                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --example schedule        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Misfire;
use taskhare::Overlap;
use taskhare::Producer;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize)]
struct Report {
    region: String,
}

impl Task for Report {
    const NAME: &'static str = "report";
    type Output = ();
}

fn report(region: &str) -> Report {
    Report { region: region.to_owned() }
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;

    // Who runs the tasks, and tells which tick each of them was.
    let (tell, mut ticks) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |task: Report, ctx| {
            let tell = tell.clone();
            async move {
                if let Some(tick) = ctx.tick() {
                    println!("{} #{} for {}", tick.schedule(), tick.sequence(), task.region);
                    let _ = tell.send(tick.clone());
                }
                Ok(())
            }
        })
        .start()
        .await?;

    // Every process of a service may declare the same schedules when it starts: there is one of each.
    let at_nine = Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin");
    let scheduler = Scheduler::builder(&broker)
        .schedule(Schedule::new("often", Duration::from_millis(200), report("eu")).limit(5))
        .schedule(Schedule::new("each-second", Cadence::cron("* * * * * *"), report("us")).limit(2))
        .schedule(
            Schedule::new("each-morning", at_nine, report("de"))
                .misfire(Misfire::Skip)
                .overlap(Overlap::Skip)
                .deadline_in(Duration::from_secs(3600)),
        )
        .start()
        .await?;

    // A process without a scheduler can declare them too.
    let producer = Producer::builder(&broker).build().await?;
    let soon = Cadence::at(SystemTime::now() + Duration::from_millis(500));
    producer.schedule("once", soon, report("jp")).await?;

    let schedules = broker.schedules();
    schedules.trigger("each-morning").await?; // now, beside those at nine

    let mut fired = Vec::new();
    while fired.len() < 5 + 2 + 1 + 1
        && let Some(tick) = ticks.recv().await
    {
        fired.push((tick.schedule().to_owned(), tick.sequence()));
    }
    fired.sort();
    let expected = [("each-morning", 1), ("each-second", 1), ("each-second", 2), ("often", 1), ("often", 2)];
    let expected = expected.into_iter().chain([("often", 3), ("often", 4), ("often", 5), ("once", 1)]);
    assert!(fired.iter().map(|(name, number)| (name.as_str(), *number)).eq(expected), "{fired:?}");

    schedules.pause("each-morning").await?;
    for schedule in schedules.list().await? {
        let (cadence, next) = (schedule.cadence(), schedule.next_tick());
        let next = next.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        println!("{}: {cadence}, {} ticks, the next in {next:?}", schedule.name(), schedule.ticks());
        schedules.remove(schedule.name()).await?;
    }
    assert!(schedules.list().await?.is_empty());

    scheduler.shutdown().await;
    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
