//! A cluster of three RabbitMQ nodes on this machine: one is killed while tasks are enqueued and run, and none is lost.
//!
//! ```text
//! cargo run --features testing --example cluster      # needs rabbitmq-server installed: it starts its own three
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use taskhare::testing::TestCluster;
use tokio::time::Instant;

const TASKS: u32 = 600;
/// The lane of a queue where tasks without a priority wait.
const LANE: &str = "taskhare.default.normal";

#[derive(Serialize, Deserialize)]
struct Stamp {
    letter: u32,
}

impl Task for Stamp {
    const NAME: &'static str = "stamp";
    type Output = ();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("starting three RabbitMQ nodes");
    let cluster = TestCluster::start().await?;
    let vhost = cluster.fresh_vhost().await?;
    let urls = cluster.urls(&vhost); // amqp://…,amqp://…,amqp://…: all nodes
    let (broker, stamped) = (Broker::connect(&urls).await?, Arc::new(Mutex::new(BTreeMap::new())));
    let stamps = stamped.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |task: Stamp, _| {
            *stamps.lock().expect("nobody panics with it").entry(task.letter).or_insert(0_usize) += 1;
            async { Ok(()) }
        })
        .start()
        .await?;
    let producer = Producer::builder(&broker).build().await?;

    let (mut lost_node, mut slowest) = (None, Duration::ZERO);
    for letter in 0..TASKS {
        if letter == TASKS / 2 {
            let leader = cluster.leader_of(&vhost, LANE).await?;
            cluster.kill(leader).await?;
            println!("{} leads the queue: killed", cluster.name(leader));
            lost_node = Some(leader);
        }
        let begun = Instant::now();
        producer.enqueue(Stamp { letter }).await?; // Ok: on a majority of the nodes
        slowest = slowest.max(begun.elapsed());
    }
    println!("{TASKS} tasks enqueued; while the others took over, one took {slowest:.0?}");

    let count = || stamped.lock().expect("nobody panics with it").len();
    let begun = Instant::now();
    while count() < TASKS as usize && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumer.shutdown().await;
    broker.close().await;
    let (done, runs) = (count(), stamped.lock().expect("nobody panics with it").values().sum::<usize>());
    println!("{done} of them done, {} twice", runs - done);
    assert_eq!(done, TASKS as usize, "a confirmed task is lost");

    if let Some(node) = lost_node {
        cluster.start_again(node).await?;
        println!("{} is back", cluster.name(node));
    }
    println!("no task lost");
    Ok(())
}
