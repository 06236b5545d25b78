//! What operators do with dead letters, on a real broker.

use std::collections::HashSet;
use std::future::IntoFuture;

use futures_util::future::join_all;
use taskhare::Broker;
use taskhare::BrokerBuilder;
use taskhare::Consumer;
use taskhare::DeadLetter as Letter;
use taskhare::DeadLetters;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Value;

use crate::*;

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Count(u32);

impl Task for Count {
    const NAME: &'static str = "count";
    type Output = ();
}

struct Setting {
    broker: Broker,
    letters: DeadLetters,
    url: String,
}

async fn setting(with: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Setting {
    let url = fresh_vhost().await;
    let broker = with(Broker::builder().url(&url)).connect().await.unwrap();
    Producer::builder(&broker).queue("default").build().await.unwrap();
    let letters = broker.dead_letters("default").unwrap();
    Setting { broker, letters, url }
}

/// As a consumer makes them, in order, with so many bytes behind the number.
async fn bury(broker: &Broker, numbers: impl Iterator<Item = u32>) {
    let letter = |number: u32| {
        let headers = [
            ("taskhare-reason", Value::from("rejected")),
            ("taskhare-error", "as told".into()),
            ("taskhare-queue", "default".into()),
        ];
        let message = Message {
            id: Some(TaskId::from_u128(number.into()).to_string()),
            kind: Some("count".into()),
            content_type: Some("application/vnd.taskhare.v1+msgpack".into()),
            headers: headers.into_iter().collect(),
            body: [&[0xce][..], &number.to_be_bytes()].concat(),
            ..Message::default()
        };
        Publish { exchange: name("taskhare.dead"), key: name("default"), mandatory: true, message }
    };
    let publishes: Vec<Publish> = numbers.map(letter).collect();
    // The first alone, because it opens the channel; then so few at a time that they keep their order.
    let (first, rest) = publishes.split_at(1);
    for some in first.chunks(1).chain(rest.chunks(30)) {
        let published = join_all(some.iter().map(|it| broker.transport().publish(it, PATIENCE))).await;
        published.into_iter().for_each(Result::unwrap);
    }
}

async fn dead(count: u32) -> Setting {
    let setting = setting(|builder| builder).await;
    bury(&setting.broker, 0..count).await;
    setting
}

fn number(letter: &Letter) -> u32 {
    letter.task::<Count>().unwrap().0
}

fn evens(letter: &Letter) -> bool {
    number(letter).is_multiple_of(2)
}

async fn numbers(letters: &DeadLetters) -> Vec<u32> {
    letters.list(usize::MAX).await.unwrap().iter().map(number).collect()
}

/// What has had others taken out from among it may have changed its order.
async fn sorted(letters: &DeadLetters) -> Vec<u32> {
    let mut numbers = numbers(letters).await;
    numbers.sort_unstable();
    numbers
}

/// The same in short: from where to where they count up by one.
fn runs(numbers: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == *number => *end = *number,
            _ => runs.push((*number, *number)),
        }
    }
    runs
}

/// The ids of what waits in the lane that all of these go to, which is emptied.
async fn waiting(broker: &Broker) -> Vec<u32> {
    let count = broker.waiting("default").await.unwrap();
    let mut lane = broker.transport().subscribe(subscribe("taskhare.default.normal", 5000)).await.unwrap();
    let mut found = Vec::new();
    for _ in 0..count {
        let delivery = next(&mut lane).await;
        let id: TaskId = delivery.message.id.as_deref().unwrap().parse().unwrap();
        found.push(u32::try_from(id.as_u128()).unwrap());
        delivery.ack();
    }
    lane.close().await;
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_consumes_nothing_and_keeps_the_order() {
    // More than come at a time.
    let Setting { letters, .. } = dead(700).await;
    for limit in [3, 700, 3, 3, 100, 65, 700, 1] {
        let listed = letters.list(limit).await.unwrap();
        assert!(listed.iter().map(number).eq(0..u32::try_from(limit).unwrap()), "{limit}: {listed:?}");
        assert_eq!(letters.count().await.unwrap(), 700, "at once");
    }
    assert!(numbers(&letters).await.into_iter().eq(0..700));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_dead_lettered_is_listed() {
    let Setting { letters, broker, .. } = setting(|builder| builder).await;
    for number in 0..40 {
        bury(&broker, number..=number).await;
        assert!(numbers(&letters).await.into_iter().eq(0..=number), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_found_requeued_and_discarded_one_by_one() {
    let Setting { broker, letters, .. } = dead(100).await;
    let id = |number: u32| TaskId::from_u128(number.into());
    for number in [70, 3, 99] {
        let letter = letters.find(id(number)).await.unwrap().unwrap();
        assert_eq!(letter.task::<Count>().unwrap(), Count(number));
        assert_eq!((letter.reason(), letter.error()), (DeadReason::Rejected, Some("as told")));
        letters.requeue(id(number)).await.unwrap();
        assert!(letters.find(id(number)).await.unwrap().is_none());
        letters.discard(id(number - 1)).await.unwrap();
    }
    assert_eq!(waiting(&broker).await, [3, 70, 99]);
    let gone = [69, 70, 2, 3, 98, 99];
    assert!(sorted(&letters).await.into_iter().eq((0..100).filter(|number| !gone.contains(number))));
    assert!(matches!(letters.requeue(id(70)).await, Err(Error::NoDeadLetter { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_requeued_and_discarded_by_a_filter_and_purged() {
    let Setting { broker, letters, .. } = dead(500).await;
    assert_eq!(letters.requeue_where(evens).await.unwrap(), 250);
    assert!(waiting(&broker).await.into_iter().eq((0..250).map(|half| half * 2)));
    assert!(sorted(&letters).await.into_iter().eq((0..250).map(|half| half * 2 + 1)));
    assert_eq!(letters.discard_where(|letter| number(letter) > 400).await.unwrap(), 50);
    assert_eq!(letters.count().await.unwrap(), 200);
    assert_eq!(letters.purge().await.unwrap(), 200);
    assert_eq!(letters.count().await.unwrap(), 0);
    assert_eq!(letters.purge().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_letters_are_requeued_once_each_by_a_rate() {
    let Setting { broker, letters, .. } = dead(60).await;
    let started = Instant::now();
    assert_eq!(letters.requeue_all().rate(100).await.unwrap(), 60);
    assert!(started.elapsed() >= Duration::from_millis(580), "{:?}", started.elapsed());
    assert!(waiting(&broker).await.into_iter().eq(0..60));
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_requeue_each_letter_once() {
    let Setting { broker, letters, url } = dead(1000).await;
    let other = Broker::connect(&url).await.unwrap();
    let others = other.dead_letters("default").unwrap();
    let (one, two) = tokio::join!(letters.requeue_all(), others.requeue_all());
    let rest = letters.requeue_all().await.unwrap();
    assert_eq!(one.unwrap() + two.unwrap() + rest, 1000);
    assert!(waiting(&broker).await.into_iter().eq(0..1000));
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_dropped_midway_leaves_each_letter_in_one_place() {
    for time in [0, 20, 50, 200] {
        let Setting { broker, letters, .. } = dead(300).await;
        let requeue = letters.requeue_all().rate(500).into_future();
        let _ = tokio::time::timeout(Duration::from_millis(time), requeue).await;
        // What was being confirmed may be in both; nothing may be in none.
        eventually("all are back", async || {
            letters.count().await.unwrap() + broker.waiting("default").await.unwrap() >= 300
        })
        .await;
        let requeued = waiting(&broker).await;
        let all: HashSet<u32> = requeued.iter().copied().chain(numbers(&letters).await).collect();
        assert_eq!(all.len(), 300, "after {time} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_outlives_the_loss_of_its_connections() {
    let Setting { broker, letters, url } = dead(400).await;
    let requeue = tokio::spawn(letters.requeue_where(|letter| number(letter) < 300).rate(150).into_future());
    let management = TestBroker::shared().await.unwrap().management();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        management.close_connections(&vhost_of(&url).unwrap()).await.unwrap();
    }
    assert!(requeue.await.unwrap().unwrap() >= 290);
    let requeued: HashSet<u32> = waiting(&broker).await.into_iter().collect();
    assert!((0..300).all(|number| requeued.contains(&number)));
    eventually("the rest stays", async || letters.count().await.unwrap() == 100).await;
    assert!(sorted(&letters).await.into_iter().eq(300..400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_by_a_process_that_dies_is_given_back() {
    let Setting { letters, url, .. } = dead(500).await;
    let other = Broker::connect(&url).await.unwrap();
    let others = other.dead_letters("default").unwrap();
    let listing = tokio::spawn(async move { others.list(500).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    other.close().await;
    let _ = listing.await;
    eventually("all are back", async || letters.count().await.unwrap() == 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_mebibyte_come_a_few_at_a_time() {
    let Setting { broker, letters, .. } = setting(|builder| builder).await;
    for number in 0..80u32 {
        let mut message = Message { id: Some(number.to_string()), ..Message::default() };
        message.body = vec![7; 1024 * 1024];
        let publish =
            Publish { exchange: name("taskhare.dead"), key: name("default"), mandatory: true, message };
        broker.transport().publish(&publish, PATIENCE).await.unwrap();
    }
    let listed = letters.list(80).await.unwrap();
    assert_eq!(listed.len(), 64, "a listing ends at 64 MiB");
    assert!(listed.iter().all(|letter| letter.reason() == DeadReason::Foreign && !letter.is_task()));
    assert_eq!(letters.discard_where(|letter| !letter.is_task()).await.unwrap(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_letters_are_looked_at_and_stay_in_order() {
    let Setting { letters, .. } = dead(10_000).await;
    let last = letters.find(TaskId::from_u128(9_999)).await.unwrap().unwrap();
    assert_eq!(number(&last), 9_999);
    assert_eq!(runs(&numbers(&letters).await), [(0, 9_999)]);
    assert_eq!(letters.discard_where(|letter| number(letter) < 9_000).await.unwrap(), 9_000);
    assert_eq!(runs(&sorted(&letters).await), [(9_000, 9_999)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_dead_letters_reads_the_same() {
    let Setting { broker, letters, .. } = setting(|builder| builder.delivery_limit(2)).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let crashed = producer.enqueue(Count(1)).await.unwrap().id();
    let lane = || subscribe("taskhare.default.normal", 1);
    for _ in 0..3 {
        let mut lane = broker.transport().subscribe(lane()).await.unwrap();
        let delivery = next(&mut lane).await;
        lane.close().await;
        drop(delivery);
    }
    eventually("it came back too often", async || letters.count().await.unwrap() == 1).await;
    let expired = producer.enqueue(Count(2)).deadline_in(Duration::from_millis(200)).await.unwrap().id();
    eventually("it is too late", async || letters.count().await.unwrap() == 2).await;
    let consumer = Consumer::builder(&broker)
        .handler_fn(|_: Count, _| async { Err(TaskError::retry("not yet")) })
        .retry(RetryPolicy::fixed(Duration::from_millis(1)).max_attempts(2))
        .start()
        .await
        .unwrap();
    let failed = producer.enqueue(Count(3)).await.unwrap().id();
    eventually("it has failed", async || letters.count().await.unwrap() == 3).await;
    consumer.shutdown().await;

    let listed = letters.list(10).await.unwrap();
    let told: Vec<_> = listed.iter().map(|it| (it.id(), it.reason(), it.attempts(), it.error())).collect();
    let expected = [
        (Some(crashed), DeadReason::Crashed, 1, None),
        (Some(expired), DeadReason::ExpiredInQueue, 0, None),
        (Some(failed), DeadReason::AttemptsExhausted, 2, Some("not yet")),
    ];
    assert_eq!(told, expected);
    for letter in &listed {
        let lived = letter.dead_at().unwrap().duration_since(letter.enqueued_at().unwrap());
        // The broker counts whole seconds.
        let early = lived.map_err(|error| error.duration());
        assert!(early.is_ok() || early.is_err_and(|early| early < Duration::from_secs(1)), "{early:?}");
        assert_eq!(letter.queue(), "default");
    }
    let numbers: Vec<u32> = listed[2].failures().iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(letters.requeue_all().await.unwrap(), 3);
    assert_eq!(broker.waiting("default").await.unwrap(), 3, "none expires again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeued_task_runs_with_all_its_attempts_before_it() {
    let Setting { broker, letters, .. } = setting(|builder| builder).await;
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Count, ctx| {
            sender.send((ctx.id(), ctx.attempt(), ctx.deadline().is_some())).unwrap();
            async { Err(TaskError::retry("not yet")) }
        })
        // Counted from when it was requeued.
        .retry(RetryPolicy::fixed(Duration::from_millis(1)).max_attempts(2).within(Duration::from_secs(2)))
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let id = producer.enqueue(Count(1)).deadline_in(Duration::from_secs(60)).await.unwrap().id();
    for expected in [(id, 1, true), (id, 2, true)] {
        assert_eq!(seen.recv().await.unwrap(), expected);
    }
    eventually("it is dead", async || letters.count().await.unwrap() == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    letters.requeue(id).await.unwrap();
    for expected in [(id, 1, false), (id, 2, false)] {
        assert_eq!(seen.recv().await.unwrap(), expected);
    }
    eventually("it is dead again", async || letters.count().await.unwrap() == 1).await;
    consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_letters_the_oldest_go() {
    let Setting { broker, letters, .. } = setting(|builder| builder.dead_letter_length(10)).await;
    bury(&broker, 0..25).await;
    eventually("the oldest go", async || letters.count().await.unwrap() == 10).await;
    assert!(numbers(&letters).await.into_iter().eq(15..25));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_after_their_time() {
    let Setting { broker, letters, .. } =
        setting(|builder| builder.dead_letter_age(Duration::from_secs(3))).await;
    bury(&broker, 0..5).await;
    assert_eq!(numbers(&letters).await, [0, 1, 2, 3, 4]);
    eventually("they go", async || letters.count().await.unwrap() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_task_whose_queue_is_gone_is_found_with_the_reason() {
    let Setting { broker, url, .. } = setting(|builder| builder).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let delay = Duration::from_secs(5);
    let id = producer.enqueue(Count(5)).queue("late").delay(delay).await.unwrap().id();
    let management = TestBroker::shared().await.unwrap().management();
    let vhost = vhost_of(&url).unwrap();
    // It would declare the queue again with its next connection.
    broker.close().await;
    management.delete_queue(&vhost, "taskhare.late.normal").await.unwrap();
    let operator = Broker::connect(&url).await.unwrap();
    let letters = operator.undeliverable();
    eventually("it is there", async || letters.count().await.unwrap() == 1).await;
    let letter = letters.find(id).await.unwrap().unwrap();
    assert_eq!((letter.queue(), letter.reason()), ("late", DeadReason::Undeliverable));
    assert_eq!((letter.attempts(), number(&letter)), (0, 5));
    let error = letters.requeue(id).await.unwrap_err();
    assert!(matches!(&error, Error::Unroutable { queue, .. } if queue == "late"), "{error}");
    Producer::builder(&operator).queue("late").build().await.unwrap();
    assert_eq!(letters.requeue_all().await.unwrap(), 1);
    eventually("it waits", async || operator.waiting("late").await.unwrap() == 1).await;
    assert_eq!(letters.count().await.unwrap(), 0);
}
