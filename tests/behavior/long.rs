//! Tasks that run, or wait for a slot, for longer than the broker lets a consumer hold them.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::Producer;
use taskhare::topology::Binding;
use taskhare::topology::Exchange;
use taskhare::topology::ExchangeKind;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::topology::Target;
use taskhare::topology::Topology;
use taskhare::transport::Name;
use taskhare::transport::Subscribe;
use taskhare::transport::Subscription;
use tokio::time::Instant;

use crate::support::Act;
use crate::support::Actor;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A consumer of a broker that lets it hold a delivery for a minute.
fn consumer(broker: &Broker, actor: &Actor) -> ConsumerBuilder {
    Consumer::builder(broker).handler(actor.clone()).consumer_timeout(MINUTE).shutdown_grace(SECOND)
}

async fn enqueue(broker: &Broker, acts: &[Act]) {
    let producer = Producer::builder(broker).build().await.unwrap();
    for task in producer.enqueue_all(acts.to_vec()).await {
        task.unwrap();
    }
}

/// A copy of everything that is published through an exchange with that key from now on.
async fn tap(broker: &Broker, exchange: &str, kind: ExchangeKind, key: &str) -> Box<dyn Subscription> {
    let name = |name: &str| Name::new("name", name).unwrap();
    let (exchange, queue) = (name(exchange), name("tap"));
    let topology = Topology {
        exchanges: vec![Exchange { name: exchange.clone(), kind, alternate: None }],
        queues: vec![Queue::new(queue.clone(), QueueKind::Classic)],
        bindings: vec![Binding { exchange, key: name(key), to: Target::Queue(queue.clone()) }],
    };
    broker.transport().declare(&topology).await.unwrap();
    broker.transport().subscribe(Subscribe::new(queue, u16::MAX, "tap")).await.unwrap()
}

/// Waits until nothing has come for a while, and returns how long after `start` each message came.
async fn times(mut tap: Box<dyn Subscription>, start: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(10 * MINUTE, tap.next()).await {
        delivery.ack();
        times.push(start.elapsed());
    }
    times
}

/// The consumer of so many tasks dies so many times.
async fn die(broker: &Broker, tasks: usize, times: u32) {
    for _ in 0..times {
        let queue = Name::new("queue", "taskhare.default.normal").unwrap();
        let subscribe = Subscribe::new(queue, 10, "test");
        let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..tasks {
            held.push(subscription.next().await);
        }
        subscription.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_of_an_hour_runs_once_and_is_never_held_for_longer_than_half_the_timeout() {
    let (broker, actor, start) = (Broker::in_process(), Actor::new(), Instant::now());
    let tap = tap(&broker, "taskhare.lease", ExchangeKind::Topic, "#").await;
    enqueue(&broker, &[Act::Sleep(HOUR)]).await;
    let consumer = consumer(&broker, &actor).start().await.unwrap();
    let copies = times(tap, start).await;
    assert!(copies.last().unwrap() >= &(HOUR - MINUTE / 2), "{copies:?}");
    let held = std::iter::once(&Duration::ZERO).chain(&copies).zip(&copies);
    for (since, until) in held {
        assert!(*until - *since <= MINUTE / 2, "{copies:?}");
    }
    let receipt = consumer.shutdown().await;
    assert_eq!((actor.seen().len(), receipt.tasks.len()), (1, 0), "it has ended by itself");
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_shorter_than_half_the_timeout_takes_no_lease() {
    let (broker, actor, start) = (Broker::in_process(), Actor::new(), Instant::now());
    let tap = tap(&broker, "taskhare.lease", ExchangeKind::Topic, "#").await;
    enqueue(&broker, &[Act::Sleep(29 * SECOND), Act::Succeed]).await;
    let _consumer = consumer(&broker, &actor).start().await.unwrap();
    assert!(times(tap, start).await.is_empty());
    assert_eq!(actor.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_task_of_a_consumer_that_goes_is_started_elsewhere_in_seconds() {
    for is_told in [true, false] {
        let (broker, actor) = (Broker::in_process(), Actor::new());
        enqueue(&broker, &[Act::Sleep(HOUR)]).await;
        let one = consumer(&broker, &actor).start().await.unwrap();
        actor.wait_for(1).await;
        let other = consumer(&broker, &actor).start().await.unwrap();
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(actor.seen().len(), 1);
        match is_told {
            true => drop(one.shutdown().await),
            false => drop(one),
        }
        let seen = actor.wait_for(2).await;
        let gone = seen[0].at + HOUR / 2;
        assert!(seen[1].at <= gone + 7 * SECOND, "{:?} after {gone:?}", seen[1]);
        tokio::time::sleep(2 * HOUR).await;
        other.shutdown().await;
        let left = broker.waiting("default").await.unwrap() + broker.quarantined("default").await.unwrap();
        assert_eq!((actor.seen().len(), left, broker.dead("default").await.unwrap()), (2, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_long_task_is_put_back_in_time_and_runs_once() {
    let (broker, actor, start) = (Broker::in_process(), Actor::new(), Instant::now());
    enqueue(&broker, &[Act::Sleep(HOUR)]).await;
    let tap = tap(&broker, "taskhare.tasks", ExchangeKind::Direct, "default.normal").await;
    let times = tokio::spawn(times(tap, start));
    let consumer = consumer(&broker, &actor).concurrency(1).prefetch(3).start().await.unwrap();
    actor.wait_for(1).await;
    enqueue(&broker, &vec![Act::Succeed; 5]).await;
    tokio::time::sleep(HOUR / 2).await;
    let seen = actor.wait_for(6).await;
    assert!(soon_after(seen[1].at, HOUR), "{seen:?}");
    tokio::time::sleep(MINUTE).await;
    assert_eq!((actor.seen().len(), broker.waiting("default").await.unwrap()), (6, 0));
    // Five were enqueued, and each time two were put back that had room beside the long one; or three later.
    let put_back = times.await.unwrap();
    let rounds = put_back[5..].chunk_by(|one, next| one == next).map(<[Duration]>::len);
    assert!(rounds.clone().count() >= 119 && rounds.max() <= Some(3), "{put_back:?}");
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_of_a_long_task_wherever_it_is_held() {
    for deaths in [0, 2] {
        let (broker, actor) = (Broker::in_process(), Actor::new());
        enqueue(&broker, &[Act::Sleep(HOUR)]).await;
        die(&broker, 1, deaths).await;
        let consumer = consumer(&broker, &actor).start().await.unwrap();
        actor.wait_for(1).await;
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(consumer.shutdown().await.aborted(), 1, "{deaths}");
        let left = broker.waiting("default").await.unwrap() + broker.quarantined("default").await.unwrap();
        assert_eq!(left, 1, "{deaths}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_task_in_quarantine_runs_once_and_the_next_one_is_not_held_meanwhile() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    enqueue(&broker, &[Act::Sleep(HOUR), Act::Sleep(HOUR)]).await;
    die(&broker, 2, 2).await;
    let first = consumer(&broker, &actor).crash_limit(3).start().await.unwrap();
    actor.wait_for(1).await;
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(broker.quarantined("default").await.unwrap(), 1);
    // Were it held, then this would be its third return, and it would be dead.
    drop(first);
    let second = consumer(&broker, &actor).crash_limit(3).start().await.unwrap();
    tokio::time::sleep(3 * HOUR).await;
    let seen = actor.seen();
    let ends = seen[1..].iter().map(|seen| seen.at + HOUR).collect::<Vec<_>>();
    assert!(seen.len() == 3 && seen[2].at >= ends[0], "one by one: {seen:?}");
    assert_eq!((broker.quarantined("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
    second.shutdown().await;
}
