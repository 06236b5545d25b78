//! Tasks, all the way through a real broker: what must not be proved in process alone.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use taskhare::Broker;
use taskhare::CancelReason;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Fate;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Value;

use tokio::time::timeout;

use crate::raw::RawClient;
use crate::raw::long;
use crate::raw::table;
use crate::*;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Double(u64);

impl Task for Double {
    const NAME: &'static str = "double";
    type Output = u64;
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Unknown;

impl Task for Unknown {
    const NAME: &'static str = "unknown";
    type Output = ();
}

/// A text where [`Double`] has a number.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Impostor(String);

impl Task for Impostor {
    const NAME: &'static str = "double";
    type Output = ();
}

pub(crate) async fn broker() -> (Broker, String) {
    let url = fresh_vhost().await;
    (Broker::connect(&url).await.unwrap(), url)
}

async fn doubler(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler_fn(|task: Double, ctx| async move {
        match task.0 {
            0 => Err(TaskError::reject("nothing to double")),
            1 if ctx.attempt() < 3 => Err(TaskError::retry("not yet")),
            number => Ok(number * 2),
        }
    });
    builder.retry(RetryPolicy::fixed(Duration::from_millis(50))).start().await.unwrap()
}

/// The next dead letter of the queue `default`.
pub(crate) async fn dead_letter(broker: &Broker) -> Message {
    let mut dead = broker.transport().subscribe(subscribe("taskhare.default.dead", 1)).await.unwrap();
    let mut delivery = timeout(PATIENCE, dead.next()).await.unwrap().unwrap();
    let message = std::mem::take(&mut delivery.message);
    delivery.ack();
    dead.close().await;
    message
}

pub(crate) fn reason(letter: &Message) -> &str {
    letter.headers.get("taskhare-reason").and_then(Value::as_text).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_retries_and_rejections_reach_the_enqueuer() {
    let (broker, _) = broker().await;
    let consumer = doubler(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let urgent = producer.enqueue(Double(21)).priority(Priority::Urgent).await.unwrap();
    assert_eq!(urgent.output().await.unwrap(), 42);
    let retried = producer.enqueue(Double(1)).await.unwrap();
    assert_eq!(retried.output().await.unwrap(), 2);
    let error = producer.enqueue(Double(0)).await.unwrap().output().await.unwrap_err();
    assert!(matches!(error, TaskhareError::Failed { .. }), "{error}");
    assert_eq!(reason(&dead_letter(&broker).await), "rejected");
    consumer.shutdown().await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_enqueuers_policy_and_the_failures_travel_with_a_task() {
    let (broker, _) = broker().await;
    let consumer = Consumer::builder(&broker)
        .handler_fn(
            |_: Double, ctx| async move { Err(TaskError::retry(format!("failure {}", ctx.attempt()))) },
        )
        .retry(RetryPolicy::never())
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let policy = RetryPolicy::fixed(Duration::from_millis(50)).max_attempts(3);
    producer.enqueue(Double(0)).retry(policy).await.unwrap();
    let letter = dead_letter(&broker).await;
    assert_eq!(reason(&letter), "attempts-exhausted");
    let Some(Value::List(failures)) = letter.headers.get("taskhare-failures") else { panic!("{letter:?}") };
    let errors: Vec<&str> = failures
        .iter()
        .map(|entry| match entry {
            Value::Table(entry) => entry.get("error").and_then(Value::as_text).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(errors, ["failure 1", "failure 2", "failure 3"]);
    consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_too_long_is_told_then_dropped_and_tried_again() {
    let (broker, _) = broker().await;
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Double, ctx| {
            let sender = sender.clone();
            async move {
                if ctx.attempt() == 1 {
                    ctx.cancelled().await;
                    sender.send(ctx.cancel_reason()).unwrap();
                    std::future::pending::<()>().await;
                }
                Ok(u64::from(ctx.attempt()))
            }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(50)))
        .run_timeout(Duration::from_millis(500))
        .cancel_grace(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    assert_eq!(producer.enqueue(Double(1)).await.unwrap().output().await.unwrap(), 2);
    assert_eq!(told.recv().await, Some(Some(CancelReason::Timeout)));
    consumer.shutdown().await;
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_dead_on_the_first_delivery_and_good_tasks_go_on() {
    let (broker, url) = broker().await;
    let consumer = doubler(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let good = async || producer.enqueue(Double(2)).await.unwrap().output().await.unwrap();

    producer.enqueue(Unknown).await.unwrap();
    assert_eq!(reason(&dead_letter(&broker).await), "unknown-task");
    producer.enqueue(Impostor("two".into())).await.unwrap();
    assert_eq!(reason(&dead_letter(&broker).await), "undecodable");
    assert_eq!(good().await, 4);

    let mut raw = RawClient::connect(&url).await.unwrap();
    raw.publish("taskhare.tasks", "default.normal", &table(&[(b"tenant", b'S', &long(b"blue"))]), b"{}")
        .await
        .unwrap();
    let letter = dead_letter(&broker).await;
    assert_eq!((reason(&letter), letter.body.as_slice()), ("foreign", &b"{}"[..]));
    assert_eq!(letter.headers.get("tenant"), Some(&Value::from("blue")));
    assert_eq!(good().await, 4);
    consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_hands_back_in_order_what_has_not_started_and_counts_no_attempt() {
    let (broker, _) = broker().await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let ids: Vec<TaskId> = producer
        .enqueue_all((0..20).map(Double))
        .without_output()
        .await
        .into_iter()
        .map(|task| task.unwrap().id())
        .collect();
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Double, ctx| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                ctx.cancelled().await;
                Err(TaskError::retry("stopped early"))
            }
        })
        .concurrency(1)
        .prefetch(10)
        .start()
        .await
        .unwrap();
    while started.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let receipt = consumer.shutdown().await;
    assert!(receipt.unstarted() <= 9 && receipt.finished() == 1, "{receipt:?}");
    assert!(receipt.tasks.iter().all(|entry| entry.fate != Fate::Aborted));

    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Double, ctx| {
            sender.send((ctx.id(), ctx.attempt())).unwrap();
            async { Ok(0) }
        })
        .concurrency(1)
        .start()
        .await
        .unwrap();
    for id in ids {
        assert_eq!(timeout(PATIENCE, seen.recv()).await.unwrap(), Some((id, 1)));
    }
    consumer.shutdown().await;
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_exists_otherwise_is_an_error_that_names_it() {
    let (broker, url) = broker().await;
    Producer::builder(&broker).queue("mail").build().await.unwrap();
    let other = Broker::builder().url(&url).delivery_limit(7).connect().await.unwrap();
    let error = Producer::builder(&other).queue("mail").build().await.unwrap_err();
    let TaskhareError::TopologyConflict { object, argument, ours, theirs } = &error else {
        panic!("{error}")
    };
    let expected = ("queue 'taskhare.mail.urgent'", "x-delivery-limit", "7", "100");
    assert_eq!((object.as_str(), argument.as_str(), ours.as_str(), theirs.as_str()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_under_a_producer_is_declared_again() {
    let (broker, url) = broker().await;
    let producer = Producer::builder(&broker).queue("mail").build().await.unwrap();
    let lab = TestBroker::shared().await.unwrap();
    let vhost = vhost_of(&url).unwrap();
    lab.management().delete_queue(&vhost, "taskhare.mail.normal").await.unwrap();
    producer.enqueue(Double(1)).queue("mail").await.unwrap();
    let writes_only = Broker::builder().url(&url).without_declaring().connect().await.unwrap();
    let writes_only = Producer::builder(&writes_only).build().await.unwrap();
    let error = writes_only.enqueue(Double(1)).queue("nowhere").await.unwrap_err();
    assert!(matches!(error, TaskhareError::Unroutable { .. }), "{error}");
    assert_eq!(broker.waiting("mail").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_taken_back_from_its_consumer_is_followed_once() {
    let (broker, url) = broker().await;
    let (starts, go) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::new(tokio::sync::Notify::new()));
    let (told, gate) = (starts.clone(), go.clone());
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Double, ctx| {
            let (told, gate) = (told.clone(), gate.clone());
            async move {
                told.lock().unwrap().push(ctx.attempt());
                if ctx.attempt() == 1 {
                    gate.notified().await;
                }
                Err(TaskError::retry("as told"))
            }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(50)).max_attempts(2));
    let consumer = consumer.start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Double(0)).await.unwrap();
    let started = |times: &[u32]| *starts.lock().unwrap() == times;
    eventually("it runs", async || started(&[1])).await;
    let management = TestBroker::shared().await.unwrap().management();
    let vhost = vhost_of(&url).unwrap();
    eventually("the connection that brings tasks is listed", async || {
        let all = management.connections(&vhost).await.unwrap();
        all.iter().any(|connection| connection.user_provided_name.contains(" consume "))
    })
    .await;
    management.close_connections(&vhost).await.unwrap();
    eventually("it runs beside itself", async || started(&[1, 1])).await;
    // The first one was waiting before the second one, and is woken first.
    go.notify_one();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(started(&[1, 1]), "what was taken back has a successor");
    go.notify_one();
    eventually("it is dead", async || broker.dead("default").await.unwrap() == 1).await;
    consumer.shutdown().await;
    assert!(started(&[1, 1, 2]), "{starts:?}");
    broker.close().await;
}
