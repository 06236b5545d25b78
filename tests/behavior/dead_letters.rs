//! Dead letters: looked at, put back, thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadLetter;
use taskhare::DeadLetters;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;
use tokio::time::Instant;

use crate::support::eventually;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Count(u32);

impl Task for Count {
    const NAME: &'static str = "count";
    type Output = ();
}

/// By the name of [`Count`], and not what it expects.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Impostor(String);

impl Task for Impostor {
    const NAME: &'static str = "count";
    type Output = ();
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Other;

impl Task for Other {
    const NAME: &'static str = "other";
    type Output = ();
}

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).queue("default").build().await.unwrap()
}

/// Rejects every task, until `count` of them are dead.
async fn reject_all(broker: &Broker, count: u64) {
    let consumer = consumer_that_rejects(broker).await;
    crate::support::dead_letters(broker, "default", count).await;
    consumer.shutdown().await;
}

/// A consumer that rejects one task after the other.
async fn consumer_that_rejects(broker: &Broker) -> Consumer {
    let consumer = Consumer::builder(broker)
        .handler_fn(|task: Count, _| async move { Err(TaskError::reject(format!("no {}", task.0))) });
    consumer.concurrency(1).start().await.unwrap()
}

/// A broker with dead letters of that many tasks, the lowest number first.
async fn dead(count: u32) -> (Broker, DeadLetters) {
    let broker = Broker::in_process();
    let enqueued = producer(&broker).await.enqueue_all((0..count).map(Count)).await;
    assert!(enqueued.iter().all(Result::is_ok));
    reject_all(&broker, count.into()).await;
    let letters = broker.dead_letters("default").unwrap();
    (broker, letters)
}

fn number(letter: &DeadLetter) -> u32 {
    letter.task::<Count>().unwrap().0
}

async fn numbers(letters: &DeadLetters) -> Vec<u32> {
    letters.list(usize::MAX).await.unwrap().iter().map(number).collect()
}

fn evens(letter: &DeadLetter) -> bool {
    number(letter).is_multiple_of(2)
}

/// Runs what waits, and returns how often each task ran.
async fn run_all(broker: &Broker, count: usize) -> BTreeMap<u32, usize> {
    let ran: Arc<Mutex<Vec<u32>>> = Arc::default();
    let handler = ran.clone();
    let consumer = Consumer::builder(broker)
        .handler_fn(move |task: Count, ctx| {
            assert_eq!(ctx.attempt(), 1);
            handler.lock().unwrap().push(task.0);
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    eventually("they run", async || ran.lock().unwrap().len() >= count).await;
    eventually("the queue is empty", async || broker.waiting("default").await.unwrap() == 0).await;
    consumer.shutdown().await;
    let mut times = BTreeMap::new();
    for number in ran.lock().unwrap().iter() {
        *times.entry(*number).or_default() += 1;
    }
    times
}

fn once_each(numbers: impl IntoIterator<Item = u32>) -> BTreeMap<u32, usize> {
    numbers.into_iter().map(|number| (number, 1)).collect()
}

async fn publish(broker: &Broker, exchange: &str, key: &str, message: Message) {
    let name = |text: &str| Name::new("name", text).unwrap();
    let publish = Publish { exchange: name(exchange), key: name(key), mandatory: true, message };
    broker.transport().publish(&publish, Duration::from_secs(5)).await.unwrap();
}

/// What is not a task.
fn foreign(id: &str) -> Message {
    Message { id: Some(id.to_owned()), body: b"{}".to_vec(), ..Message::default() }
}

#[tokio::test(start_paused = true)]
async fn a_listing_consumes_nothing_and_keeps_the_order() {
    let (_broker, letters) = dead(1000).await;
    for _ in 0..3 {
        assert!(numbers(&letters).await.into_iter().eq(0..1000));
        assert_eq!(letters.count().await.unwrap(), 1000);
    }
    let oldest = letters.list(3).await.unwrap();
    assert_eq!(oldest.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(letters.list(0).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_has_no_letters() {
    let broker = Broker::in_process();
    let letters = broker.dead_letters("nowhere").unwrap();
    assert_eq!(letters.count().await.unwrap(), 0);
    assert_eq!(letters.list(10).await.unwrap().len(), 0);
    assert_eq!(letters.requeue_all().await.unwrap(), 0);
    assert_eq!(letters.purge().await.unwrap(), 0);
    assert!(matches!(broker.dead_letters("two words"), Err(Error::InvalidName { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_letter_tells_of_its_task_and_its_death() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let id = producer.enqueue(Count(7)).await.unwrap().id();
    let consumer = Consumer::builder(&broker)
        .handler_fn(|_: Count, _| async { Err(TaskError::retry("the bank does not answer")) })
        .retry(RetryPolicy::fixed(Duration::from_secs(30)).max_attempts(3))
        .start()
        .await
        .unwrap();
    crate::support::dead_letters(&broker, "default", 1).await;
    let letter = broker.dead_letters("default").unwrap().find(id).await.unwrap().unwrap();
    assert_eq!((letter.id(), letter.name(), letter.queue()), (Some(id), "count", "default"));
    assert_eq!((letter.reason(), letter.attempts()), (DeadReason::AttemptsExhausted, 3));
    assert_eq!(letter.error(), Some("the bank does not answer"));
    assert_eq!(letter.task::<Count>().unwrap(), Count(7));
    let lived = letter.dead_at().unwrap().duration_since(letter.enqueued_at().unwrap()).unwrap();
    assert!(lived >= Duration::from_secs(60), "{lived:?}");
    assert!(!format!("{letter:?}").contains("payload"));
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_only_decoded_as_what_it_is() {
    let (_broker, letters) = dead(1).await;
    let letter = letters.list(1).await.unwrap().remove(0);
    let error = letter.task::<Other>().unwrap_err();
    assert!(matches!(&error, Error::WrongTask { asked, found } if asked == "other" && found == "count"));
    assert!(matches!(letter.task::<Impostor>(), Err(Error::Decode { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_requeued_task_has_all_its_attempts_before_it() {
    let broker = Broker::in_process();
    let producer = producer(&broker).await;
    let id = producer.enqueue(Count(1)).priority(Priority::Low).max_attempts(2).await.unwrap().id();
    let attempts: Arc<Mutex<Vec<(TaskId, u32, Priority)>>> = Arc::default();
    let seen = attempts.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Count, ctx| {
            seen.lock().unwrap().push((ctx.id(), ctx.attempt(), ctx.priority()));
            async { Err(TaskError::retry("again")) }
        })
        .start()
        .await
        .unwrap();
    crate::support::dead_letters(&broker, "default", 1).await;
    broker.dead_letters("default").unwrap().requeue(id).await.unwrap();
    eventually("it fails again", async || attempts.lock().unwrap().len() == 4).await;
    let low = Priority::Low;
    assert_eq!(*attempts.lock().unwrap(), [(id, 1, low), (id, 2, low), (id, 1, low), (id, 2, low)]);
    crate::support::dead_letters(&broker, "default", 1).await;
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_requeued_task_is_enqueued_afresh_and_keeps_what_is_its_own() {
    let (broker, letters) = dead(0).await;
    let headers: Headers = [
        ("taskhare-deadline", 1.into()),
        ("taskhare-due", 1.into()),
        ("taskhare-attempt", 5.into()),
        ("taskhare-reason", "expired-unstarted".into()),
        ("taskhare-error", "too late".into()),
        ("taskhare-dead-at", 2.into()),
        ("taskhare-queue", "default".into()),
        ("taskhare-max-attempts", 9.into()),
        ("tenant", "blue".into()),
    ]
    .into_iter()
    .collect::<BTreeMap<&str, taskhare::transport::Value>>()
    .into_iter()
    .collect();
    let message = Message {
        id: Some(TaskId::from_u128(42).to_string()),
        kind: Some("count".into()),
        content_type: Some("application/vnd.taskhare.v1+msgpack".into()),
        reply_to: Some("whoever waited".into()),
        headers,
        body: vec![1],
        ..Message::default()
    };
    publish(&broker, "taskhare.dead", "default", message).await;
    letters.requeue(TaskId::from_u128(42)).await.unwrap();
    let queue = Name::new("queue", "taskhare.default.normal").unwrap();
    let mut lane = broker.transport().subscribe(Subscribe::new(queue, 1, "test")).await.unwrap();
    let delivery = lane.next().await.unwrap();
    let mut left: Vec<&str> = delivery.message.headers.iter().map(|(name, _)| name).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            "taskhare-due",
            "taskhare-enqueued-at",
            "taskhare-hold",
            "taskhare-max-attempts",
            "taskhare-redriven",
            "tenant"
        ]
    );
    assert_eq!((delivery.message.reply_to.as_deref(), delivery.message.expiration), (None, None));
    delivery.ack();
}

#[tokio::test(start_paused = true)]
async fn what_is_requeued_by_a_filter_runs_and_the_rest_stays_in_order() {
    let (broker, letters) = dead(100).await;
    assert_eq!(letters.requeue_where(evens).await.unwrap(), 50);
    assert!(numbers(&letters).await.into_iter().eq((0..50).map(|half| half * 2 + 1)));
    assert_eq!(run_all(&broker, 50).await, once_each((0..50).map(|half| half * 2)));
}

#[tokio::test(start_paused = true)]
async fn requeueing_all_puts_back_each_once() {
    let (broker, letters) = dead(3000).await;
    assert_eq!(letters.requeue_all().await.unwrap(), 3000);
    assert_eq!(letters.count().await.unwrap(), 0);
    assert_eq!(run_all(&broker, 3000).await, once_each(0..3000));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_not_there_is_an_error_that_names_it() {
    let (_broker, letters) = dead(3).await;
    let id = TaskId::new();
    assert!(letters.find(id).await.unwrap().is_none());
    for error in [letters.requeue(id).await.unwrap_err(), letters.discard(id).await.unwrap_err()] {
        let Error::NoDeadLetter { id: named, queue } = &error else { panic!("{error}") };
        assert_eq!((named, queue.as_str()), (&id.to_string(), "taskhare.default.dead"));
    }
    assert_eq!(numbers(&letters).await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_is_gone_and_the_rest_stays_in_order() {
    let (_broker, letters) = dead(10).await;
    let third = letters.list(3).await.unwrap()[2].id().unwrap();
    letters.discard(third).await.unwrap();
    assert_eq!(numbers(&letters).await, [0, 1, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(letters.discard_where(evens).await.unwrap(), 4);
    assert_eq!(numbers(&letters).await, [1, 3, 5, 7, 9]);
    assert_eq!(letters.purge().await.unwrap(), 5);
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept() {
    let (broker, letters) = dead(21).await;
    let started = Instant::now();
    assert_eq!(letters.requeue_all().rate(10).await.unwrap(), 21);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(broker.waiting("default").await.unwrap(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_slow_requeue_gives_back_what_stays_now_and_then_and_ends() {
    let (broker, letters) = dead(300).await;
    let started = Instant::now();
    // Four passes: what stays must not be held for longer than a broker allows.
    assert_eq!(letters.requeue_where(evens).rate(2).await.unwrap(), 150);
    assert!(started.elapsed() >= Duration::from_secs(74), "{:?}", started.elapsed());
    assert_eq!(broker.waiting("default").await.unwrap(), 150);
    assert!(numbers(&letters).await.into_iter().eq((0..150).map(|half| half * 2 + 1)));
}

#[tokio::test(start_paused = true)]
async fn a_requeue_dropped_midway_leaves_each_letter_where_it_was_or_where_it_goes() {
    for time in [0, 1, 10, 300, 1000] {
        let (broker, letters) = dead(50).await;
        let requeue = letters.requeue_all().rate(20).into_future();
        assert!(tokio::time::timeout(Duration::from_millis(time), requeue).await.is_err());
        let all = async || broker.waiting("default").await.unwrap() + letters.count().await.unwrap() == 50;
        eventually("all are back", all).await;
        let requeued = u32::try_from(broker.waiting("default").await.unwrap()).unwrap();
        assert!(numbers(&letters).await.into_iter().eq(requeued..50), "the rest, in order");
        assert_eq!(run_all(&broker, requeued as usize).await, once_each(0..requeued));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_listing_gives_back_what_it_held() {
    let (_broker, letters) = dead(500).await;
    for polls in [1, 2, 3, 5, 8, 13] {
        let mut listing = Box::pin(letters.list(500));
        for _ in 0..polls {
            if futures_util::poll!(&mut listing).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(listing);
        eventually("all are back", async || letters.count().await.unwrap() == 500).await;
    }
    assert!(numbers(&letters).await.into_iter().eq(0..500));
}

#[tokio::test(start_paused = true)]
async fn two_who_requeue_all_at_once_put_back_each_once() {
    let (broker, letters) = dead(2000).await;
    let (one, other) = tokio::join!(letters.requeue_all(), letters.clone().requeue_all());
    let again = letters.requeue_all().await.unwrap();
    assert_eq!(one.unwrap() + other.unwrap() + again, 2000);
    assert_eq!(run_all(&broker, 2000).await, once_each(0..2000));
}

#[tokio::test(start_paused = true)]
async fn of_two_who_look_at_once_each_sees_a_part_and_nothing_is_lost() {
    let (_broker, letters) = dead(1000).await;
    let (one, other) = tokio::join!(letters.list(1000), letters.list(1000));
    let (one, other) = (one.unwrap(), other.unwrap());
    let mut seen: Vec<u32> = one.iter().chain(&other).map(number).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
    assert_eq!(letters.count().await.unwrap(), 1000);
}

#[tokio::test(start_paused = true)]
async fn what_dies_meanwhile_is_left_for_the_next_call() {
    let (broker, letters) = dead(100).await;
    let consumer = Consumer::builder(&broker)
        .handler_fn(|_: Count, _| async { Err(TaskError::reject("still no")) })
        .start()
        .await
        .unwrap();
    // Each that is requeued is dead again at once, at the other end.
    assert_eq!(letters.requeue_all().rate(100).await.unwrap(), 100);
    crate::support::dead_letters(&broker, "default", 100).await;
    assert!(letters.list(200).await.unwrap().iter().all(|letter| letter.error() == Some("still no")));
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_task_can_only_be_discarded() {
    let (broker, letters) = dead(2).await;
    let id = TaskId::new();
    publish(&broker, "taskhare.tasks", "default.normal", foreign(&id.to_string())).await;
    publish(&broker, "taskhare.tasks", "default.normal", foreign("whatever")).await;
    reject_all(&broker, 4).await;
    let listed = letters.list(10).await.unwrap();
    let ids: Vec<Option<TaskId>> = listed.iter().skip(2).map(DeadLetter::id).collect();
    assert_eq!(ids, [Some(id), None]);
    for letter in &listed[2..] {
        assert_eq!((letter.reason(), letter.attempts(), letter.is_task()), (DeadReason::Foreign, 0, false));
        assert_eq!((letter.payload(), letter.queue()), (&b"{}"[..], "default"));
        assert!(matches!(letter.task::<Count>(), Err(Error::NotATask { .. })));
    }
    assert!(matches!(letters.requeue(id).await, Err(Error::NotATask { .. })));
    assert_eq!(letters.requeue_all().await.unwrap(), 2, "those that are tasks");
    assert_eq!(letters.count().await.unwrap(), 2);
    letters.discard(id).await.unwrap();
    assert_eq!(letters.discard_where(|letter| letter.id().is_none()).await.unwrap(), 1);
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_dead_letters_reads_the_same() {
    let broker = Broker::builder().delivery_limit(1).in_process().unwrap();
    let producer = producer(&broker).await;
    let crashed = producer.enqueue(Count(1)).await.unwrap().id();
    let queue = Name::new("queue", "taskhare.default.normal").unwrap();
    for _ in 0..2 {
        let mut lane = broker.transport().subscribe(Subscribe::new(queue.clone(), 1, "test")).await.unwrap();
        let delivery = lane.next().await.unwrap();
        // The connection first, as when a process dies.
        drop(lane);
        drop(delivery);
    }
    let expired = producer.enqueue(Count(2)).await.unwrap().id();
    let mut lane = broker.transport().subscribe(Subscribe::new(queue, 1, "test")).await.unwrap();
    let mut delivery = lane.next().await.unwrap();
    let mut message = std::mem::take(&mut delivery.message);
    delivery.ack();
    drop(lane);
    message.expiration = Some(Duration::from_secs(5));
    publish(&broker, "taskhare.tasks", "default.normal", message).await;
    crate::support::dead_letters(&broker, "default", 2).await;
    let letters = broker.dead_letters("default").unwrap().list(2).await.unwrap();
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter.id(), letter.reason(), letter.attempts(), letter.queue(), letter.error()))
        .collect();
    let expected = [
        (Some(crashed), DeadReason::Crashed, 1, "default", None),
        (Some(expired), DeadReason::ExpiredInQueue, 0, "default", None),
    ];
    assert_eq!(told, expected);
    assert!(letters.iter().all(|letter| letter.dead_at().is_some()));
}

#[tokio::test(start_paused = true)]
async fn what_had_no_queue_left_tells_which_and_can_be_requeued_once_it_is_there() {
    let broker = Broker::in_process();
    producer(&broker).await.enqueue(Count(3)).await.unwrap();
    reject_all(&broker, 1).await;
    // As it comes out of the delay wheel, for a queue that nobody has declared.
    let queue = Name::new("queue", "taskhare.default.dead").unwrap();
    let mut dead = broker.transport().subscribe(Subscribe::new(queue, 1, "test")).await.unwrap();
    let mut delivery = dead.next().await.unwrap();
    let mut message = std::mem::take(&mut delivery.message);
    delivery.ack();
    message.headers = [("taskhare-queue", "late")].into_iter().collect();
    publish(&broker, "taskhare.due", "no.such.key", message).await;

    let letters = broker.undeliverable();
    let letter = letters.list(10).await.unwrap().remove(0);
    assert_eq!((letter.queue(), letter.reason()), ("late", DeadReason::Undeliverable));
    let id = letter.id().unwrap();
    let error = letters.requeue(id).await.unwrap_err();
    assert!(matches!(&error, Error::Unroutable { queue, .. } if queue == "late"), "{error}");
    assert_eq!(letters.count().await.unwrap(), 1);
    Producer::builder(&broker).queue("late").build().await.unwrap();
    letters.requeue(id).await.unwrap();
    assert_eq!(broker.waiting("late").await.unwrap(), 1);
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn letters_go_after_their_time() {
    let age = Duration::from_secs(24 * 60 * 60);
    let broker = Broker::builder().dead_letter_age(age).in_process().unwrap();
    producer(&broker).await.enqueue(Count(1)).await.unwrap();
    reject_all(&broker, 1).await;
    let letters = broker.dead_letters("default").unwrap();
    tokio::time::sleep(age - Duration::from_secs(1)).await;
    assert_eq!(letters.list(1).await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_too_many_letters_the_oldest_go() {
    let broker = Broker::builder().dead_letter_length(3).in_process().unwrap();
    let producer = producer(&broker).await;
    producer.enqueue_all((0..7).map(Count)).await;
    let letters = broker.dead_letters("default").unwrap();
    let _consumer = consumer_that_rejects(&broker).await;
    eventually("the last are left", async || numbers(&letters).await == [4, 5, 6]).await;
}

#[tokio::test(start_paused = true)]
async fn limits_that_no_broker_takes_are_refused() {
    let age = |age| Broker::builder().dead_letter_age(age).in_process().unwrap_err();
    let length = |length| Broker::builder().dead_letter_length(length).in_process().unwrap_err();
    for error in [age(Duration::ZERO), age(Duration::MAX)] {
        assert!(matches!(error, Error::InvalidSetting { setting: "dead_letter_age", .. }), "{error}");
    }
    for error in [length(0), length(u64::MAX)] {
        assert!(matches!(error, Error::InvalidSetting { setting: "dead_letter_length", .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_looks_past_ten_thousand_letters_that_stay() {
    let (_broker, letters) = dead(10_050).await;
    assert_eq!(letters.list(usize::MAX).await.unwrap().len(), 10_000);
    assert_eq!(letters.discard_where(|letter| number(letter) >= 9_990).await.unwrap(), 10);
    assert_eq!(letters.discard_where(|letter| number(letter) < 100).await.unwrap(), 100);
    assert_eq!(letters.count().await.unwrap(), 9_940);
}

/// A consumer that rejects everything and tells `call` of it.
async fn rejecting(broker: &Broker, call: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Consumer {
    Consumer::builder(broker)
        .handler_fn(|_: Count, _| async { Err(TaskError::reject("no")) })
        .on_dead_letter(call)
        .shutdown_grace(Duration::from_secs(5))
        .start()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_application_hears_of_each_dead_letter() {
    let broker = Broker::in_process();
    let told: Arc<Mutex<Vec<(TaskId, DeadReason, String)>>> = Arc::default();
    let hear = told.clone();
    let consumer = rejecting(&broker, move |letter| {
        let error = letter.error().unwrap().to_owned();
        hear.lock().unwrap().push((letter.id().unwrap(), letter.reason(), error));
    })
    .await;
    let id = producer(&broker).await.enqueue(Count(1)).await.unwrap().id();
    eventually("it is told", async || !told.lock().unwrap().is_empty()).await;
    assert_eq!(*told.lock().unwrap(), [(id, DeadReason::Rejected, "no".to_owned())]);
    assert_eq!(broker.dead("default").await.unwrap(), 1);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_of_the_last_dead_letters() {
    let broker = Broker::in_process();
    let told: Arc<Mutex<usize>> = Arc::default();
    let hear = told.clone();
    let consumer = rejecting(&broker, move |_| {
        std::thread::sleep(Duration::from_millis(2));
        *hear.lock().unwrap() += 1;
    })
    .await;
    producer(&broker).await.enqueue_all((0..20).map(Count)).await;
    crate::support::dead_letters(&broker, "default", 20).await;
    consumer.shutdown().await;
    assert_eq!(*told.lock().unwrap(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_harms_nobody() {
    let broker = Broker::in_process();
    let told: Arc<Mutex<usize>> = Arc::default();
    let hear = told.clone();
    let consumer = rejecting(&broker, move |_| {
        *hear.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        panic!("loudly");
    })
    .await;
    producer(&broker).await.enqueue_all((0..50).map(Count)).await;
    crate::support::dead_letters(&broker, "default", 50).await;
    consumer.shutdown().await;
    assert_eq!(*told.lock().unwrap(), 50);
}

#[tokio::test]
async fn a_hook_that_never_ends_holds_up_neither_tasks_nor_a_shutdown() {
    let broker = Broker::in_process();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let builder = Consumer::builder(&broker)
        .handler_fn(|_: Count, _| async { Err(TaskError::reject("no")) })
        .on_dead_letter(move |_| assert!(held.lock().unwrap().recv().is_err()))
        .shutdown_grace(Duration::from_millis(100));
    let consumer = builder.start().await.unwrap();
    // More than may wait for it.
    producer(&broker).await.enqueue_all((0..1500).map(Count)).await;
    crate::support::dead_letters(&broker, "default", 1500).await;
    consumer.shutdown().await;
    drop(release);
}
