//! A steady load of everything for minutes, while connections are closed and consumers come and go: what that takes, in
//! its processes and on the broker, does not grow. `./dev soak`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests"
)]

mod gauge;
mod process;
mod worker;

use std::time::Duration;

use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use tokio::time::Instant;
use tokio::time::sleep_until;

use gauge::Gauges;
use process::Process;

/// How long it takes.
const MINUTES: &str = "TASKHARE_SOAK_MINUTES";
const DEFAULT_MINUTES: f64 = 20.0;
/// How often all connections are closed, at most; six times in a short run.
const CLOSE_EVERY: Duration = Duration::from_secs(20);
/// How often a consumer is replaced, at most; four times in a short run.
const REPLACE_EVERY: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long the broker has at the end to notice that all are gone.
const PATIENCE: Duration = Duration::from_secs(60);

#[ignore = "takes minutes: ./dev soak [MINUTES]"]
#[tokio::test(flavor = "multi_thread")]
async fn a_steady_load_takes_no_more_at_the_end_than_before() -> Result<()> {
    let minutes = std::env::var(MINUTES).map_or(DEFAULT_MINUTES, |minutes| minutes.parse().unwrap());
    let time = Duration::from_secs_f64(60.0 * minutes);
    let lab = TestBroker::start().await?;
    let url = lab.fresh_vhost().await?;
    let (management, vhost) = (lab.management(), vhost_of(&url)?);
    let application = Process::start("application", &url);
    let consumer = Process::start("consumer", &url);
    let mut passing = Process::start("consumer", &url);

    let started = Instant::now();
    let mut gauges = Gauges::new(time);
    let (mut closed, mut replaced) = (0, 0);
    let (mut close_at, mut replace_at) =
        (started + CLOSE_EVERY.min(time / 6), started + REPLACE_EVERY.min(time / 4));
    while started.elapsed() < time {
        sleep_until(Instant::now() + SAMPLE_EVERY).await;
        if Instant::now() >= close_at {
            closed += management.close_connections(&vhost).await?;
            close_at += CLOSE_EVERY.min(time / 6);
        }
        if Instant::now() >= replace_at {
            passing.shut_down().await;
            passing = Process::start("consumer", &url);
            replace_at += REPLACE_EVERY.min(time / 4);
            replaced += 1;
        }
        let at = started.elapsed();
        for (name, process) in [("application", &application), ("consumer", &consumer)] {
            process
                .sample()
                .into_iter()
                .for_each(|(what, value)| gauges.enter(at, &format!("{name}: {what}"), value));
        }
        for (what, value) in broker_sample(&lab).await? {
            gauges.enter(at, &format!("broker: {what}"), value);
        }
    }

    // It ends once all that it has enqueued has ended.
    let told = application.shut_down().await;
    passing.shut_down().await;
    consumer.shut_down().await;
    management.purge(&vhost, "taskhare.default.dead").await?;
    let ends = Instant::now() + PATIENCE;
    while !management.connections(&vhost).await?.is_empty() {
        assert!(Instant::now() < ends, "connections are left");
        sleep_until(Instant::now() + SAMPLE_EVERY).await;
    }
    println!("{minutes} minutes, {closed} connections closed, {replaced} consumers replaced; {told}");
    println!("{gauges}");
    let mut left = management.queues(&vhost).await?;
    // Streams keep what they were told, and the ledger what schedules there are.
    left.retain(|queue| {
        queue.kind != "stream" && queue.name != "taskhare.schedules" && queue.totals.messages > 0
    });
    assert_eq!(left, [], "nothing is left in queues");
    assert!(told.ends_with(" 0 have not ended"), "{told}");
    assert_eq!(gauges.growing(), [""; 0]);
    Ok(())
}

/// What the broker has for all of them. Not by its management API, which tells of what is gone for a while.
async fn broker_sample(lab: &TestBroker) -> Result<Vec<(&'static str, f64)>> {
    let figures = "\
        Queues = rabbit_amqqueue:list(), \
        Consumers = lists:sum([length(rabbit_amqqueue:consumers(Queue)) || Queue <- Queues]), \
        Unacknowledged = lists:sum([N || Queue <- Queues, \
            {messages_unacknowledged, N} <- rabbit_amqqueue:info(Queue, [messages_unacknowledged]), is_integer(N)]), \
        io:format(\"~b ~b ~b ~b ~b\", [length(rabbit_networking:connections()), length(rabbit_channel:list()), \
            length(Queues), Consumers, Unacknowledged]).";
    let said = lab.rabbitmqctl(["-q", "eval", figures]).await?;
    let names = ["connections", "channels", "queues", "consumers", "unacknowledged"];
    let figures = said.split_whitespace().map_while(|figure| figure.trim_end_matches("ok").parse().ok());
    Ok(names.into_iter().zip(figures).collect())
}
