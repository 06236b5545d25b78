//! What a handler returns, at the enqueuer's end.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::Standing;
use taskhare::Task;
use taskhare::TaskError;

use crate::support::Act;
use crate::support::Actor;

#[derive(serde::Serialize, serde::Deserialize)]
struct Double(u64);

impl Task for Double {
    const NAME: &'static str = "double";
    type Output = u64;
}

/// A text of so many bytes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Repeat(usize);

impl Task for Repeat {
    const NAME: &'static str = "repeat";
    type Output = String;
}

async fn doubler(broker: &Broker) -> Consumer {
    Consumer::builder(broker)
        .handler_fn(|task: Double, _| async move {
            match task.0 {
                0 => return Err(TaskError::reject("nothing to double")),
                1 => tokio::time::sleep(Duration::from_secs(600)).await,
                _ => {}
            }
            Ok(task.0 * 2)
        })
        .start()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_enqueuer_gets_its_own_output() {
    let broker = Broker::in_process();
    let _consumer = doubler(&broker).await;
    let one = Producer::builder(&broker).build().await.unwrap();
    let other = Producer::builder(&broker).build().await.unwrap();
    let mut tasks = Vec::new();
    for number in 10..20 {
        tasks.push((number, one.enqueue(Double(number)).await.unwrap()));
        tasks.push((number + 100, other.enqueue(Double(number + 100)).await.unwrap()));
    }
    for (number, task) in tasks {
        assert_eq!(task.output().await.unwrap(), number * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_task_says_why() {
    let broker = Broker::in_process();
    let _consumer = doubler(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let error = producer.enqueue(Double(0)).await.unwrap().output().await.unwrap_err();
    let Error::Failed { reason, error, .. } = &error else { panic!("{error}") };
    assert_eq!((*reason, error.as_str()), (DeadReason::Rejected, "nothing to double"));
}

#[tokio::test(start_paused = true)]
async fn an_output_is_waited_for_within_its_limit_only() {
    let broker = Broker::in_process();
    let _consumer = doubler(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let task = producer.enqueue(Double(1)).await.unwrap();
    let error = task.output_within(Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let error = producer.enqueue(Double(2)).without_output().await.unwrap().output().await.unwrap_err();
    assert!(matches!(error, Error::NoOutput { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_returns_nothing_has_no_output() {
    let broker = Broker::in_process();
    let _consumer = Consumer::builder(&broker).handler(Actor::new()).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let error = producer.enqueue(Act::Succeed).await.unwrap().output().await.unwrap_err();
    assert!(matches!(error, Error::NoOutput { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_too_large_is_refused_and_its_task_is_done() {
    let broker = Broker::builder().max_payload(100).in_process().unwrap();
    let consumer =
        Consumer::builder(&broker).handler_fn(|task: Repeat, _| async move { Ok("x".repeat(task.0)) });
    let _consumer = consumer.start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    assert_eq!(producer.enqueue(Repeat(97)).await.unwrap().output().await.unwrap().len(), 97);
    let enqueued = producer.enqueue(Repeat(1_000)).await.unwrap();
    let id = enqueued.id();
    let error = enqueued.output().await.unwrap_err();
    assert!(matches!(&error, Error::OutputTooLarge { size: 1_003, limit: 100, .. }), "{error:?}");
    let mut life = broker.follow(id).await.unwrap();
    while life.next().await.is_some() {}
    assert_eq!(life.state().map(|state| &state.standing), Some(&Standing::Done(Outcome::Succeeded)));
}
