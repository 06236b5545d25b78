//! Quarantine on a real broker, which counts by its own rules.

use std::sync::Mutex;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use tokio::time::timeout;

use crate::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Wait;

impl Task for Wait {
    const NAME: &'static str = "wait";
    type Output = ();
}

type Started = Arc<Mutex<Vec<TaskId>>>;

async fn broker(replication: Replication) -> Broker {
    let url = fresh_vhost().await;
    Broker::builder().url(&url).replication(replication).connect().await.unwrap()
}

/// Runs until it is shut down, and stops early then, or is stopped.
async fn consumer(broker: &Broker, started: &Started, stops_early: bool) -> Consumer {
    let started = started.clone();
    let builder = Consumer::builder(broker).shutdown_grace(Duration::from_millis(50)).handler_fn(
        move |_: Wait, ctx| {
            started.lock().unwrap().push(ctx.id());
            async move {
                ctx.cancelled().await;
                if !stops_early {
                    std::future::pending::<()>().await;
                }
                Err(TaskError::retry("stopped early"))
            }
        },
    );
    builder.start().await.unwrap()
}

/// Takes what is there and ends its channel, as the death of a process does.
async fn die(broker: &Broker, queue: &str, count: usize) {
    let mut lane = broker.transport().subscribe(subscribe(queue, 100)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(timeout(PATIENCE, lane.next()).await.unwrap().unwrap());
    }
    lane.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdowns_count_no_start_of_a_task_in_quarantine() {
    for stops_early in [true, false] {
        let (broker, started) = (broker(Replication::default()).await, Started::default());
        Producer::builder(&broker).build().await.unwrap().enqueue(Wait).await.unwrap();
        for _ in 0..2 {
            die(&broker, "taskhare.default.normal", 1).await;
        }
        for round in 1..=6 {
            let consumer = consumer(&broker, &started, stops_early).await;
            eventually("it starts", async || started.lock().unwrap().len() == round).await;
            let receipt = consumer.shutdown().await;
            assert_eq!(receipt.tasks.len(), 1, "{receipt:?}");
            eventually("it is back", async || broker.quarantined("default").await.unwrap() == 1).await;
        }
        die(&broker, "taskhare.default.quarantine", 1).await;
        let mut quarantine = broker.transport().subscribe(subscribe("taskhare.default.quarantine", 1)).await;
        let again = timeout(PATIENCE, quarantine.as_mut().unwrap().next()).await.unwrap().unwrap();
        assert_eq!(again.returned, 1, "only the one that was not a shutdown");
        broker.close().await;
    }
}

/// As in a rolling deployment, where each process hands on what it has not started to the next that will be stopped.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_are_handed_on_again_and_again_without_being_started_do_not_die() {
    for replication in [Replication::default(), Replication::Classic] {
        let (broker, started) = (broker(replication).await, Started::default());
        let producer = Producer::builder(&broker).build().await.unwrap();
        for task in producer.enqueue_all((0..20).map(|_| Wait)).await {
            task.unwrap();
        }
        for _ in 0..30 {
            die(&broker, "taskhare.default.normal", 20).await;
        }
        let done = started.clone();
        let builder = Consumer::builder(&broker).handler_fn(move |_: Wait, ctx| {
            done.lock().unwrap().push(ctx.id());
            async { Ok(()) }
        });
        let consumer = builder.start().await.unwrap();
        eventually("all are done", async || started.lock().unwrap().len() == 20).await;
        consumer.shutdown().await;
        assert_eq!(broker.dead("default").await.unwrap(), 0);
        assert_eq!(
            (broker.waiting("default").await.unwrap(), broker.quarantined("default").await.unwrap()),
            (0, 0)
        );
        broker.close().await;
    }
}
