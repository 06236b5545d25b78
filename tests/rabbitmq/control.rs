//! Cancelling, rescheduling and unique tasks on a real broker, over connections that are lost.

use std::collections::BTreeSet;
use std::sync::Mutex;

use futures_util::future::join_all;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Fate;
use taskhare::OnDuplicate;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::ShutdownEntry;
use taskhare::Task;
use taskhare::TaskError;

use crate::tasks::broker;
use crate::*;

const SECOND: Duration = Duration::from_secs(1);

/// Waits that long, or until it is told to stop.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Nap {
    name: String,
    long: Duration,
}

impl Task for Nap {
    const NAME: &'static str = "nap";
    type Output = ();
}

fn nap(name: &str) -> Nap {
    Nap { name: name.to_owned(), long: Duration::ZERO }
}

/// The names of the naps that were started.
type Started = Arc<Mutex<Vec<String>>>;

async fn sleeper(broker: &Broker, started: &Started) -> Consumer {
    let started = started.clone();
    let builder = Consumer::builder(broker).handler_fn(move |task: Nap, ctx| {
        started.lock().unwrap().push(task.name);
        async move {
            tokio::select! {
                () = tokio::time::sleep(task.long) => Ok(()),
                () = ctx.cancelled() => Err(TaskError::retry("woken")),
            }
        }
    });
    builder.start().await.unwrap()
}

async fn nothing_is_left(broker: &Broker) {
    eventually("no task is left", async || {
        broker.waiting("default").await.unwrap() == 0 && broker.delayed().await.unwrap() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_does_not_start_whoever_consumes_and_whenever() {
    let (broker, url) = broker().await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (started, early) = (Started::default(), sleeper(&broker, &Started::default()).await);
    let delayed = producer.enqueue(nap("delayed")).delay(2 * SECOND).await.unwrap();
    early.shutdown().await;
    let queued = producer.enqueue(nap("queued")).await.unwrap();
    producer.enqueue(nap("wanted")).delay(2 * SECOND).await.unwrap();
    for task in [delayed, queued] {
        producer.cancel(task.id()).await.unwrap();
    }
    broker.close().await;
    // Another process, later: all it has is what is on the broker.
    let broker = Broker::connect(&url).await.unwrap();
    let consumer = sleeper(&broker, &started).await;
    eventually("the wanted one starts", async || !started.lock().unwrap().is_empty()).await;
    nothing_is_left(&broker).await;
    consumer.shutdown().await;
    assert_eq!(*started.lock().unwrap(), ["wanted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_that_is_cancelled_is_told_and_not_tried_again() {
    let (broker, url) = broker().await;
    let (started, producer) = (Started::default(), Producer::builder(&broker).build().await.unwrap());
    let consumers = [sleeper(&broker, &started).await, sleeper(&broker, &started).await];
    let long = Nap { long: 3600 * SECOND, ..nap("long") };
    let task = producer.enqueue(long).await.unwrap();
    eventually("it starts", async || !started.lock().unwrap().is_empty()).await;
    // Whoever cancels need not be who enqueued.
    let other = Broker::connect(&url).await.unwrap();
    Producer::builder(&other).build().await.unwrap().cancel(task.id()).await.unwrap();
    let management = TestBroker::shared().await.unwrap().management();
    let vhost = vhost_of(&url).unwrap();
    eventually("it is gone", async || {
        let queues = management.queues(&vhost).await.unwrap();
        let normal = queues.iter().find(|queue| queue.name == "taskhare.default.normal").unwrap();
        normal.totals.messages == 0
    })
    .await;
    for consumer in consumers {
        let receipt = consumer.shutdown().await;
        // The broker counts what it was told a moment ago, not what it is about to be told.
        let is_cancelled = |task: &ShutdownEntry| task.fate == Fate::Finished(Outcome::Cancelled);
        assert!(receipt.tasks.iter().all(is_cancelled), "{receipt:?}");
    }
    assert_eq!(started.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_rescheduled_task_only_the_newest_copy_runs() {
    let (broker, _) = broker().await;
    let (started, producer) = (Started::default(), Producer::builder(&broker).build().await.unwrap());
    let consumer = sleeper(&broker, &started).await;
    let now = producer.enqueue(nap("old")).delay(2 * SECOND).await.unwrap();
    let later = producer.enqueue(nap("old")).delay(SECOND).await.unwrap();
    producer.reschedule(now.id(), nap("now")).await.unwrap();
    producer.reschedule(later.id(), nap("later")).delay(3 * SECOND).await.unwrap();
    eventually("both start", async || started.lock().unwrap().len() == 2).await;
    nothing_is_left(&broker).await;
    consumer.shutdown().await;
    assert_eq!(*started.lock().unwrap(), ["now", "later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_producers_at_once_one_gets_the_key() {
    let (broker, url) = broker().await;
    let mut producers = Vec::new();
    for _ in 0..4 {
        let broker = Broker::connect(&url).await.unwrap();
        producers.push(Producer::builder(&broker).build().await.unwrap());
    }
    for round in 0..5 {
        let key = format!("key {round}");
        let all = producers.iter().flat_map(|producer| [producer; 8]);
        let results =
            join_all(all.map(async |producer| producer.enqueue(nap("one")).unique(&key).await)).await;
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1);
        let named: BTreeSet<&String> = results
            .iter()
            .filter_map(|result| match result.as_ref().err()? {
                TaskhareError::Duplicate { of, .. } => Some(of),
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(named, BTreeSet::from([&winners[0].id().to_string()]));
    }
    assert_eq!(broker.waiting("default").await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_free_when_its_task_is_done_also_after_all_connections_were_lost() {
    let (broker, url) = broker().await;
    let (started, producer) = (Started::default(), Producer::builder(&broker).build().await.unwrap());
    producer.enqueue(nap("first")).unique("a").await.unwrap();
    let (management, vhost) = (TestBroker::shared().await.unwrap().management(), vhost_of(&url).unwrap());
    eventually("its connections are closed", async || {
        management.close_connections(&vhost).await.unwrap() > 1
    })
    .await;
    let second = producer.enqueue(nap("second")).unique("a").on_duplicate(OnDuplicate::Coalesce);
    assert!(!second.await.unwrap().is_new());
    let consumer = sleeper(&broker, &started).await;
    eventually("the key is free", async || {
        producer.enqueue(nap("third")).unique("a").on_duplicate(OnDuplicate::Coalesce).await.unwrap().is_new()
    })
    .await;
    eventually("it starts", async || started.lock().unwrap().len() == 2).await;
    consumer.shutdown().await;
    assert_eq!(*started.lock().unwrap(), ["first", "third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_replaces_the_one_that_waits_under_its_key() {
    let (broker, _) = broker().await;
    let (started, producer) = (Started::default(), Producer::builder(&broker).build().await.unwrap());
    let consumer = sleeper(&broker, &started).await;
    for name in ["first", "second", "third"] {
        let enqueue = producer.enqueue(nap(name)).unique("a").on_duplicate(OnDuplicate::Replace);
        assert!(enqueue.delay(SECOND).await.unwrap().is_new());
    }
    eventually("one starts", async || !started.lock().unwrap().is_empty()).await;
    nothing_is_left(&broker).await;
    consumer.shutdown().await;
    assert_eq!(*started.lock().unwrap(), ["third"]);
}
