//! Tasks that start later.

use std::time::Duration;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;
use tokio::time::Instant;

use crate::support::Act;
use crate::support::Actor;
use crate::support::eventually;
use crate::support::quiet;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How late a task may be in process: tokio's timers count whole milliseconds, and one follows the other.
const LATE: Duration = Duration::from_millis(5);

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).build().await.unwrap()
}

/// Delays of all magnitudes up to `longest`.
fn delays(count: usize, longest: Duration) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(11);
    let most = longest.as_millis() as u64;
    (0..count)
        .map(|_| {
            Duration::from_millis(random.u64(0..=most) >> random.u32(0..u64::BITS - most.leading_zeros()))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn no_task_is_early_and_none_is_late_from_nothing_to_years() {
    let broker = quiet();
    let producer = producer(&broker).await;
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let started = Instant::now();
    let mut due = Vec::new();
    for delay in delays(300, 8 * YEAR) {
        let after = started.elapsed();
        let task = producer.enqueue(Act::Succeed).delay(delay).await.unwrap();
        due.push((task.id(), after + delay, delay));
    }
    due.sort_by_key(|(_, at, _)| *at);
    for (id, at, delay) in due {
        // Tokio's timers end after two years.
        while started.elapsed() < at + LATE {
            tokio::time::sleep_until(started + (at + LATE).min(started.elapsed() + YEAR)).await;
        }
        let seen = actor.seen();
        let seen = seen.iter().find(|seen| seen.id == id);
        let seen = seen.unwrap_or_else(|| panic!("a delay of {delay:?} is late"));
        assert!(seen.at >= at, "a delay of {delay:?} ended {:?} early", at - seen.at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_wheel_takes_its_time_all_the_same() {
    let broker = quiet();
    let producer = producer(&broker).await;
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    producer.enqueue(Act::Succeed).delay(20 * YEAR).await.unwrap();
    for half in 1..40 {
        tokio::time::sleep(YEAR / 2).await;
        assert_eq!(broker.delayed().await.unwrap(), 1, "after {half} half years");
    }
    tokio::time::sleep(YEAR / 2 + SECOND).await;
    let seen = actor.wait_for(1).await;
    assert!(seen[0].at >= 20 * YEAR && seen[0].at < 20 * YEAR + LATE, "{:?}", seen[0].at);
    assert_eq!(seen[0].attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_can_be_given_a_time_of_day_and_one_that_has_passed_is_now() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    for time in [SystemTime::now() - DAY, SystemTime::UNIX_EPOCH - DAY] {
        producer.enqueue(Act::Succeed).at(time).await.unwrap();
    }
    producer.enqueue(Act::Succeed).at(SystemTime::now() + DAY).await.unwrap();
    let seen = actor.wait_for(2).await;
    assert!(seen[1].at < SECOND, "{:?}", seen[1].at);
    tokio::time::sleep(DAY).await;
    let seen = actor.wait_for(3).await;
    // The paused clock and the one of the wall were read one after the other.
    assert!(seen[2].at > DAY - SECOND && seen[2].at < DAY + SECOND, "{:?}", seen[2].at);
}

#[tokio::test(start_paused = true)]
async fn many_tasks_can_be_delayed_at_once_and_are_counted_until_they_are_due() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    for task in producer.enqueue_all(vec![Act::Succeed; 100]).delay(DAY).await {
        task.unwrap();
    }
    let waiting = async || (broker.delayed().await.unwrap(), broker.waiting("default").await.unwrap());
    assert_eq!(waiting().await, (100, 0));
    tokio::time::sleep(DAY / 2).await;
    assert_eq!(waiting().await, (100, 0));
    tokio::time::sleep(DAY / 2).await;
    assert_eq!(waiting().await, (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_comes_to_the_lane_of_its_priority() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    for priority in [Priority::Low, Priority::Normal, Priority::Urgent] {
        producer.enqueue(Act::Succeed).delay(60 * SECOND).priority(priority).await.unwrap();
    }
    tokio::time::sleep(60 * SECOND).await;
    for lane in ["low", "normal", "urgent"] {
        let queue = Name::new("queue", format!("taskhare.default.{lane}")).unwrap();
        assert_eq!(broker.transport().depth(&queue).await.unwrap(), Some(1), "{lane}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_takes_no_slot_and_keeps_nothing_away() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let actor = Actor::new();
    let builder = Consumer::builder(&broker).handler(actor.clone());
    let _consumer = builder.concurrency(1).prefetch(2).start().await.unwrap();
    // Each of these is held by the consumer.
    let held = Duration::from_millis(190);
    for task in producer.enqueue_all(vec![Act::Fail; 500]).delay(held).await {
        task.unwrap();
    }
    producer.enqueue(Act::Succeed).await.unwrap();
    let seen = actor.wait_for(1).await;
    assert!(seen[0].at < held, "{:?}", seen[0].at);
    let seen = actor.wait_for(501).await;
    assert!(seen[1].at >= held && seen[500].at < held + SECOND, "{:?} to {:?}", seen[1].at, seen[500].at);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_survives_the_end_of_the_consumer_that_holds_it() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let actor = Actor::new();
    let start = async || Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let first = start().await;
    producer.enqueue(Act::Succeed).delay(10 * SECOND).await.unwrap();
    tokio::time::sleep(10 * SECOND - Duration::from_millis(50)).await;
    assert_eq!(first.shutdown().await.unstarted(), 1);
    let _second = start().await;
    let seen = actor.wait_for(1).await;
    assert!(seen[0].at >= 10 * SECOND && seen[0].at < 10 * SECOND + LATE, "{:?}", seen[0].at);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_while_nobody_consumes_starts_at_once_when_somebody_does() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    for task in producer.enqueue_all(vec![Act::Succeed; 20]).delay(SECOND).await {
        task.unwrap();
    }
    tokio::time::sleep(DAY).await;
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let seen = actor.wait_for(20).await;
    assert!(seen.iter().all(|seen| seen.at < LATE), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_much_too_early_goes_back_to_the_broker() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    producer.enqueue(Act::Succeed).delay(60 * SECOND).await.unwrap();
    // Somebody moves it from the wheel to its lane by hand. 60 s are 935 units: in base 4 they begin with 3 × 4^4.
    let name = |name: &str| Name::new("name", name).unwrap();
    let subscribe = Subscribe::new(name("taskhare.delay.04.3"), 1, "test");
    let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
    let mut delivery = subscription.next().await.unwrap();
    let mut message = std::mem::take(&mut delivery.message);
    message.headers.remove("taskhare-hold");
    let (exchange, key) = (name("taskhare.tasks"), name("default.normal"));
    let early = Publish { exchange, key, mandatory: true, message };
    broker.transport().publish(&early, SECOND).await.unwrap();
    delivery.ack();
    subscription.close().await;

    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    eventually("it is back in the wheel", async || broker.delayed().await.unwrap() == 1).await;
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
    let seen = actor.wait_for(1).await;
    assert!(seen[0].attempt == 1 && seen[0].at > 59 * SECOND, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_backoff_of_a_retry_is_spent_on_the_broker() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone());
    let consumer = consumer.retry(RetryPolicy::fixed(50 * SECOND)).start().await.unwrap();
    producer.enqueue(Act::FailOnce).await.unwrap();
    actor.wait_for(1).await;
    eventually("it waits in the wheel", async || broker.delayed().await.unwrap() == 1).await;
    assert_eq!(consumer.shutdown().await.unstarted(), 0);
    let _other = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let seen = actor.wait_for(2).await;
    let wait = seen[1].at - seen[0].at;
    assert!(wait >= 50 * SECOND && wait < 50 * SECOND + LATE, "{wait:?}");
}
