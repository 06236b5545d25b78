//! Tasks that come too late, on a real broker and its clock.

use std::sync::Mutex;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::CancelReason;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Value;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::sleep;

use crate::tasks::broker;
use crate::tasks::dead_letter;
use crate::tasks::reason;
use crate::*;

const SECOND: Duration = Duration::from_secs(1);

/// Waits that long, and fails if it is told to stop.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Wait(Duration);

impl Task for Wait {
    const NAME: &'static str = "wait";
    type Output = u32;
}

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).build().await.unwrap()
}

async fn failed(task: taskhare::Enqueued<Wait>) -> String {
    match task.output().await {
        Err(TaskhareError::Failed { reason, .. }) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_too_late_already_is_refused() {
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    let error = producer.enqueue(Wait(SECOND)).deadline(SystemTime::now() - SECOND).await.unwrap_err();
    assert!(matches!(error, TaskhareError::DeadlinePassed { .. }), "{error}");
    assert_eq!(broker.waiting("default").await.unwrap_or(0), 0);
}

/// RabbitMQ takes a time to live of ten years; what would be longer has none, and its consumer looks at the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_may_be_decades_away() {
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    for years in [1, 9, 11, 50] {
        let deadline = SECOND * 60 * 60 * 24 * 365 * years;
        producer.enqueue(Wait(SECOND)).deadline_in(deadline).without_output().await.unwrap();
    }
    eventually("they wait", async || broker.waiting("default").await.unwrap() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_too_long_is_dead_lettered_by_the_broker_and_never_started() {
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    let task = producer.enqueue(Wait(SECOND)).deadline_in(SECOND / 2).await.unwrap();
    eventually("it is dead", async || broker.dead("default").await.unwrap() == 1).await;
    let (sender, mut started) = unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Wait, ctx| {
            sender.send(ctx.id()).unwrap();
            async { Ok(0) }
        })
        .start()
        .await
        .unwrap();
    let letter = dead_letter(&broker).await;
    assert_eq!(letter.id, Some(task.id().to_string()));
    let Some(Value::List(deaths)) = letter.headers.get("x-death") else { panic!("{letter:?}") };
    let Some(Value::Table(death)) = deaths.first() else { panic!("{letter:?}") };
    assert_eq!(death.get("reason"), Some(&Value::from("expired")));
    assert_eq!(failed(task).await, "expired-in-queue", "though nobody tells the enqueuer");
    consumer.shutdown().await;
    assert!(started.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_late_when_its_turn_comes_is_not_started() {
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut started) = unbounded_channel();
    let open = gate.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Wait, ctx| {
            sender.send(ctx.id()).unwrap();
            let gate = open.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(0)
            }
        })
        .concurrency(1)
        .prefetch(8)
        .start()
        .await
        .unwrap();
    let first = producer.enqueue(Wait(SECOND)).await.unwrap();
    assert_eq!(started.recv().await, Some(first.id()));
    // Long enough to reach the consumer's buffer, where the broker cannot expire it.
    let late = producer.enqueue(Wait(SECOND)).deadline_in(3 * SECOND).await.unwrap();
    sleep(4 * SECOND).await;
    assert_eq!(broker.dead("default").await.unwrap(), 0, "the broker has given it away");
    gate.add_permits(1);
    assert_eq!(reason(&dead_letter(&broker).await), "expired-unstarted");
    assert_eq!(failed(late).await, "expired-unstarted");
    consumer.shutdown().await;
    assert!(started.recv().await.is_none(), "only the first was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_at_its_deadline_is_told_and_then_dropped() {
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    let (sender, mut told) = unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |wait: Wait, ctx| {
            let sender = sender.clone();
            async move {
                if wait.0.is_zero() {
                    ctx.cancelled().await;
                    sender.send((ctx.cancel_reason(), ctx.remaining())).unwrap();
                    return Err(TaskError::retry("stopped early"));
                }
                sleep(wait.0).await;
                Ok(0)
            }
        })
        .cancel_grace(SECOND / 2)
        .start()
        .await
        .unwrap();
    let stops = producer.enqueue(Wait(Duration::ZERO)).deadline_in(2 * SECOND).await.unwrap();
    let goes_on = producer.enqueue(Wait(600 * SECOND)).deadline_in(2 * SECOND).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), (Some(CancelReason::Deadline), Some(Duration::ZERO)));
    assert_eq!(
        (failed(stops).await.as_str(), failed(goes_on).await.as_str()),
        ("expired-running", "expired-running")
    );
    for _ in 0..2 {
        assert_eq!(reason(&dead_letter(&broker).await), "expired-running");
    }
    let receipt = consumer.shutdown().await;
    assert_eq!(receipt.aborted(), 0, "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_be_tried_again_in_time_is_not() {
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    let consumer = Consumer::builder(&broker)
        .handler_fn(|_: Wait, _| async { Err(TaskError::retry("as told")) })
        .retry(RetryPolicy::fixed(20 * SECOND))
        .start()
        .await
        .unwrap();
    let task = producer.enqueue(Wait(SECOND)).deadline_in(15 * SECOND).await.unwrap();
    assert_eq!(failed(task).await, "expired-retrying");
    assert_eq!(reason(&dead_letter(&broker).await), "expired-retrying");
    consumer.shutdown().await;
}

/// More than the consumer can run in time: some expire on the broker, some in the buffer, and none starts late.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_tasks_with_deadlines_each_is_started_in_time_or_dead() {
    const TASKS: u32 = 600;
    let (broker, _) = broker().await;
    let producer = producer(&broker).await;
    let started: Arc<Mutex<Vec<(TaskId, SystemTime, SystemTime)>>> = Arc::default();
    let seen = started.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Wait, ctx| {
            seen.lock().unwrap().push((ctx.id(), SystemTime::now(), ctx.deadline().unwrap()));
            async {
                sleep(Duration::from_millis(20)).await;
                Ok(0)
            }
        })
        .concurrency(2)
        .prefetch(32)
        .start()
        .await
        .unwrap();
    let mut tasks = Vec::new();
    for number in 1..=TASKS {
        let deadline = Duration::from_millis(u64::from(500 + number % 50 * 50));
        let task = producer.enqueue(Wait(SECOND)).deadline_in(deadline).without_output().await;
        tasks.push(task.unwrap().id());
    }
    let dead = async || broker.dead("default").await.unwrap();
    let ended = async || dead().await + started.lock().unwrap().len() as u64;
    eventually("all have ended", async || ended().await == u64::from(TASKS)).await;
    consumer.shutdown().await;
    let mut ids = Vec::new();
    for (id, at, deadline) in started.lock().unwrap().iter() {
        assert!(at < deadline, "{id} started at {at:?}, its deadline was {deadline:?}");
        ids.push(*id);
    }
    let letters = dead().await;
    assert!(!ids.is_empty() && letters > 0, "{} started", ids.len());
    let mut dead = broker.transport().subscribe(subscribe("taskhare.default.dead", 1024)).await.unwrap();
    for _ in 0..letters {
        ids.push(id(&next(&mut dead).await).parse().unwrap());
    }
    ids.sort();
    tasks.sort();
    assert!(ids == tasks, "each once");
}
