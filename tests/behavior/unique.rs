//! Tasks of which there is one at a time.

use std::time::Duration;

use futures_util::future::join_all;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Enqueued;
use taskhare::Error;
use taskhare::OnDuplicate;
use taskhare::Producer;
use taskhare::RetryPolicy;

use crate::support::Act;
use crate::support::Actor;
use crate::support::eventually;

const MINUTE: Duration = Duration::from_secs(60);

fn duplicate_of(result: taskhare::Result<Enqueued<Act>>) -> String {
    match result {
        Err(Error::Duplicate { of, key }) => {
            assert_eq!(key, "user-7");
            of
        }
        other => panic!("{other:?} is no duplicate"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_task_with_the_key_is_refused_by_every_producer_and_names_the_first() {
    let broker = Broker::in_process();
    let first = Producer::builder(&broker).build().await.unwrap();
    let second = Producer::builder(&broker).build().await.unwrap();
    let task = first.enqueue(Act::Succeed).unique("user-7").await.unwrap();
    assert!(task.is_new());
    for (producer, other) in [(first, "user-8"), (second, "user-9")] {
        let again = producer.enqueue(Act::Succeed).unique("user-7").await;
        assert_eq!(duplicate_of(again), task.id().to_string());
        producer.enqueue(Act::Succeed).unique(other).await.unwrap();
    }
    assert_eq!(broker.waiting("default").await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_second_task_with_the_key_can_be_the_first_one() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let first = producer.enqueue(Act::Succeed).unique("user-7").await.unwrap();
    let second = producer.enqueue(Act::Succeed).unique("user-7").on_duplicate(OnDuplicate::Coalesce);
    let second = second.await.unwrap();
    assert_eq!((second.id(), second.is_new()), (first.id(), false));
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_task_with_the_key_can_replace_the_first() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    producer.enqueue(Act::Succeed).delay(MINUTE).unique("user-7").await.unwrap();
    let replace = producer.enqueue(Act::Succeed).delay(2 * MINUTE).unique("user-7");
    let second = replace.on_duplicate(OnDuplicate::Replace).await.unwrap();
    assert_eq!(actor.wait_for(1).await[0].id, second.id());
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(actor.seen().len(), 1);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_free_when_its_task_has_ended_in_whatever_way() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker)
        .handler(actor.clone())
        .retry(RetryPolicy::fixed(MINUTE).max_attempts(2))
        .start()
        .await
        .unwrap();
    let acts = [Act::Succeed, Act::Reject, Act::Fail, Act::FailOnce, Act::Sleep(MINUTE)];
    for (index, act) in acts.into_iter().enumerate() {
        let before = actor.seen().len();
        producer.enqueue(act.clone()).unique("user-7").await.unwrap();
        if !matches!(act, Act::Succeed | Act::Reject) {
            actor.wait_for(before + 1).await;
            duplicate_of(producer.enqueue(Act::Succeed).unique("user-7").await);
        }
        eventually("the key is free", async || {
            let next = producer.enqueue(Act::Succeed).queue("elsewhere").unique("user-7").unique_for(MINUTE);
            next.await.is_ok()
        })
        .await;
        assert_eq!(broker.waiting("elsewhere").await.unwrap(), index as u64 + 1);
        // Nobody consumes there: the window ends.
        tokio::time::sleep(2 * MINUTE).await;
    }
    let cancelled = producer.enqueue(Act::Succeed).delay(10 * MINUTE).unique("user-7").await.unwrap();
    producer.cancel(cancelled.id()).await.unwrap();
    tokio::time::sleep(11 * MINUTE).await;
    producer.enqueue(Act::Succeed).unique("user-7").await.unwrap();
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_free_at_the_end_of_its_window() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::Succeed).unique("user-7").unique_for(MINUTE).await.unwrap();
    tokio::time::sleep(MINUTE - Duration::from_secs(1)).await;
    duplicate_of(producer.enqueue(Act::Succeed).unique("user-7").await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    producer.enqueue(Act::Succeed).unique("user-7").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_many_at_once_one_gets_the_key() {
    let broker = Broker::in_process();
    let first = Producer::builder(&broker).build().await.unwrap();
    let second = Producer::builder(&broker).build().await.unwrap();
    let both = (0..50).flat_map(|_| [&first, &second]);
    let results = join_all(both.map(|producer| async {
        producer.enqueue(Act::Succeed).unique("user-7").await.map(|task| task.id().to_string())
    }))
    .await;
    let winner = results.iter().find_map(|result| result.as_ref().ok()).unwrap();
    let losers = results.iter().filter_map(|result| result.as_ref().err());
    let named = losers.filter(|error| matches!(error, Error::Duplicate { of, .. } if of == winner)).count();
    assert_eq!(named, 99);
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_cannot_hold_is_an_error_that_names_it() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let enqueue = || producer.enqueue(Act::Succeed).unique("user-7");
    for (result, setting) in [
        (enqueue().unique_for(25 * 60 * MINUTE).await, "the most is"),
        (enqueue().unique_for(MINUTE).delay(MINUTE).await, "due only after"),
        (enqueue().unique("").await, "it is empty"),
        (enqueue().unique(&"x".repeat(256)).await, "256 bytes"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(setting), "{error:?} should contain {setting:?}");
    }
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
}
