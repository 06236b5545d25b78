//! Rate limits and circuit breakers for each type of task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use taskhare::Broker;
use taskhare::CircuitBreaker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::Error;
use taskhare::Producer;
use taskhare::RateLimit;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::topology::Binding;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::topology::Target;
use taskhare::topology::Topology;
use taskhare::transport::Name;
use taskhare::transport::Subscribe;

use crate::support::Act;
use crate::support::Actor;
use crate::support::Seen;
use crate::support::dead_letter;
use crate::support::eventually;
use crate::support::reason;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);

/// Nobody limits it.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Free;

impl Task for Free {
    const NAME: &'static str = "free";
    type Output = bool;
}

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).build().await.unwrap()
}

async fn enqueue(producer: &Producer, count: usize, act: Act) -> Vec<TaskId> {
    producer.enqueue_all(vec![act; count]).await.into_iter().map(|task| task.unwrap().id()).collect()
}

/// A consumer of both types that counts the free ones.
fn consumer(broker: &Broker, actor: &Actor, free: &Arc<std::sync::atomic::AtomicUsize>) -> ConsumerBuilder {
    let free = free.clone();
    Consumer::builder(broker).handler(actor.clone()).handler_fn(move |_: Free, _| {
        free.fetch_add(1, Relaxed);
        async { Ok(true) }
    })
}

/// The most that started in any span of that length.
fn most_within(span: Duration, seen: &[Seen]) -> usize {
    let window =
        |first: usize| seen[first..].iter().take_while(|other| other.at - seen[first].at <= span).count();
    (0..seen.len()).map(window).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_in_any_span_and_made_use_of() {
    for (rate, burst, tasks) in [(10, 20, 300), (1, 1, 30), (3, 2, 60), (100, 100, 1500), (1000, 50, 3000)] {
        let broker = Broker::in_process();
        let actor = Actor::new();
        let limit = RateLimit::per_second(rate).burst(burst);
        let consumer = Consumer::builder(&broker).handler(actor.clone()).rate_limit::<Act>(limit);
        enqueue(&producer(&broker).await, tasks, Act::Succeed).await;
        let _consumer = consumer.start().await.unwrap();
        let seen = actor.wait_for(tasks).await;
        for span in [0, 10, 100, 500, 1000, 3000, 10_000] {
            let allowed = burst as usize + (u64::from(rate) * span / 1000) as usize;
            let most = most_within(Duration::from_millis(span), &seen);
            assert!(most <= allowed, "{most} in {span} ms, at {rate} a second and bursts of {burst}");
        }
        let needed = SECOND * (tasks as u32 - burst) / rate;
        let took = seen.last().unwrap().at;
        assert!(took < needed * 11 / 10 + SECOND, "{took:?} instead of {needed:?}, at {rate} a second");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_keeps_no_other_task_away_and_counts_no_attempt() {
    let broker = Broker::in_process();
    let (actor, free) = (Actor::new(), Arc::default());
    let producer = producer(&broker).await;
    enqueue(&producer, 500, Act::Succeed).await;
    let _consumer = consumer(&broker, &actor, &free)
        .concurrency(1)
        .retry(RetryPolicy::never())
        .rate_limit::<Act>(RateLimit::per_second(5).burst(1))
        .start()
        .await
        .unwrap();
    for _ in 0..20 {
        let task = producer.enqueue(Free).await.unwrap();
        task.output().await.unwrap();
    }
    assert!(actor.seen().len() < 20, "{} limited ones started before the others", actor.seen().len());
    let seen = actor.wait_for(500).await;
    assert!(seen.iter().all(|seen| seen.attempt == 1));
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}

/// How many times something was published into the delay wheel, by the id of the task.
async fn published(broker: &Broker) -> impl AsyncFnMut() -> BTreeMap<String, u32> {
    let name = |text: &str| Name::new("name", text).unwrap();
    let mut topology = Topology::default();
    topology.queues.push(Queue::new(name("copies"), QueueKind::Classic));
    for position in 0..16 {
        let exchange = name(&format!("taskhare.delay.{position:02}"));
        topology.bindings.push(Binding { exchange, key: name("#"), to: Target::Queue(name("copies")) });
    }
    broker.transport().declare(&topology).await.unwrap();
    let mut copies =
        broker.transport().subscribe(Subscribe::new(name("copies"), 1000, "test")).await.unwrap();
    let mut published = BTreeMap::new();
    async move || {
        while let Ok(Some(copy)) = tokio::time::timeout(SECOND / 100, copies.next()).await {
            // On from one level to the next it has died before.
            if copy.message.headers.get("x-death").is_none() {
                *published.entry(copy.message.id.clone().unwrap()).or_default() += 1;
            }
            copy.ack();
        }
        published.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_drains_at_the_rate_in_its_order_and_is_put_back_a_few_times() {
    // 40 s: each is put back once. 300 s: once more for each doubling of a minute.
    for (tasks, rate, most) in [(2000, 50, 1), (600, 2, 4)] {
        let broker = Broker::in_process();
        let actor = Actor::new();
        let limit = RateLimit::per_second(rate).burst(2);
        let consumer = Consumer::builder(&broker).handler(actor.clone()).rate_limit::<Act>(limit);
        let order = enqueue(&producer(&broker).await, tasks, Act::Succeed).await;
        let _consumer = consumer.start().await.unwrap();
        let mut published = published(&broker).await;
        let seen = actor.wait_for(tasks).await;
        let (took, needed) = (seen.last().unwrap().at, SECOND * tasks as u32 / rate);
        assert!(took < needed * 11 / 10, "{took:?} instead of {needed:?}");
        let place = |id| order.iter().position(|other| *other == id).unwrap();
        let moved = seen.iter().enumerate().map(|(now, seen)| place(seen.id).abs_diff(now)).max().unwrap();
        assert!(moved < 20, "one started {moved} places from where it was, at {rate} a second");
        let published = published().await;
        let total: u32 = published.values().sum();
        assert!(total as usize > tasks / 2, "{total}: it is not seen here what is put back");
        let worst = published.values().max().unwrap();
        assert!(*worst <= most, "one was put back {worst} times, {total} in all, at {rate} a second");
    }
}

#[tokio::test(start_paused = true)]
async fn consumers_share_a_backlog_and_one_that_comes_later_helps() {
    // Alone it takes 200 s, and what one was promised it may keep for half of its wait.
    for joins in [0, 20] {
        let broker = Broker::in_process();
        let actor = Actor::new();
        enqueue(&producer(&broker).await, 1000, Act::Succeed).await;
        let limit = RateLimit::per_second(5).burst(5);
        let consumer = || Consumer::builder(&broker).handler(actor.clone()).rate_limit::<Act>(limit).start();
        let _first = consumer().await.unwrap();
        tokio::time::sleep(joins * SECOND).await;
        let _second = consumer().await.unwrap();
        let seen = actor.wait_for(1000).await;
        assert!(seen.last().unwrap().at < 180 * SECOND, "{:?}, the other joined at {joins}", seen.last());
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_counts_for_all_queues_of_a_consumer_and_for_retries() {
    let broker = Broker::in_process();
    let (actor, producer) = (Actor::new(), producer(&broker).await);
    let _consumer = Consumer::builder(&broker)
        .queue("one")
        .queue("other")
        .handler(actor.clone())
        .retry(RetryPolicy::fixed(SECOND / 10))
        .rate_limit::<Act>(RateLimit::per_second(2).burst(2))
        .start()
        .await
        .unwrap();
    for queue in ["one", "other"] {
        for _ in 0..10 {
            producer.enqueue(Act::FailOnce).queue(queue).await.unwrap();
        }
    }
    let seen = actor.wait_for(40).await;
    assert!(most_within(10 * SECOND, &seen) <= 22);
    assert!(seen.iter().all(|seen| seen.attempt <= 2));
}

#[tokio::test(start_paused = true)]
async fn what_new_tasks_find_behind_a_line_that_is_gone_is_no_line() {
    let broker = Broker::in_process();
    let (actor, producer) = (Actor::new(), producer(&broker).await);
    let limit = RateLimit::per_second(10).burst(1);
    // They expire while they wait for their turn.
    for task in producer.enqueue_all(vec![Act::Succeed; 1000]).deadline_in(5 * SECOND).await {
        task.unwrap();
    }
    let _consumer =
        Consumer::builder(&broker).handler(actor.clone()).rate_limit::<Act>(limit).start().await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let before = actor.seen().len();
    assert!((30..=51).contains(&before), "{before} started before their deadline");
    producer.enqueue(Act::Succeed).await.unwrap();
    let seen = actor.wait_for(before + 1).await;
    assert!(seen.last().unwrap().at < 11 * SECOND, "{:?}", seen.last());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_goes_back_uncounted_when_its_consumer_is_shut_down() {
    let broker = Broker::in_process();
    let actor = Actor::new();
    enqueue(&producer(&broker).await, 100, Act::Succeed).await;
    let limited = || {
        let limit = RateLimit::per_second(10).burst(1);
        Consumer::builder(&broker).handler(actor.clone()).retry(RetryPolicy::never()).rate_limit::<Act>(limit)
    };
    let first = limited().start().await.unwrap();
    actor.wait_for(20).await;
    let receipt = first.shutdown().await;
    let (waiting, delayed) = (broker.waiting("default").await.unwrap(), broker.delayed().await.unwrap());
    assert_eq!(waiting + delayed, 80, "{waiting} in the queue and {delayed} in the wheel, {receipt:?}");
    let _second = limited().start().await.unwrap();
    let seen = actor.wait_for(100).await;
    assert!(seen.iter().all(|seen| seen.attempt == 1));
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}

/// Something to depend on.
#[derive(Clone, Default)]
struct Service(Arc<AtomicBool>);

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Call;

impl Task for Call {
    const NAME: &'static str = "call";
    type Output = ();
}

impl Service {
    /// A consumer whose attempts fail while the service is down.
    fn consumer(&self, broker: &Broker, actor: &Actor) -> ConsumerBuilder {
        let (service, actor) = (self.clone(), actor.clone());
        Consumer::builder(broker).handler_fn(move |_: Call, ctx| {
            let (service, actor) = (service.clone(), actor.clone());
            async move {
                taskhare::TaskHandler::handle(&actor, Act::Succeed, &ctx).await?;
                if service.0.load(Relaxed) { Ok(()) } else { Err(TaskError::retry("the service is down")) }
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_defers_probes_and_closes() {
    let broker = Broker::in_process();
    let (service, actor, producer) = (Service::default(), Actor::new(), producer(&broker).await);
    for task in producer.enqueue_all(vec![Call; 200]).await {
        task.unwrap();
    }
    let _consumer = service
        .consumer(&broker, &actor)
        .concurrency(1)
        .retry(RetryPolicy::fixed(SECOND).max_attempts(2))
        .circuit_breaker::<Call>(CircuitBreaker::after(3).open_for(10 * SECOND))
        .start()
        .await
        .unwrap();
    tokio::time::sleep(25 * SECOND).await;
    let seen = actor.seen();
    let at: Vec<_> = seen.iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 5, "three failures, and two probes: {at:?}");
    assert!(at[2] < SECOND && soon_after(at[3], 10 * SECOND) && soon_after(at[4], 20 * SECOND), "{at:?}");
    service.0.store(true, Relaxed);
    eventually("all are done", async || {
        broker.waiting("default").await.unwrap() + broker.delayed().await.unwrap() == 0
    })
    .await;
    let seen = actor.wait_for(205).await;
    assert!(soon_after(seen[5].at, 30 * SECOND), "the probe: {:?}", seen[5]);
    assert!(seen[204].at < 42 * SECOND, "soon after it closed: {:?}", seen[204]);
    assert_eq!(seen.iter().filter(|seen| seen.attempt == 2).count(), 5, "only what had started has failed");
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_a_probe_runs_no_other_starts() {
    let broker = Broker::in_process();
    let (actor, producer) = (Actor::new(), producer(&broker).await);
    producer.enqueue(Act::Fail).await.unwrap();
    let _consumer = Consumer::builder(&broker)
        .handler(actor.clone())
        .retry(RetryPolicy::never())
        .circuit_breaker::<Act>(CircuitBreaker::after(1).open_for(10 * SECOND))
        .start()
        .await
        .unwrap();
    dead_letter(&broker).await;
    enqueue(&producer, 50, Act::Sleep(100 * SECOND)).await;
    tokio::time::sleep(109 * SECOND).await;
    assert_eq!(actor.seen().len(), 2, "what failed, and the probe");
    actor.wait_for(51).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_keeps_other_tasks_neither_away_nor_beyond_their_deadline() {
    let broker = Broker::in_process();
    let (actor, free, producer) = (Actor::new(), Arc::default(), producer(&broker).await);
    producer.enqueue(Act::Panic).max_attempts(1).await.unwrap();
    let _consumer = consumer(&broker, &actor, &free)
        .circuit_breaker::<Act>(CircuitBreaker::after(1).open_for(600 * SECOND))
        .start()
        .await
        .unwrap();
    assert_eq!(reason(&dead_letter(&broker).await).0, "attempts-exhausted");
    let started = tokio::time::Instant::now();
    producer.enqueue(Act::Succeed).deadline_in(5 * SECOND).await.unwrap();
    producer.enqueue(Act::Succeed).deadline_in(SECOND / 2).await.unwrap();
    producer.enqueue(Free).await.unwrap().output().await.unwrap();
    for deadline in [SECOND / 2, 5 * SECOND] {
        assert_eq!(reason(&dead_letter(&broker).await).0, "expired-unstarted");
        assert!(soon_after(started.elapsed(), deadline), "{:?} for {deadline:?}", started.elapsed());
    }
    assert_eq!(actor.seen().len(), 1, "none of them started");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_says_nothing_about_the_service_is_followed_by_another() {
    let broker = Broker::in_process();
    let (actor, producer) = (Actor::new(), producer(&broker).await);
    let _consumer = Consumer::builder(&broker)
        .handler(actor.clone())
        .retry(RetryPolicy::never())
        .circuit_breaker::<Act>(CircuitBreaker::after(1).open_for(10 * SECOND))
        .start()
        .await
        .unwrap();
    producer.enqueue(Act::Fail).await.unwrap();
    dead_letter(&broker).await;
    for _ in 0..3 {
        producer.enqueue(Act::Reject).await.unwrap();
    }
    producer.enqueue(Act::Succeed).await.unwrap();
    let seen = actor.wait_for(5).await;
    assert!(seen[1].at >= 10 * SECOND && seen[4].at < 12 * SECOND, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn rate_and_breaker_go_together() {
    let broker = Broker::in_process();
    let (service, actor, producer) = (Service::default(), Actor::new(), producer(&broker).await);
    for task in producer.enqueue_all(vec![Call; 100]).await {
        task.unwrap();
    }
    let _consumer = service
        .consumer(&broker, &actor)
        .rate_limit::<Call>(RateLimit::per_second(5).burst(5))
        .circuit_breaker::<Call>(CircuitBreaker::after(2).open_for(20 * SECOND))
        .start()
        .await
        .unwrap();
    tokio::time::sleep(30 * SECOND).await;
    service.0.store(true, Relaxed);
    let failed = actor.seen().len();
    let seen = actor.wait_for(100 + failed).await;
    assert!(failed <= 6, "{failed} attempts while the service was down");
    assert!(most_within(10 * SECOND, &seen) <= 55);
    assert!(seen.last().unwrap().at < 90 * SECOND, "{:?}", seen.last());
}

#[tokio::test(start_paused = true)]
async fn what_is_in_quarantine_waits_for_its_turn_too() {
    let broker = Broker::in_process();
    let (actor, producer) = (Actor::new(), producer(&broker).await);
    let suspect = producer.enqueue(Act::Succeed).await.unwrap().id();
    for _ in 0..2 {
        let lane = Name::new("queue", "taskhare.default.normal").unwrap();
        let mut dies = broker.transport().subscribe(Subscribe::new(lane, 1, "test")).await.unwrap();
        let delivery = dies.next().await.unwrap();
        dies.close().await;
        drop(delivery);
    }
    enqueue(&producer, 3, Act::Succeed).await;
    let limit = RateLimit::per_minute(1).burst(3);
    let consumer =
        Consumer::builder(&broker).handler(actor.clone()).rate_limit::<Act>(limit).start().await.unwrap();
    actor.wait_for(3).await;
    tokio::time::sleep(50 * SECOND).await;
    assert_eq!(actor.seen().len(), 3, "its turn comes after a minute");
    let seen = actor.wait_for(4).await;
    assert!(seen[3].id == suspect && soon_after(seen[3].at, 60 * SECOND), "{seen:?}");
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_limit_of_tasks_without_a_handler_is_an_error() {
    let broker = Broker::in_process();
    let builder = || Consumer::builder(&broker).handler(Actor::new());
    for (builder, expected) in [
        (builder().rate_limit::<Free>(RateLimit::per_second(1)), "rate_limit"),
        (builder().circuit_breaker::<Free>(CircuitBreaker::default()), "circuit_breaker"),
    ] {
        match builder.start().await {
            Err(Error::InvalidSetting { setting, reason }) => {
                assert_eq!(setting, expected);
                assert!(reason.contains("\"free\""), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}
