//! How far an attempt is, as its handler says.

use std::time::Duration;

use taskhare::Broker;
use taskhare::BrokerBuilder;
use taskhare::Consumer;
use taskhare::Kind;
use taskhare::Producer;
use taskhare::Progress;
use taskhare::RetryPolicy;
use taskhare::Standing;
use taskhare::Task;
use taskhare::TaskChange;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskId;
use tokio::time::sleep;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
enum Walk {
    /// So many steps, each of which takes a while.
    Steps(u64, Duration),
    /// So many steps without a rest.
    Run(u64),
    /// Two steps, and then no more for an hour.
    Rest,
    /// One step, and then it fails; at the second attempt it does not.
    Stumble,
    /// Leaves somebody behind who goes on, and fails.
    Leak,
    /// So many steps on a thread of its own.
    Thread(u64),
}

impl Task for Walk {
    const NAME: &'static str = "walk";
    type Output = ();
}

async fn walk(task: Walk, ctx: TaskContext) -> Result<(), TaskError> {
    match task {
        Walk::Steps(steps, pause) => {
            for step in 1..=steps {
                sleep(pause).await;
                ctx.progress(step, steps, &format!("step {step}"));
            }
        }
        Walk::Run(steps) => (1..=steps).for_each(|step| ctx.progress(step, None, "")),
        Walk::Rest => {
            sleep(MILLISECOND).await;
            ctx.progress(1, 2, "first");
            ctx.progress(2, 2, "second");
            sleep(3600 * SECOND).await;
        }
        Walk::Stumble if ctx.attempt() == 1 => {
            sleep(MILLISECOND).await;
            ctx.progress(7, None, "stumbling");
            return Err(TaskError::retry("as told"));
        }
        Walk::Stumble => {}
        Walk::Leak => {
            tokio::spawn(async move {
                for step in 1..10 {
                    sleep(SECOND).await;
                    ctx.progress(step, None, "a ghost");
                }
            });
            return Err(TaskError::retry("as told"));
        }
        Walk::Thread(steps) => {
            let thread =
                std::thread::spawn(move || (1..=steps).for_each(|step| ctx.progress(step, steps, "")));
            while !thread.is_finished() {
                sleep(MILLISECOND).await;
            }
        }
    }
    Ok(())
}

struct Setup {
    broker: Broker,
    producer: Producer,
    _consumer: Consumer,
}

async fn setup(settings: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Setup {
    let broker = settings(Broker::builder()).in_process().unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let builder = Consumer::builder(&broker).handler_fn(walk).retry(RetryPolicy::fixed(60 * SECOND));
    Setup { broker, producer, _consumer: builder.start().await.unwrap() }
}

/// All that is told of it up to its end: the kinds, and how much was done.
async fn life(broker: &Broker, id: TaskId) -> Vec<(Kind, u64)> {
    let mut life = broker.follow(id).await.unwrap();
    let mut told = Vec::new();
    while let Some(event) = life.next().await {
        let done = if let TaskChange::Progress { done, .. } = event.change { done } else { 0 };
        if event.change.kind() != Kind::Accepted {
            told.push((event.change.kind(), done));
        }
    }
    told
}

async fn told(task: Walk) -> Vec<(Kind, u64)> {
    let Setup { broker, producer, _consumer } = setup(|it| it).await;
    let id = producer.enqueue(task).await.unwrap().id();
    life(&broker, id).await
}

#[tokio::test(start_paused = true)]
async fn each_step_of_a_slow_walk_is_told() {
    let told = told(Walk::Steps(3, SECOND)).await;
    let steps = [1, 2, 3].map(|step| (Kind::Progress, step));
    assert_eq!(told, [&[(Kind::Started, 0)], &steps[..], &[(Kind::Succeeded, 0)]].concat());
}

#[tokio::test(start_paused = true)]
async fn of_a_fast_one_every_tenth_of_a_second_and_the_last() {
    let told = told(Walk::Steps(1_000, MILLISECOND)).await;
    let steps: Vec<u64> =
        told.iter().filter(|(kind, _)| *kind == Kind::Progress).map(|(_, done)| *done).collect();
    assert!((10..=12).contains(&steps.len()), "{steps:?}");
    assert!(steps.is_sorted(), "{steps:?}");
    assert_eq!(told[told.len() - 2..], [(Kind::Progress, 1_000), (Kind::Succeeded, 0)]);
}

#[tokio::test(start_paused = true)]
async fn of_one_that_never_rests_the_last_step_in_its_place() {
    assert_eq!(told(Walk::Run(100)).await, [(Kind::Started, 0), (Kind::Progress, 100), (Kind::Succeeded, 0)]);
}

#[tokio::test]
async fn a_thread_without_a_runtime_may_tell_too() {
    let told = told(Walk::Thread(100)).await;
    assert_eq!(told[told.len() - 2..], [(Kind::Progress, 100), (Kind::Succeeded, 0)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_too_soon_is_told_a_little_later() {
    let Setup { broker, producer, _consumer } = setup(|it| it).await;
    let id = producer.enqueue(Walk::Rest).await.unwrap().id();
    sleep(SECOND).await;
    let state = broker.status(id).await.unwrap().unwrap();
    assert!(matches!(state.standing, Standing::Running { .. }), "{state:?}");
    let Some(Progress { done, total, note, .. }) = state.progress else { panic!("{state:?}") };
    assert_eq!((done, total, &*note), (2, Some(2), "second"));
}

#[tokio::test(start_paused = true)]
async fn the_last_word_of_an_attempt_that_fails_is_told_before_that() {
    use Kind::{Failed, Progress, Retrying, Started, Succeeded};
    let expected = [(Started, 0), (Progress, 7), (Failed, 0), (Retrying, 0), (Started, 0), (Succeeded, 0)];
    assert_eq!(told(Walk::Stumble).await, expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_after_the_end_of_an_attempt() {
    let Setup { broker, producer, _consumer } = setup(|it| it).await;
    let id = producer.enqueue(Walk::Leak).max_attempts(2).await.unwrap().id();
    let told = life(&broker, id).await;
    assert!(told.iter().all(|(kind, _)| *kind != Kind::Progress), "{told:?}");
    assert_eq!(told.last(), Some(&(Kind::Dead, 0)));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_wants_to_know_it_does_nothing() {
    let Setup { broker, producer, _consumer } = setup(BrokerBuilder::without_events).await;
    producer.enqueue(Walk::Steps(10, MILLISECOND)).await.unwrap();
    crate::support::eventually("it runs", async || broker.waiting("default").await.unwrap() == 0).await;
}
