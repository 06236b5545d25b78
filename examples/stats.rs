//! What becomes of tasks, in figures: of those that run just now, and of the same ones from the history.
//!
//! ```text
//! cargo run --features stats --example stats                             # no server needed
//! AMQP_URL=amqp://localhost cargo run --features stats --example stats   # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::stats::Dimension;
use taskhare::stats::Figures;
use taskhare::stats::Stats;

/// Each tenth one has to be tried twice, each fiftieth is refused.
#[derive(Serialize, Deserialize)]
struct Charge {
    number: u32,
}

impl Task for Charge {
    const NAME: &'static str = "charge";
    const QUEUE: &'static str = "shop";
    type Output = ();
}

#[derive(Serialize, Deserialize)]
struct Mail;

impl Task for Mail {
    const NAME: &'static str = "mail";
    const QUEUE: &'static str = "shop";
    type Output = ();
}

const CHARGES: u32 = 200;
const MAILS: u32 = 100;

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let begun = SystemTime::now();
    let mut events = broker.events().queue("shop").subscribe().await?;
    let consumer = Consumer::builder(&broker)
        .retry(RetryPolicy::fixed(Duration::from_millis(100)))
        .handler_fn(|task: Charge, ctx| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            match (task.number % 50, ctx.attempt()) {
                (7, _) => Err(TaskError::reject("the card is blocked")),
                (number, 1) if number % 10 == 0 => Err(TaskError::retry("the bank does not answer")),
                _ => Ok(()),
            }
        })
        .handler_fn(|_: Mail, _| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        })
        .start()
        .await?;
    let producer = Producer::builder(&broker).build().await?;
    for result in producer.enqueue_all((0..CHARGES).map(|number| Charge { number })).await {
        result?;
    }
    for _ in 0..MAILS {
        producer.enqueue(Mail).delay(Duration::from_millis(300)).await?;
    }

    // Live, until all have ended. That one was accepted may be told after its end.
    let mut stats = Stats::builder().window(Duration::from_secs(1)).build()?;
    let all = u64::from(CHARGES + MAILS);
    while stats.total().ended() < all || stats.total().accepted < all {
        stats.record(&events.next().await.expect("they all end"));
    }
    print(&stats);

    // The same from the history, which tells it for a week.
    let mut past = Stats::builder().build()?;
    let mut history = broker.events().queue("shop").since(begun).until_now().subscribe().await?;
    while let Some(event) = history.next().await {
        past.record(&event);
    }
    println!("\nfrom the history: {} done, {} dead", past.total().succeeded, past.total().dead);
    println!("as CSV: {} lines; as JSON: {} bytes", stats.to_csv().lines().count(), stats.to_json().len());

    let [live, past] = [stats.total(), past.total()];
    assert_eq!((live.succeeded, live.dead, live.retried), (all - 4, 4, 20));
    assert_eq!(past.succeeded, live.succeeded);
    // Mails and retries had a time when they were due. What the broker delivers a second time is not counted there.
    let delayed = u64::from(MAILS) + 20;
    assert!((delayed - 5..=delayed).contains(&live.lateness.count()), "{}", live.lateness.count());
    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}

fn print(stats: &Stats) {
    println!("{:>44}  {:>9}  {:>27}", "tasks", "attempts", "99% within, in milliseconds");
    println!(
        "{:24} {:>5} {:>5} {:>5}  {:>5}  {:>4} {:>6} {:>6} {:>6} {:>6}",
        "", "done", "dead", "a sec", "tried", "most", "wait", "late", "run", "all"
    );
    row("all", stats.total());
    for (by, dimension) in [
        ("of type", Dimension::Task),
        ("in queue", Dimension::Queue),
        ("in lane", Dimension::Lane),
        ("by", Dimension::Consumer),
    ] {
        for (name, figures) in stats.by(dimension) {
            row(&format!("{by} {name}"), figures);
        }
    }
    for (number, window) in stats.windows().enumerate() {
        row(&format!("in second {}", number + 1), window.total());
    }
}

fn row(name: &str, figures: &Figures) {
    let quantile = |durations: &taskhare::stats::Durations| match durations.quantile(0.99) {
        Some(time) => format!("{:.1}", time.as_secs_f64() * 1e3),
        None => "-".to_owned(),
    };
    println!(
        "{name:24} {:>5} {:>5} {:>5.0}  {:>5}  {:>4} {:>6} {:>6} {:>6} {:>6}",
        figures.succeeded,
        figures.dead,
        figures.per_second(),
        figures.started,
        figures.attempts.max,
        quantile(&figures.wait),
        quantile(&figures.lateness),
        quantile(&figures.run),
        quantile(&figures.end_to_end),
    );
}
