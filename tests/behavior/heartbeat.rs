//! What consumers say of themselves.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::ConsumerChange;
use taskhare::ConsumerEvent;
use taskhare::Event;
use taskhare::EventStream;
use taskhare::Heartbeat;
use taskhare::Producer;
use taskhare::RetryPolicy;

use crate::support::Act;
use crate::support::Actor;

const SECOND: Duration = Duration::from_secs(1);

struct Setup {
    producer: Producer,
    events: EventStream,
    consumer: Consumer,
}

/// A consumer with two slots, and all events since before it started.
async fn setup(settings: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Setup {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let events = broker.events().subscribe().await.unwrap();
    let consumer = Consumer::builder(&broker).handler(Actor::new()).concurrency(2).prefetch(4);
    let consumer = settings(consumer.retry(RetryPolicy::never())).start().await.unwrap();
    Setup { producer, events, consumer }
}

async fn said(events: &mut EventStream) -> ConsumerEvent {
    loop {
        let next = tokio::time::timeout(3600 * SECOND, events.next());
        if let Some(Event::Consumer(event)) = next.await.expect("it says something") {
            return event;
        }
    }
}

async fn alive(events: &mut EventStream) -> Heartbeat {
    loop {
        if let ConsumerChange::Alive(heartbeat) = said(events).await.change {
            return *heartbeat;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_says_that_it_starts_is_alive_drains_and_stops() {
    let Setup { producer, mut events, consumer } = setup(|it| it.beat_every(SECOND)).await;
    for time in [5, 600] {
        producer.enqueue(Act::Sleep(time * SECOND)).await.unwrap();
    }
    for _ in 0..3 {
        producer.enqueue(Act::Succeed).await.unwrap();
    }
    tokio::time::sleep(SECOND * 5 / 2).await;
    tokio::spawn(consumer.run_until(std::future::ready(())));
    let mut said_all = Vec::new();
    loop {
        let event = said(&mut events).await;
        let kind = match event.change {
            ConsumerChange::Started(_) => "started",
            ConsumerChange::Alive(_) => "alive",
            ConsumerChange::Draining => "draining",
            ConsumerChange::Stopped { finished, unstarted, aborted } => {
                assert_eq!((finished, unstarted, aborted), (1, 2, 1), "the prefetch is 4");
                break;
            }
            _ => panic!("{event:?}"),
        };
        said_all.push(kind);
    }
    let mut expected = vec!["started", "alive", "alive", "draining"];
    // Its grace is 30 s.
    expected.extend(["alive"; 30]);
    assert_eq!(said_all, expected);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_says_who_and_what_runs_and_for_how_long() {
    let Setup { producer, mut events, consumer: _consumer } = setup(|it| it).await;
    let ConsumerChange::Started(started) = said(&mut events).await.change else { panic!("it starts first") };
    assert_eq!((started.queues[0].running, &started.running[..]), (0, &[][..]));
    let limited = producer.enqueue(Act::Sleep(60 * SECOND)).run_timeout(300 * SECOND).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    let unlimited = producer.enqueue(Act::Sleep(60 * SECOND)).await.unwrap();
    let heartbeat = alive(&mut events).await;
    assert_eq!((heartbeat.pid, heartbeat.interval), (std::process::id(), 5 * SECOND));
    assert_eq!(heartbeat.version, env!("CARGO_PKG_VERSION"));
    let [first, second] = &heartbeat.running[..] else { panic!("{heartbeat:?}") };
    assert_eq!((first.id, second.id), (limited.id(), unlimited.id()), "the oldest is the first");
    assert_eq!((&*first.name, &*first.queue, first.attempt), ("act", "default", 1));
    assert_eq!((first.limit, second.limit), (Some(305 * SECOND), None), "with the time it has to stop");
    assert_eq!((first.age.as_secs(), second.age.as_secs()), (4, 2));
    let later = alive(&mut events).await;
    assert_eq!(later.running[0].age - first.age, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_counts_what_waits_runs_and_has_ended() {
    let Setup { producer, mut events, consumer: _consumer } = setup(|it| it).await;
    for act in [Act::Succeed, Act::Succeed, Act::Fail, Act::Succeed] {
        producer.enqueue(act).await.unwrap();
    }
    let heartbeat = alive(&mut events).await;
    let [load] = &heartbeat.queues[..] else { panic!("{heartbeat:?}") };
    assert_eq!((&*load.queue, load.slots, load.prefetch), ("default", 2, 4));
    assert_eq!((load.succeeded, load.failed, load.running, load.waiting), (3, 1, 0, 0));
    assert!((load.rate - 0.8).abs() < 0.01, "{load:?}");
    for _ in 0..7 {
        producer.enqueue(Act::Sleep(60 * SECOND)).await.unwrap();
    }
    alive(&mut events).await;
    let load = alive(&mut events).await.queues.remove(0);
    assert_eq!((load.running, load.waiting), (2, 2), "the prefetch is 4");
    assert_eq!((load.succeeded, load.rate), (3, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_dropped_says_so() {
    let Setup { mut events, consumer, .. } = setup(|it| it).await;
    said(&mut events).await;
    drop(consumer);
    assert_eq!(said(&mut events).await.change, ConsumerChange::Draining);
    let stopped = ConsumerChange::Stopped { finished: 0, unstarted: 0, aborted: 0 };
    assert_eq!(said(&mut events).await.change, stopped);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_last_is_written_when_a_shutdown_is_over() {
    let broker = Broker::in_process();
    let consumer = Consumer::builder(&broker).handler(Actor::new()).start().await.unwrap();
    consumer.shutdown().await;
    let mut history = broker.events().from_start().until_now().subscribe().await.unwrap();
    let mut last = None;
    while let Some(event) = history.next().await {
        last = Some(event);
    }
    let Some(Event::Consumer(event)) = last else { panic!("{last:?}") };
    assert!(matches!(event.change, ConsumerChange::Stopped { .. }), "{event:?}");
}
