//! Cancelling and rescheduling what is already on the broker.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Task;

use crate::support::Act;
use crate::support::Actor;
use crate::support::eventually;

/// A task with an output.
#[derive(serde::Serialize, serde::Deserialize)]
struct Count;

impl Task for Count {
    const NAME: &'static str = "count";
    type Output = u32;
}

const MINUTE: Duration = Duration::from_secs(60);

async fn nothing_is_left(broker: &Broker) {
    eventually("nothing is left", async || {
        broker.waiting("default").await.unwrap() == 0 && broker.delayed().await.unwrap() == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_does_not_start_and_its_enqueuer_hears_of_it() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker)
        .handler(actor.clone())
        .handler_fn(|_: Count, _| async { Ok(1) })
        .start()
        .await
        .unwrap();
    let delayed = producer.enqueue(Act::Succeed).delay(MINUTE).await.unwrap();
    let counted = producer.enqueue(Count).delay(MINUTE).await.unwrap();
    let other = producer.enqueue(Act::Succeed).delay(2 * MINUTE).await.unwrap();
    producer.cancel(delayed.id()).await.unwrap();
    producer.cancel(counted.id()).await.unwrap();
    let error = counted.output_within(2 * MINUTE).await.unwrap_err();
    assert!(matches!(&error, Error::Cancelled { .. }), "{error:?}");
    let seen = actor.wait_for(1).await;
    assert_eq!(seen.iter().map(|seen| seen.id).collect::<Vec<_>>(), [other.id()]);
    nothing_is_left(&broker).await;
    assert_eq!(broker.dead("default").await.unwrap(), 0);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_outlives_every_consumer() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let waiting = producer.enqueue(Act::Succeed).await.unwrap();
    let wanted = producer.enqueue(Act::Succeed).await.unwrap();
    producer.cancel(waiting.id()).await.unwrap();
    for _ in 0..2 {
        let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
        assert_eq!(actor.wait_for(1).await[0].id, wanted.id());
        consumer.shutdown().await;
    }
    nothing_is_left(&broker).await;
    assert_eq!(actor.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_running_task_that_is_cancelled_stops_and_is_not_tried_again() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer =
        Consumer::builder(&broker).handler(actor.clone()).cancel_grace(MINUTE).start().await.unwrap();
    let cooperates = producer.enqueue(Act::UntilCancelled).await.unwrap();
    let ignores = producer.enqueue(Act::Sleep(60 * MINUTE)).await.unwrap();
    actor.wait_for(2).await;
    producer.cancel(cooperates.id()).await.unwrap();
    producer.cancel(ignores.id()).await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    let receipt = consumer.shutdown().await;
    assert!(receipt.tasks.is_empty(), "both had ended: {receipt:?}");
    nothing_is_left(&broker).await;
    assert_eq!(broker.dead("default").await.unwrap(), 0);
    assert_eq!(actor.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_a_rescheduled_task_only_the_newest_copy_runs() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let start = async |delay| producer.enqueue(Act::Succeed).delay(delay).await.unwrap().id();
    let (earlier, now, later) = (start(10 * MINUTE).await, start(20 * MINUTE).await, start(MINUTE).await);
    producer.reschedule(earlier, Act::Succeed).delay(5 * MINUTE).await.unwrap();
    producer.reschedule(now, Act::Succeed).await.unwrap();
    producer.reschedule(later, Act::Succeed).delay(40 * MINUTE).await.unwrap();
    actor.wait_for(3).await;
    nothing_is_left(&broker).await;
    let seen: Vec<_> = actor.seen().iter().map(|seen| (seen.id, seen.at.as_secs() / 60)).collect();
    assert_eq!(seen, [(now, 0), (earlier, 5), (later, 40)]);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_that_is_rescheduled_runs_after_all() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let task = producer.enqueue(Act::Succeed).delay(MINUTE).await.unwrap();
    producer.cancel(task.id()).await.unwrap();
    producer.reschedule(task.id(), Act::Succeed).delay(3 * MINUTE).await.unwrap();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    actor.wait_for(1).await;
    nothing_is_left(&broker).await;
    assert_eq!(actor.seen().len(), 1);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_of_a_cancelled_task_is_the_last() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let task = producer.enqueue(Act::RetryAfter(MINUTE)).await.unwrap();
    actor.wait_for(1).await;
    producer.cancel(task.id()).await.unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(actor.seen().len(), 1);
    nothing_is_left(&broker).await;
    consumer.shutdown().await;
}
