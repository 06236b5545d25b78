//! Failed attempts.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskHandler;
use taskhare::async_trait;
use taskhare::transport::Value;
use tokio::time::Instant;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letter;
use crate::support::dead_letters;
use crate::support::eventually;
use crate::support::reason;
use crate::support::soon_after;

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

/// A task whose type has a policy.
#[derive(serde::Serialize, serde::Deserialize)]
struct Patient;

impl Task for Patient {
    const NAME: &'static str = "patient";
    type Output = ();

    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy::fixed(30 * SECOND))
    }
}

/// Fails, and tells when it was called.
struct Failing {
    policy: Option<RetryPolicy>,
    calls: tokio::sync::mpsc::UnboundedSender<Instant>,
}

#[async_trait]
impl TaskHandler for Failing {
    type Task = Patient;

    async fn handle(&self, _: Patient, _: &TaskContext) -> Result<(), TaskError> {
        self.calls.send(Instant::now()).unwrap();
        Err(TaskError::retry("again"))
    }

    fn retry(&self) -> Option<RetryPolicy> {
        self.policy.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_policy_of_the_enqueuer_goes_before_the_handlers_before_the_types_before_the_consumers() {
    let wait = |seconds: u32| Some(RetryPolicy::fixed(seconds * SECOND));
    for (enqueuer, handler, expected) in
        [(wait(10), wait(20), 10 * SECOND), (None, wait(20), 20 * SECOND), (None, None, 30 * SECOND)]
    {
        let broker = Broker::in_process();
        let producer = Producer::builder(&broker).build().await.unwrap();
        let (calls, mut called) = tokio::sync::mpsc::unbounded_channel();
        let consumer = Consumer::builder(&broker).handler(Failing { policy: handler, calls });
        let _consumer = consumer.retry(RetryPolicy::fixed(40 * SECOND)).start().await.unwrap();
        let enqueue = producer.enqueue(Patient);
        match enqueuer {
            Some(policy) => enqueue.retry(policy).await.unwrap(),
            None => enqueue.await.unwrap(),
        };
        // The policy stays with the task over all of its attempts.
        let times =
            [called.recv().await.unwrap(), called.recv().await.unwrap(), called.recv().await.unwrap()];
        for pair in times.windows(2) {
            assert!(
                soon_after(pair[1] - pair[0], expected),
                "{:?}, expected {expected:?}",
                pair[1] - pair[0]
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_enqueuers_number_of_attempts_changes_that_alone() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    producer.enqueue(Act::Fail).max_attempts(2).retry(RetryPolicy::fixed(10 * SECOND)).await.unwrap();
    dead_letters(&broker, "default", 1).await;
    let seen = actor.seen();
    assert_eq!(seen.len(), 2);
    assert!(soon_after(seen[1].at - seen[0].at, 10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_later_than_the_policys_time_after_the_first_was_due() {
    let policy = RetryPolicy::fixed(10 * SECOND).max_attempts(100).within(25 * SECOND);
    let (broker, actor, _consumer) = run(Act::Fail, policy).await;
    let letter = dead_letter(&broker).await;
    assert_eq!(reason(&letter), ("time-exhausted", "as told"));
    assert_eq!(actor.seen().len(), 3, "at 0, 10 and 20 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_delay_does_not_use_up_the_policys_time() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let actor = Actor::new();
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let policy = RetryPolicy::fixed(10 * SECOND).max_attempts(100).within(25 * SECOND);
    producer.enqueue(Act::Fail).delay(60 * SECOND).retry(policy).await.unwrap();
    assert_eq!(reason(&dead_letter(&broker).await).0, "time-exhausted");
    assert_eq!(actor.seen().len(), 3, "at 60, 70 and 80 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_ones_own_says_when_and_how_often() {
    let policy = RetryPolicy::custom(|failed| (failed < 3).then(|| failed * 10 * SECOND));
    let (broker, actor, _consumer) = run(Act::Fail, policy).await;
    assert_eq!(reason(&dead_letter(&broker).await).0, "attempts-exhausted");
    let seen = actor.seen();
    assert_eq!(seen.len(), 3);
    assert!(soon_after(seen[1].at - seen[0].at, 10 * SECOND));
    assert!(soon_after(seen[2].at - seen[1].at, 20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_travel_is_refused() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let error = producer.enqueue(Act::Fail).retry(RetryPolicy::custom(|_| None)).await.unwrap_err();
    assert!(matches!(error, Error::InvalidSetting { setting: "retry", .. }), "{error}");
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_tells_of_its_last_ten_attempts() {
    let (broker, _, _consumer) = run(Act::Fail, RetryPolicy::fixed(SECOND).max_attempts(14)).await;
    let letter = dead_letter(&broker).await;
    let Some(Value::List(failures)) = letter.headers.get("taskhare-failures") else { panic!("{letter:?}") };
    let entry = |entry: &Value| match entry {
        Value::Table(entry) => (
            entry.get("attempt").and_then(Value::as_int).unwrap(),
            entry.get("error").and_then(Value::as_text).unwrap().to_owned(),
        ),
        other => panic!("{other:?}"),
    };
    let expected: Vec<_> = (5..=14).map(|attempt| (attempt, "as told".to_owned())).collect();
    assert_eq!(failures.iter().map(entry).collect::<Vec<_>>(), expected);
}
