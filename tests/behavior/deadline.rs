//! Tasks that come too late, at each of the four points where that is noticed; and before a retry.

use std::time::Duration;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::CancelReason;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Fate;
use taskhare::Outcome;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::transport::Name;
use tokio::time::Instant;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letter;
use crate::support::dead_letters;
use crate::support::eventually;
use crate::support::reason;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);

/// A task with an output.
#[derive(serde::Serialize, serde::Deserialize)]
struct Work(Act);

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = u32;
}

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).build().await.unwrap()
}

/// Runs one at a time, and never tries again before ten seconds.
async fn consumer(broker: &Broker, actor: &Actor) -> Consumer {
    let consumer =
        Consumer::builder(broker).handler(actor.clone()).handler_fn(|work: Work, ctx| async move {
            match work.0 {
                Act::Fail => Err(TaskError::retry("as told")),
                Act::Sleep(time) => {
                    tokio::time::sleep(time).await;
                    Ok(ctx.attempt())
                }
                _ => Ok(ctx.attempt()),
            }
        });
    let consumer = consumer.retry(RetryPolicy::fixed(10 * SECOND)).cancel_grace(2 * SECOND);
    consumer.concurrency(1).start().await.unwrap()
}

fn failed(result: Result<u32, Error>) -> String {
    match result {
        Err(Error::Failed { reason, .. }) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_start_in_time_is_refused_at_once() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let passed = SystemTime::now() - SECOND;
    let error = producer.enqueue(Act::Succeed).deadline(passed).await.unwrap_err();
    assert!(matches!(error, Error::DeadlinePassed { late, .. } if late > SECOND / 2), "{error}");
    let error = producer.enqueue(Act::Succeed).deadline_in(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::DeadlinePassed { .. }), "{error}");
    assert!(!error.is_transient());
    let delayed = producer.enqueue(Act::Succeed).delay(10 * SECOND).deadline_in(10 * SECOND).await;
    assert!(matches!(delayed.unwrap_err(), Error::DeadlinePassed { .. }));
    assert_eq!(broker.delayed().await.unwrap(), 0);
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_too_long_is_taken_out_by_the_broker() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let started = Instant::now();
    let task = producer.enqueue(Work(Act::Succeed)).deadline_in(5 * SECOND).await.unwrap();
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
    dead_letters(&broker, "default", 1).await;
    assert!(soon_after(started.elapsed(), 5 * SECOND));
    assert_eq!(failed(task.output().await), "expired-in-queue");
    assert!(soon_after(started.elapsed(), 15 * SECOND), "the enqueuer waits for a last word");
    let letter = dead_letter(&broker).await;
    assert!(letter.headers.get("x-death").is_some(), "{letter:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_late_when_its_turn_comes_is_not_started() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let _consumer = consumer(&broker, &actor).await;
    let before = producer.enqueue(Act::Sleep(10 * SECOND)).await.unwrap();
    actor.wait_for(1).await;
    let late = producer.enqueue(Work(Act::Succeed)).deadline_in(5 * SECOND).await.unwrap();
    let also_late = producer.enqueue(Act::Succeed).deadline_in(5 * SECOND).await.unwrap();
    // They are the consumer's already; the broker cannot expire them.
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
    assert_eq!(failed(late.output().await), "expired-unstarted");
    dead_letters(&broker, "default", 2).await;
    let letters = [dead_letter(&broker).await, dead_letter(&broker).await];
    assert!(letters.iter().all(|letter| reason(letter).0 == "expired-unstarted"), "{letters:?}");
    assert_eq!(letters[1].id, Some(also_late.id().to_string()));
    assert_eq!(actor.seen().iter().map(|seen| seen.id).collect::<Vec<_>>(), [before.id()]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_late_out_of_its_delay_is_not_started() {
    let broker = Broker::in_process();
    let (producer, actor, started) = (producer(&broker).await, Actor::new(), Instant::now());
    producer.enqueue(Act::Succeed).delay(20 * SECOND).deadline_in(21 * SECOND).await.unwrap();
    // Nobody is there to start it, and in the wheel it had no time to live.
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (1, 0));
    let _consumer = consumer(&broker, &actor).await;
    assert_eq!(reason(&dead_letter(&broker).await).0, "expired-unstarted");
    assert!(soon_after(started.elapsed(), 30 * SECOND) && actor.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_runs_at_its_deadline_gets_its_token_and_is_expired_when_it_stops() {
    let broker = Broker::in_process();
    let (producer, started) = (producer(&broker).await, Instant::now());
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Act, ctx| {
            let sender = sender.clone();
            async move {
                assert!(ctx.remaining() <= Some(5 * SECOND) && !ctx.is_cancelled());
                ctx.cancellation().cancelled().await;
                sender.send((started.elapsed(), ctx.cancel_reason(), ctx.remaining())).unwrap();
                Err(TaskError::retry("stopped early"))
            }
        })
        .start()
        .await
        .unwrap();
    producer.enqueue(Act::Succeed).deadline_in(5 * SECOND).await.unwrap();
    let (at, reason_given, remaining) = told.recv().await.unwrap();
    assert!(soon_after(at, 5 * SECOND), "{at:?}");
    assert_eq!((reason_given, remaining), (Some(CancelReason::Deadline), Some(Duration::ZERO)));
    let letter = dead_letter(&broker).await;
    assert_eq!(reason(&letter), ("expired-running", "its deadline passed while it ran: stopped early"));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stop_at_its_deadline_is_dropped_after_the_grace_period() {
    let broker = Broker::in_process();
    let (producer, actor, started) = (producer(&broker).await, Actor::new(), Instant::now());
    let _consumer = consumer(&broker, &actor).await;
    let task = producer.enqueue(Work(Act::Sleep(3600 * SECOND))).deadline_in(5 * SECOND).await.unwrap();
    producer.enqueue(Act::Succeed).await.unwrap();
    assert_eq!(failed(task.output().await), "expired-running");
    assert!(soon_after(started.elapsed(), 7 * SECOND), "{:?}", started.elapsed());
    assert!(soon_after(actor.wait_for(1).await[0].at, 7 * SECOND), "its slot is free again");
    let letter = dead_letter(&broker).await;
    let error = "its deadline passed while it ran: it did not stop, and was dropped";
    assert_eq!(reason(&letter), ("expired-running", error));
}

#[tokio::test(start_paused = true)]
async fn what_succeeds_within_the_grace_period_has_succeeded() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let _consumer = consumer(&broker, &actor).await;
    let task = producer.enqueue(Work(Act::Sleep(6 * SECOND))).deadline_in(5 * SECOND).await.unwrap();
    assert_eq!(task.output().await.unwrap(), 1);
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_tried_again_in_time_is_not() {
    let broker = Broker::in_process();
    let (producer, actor, started) = (producer(&broker).await, Actor::new(), Instant::now());
    let _consumer = consumer(&broker, &actor).await;
    let task = producer.enqueue(Work(Act::Fail)).deadline_in(5 * SECOND).await.unwrap();
    assert_eq!(failed(task.output().await), "expired-retrying");
    assert!(started.elapsed() < SECOND, "it is known at once");
    assert_eq!(reason(&dead_letter(&broker).await), ("expired-retrying", "as told"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_leaves_time_for_as_many_attempts_as_start_before_it() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let _consumer = consumer(&broker, &actor).await;
    producer.enqueue(Act::Fail).deadline_in(25 * SECOND).await.unwrap();
    assert_eq!(reason(&dead_letter(&broker).await).0, "expired-retrying");
    assert_eq!(actor.seen().len(), 3, "at 0, 10 and 20 seconds");
}

#[tokio::test(start_paused = true)]
async fn an_expiry_during_a_shutdown_is_in_the_receipt() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let consumer = consumer(&broker, &actor).await;
    let id = producer.enqueue(Act::Sleep(3600 * SECOND)).deadline_in(5 * SECOND).await.unwrap().id();
    actor.wait_for(1).await;
    let receipt = consumer.shutdown().await;
    let fate = Fate::Finished(Outcome::Expired(DeadReason::ExpiredRunning));
    assert_eq!((receipt.tasks[0].id, receipt.tasks[0].fate), (Some(id), fate));
    assert_eq!(broker.dead("default").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_hands_its_deadline_on() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let (sender, mut deadlines) = tokio::sync::mpsc::unbounded_channel();
    let inner = producer.clone();
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Work, ctx| {
            let producer = inner.clone();
            async move {
                producer.enqueue(Act::Succeed).deadline_of(&ctx).await?;
                producer.enqueue(Act::Succeed).deadline_of(&ctx).deadline_in(3600 * SECOND).await?;
                producer.enqueue(Act::Succeed).deadline_of(&ctx).deadline_in(10 * SECOND).await?;
                Ok(0)
            }
        })
        .handler_fn(move |_: Act, ctx| {
            sender.send(ctx.deadline()).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let deadline = SystemTime::now() + 60 * SECOND;
    producer.enqueue(Work(Act::Succeed)).deadline(deadline).await.unwrap();
    let mut seen = [(); 3].map(|()| None);
    for deadline in &mut seen {
        *deadline = deadlines.recv().await.unwrap();
    }
    seen.sort();
    let [earliest, others @ ..] = seen.map(Option::unwrap);
    assert!(earliest < deadline - 40 * SECOND);
    for other in others {
        assert!(deadline.duration_since(other).unwrap() < Duration::from_millis(1), "to the millisecond");
    }
}

#[tokio::test(start_paused = true)]
async fn a_near_deadline_is_urgent_and_so_is_a_retry_when_it_has_come_near() {
    let broker = Broker::builder().urgent_within(10 * SECOND).in_process().unwrap();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let depth = async |lane: &str| {
        let queue = Name::new("queue", format!("taskhare.default.{lane}")).unwrap();
        broker.transport().depth(&queue).await.unwrap().unwrap()
    };
    producer.enqueue(Act::Succeed).priority(Priority::Low).deadline_in(9 * SECOND).await.unwrap();
    eventually("it is urgent", async || depth("urgent").await == 1).await;
    let consumer = consumer(&broker, &actor).await;
    actor.wait_for(1).await;
    producer
        .enqueue(Act::RetryAfter(25 * SECOND))
        .priority(Priority::Low)
        .deadline_in(30 * SECOND)
        .await
        .unwrap();
    actor.wait_for(2).await;
    tokio::time::sleep(24 * SECOND).await;
    consumer.shutdown().await;
    eventually("its retry is urgent", async || depth("urgent").await == 1).await;
}
