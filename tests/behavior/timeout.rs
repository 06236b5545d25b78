//! Attempts that take too long, and the token that tells a handler to stop.

use std::time::Duration;

use taskhare::Broker;
use taskhare::CancelReason;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskHandler;
use taskhare::async_trait;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letter;
use crate::support::dead_letters;
use crate::support::reason;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_stops_at_its_timeout_has_failed_and_is_tried_again() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let consumer = Consumer::builder(&broker).handler(actor.clone()).run_timeout(5 * SECOND);
    let policy = RetryPolicy::fixed(10 * SECOND).max_attempts(2);
    let _consumer = consumer.retry(policy).start().await.unwrap();
    producer.enqueue(Act::UntilCancelled).await.unwrap();
    let letter = dead_letter(&broker).await;
    assert_eq!(reason(&letter), ("attempts-exhausted", "timed out after 5s: stopped early"));
    let seen = actor.seen();
    assert_eq!(seen.len(), 2);
    assert!(soon_after(seen[1].at - seen[0].at, 15 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_stop_is_dropped_after_the_grace_period() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let consumer = Consumer::builder(&broker).handler(actor.clone()).concurrency(1).cancel_grace(2 * SECOND);
    let _consumer = consumer.retry(RetryPolicy::never()).start().await.unwrap();
    producer.enqueue(Act::Sleep(3600 * SECOND)).run_timeout(5 * SECOND).await.unwrap();
    producer.enqueue(Act::Succeed).await.unwrap();
    let seen = actor.wait_for(2).await;
    assert!(soon_after(seen[1].at, 7 * SECOND), "its slot is free again: {:?}", seen[1].at);
    let error = "timed out after 5s: it did not stop, and was dropped";
    assert_eq!(reason(&dead_letter(&broker).await), ("attempts-exhausted", error));
}

/// On a clock that runs: a paused one stands still while a thread is blocked.
#[tokio::test]
async fn an_attempt_that_blocks_its_thread_is_taken_for_stopped_and_shutdown_does_not_wait_for_it() {
    let broker = Broker::in_process();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let (entered, mut at_work) = tokio::sync::mpsc::unbounded_channel();
    let builder = Consumer::builder(&broker).handler_blocking(move |_: Act, ctx: TaskContext| {
        entered.send(ctx.id()).unwrap();
        gate.lock().unwrap().recv()?;
        Ok(())
    });
    let tenth = SECOND / 10;
    let builder =
        builder.concurrency(1).cancel_grace(tenth).shutdown_grace(tenth).retry(RetryPolicy::never());
    let (consumer, producer) = (builder.start().await.unwrap(), producer(&broker).await);
    producer.enqueue(Act::Succeed).run_timeout(tenth).await.unwrap();
    at_work.recv().await.unwrap();
    let error = "timed out after 100ms: it did not stop, and was dropped";
    assert_eq!(reason(&dead_letter(&broker).await), ("attempts-exhausted", error));
    let second = producer.enqueue(Act::Succeed).await.unwrap();
    assert_eq!(at_work.recv().await, Some(second.id()), "its slot is free");
    let gone = consumer.shutdown().await;
    assert_eq!((gone.aborted(), gone.tasks[0].id), (1, Some(second.id())));
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
    release.send(()).unwrap();
    release.send(()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_succeeds_within_the_grace_period_has_succeeded() {
    let broker = Broker::in_process();
    let (producer, actor) = (producer(&broker).await, Actor::new());
    let consumer = Consumer::builder(&broker).handler(actor.clone()).run_timeout(5 * SECOND);
    let consumer = consumer.retry(RetryPolicy::never()).start().await.unwrap();
    producer.enqueue(Act::Sleep(9 * SECOND)).await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    consumer.shutdown().await;
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
    assert_eq!(actor.seen().len(), 1);
}

/// Says when it was told to stop, and why.
struct Told {
    timeout: Option<Duration>,
    told: UnboundedSender<(Duration, Option<CancelReason>)>,
}

#[async_trait]
impl TaskHandler for Told {
    type Task = Act;

    async fn handle(&self, _: Act, ctx: &TaskContext) -> Result<(), TaskError> {
        let started = Instant::now();
        ctx.cancelled().await;
        self.told.send((started.elapsed(), ctx.cancel_reason())).unwrap();
        Err(TaskError::reject("stopped early"))
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_the_enqueuer_goes_before_the_handlers_before_the_consumers() {
    for (enqueuer, handler, expected) in
        [(Some(10), Some(20), 10), (Some(50), Some(20), 50), (None, Some(20), 20), (None, None, 30)]
    {
        let seconds = |seconds: u64| Duration::from_secs(seconds);
        let broker = Broker::in_process();
        let producer = producer(&broker).await;
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let consumer = Consumer::builder(&broker).handler(Told { timeout: handler.map(seconds), told });
        let _consumer = consumer.run_timeout(30 * SECOND).start().await.unwrap();
        let enqueue = producer.enqueue(Act::Succeed);
        match enqueuer {
            Some(timeout) => enqueue.run_timeout(seconds(timeout)).await.unwrap(),
            None => enqueue.await.unwrap(),
        };
        let (at, why) = tells.recv().await.unwrap();
        assert!(soon_after(at, seconds(expected)), "{at:?}, expected {expected} s");
        assert_eq!(why, Some(CancelReason::Timeout));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_reason_to_stop_is_the_one_that_is_told() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker).handler(Told { timeout: None, told }).start().await.unwrap();
    producer.enqueue(Act::Succeed).run_timeout(5 * SECOND).deadline_in(4 * SECOND).await.unwrap();
    assert_eq!(tells.recv().await.unwrap().1, Some(CancelReason::Deadline));
    producer.enqueue(Act::Succeed).run_timeout(5 * SECOND).deadline_in(6 * SECOND).await.unwrap();
    assert_eq!(tells.recv().await.unwrap().1, Some(CancelReason::Timeout));
    producer.enqueue(Act::Succeed).run_timeout(5 * SECOND).await.unwrap();
    tokio::time::sleep(SECOND).await;
    consumer.shutdown().await;
    assert_eq!(tells.recv().await.unwrap().1, Some(CancelReason::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_of_one_attempt_and_reaches_what_its_handler_spawned() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let (sender, mut stopped) = tokio::sync::mpsc::unbounded_channel();
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Act, ctx| {
            let (token, sender, id) = (ctx.cancellation(), sender.clone(), ctx.id());
            let spawned = tokio::spawn(async move {
                tokio::select! {
                    () = token.cancelled() => sender.send((id, true)).unwrap(),
                    () = tokio::time::sleep(10 * SECOND) => sender.send((id, false)).unwrap(),
                }
            });
            async move {
                spawned.await?;
                Ok(())
            }
        })
        .start()
        .await
        .unwrap();
    let short = producer.enqueue(Act::Succeed).run_timeout(5 * SECOND).await.unwrap().id();
    let long = producer.enqueue(Act::Succeed).await.unwrap().id();
    assert_eq!(stopped.recv().await.unwrap(), (short, true));
    assert_eq!(stopped.recv().await.unwrap(), (long, false));
}

#[tokio::test(start_paused = true)]
async fn a_panic_after_the_timeout_is_a_failed_attempt_too() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let _consumer = Consumer::builder(&broker)
        .handler_fn(|_: Act, ctx| async move {
            ctx.cancelled().await;
            panic!("out of time");
        })
        .run_timeout(5 * SECOND)
        .retry(RetryPolicy::never())
        .start()
        .await
        .unwrap();
    producer.enqueue(Act::Succeed).await.unwrap();
    dead_letters(&broker, "default", 1).await;
    let error = "timed out after 5s: panicked: out of time";
    assert_eq!(reason(&dead_letter(&broker).await), ("attempts-exhausted", error));
}
