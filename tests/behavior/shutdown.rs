//! What becomes of tasks when their consumer is shut down.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Fate;
use taskhare::Outcome;
use taskhare::Producer;

use crate::support::Act;
use crate::support::Actor;
use crate::support::eventually;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_runs_finishes_and_what_has_not_started_goes_back_uncounted() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).concurrency(2).prefetch(6).start().await;
    let consumer = consumer.unwrap();
    let tasks = vec![Act::Sleep(5 * SECOND); 10];
    let ids: Vec<_> = producer.enqueue_all(tasks).await.into_iter().map(|task| task.unwrap().id()).collect();
    actor.wait_for(2).await;
    let receipt = consumer.shutdown().await;
    assert_eq!((receipt.finished(), receipt.unstarted(), receipt.aborted()), (2, 4, 0));
    for (index, id) in ids.iter().enumerate().take(6) {
        let entry = receipt.tasks.iter().find(|entry| entry.id == Some(*id)).unwrap();
        let fate = if index < 2 { Fate::Finished(Outcome::Succeeded) } else { Fate::Unstarted };
        assert_eq!((entry.name.as_ref(), entry.fate), ("act", fate));
    }
    assert_eq!(broker.waiting("default").await.unwrap(), 8);

    let _other = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let seen = actor.wait_for(10).await;
    let again: Vec<_> = seen[2..].iter().map(|seen| seen.id).collect();
    assert_eq!(again, ids[2..], "in their order");
    assert!(seen.iter().all(|seen| seen.attempt == 1));
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_at_the_end_of_the_grace_period_is_stopped_and_goes_back() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let builder = Consumer::builder(&broker).handler(actor.clone()).shutdown_grace(3 * SECOND);
    let consumer = builder.start().await.unwrap();
    let id = producer.enqueue(Act::Sleep(3600 * SECOND)).await.unwrap().id();
    actor.wait_for(1).await;
    let started = tokio::time::Instant::now();
    let receipt = consumer.shutdown().await;
    assert!(started.elapsed() < 4 * SECOND);
    assert_eq!(receipt.aborted(), 1);
    assert_eq!(receipt.tasks[0].id, Some(id));
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_stops_early_loses_no_attempt() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    producer.enqueue(Act::UntilCancelled).max_attempts(1).await.unwrap();
    actor.wait_for(1).await;
    let receipt = consumer.shutdown().await;
    assert_eq!(receipt.tasks[0].fate, Fate::Finished(Outcome::HandedBack));
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_gives_everything_back() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let builder = Consumer::builder(&broker).handler(actor.clone()).concurrency(1).shutdown_grace(SECOND);
    let consumer = builder.start().await.unwrap();
    for task in producer.enqueue_all(vec![Act::Sleep(60 * SECOND); 5]).await {
        task.unwrap();
    }
    actor.wait_for(1).await;
    drop(consumer);
    eventually("all are back", async || broker.waiting("default").await.unwrap() == 5).await;
}
