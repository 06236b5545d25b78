//! What the active scheduler sees, tells and does about tasks that fail, on a paused clock.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use taskhare::Alert;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Presence;
use taskhare::Producer;
use taskhare::Redrive;
use taskhare::RetryPolicy;
use taskhare::Scheduler;
use taskhare::SchedulerBuilder;
use taskhare::Standing;
use taskhare::Thresholds;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letters;
use crate::support::eventually;

const SECOND: Duration = Duration::from_secs(1);

type Alerts = Arc<Mutex<Vec<Alert>>>;

/// A scheduler, and what it tells.
async fn watch(
    broker: &Broker,
    set: impl FnOnce(SchedulerBuilder) -> SchedulerBuilder,
) -> (Scheduler, Alerts) {
    let alerts = Alerts::default();
    let told = alerts.clone();
    let builder = Scheduler::builder(broker).on_alert(move |alert| told.lock().unwrap().push(alert.clone()));
    let scheduler = set(builder).start().await.unwrap();
    eventually("it is active", async || scheduler.is_active()).await;
    sleep(SECOND / 10).await;
    (scheduler, alerts)
}

async fn told(alerts: &Alerts, what: &str, is_it: impl Fn(&Alert) -> bool) {
    eventually(what, async || alerts.lock().unwrap().iter().any(&is_it)).await;
}

/// Fails all that it is told to at the first attempt.
async fn consumer(broker: &Broker, actor: &Actor) -> Consumer {
    let builder = Consumer::builder(broker).handler(actor.clone());
    builder.retry(RetryPolicy::fixed(SECOND).max_attempts(1)).start().await.unwrap()
}

async fn enqueue(broker: &Broker, act: Act, count: usize) {
    let producer = Producer::builder(broker).build().await.unwrap();
    for _ in 0..count {
        producer.enqueue(act.clone()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_without_schedules_is_active_and_another_one_when_it_is_gone() {
    let broker = Broker::in_process();
    let (first, _) = watch(&broker, |builder| builder).await;
    let second = Scheduler::builder(&broker).start().await.unwrap();
    sleep(SECOND).await;
    assert!(first.is_active() && !second.is_active());
    drop(first);
    eventually("the second is active", async || second.is_active()).await;
    let third = Scheduler::builder(&broker).start().await.unwrap();
    second.shutdown().await;
    eventually("the third is active", async || third.is_active()).await;
}

#[tokio::test(start_paused = true)]
async fn the_active_scheduler_knows_who_consumes_and_what_runs() {
    let broker = Broker::in_process();
    let (scheduler, _) = watch(&broker, |builder| builder).await;
    let consumer = consumer(&broker, &Actor::new()).await;
    enqueue(&broker, Act::Sleep(100 * SECOND), 2).await;
    eventually("they run", async || scheduler.tasks().len() == 2).await;
    let consumers = scheduler.consumers();
    assert_eq!((consumers.len(), consumers[0].presence), (1, Presence::Alive));
    for task in scheduler.tasks() {
        let Standing::Running { consumer, .. } = task.standing else { panic!("{task:?}") };
        assert_eq!(consumer, consumers[0].consumer);
    }
    sleep(110 * SECOND).await;
    assert_eq!(scheduler.tasks(), []);
    consumer.shutdown().await;
    eventually("it is known that it has stopped", async || scheduler.consumers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_no_loss() {
    let broker = Broker::in_process();
    let (_scheduler, alerts) = watch(&broker, |builder| builder).await;
    let first = consumer(&broker, &Actor::new()).await;
    enqueue(&broker, Act::UntilCancelled, 3).await;
    sleep(SECOND).await;
    let _second = consumer(&broker, &Actor::new()).await;
    first.shutdown().await;
    sleep(60 * SECOND).await;
    assert_eq!(*alerts.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_queue_whose_attempts_fail_is_told_of_once_and_when_that_is_over() {
    let broker = Broker::in_process();
    let set = |builder: SchedulerBuilder| builder.thresholds(Thresholds::default().dead_letters(10));
    let (_scheduler, alerts) = watch(&broker, set).await;
    let _consumer = consumer(&broker, &Actor::new()).await;
    enqueue(&broker, Act::Fail, 30).await;
    dead_letters(&broker, "default", 30).await;
    sleep(300 * SECOND).await;
    let alerts = alerts.lock().unwrap().clone();
    let [rate, dead, resolved @ ..] = &alerts[..] else { panic!("{alerts:?}") };
    assert!(matches!(rate, Alert::FailureRate { rate, .. } if *rate > 0.99), "{rate:?}");
    assert!(matches!(dead, Alert::DeadLetters { count, .. } if *count > 10), "{dead:?}");
    let expected = [Alert::Resolved(Box::new(rate.clone())), Alert::Resolved(Box::new(dead.clone()))];
    assert_eq!(resolved, expected);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_nobody_takes_are_told_of() {
    let broker = Broker::in_process();
    let set = |builder: SchedulerBuilder| {
        let thresholds = Thresholds::default().no_consumer(30 * SECOND).oldest_waiting(60 * SECOND);
        builder.thresholds(thresholds)
    };
    let (_scheduler, alerts) = watch(&broker, set).await;
    let start = Instant::now();
    enqueue(&broker, Act::Succeed, 3).await;
    told(&alerts, "nobody takes them", |alert| matches!(alert, Alert::NoConsumer { .. })).await;
    assert!(start.elapsed() >= 30 * SECOND);
    told(&alerts, "they wait for long", |alert| matches!(alert, Alert::OldestWaiting { .. })).await;
    assert!(start.elapsed() >= 60 * SECOND);
    let _consumer = consumer(&broker, &Actor::new()).await;
    eventually("both are over", async || {
        alerts.lock().unwrap().iter().filter(|alert| matches!(alert, Alert::Resolved(_))).count() == 2
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_out_of_a_queue_without_a_word_does_not_wait() {
    let broker = Broker::in_process();
    let set = |builder: SchedulerBuilder| builder.thresholds(Thresholds::default().no_consumer(30 * SECOND));
    let (_scheduler, alerts) = watch(&broker, set).await;
    enqueue(&broker, Act::Succeed, 3).await;
    let lane = taskhare::transport::Name::new("queue", "taskhare.default.normal").unwrap();
    broker.transport().purge(&lane).await.unwrap();
    sleep(300 * SECOND).await;
    assert_eq!(*alerts.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_redriven_when_they_are_old_enough_and_not_too_often() {
    let broker = Broker::in_process();
    let policy = Redrive::after(60 * SECOND).times(2).queue("default");
    let (_scheduler, _) = watch(&broker, |builder| builder.redrive(policy)).await;
    let actor = Actor::new();
    let _consumer = consumer(&broker, &actor).await;
    enqueue(&broker, Act::Fail, 1).await;
    let seen = actor.wait_for(3).await;
    for pair in seen.windows(2) {
        let after = pair[1].at - pair[0].at;
        assert!((60 * SECOND..=70 * SECOND).contains(&after), "{after:?}");
    }
    assert!(seen.iter().all(|seen| seen.attempt == 1));
    sleep(1_000 * SECOND).await;
    assert_eq!(actor.seen().len(), 3);
    let letters = broker.dead_letters("default").unwrap().list(10).await.unwrap();
    assert_eq!((letters.len(), letters[0].redriven()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn only_what_the_policy_is_for_is_redriven() {
    let broker = Broker::in_process();
    let (_scheduler, _) =
        watch(&broker, |builder| builder.redrive(Redrive::after(10 * SECOND).queue("default"))).await;
    let actor = Actor::new();
    let consumer = consumer(&broker, &actor).await;
    enqueue(&broker, Act::Reject, 1).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::UntilCancelled).deadline_in(SECOND).await.unwrap();
    dead_letters(&broker, "default", 2).await;
    sleep(100 * SECOND).await;
    assert_eq!(actor.seen().len(), 2);
    consumer.shutdown().await;
    let letters = broker.dead_letters("default").unwrap().list(10).await.unwrap();
    let reasons: Vec<DeadReason> = letters.iter().map(taskhare::DeadLetter::reason).collect();
    assert_eq!(reasons, [DeadReason::Rejected, DeadReason::ExpiredRunning]);
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_requeues_counts_for_the_policy_too() {
    let broker = Broker::in_process();
    let actor = Actor::new();
    let _consumer = consumer(&broker, &actor).await;
    enqueue(&broker, Act::Fail, 1).await;
    dead_letters(&broker, "default", 1).await;
    let letters = broker.dead_letters("default").unwrap();
    letters.requeue_all().await.unwrap();
    actor.wait_for(2).await;
    dead_letters(&broker, "default", 1).await;
    let policy = Redrive::after(10 * SECOND).times(1).queue("default");
    let (_scheduler, _) = watch(&broker, |builder| builder.redrive(policy)).await;
    sleep(100 * SECOND).await;
    assert_eq!(actor.seen().len(), 2);
}

#[tokio::test]
async fn a_policy_without_a_queue_is_refused() {
    let started = Scheduler::builder(&Broker::in_process()).redrive(Redrive::after(SECOND)).start().await;
    assert!(matches!(started, Err(Error::InvalidSetting { setting: "redrive", .. })));
}
