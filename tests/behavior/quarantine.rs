//! Tasks that come back without an end, as after the death of their process.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Fate;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::transport::Delivery;
use taskhare::transport::Name;
use taskhare::transport::Subscribe;
use taskhare::transport::Subscription;
use taskhare::transport::Value;

use crate::support::Act;
use crate::support::Actor;
use crate::support::Seen;
use crate::support::dead_letter;
use crate::support::dead_letters;
use crate::support::eventually;
use crate::support::reason;

const SECOND: Duration = Duration::from_secs(1);

const LANE: &str = "taskhare.default.normal";
const QUARANTINE: &str = "taskhare.default.quarantine";
const DEAD: &str = "taskhare.default.dead";

/// The first delivery of a queue, and what gives it back when it is dropped, as the death of a process would.
async fn first(broker: &Broker, queue: &str) -> (Delivery, Box<dyn Subscription>) {
    let queue = Name::new("queue", queue).unwrap();
    let subscribe = Subscribe::new(queue, 1, "test");
    let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
    (subscription.next().await.unwrap(), subscription)
}

/// Its consumer dies so many times.
async fn die(broker: &Broker, queue: &str, times: u32) {
    for _ in 0..times {
        let (delivery, mut subscription) = first(broker, queue).await;
        subscription.close().await;
        drop(delivery);
    }
}

async fn enqueue(broker: &Broker, act: Act) {
    Producer::builder(broker).build().await.unwrap().enqueue(act).await.unwrap();
}

async fn consumer(broker: &Broker, actor: &Actor) -> Consumer {
    let builder = Consumer::builder(broker).handler(actor.clone()).shutdown_grace(SECOND);
    builder.retry(RetryPolicy::fixed(Duration::ZERO)).start().await.unwrap()
}

/// Waits until nothing is left to do.
async fn until_idle(broker: &Broker) {
    eventually("all is done", async || {
        broker.waiting("default").await.unwrap() + broker.quarantined("default").await.unwrap() == 0
    })
    .await;
    tokio::time::sleep(5 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_once_is_started_at_once_and_twice_apart_from_others() {
    for (times, is_apart) in [(0, false), (1, false), (2, true), (60, true)] {
        let (broker, actor) = (Broker::in_process(), Actor::new());
        enqueue(&broker, Act::Succeed).await;
        die(&broker, LANE, times).await;
        let consumer = consumer(&broker, &actor).await;
        let waits = async || broker.quarantined("default").await.unwrap() == 1;
        eventually("it moved or ran", async || waits().await || !actor.seen().is_empty()).await;
        assert_eq!(waits().await, is_apart, "{times}");
        actor.wait_for(1).await;
        until_idle(&broker).await;
        assert_eq!((actor.seen().len(), broker.dead("default").await.unwrap()), (1, 0), "{times}");
        consumer.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_ends_is_dead_after_the_limit_of_starts() {
    for (limit, deaths, is_dead) in [(5, 2, false), (5, 3, true), (3, 1, true), (0, 0, false), (7, 4, false)]
    {
        let (broker, actor) = (Broker::in_process(), Actor::new());
        enqueue(&broker, Act::Succeed).await;
        die(&broker, LANE, 2).await;
        let moves = consumer(&broker, &actor).await;
        eventually("it is apart", async || broker.quarantined("default").await.unwrap() == 1).await;
        moves.shutdown().await;
        die(&broker, QUARANTINE, deaths).await;
        let builder = Consumer::builder(&broker).handler(actor.clone()).crash_limit(limit);
        let consumer = builder.start().await.unwrap();
        if is_dead {
            dead_letters(&broker, "default", 1).await;
            assert_eq!(reason(&dead_letter(&broker).await).0, "crashed");
        } else {
            actor.wait_for(1).await;
        }
        assert_eq!(actor.seen().is_empty(), is_dead, "{limit} {deaths}");
        consumer.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn others_go_on_while_one_is_apart_and_those_apart_run_one_by_one() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    for task in producer.enqueue_all(vec![Act::Sleep(60 * SECOND); 3]).await {
        task.unwrap();
    }
    for _ in 0..2 {
        let queue = Name::new("queue", LANE).unwrap();
        let subscribe = Subscribe::new(queue, 3, "test");
        let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
        let held = [subscription.next().await, subscription.next().await, subscription.next().await];
        subscription.close().await;
        drop(held);
    }
    let consumer = consumer(&broker, &actor).await;
    actor.wait_for(1).await;
    for task in producer.enqueue_all(vec![Act::Succeed; 100]).await {
        task.unwrap();
    }
    let seen = actor.wait_for(103).await;
    let apart: Vec<&Seen> = [&seen[0], &seen[101], &seen[102]].into();
    for pair in apart.windows(2) {
        assert!(pair[1].at - pair[0].at >= 60 * SECOND, "{pair:?}");
    }
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn those_apart_run_one_right_after_the_other() {
    const COUNT: usize = 20;
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let short = Act::Sleep(SECOND / 1_000);
    for task in producer.enqueue_all(vec![short; COUNT]).await {
        task.unwrap();
    }
    for _ in 0..2 {
        let queue = Name::new("queue", LANE).unwrap();
        let subscribe = Subscribe::new(queue, 100, "test");
        let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
        let mut held = Vec::new();
        while held.len() < COUNT {
            held.extend(subscription.next().await);
        }
        subscription.close().await;
    }
    let consumer = consumer(&broker, &actor).await;
    let seen = actor.wait_for(COUNT).await;
    let took = seen[COUNT - 1].at - seen[0].at;
    assert!(took < SECOND / 2, "{took:?} for {COUNT} tasks of a millisecond");
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_counts_no_start_of_a_task_in_quarantine() {
    for (act, fate) in [
        (Act::UntilCancelled, Fate::Finished(Outcome::HandedBack)),
        (Act::Sleep(3600 * SECOND), Fate::Aborted),
    ] {
        let (broker, actor) = (Broker::in_process(), Actor::new());
        enqueue(&broker, act).await;
        die(&broker, LANE, 2).await;
        for round in 1..=10 {
            let consumer = consumer(&broker, &actor).await;
            actor.wait_for(round).await;
            let receipt = consumer.shutdown().await;
            assert_eq!(receipt.tasks.iter().map(|entry| entry.fate).collect::<Vec<_>>(), [fate]);
            assert_eq!(broker.quarantined("default").await.unwrap(), 1);
        }
        // And those that were counted are not forgotten.
        die(&broker, QUARANTINE, 2).await;
        let consumer_of_the_fifth = consumer(&broker, &actor).await;
        actor.wait_for(11).await;
        consumer_of_the_fifth.shutdown().await;
        die(&broker, QUARANTINE, 1).await;
        let _buries = consumer(&broker, &actor).await;
        dead_letters(&broker, "default", 1).await;
        assert_eq!((actor.seen().len(), reason(&dead_letter(&broker).await).0), (11, "crashed"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_only_fails_leaves_quarantine_with_its_next_attempt() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    enqueue(&broker, Act::FailOnce).await;
    die(&broker, LANE, 2).await;
    let first_consumer = consumer(&broker, &actor).await;
    actor.wait_for(2).await;
    until_idle(&broker).await;
    let attempts: Vec<u32> = actor.seen().iter().map(|seen| seen.attempt).collect();
    assert_eq!((attempts.as_slice(), broker.dead("default").await.unwrap()), (&[1, 2][..], 0));
    first_consumer.shutdown().await;

    // Its next attempt starts with a clean record.
    enqueue(&broker, Act::Fail).await;
    die(&broker, LANE, 2).await;
    let _second_consumer = consumer(&broker, &actor).await;
    dead_letters(&broker, "default", 1).await;
    let (letter, _subscription) = first(&broker, DEAD).await;
    assert_eq!(letter.message.headers.get("taskhare-returned"), None);
}

#[tokio::test(start_paused = true)]
async fn a_classic_queue_does_not_count_and_the_second_return_is_noticed_all_the_same() {
    let (broker, actor) =
        (Broker::builder().replication(Replication::Classic).in_process().unwrap(), Actor::new());
    enqueue(&broker, Act::Sleep(3600 * SECOND)).await;
    die(&broker, LANE, 3).await; // which nobody can tell from once
    let once = consumer(&broker, &actor).await;
    actor.wait_for(1).await;
    assert_eq!(broker.quarantined("default").await.unwrap(), 0);
    once.shutdown().await;
    let twice = consumer(&broker, &actor).await;
    eventually("it is apart", async || broker.quarantined("default").await.unwrap() == 1).await;
    twice.shutdown().await;
    die(&broker, QUARANTINE, 3).await;
    let _buries = consumer(&broker, &actor).await;
    dead_letters(&broker, "default", 1).await;
    assert_eq!((actor.seen().len(), reason(&dead_letter(&broker).await).0), (1, "crashed"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_in_quarantine_is_kept() {
    let broker = Broker::builder().urgent_within(Duration::ZERO).in_process().unwrap();
    let actor = Actor::new();
    // Quarantine opens later than this.
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::Succeed).deadline_in(SECOND / 2).await.unwrap();
    die(&broker, LANE, 2).await;
    let _consumer = consumer(&broker, &actor).await;
    dead_letters(&broker, "default", 1).await;
    let (letter, _subscription) = first(&broker, DEAD).await;
    let why = letter.message.headers.get("x-first-death-reason").and_then(Value::as_text);
    assert_eq!((actor.seen().len(), why), (0, Some("expired")));
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_handler_is_dead_from_quarantine_too() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Other;

    impl Task for Other {
        const NAME: &'static str = "other";
        type Output = ();
    }

    let (broker, actor) = (Broker::in_process(), Actor::new());
    Producer::builder(&broker).build().await.unwrap().enqueue(Other).await.unwrap();
    die(&broker, LANE, 2).await;
    let _consumer = consumer(&broker, &actor).await;
    dead_letters(&broker, "default", 1).await;
    assert_eq!(reason(&dead_letter(&broker).await).0, "unknown-task");
}
