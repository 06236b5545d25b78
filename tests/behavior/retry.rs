//! Failed attempts.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letters;
use crate::support::eventually;

const SECOND: Duration = Duration::from_secs(1);

async fn run(act: Act, policy: RetryPolicy) -> (Broker, Actor, Consumer) {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).retry(policy).start().await.unwrap();
    producer.enqueue(act).await.unwrap();
    (broker, actor, consumer)
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_runs_again_after_the_policys_wait_and_keeps_its_id() {
    let (broker, actor, consumer) = run(Act::FailOnce, RetryPolicy::fixed(10 * SECOND)).await;
    let seen = actor.wait_for(2).await;
    assert_eq!((seen[0].attempt, seen[1].attempt), (1, 2));
    assert_eq!(seen[0].id, seen[1].id);
    assert!(seen[1].at - seen[0].at >= 10 * SECOND, "never early");
    assert!(seen[1].at - seen[0].at < 11 * SECOND);
    consumer.shutdown().await;
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_always_fails_is_dead_after_its_last_attempt() {
    let (broker, actor, _consumer) = run(Act::Fail, RetryPolicy::fixed(SECOND).max_attempts(3)).await;
    dead_letters(&broker, "default", 1).await;
    let attempts: Vec<u32> = actor.seen().iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_enqueuer_can_set_the_number_of_attempts() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    producer.enqueue(Act::Fail).max_attempts(2).await.unwrap();
    dead_letters(&broker, "default", 1).await;
    assert_eq!(actor.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_say_when_to_try_again() {
    let (_broker, actor, _consumer) = run(Act::RetryAfter(30 * SECOND), RetryPolicy::fixed(SECOND)).await;
    let seen = actor.wait_for(2).await;
    let wait = seen[1].at - seen[0].at;
    assert!(wait >= 30 * SECOND && wait < 31 * SECOND, "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_task_is_dead_at_once() {
    let (broker, actor, _consumer) = run(Act::Reject, RetryPolicy::default()).await;
    dead_letters(&broker, "default", 1).await;
    assert_eq!(actor.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_attempt_and_the_consumer_goes_on() {
    let (broker, actor, consumer) = run(Act::Panic, RetryPolicy::fixed(SECOND).max_attempts(2)).await;
    dead_letters(&broker, "default", 1).await;
    assert_eq!(actor.seen().len(), 2);
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::Succeed).await.unwrap();
    actor.wait_for(3).await;
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_retry_takes_no_slot_and_holds_up_nobody() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker)
        .handler(actor.clone())
        .concurrency(1)
        .prefetch(8)
        .retry(RetryPolicy::fixed(60 * SECOND))
        .start()
        .await
        .unwrap();
    producer.enqueue(Act::FailOnce).await.unwrap();
    actor.wait_for(1).await;
    for result in producer.enqueue_all(vec![Act::Succeed; 5]).await {
        result.unwrap();
    }
    let seen = actor.wait_for(7).await;
    assert!(seen[5].at < 2 * SECOND, "five others ran meanwhile");
    assert!(seen[6].at >= 60 * SECOND && seen[6].attempt == 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_survives_the_death_of_its_consumer() {
    let (broker, actor, consumer) = run(Act::FailOnce, RetryPolicy::fixed(20 * SECOND)).await;
    actor.wait_for(1).await;
    // Its second attempt is held by this consumer, which goes.
    let receipt = consumer.shutdown().await;
    assert_eq!(receipt.aborted(), 0);
    eventually("it is back", async || broker.waiting("default").await.unwrap() == 1).await;
    let _other = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let seen = actor.wait_for(2).await;
    assert_eq!(seen[1].attempt, 2);
    assert!(seen[1].at - seen[0].at >= 20 * SECOND, "it still waits for its time");
}
