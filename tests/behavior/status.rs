//! Where a task stands, and its life as it goes on.

use std::time::Duration;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Follow;
use taskhare::Kind;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Standing;
use taskhare::TaskEvent;
use taskhare::TaskId;
use taskhare::TaskState;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letters;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const REJECTED: Standing = Standing::Done(Outcome::DeadLettered(DeadReason::Rejected));

async fn setup() -> (Broker, Producer) {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    (broker, producer)
}

async fn consume(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler(Actor::new()).retry(RetryPolicy::fixed(HOUR));
    builder.start().await.unwrap()
}

async fn state(broker: &Broker, id: TaskId) -> TaskState {
    broker.status(id).await.unwrap().expect("it is known")
}

/// Waits until it has ended.
async fn end(broker: &Broker, id: TaskId) -> Standing {
    kinds(broker.follow(id).await.unwrap()).await;
    state(broker, id).await.standing
}

/// Waits for the next event of this kind.
async fn comes(life: &mut Follow, kind: Kind) -> TaskEvent {
    loop {
        let event = life.next().await.expect("it goes on");
        if event.change.kind() == kind {
            return event;
        }
    }
}

async fn kinds(mut life: Follow) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while let Some(event) = tokio::time::timeout(10 * HOUR, life.next()).await.expect("it ends") {
        kinds.push(event.change.kind());
    }
    kinds
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_or_is_delayed() {
    let (broker, producer) = setup().await;
    let waiting = producer.enqueue(Act::Succeed).await.unwrap().id();
    let TaskState { standing, name, queue, attempt, .. } = state(&broker, waiting).await;
    assert_eq!((standing, &*name, &*queue, attempt), (Standing::Waiting, "act", "default", 1));
    let due = SystemTime::UNIX_EPOCH + Duration::from_secs(32_503_680_000);
    let delayed = producer.enqueue(Act::Succeed).at(due).await.unwrap().id();
    assert_eq!(state(&broker, delayed).await.standing, Standing::Delayed { until: due });
    assert!(broker.status(TaskId::new()).await.unwrap().is_none(), "nobody has heard of that one");
}

#[tokio::test(start_paused = true)]
async fn a_running_task_tells_where_and_since_when() {
    let (broker, producer) = setup().await;
    let _consumer = consume(&broker).await;
    let id = producer.enqueue(Act::UntilCancelled).run_timeout(HOUR).await.unwrap().id();
    let started = comes(&mut broker.follow(id).await.unwrap(), Kind::Started).await;
    let Standing::Running { consumer, since, limit } = state(&broker, id).await.standing else { panic!() };
    assert_eq!((consumer, since, limit), (started.by, started.at, Some(HOUR + 5 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_ended_tells_how() {
    let (broker, producer) = setup().await;
    let _consumer = consume(&broker).await;
    for (act, expected) in [
        (Act::Succeed, Standing::Done(Outcome::Succeeded)),
        (Act::Reject, REJECTED),
        (Act::UntilCancelled, Standing::Done(Outcome::Expired(DeadReason::ExpiredRunning))),
    ] {
        let id = producer.enqueue(act).deadline_in(60 * SECOND).await.unwrap().id();
        assert_eq!(end(&broker, id).await, expected);
    }
    let id = producer.enqueue(Act::UntilCancelled).await.unwrap().id();
    tokio::time::sleep(SECOND).await;
    producer.cancel(id).await.unwrap();
    assert_eq!(end(&broker, id).await, Standing::Done(Outcome::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_task_between_two_attempts_tells_when_the_next_one_is_due_and_its_error() {
    let (broker, producer) = setup().await;
    let _consumer = consume(&broker).await;
    let id = producer.enqueue(Act::FailOnce).await.unwrap().id();
    let failed = comes(&mut broker.follow(id).await.unwrap(), Kind::Retrying).await;
    let TaskState { standing, error, .. } = state(&broker, id).await;
    let Standing::Retrying { at } = standing else { panic!("{standing:?}") };
    assert!(at >= failed.at + HOUR, "{at:?}");
    assert_eq!(error.as_deref(), Some("as told, once"));
    assert_eq!(end(&broker, id).await, Standing::Done(Outcome::Succeeded));
    assert_eq!(state(&broker, id).await.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn a_requeued_dead_letter_lives_again() {
    let (broker, producer) = setup().await;
    let consumer = consume(&broker).await;
    let ids: Vec<TaskId> = producer
        .enqueue_all((0..100).map(|_| Act::Reject))
        .await
        .into_iter()
        .map(|it| it.unwrap().id())
        .collect();
    dead_letters(&broker, "default", 100).await;
    consumer.shutdown().await;
    let first = broker.follow(ids[0]).await.unwrap();
    assert_eq!(
        kinds(first).await,
        [Kind::Accepted, Kind::Started, Kind::Failed, Kind::Dead],
        "it has ended already"
    );
    assert_eq!(broker.dead_letters("default").unwrap().requeue_all().await.unwrap(), 100);
    for id in &ids {
        assert_eq!(state(&broker, *id).await.standing, Standing::Waiting, "nobody runs it yet");
    }
    let second = broker.follow(ids[0]).await.unwrap();
    let _consumer = consume(&broker).await;
    let twice = [
        Kind::Accepted,
        Kind::Started,
        Kind::Failed,
        Kind::Dead,
        Kind::Redriven,
        Kind::Started,
        Kind::Failed,
        Kind::Dead,
    ];
    assert_eq!(kinds(second).await, twice, "from its beginning to the end that was to come");
    assert_eq!(state(&broker, ids[0]).await.standing, REJECTED);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_cannot_be_requeued_is_told_to_be_dead_as_before() {
    let (broker, producer) = setup().await;
    let consumer = consume(&broker).await;
    let id = producer.enqueue(Act::Reject).await.unwrap().id();
    dead_letters(&broker, "default", 1).await;
    consumer.shutdown().await;
    for lane in ["urgent", "normal", "low"] {
        let lane = taskhare::transport::Name::new("queue", format!("taskhare.default.{lane}")).unwrap();
        broker.transport().delete(&lane).await.unwrap();
    }
    broker.dead_letters("default").unwrap().requeue(id).await.unwrap_err();
    assert_eq!(state(&broker, id).await.standing, REJECTED);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_more_is_told_of_a_life_after_the_end() {
    let (broker, producer) = setup().await;
    let consumer = consume(&broker).await;
    let id = producer.enqueue(Act::Succeed).await.unwrap().id();
    assert_eq!(end(&broker, id).await, Standing::Done(Outcome::Succeeded));
    consumer.shutdown().await;
    tokio::time::sleep(5 * SECOND).await;
    producer.reschedule(id, Act::Succeed).await.unwrap();
    assert_eq!(state(&broker, id).await.standing, Standing::Done(Outcome::Succeeded));
    let to_now = broker.status(id).to_now().await.unwrap().unwrap();
    assert_eq!(to_now.standing, Standing::Waiting);
}

#[tokio::test(start_paused = true)]
async fn an_id_without_a_time_is_found_too() {
    let (broker, producer) = setup().await;
    let id = producer.enqueue(Act::Succeed).id(TaskId::from_u128(7)).await.unwrap().id();
    assert_eq!(state(&broker, id).await.standing, Standing::Waiting);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_needed_is_read() {
    let (broker, producer) = setup().await;
    let consumer = consume(&broker).await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(producer.enqueue(Act::Succeed).await.unwrap().id());
        tokio::time::sleep(10 * SECOND).await;
    }
    consumer.shutdown().await;
    for id in &ids {
        let (state, read) = broker.status(*id).counted().await.unwrap();
        assert_eq!(state.unwrap().standing, Standing::Done(Outcome::Succeeded));
        assert!(read <= 4, "{read} messages");
    }
    let (_, read) = broker.status(ids[50]).to_now().counted().await.unwrap();
    assert!(read >= 50, "{read} messages");
    let (_, read) = broker.status(TaskId::from_u128(7)).counted().await.unwrap();
    assert!(read >= 100, "{read} messages: it could be anywhere");
}

#[tokio::test(start_paused = true)]
async fn a_status_takes_no_longer_than_it_may() {
    let (broker, producer) = setup().await;
    let id = producer.enqueue(Act::Succeed).await.unwrap().id();
    let error = broker.status(id).timeout(Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, Error::Timeout { action, .. } if action.contains(&id.to_string())), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_events_nothing_is_known() {
    let broker = Broker::builder().without_events().in_process().unwrap();
    assert!(matches!(broker.status(TaskId::new()).await, Err(Error::NoHistory)));
    assert!(matches!(broker.follow(TaskId::new()).await, Err(Error::NoHistory)));
}

#[tokio::test(start_paused = true)]
async fn a_life_is_followed_live_from_before_it_begins() {
    let (broker, producer) = setup().await;
    let _consumer = consume(&broker).await;
    let id = TaskId::new();
    let life = broker.follow(id).await.unwrap();
    producer.enqueue(Act::Succeed).await.unwrap();
    producer.enqueue(Act::FailOnce).id(id).await.unwrap();
    let mut kinds = kinds(life).await;
    // Its enqueuer tells on its own.
    kinds.sort_by_key(|kind| *kind != Kind::Accepted);
    use Kind::{Accepted, Failed, Retrying, Started, Succeeded};
    assert_eq!(kinds, [Accepted, Started, Failed, Retrying, Started, Succeeded]);
}
