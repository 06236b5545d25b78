//! A task on the wire, to the byte. What fails here breaks the tasks that wait on somebody's broker: then raise the
//! envelope's version, and keep reading the old one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Misfire;
use taskhare::Overlap;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;
use taskhare::transport::Value;

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Resize {
    image: String,
    width: u32,
    #[serde(default)]
    crop: bool,
}

impl Task for Resize {
    const NAME: &'static str = "resize";
    type Output = ();
}

const CONTENT_TYPE: &str = "application/vnd.taskhare.v1+msgpack";
const ID: &str = "00000000-0000-0000-0000-00000000002a";

/// `{"image": "hare.png", "width": 640, "crop": true}` in MessagePack.
const PAYLOAD: &[u8] = b"\x83\xa5image\xa8hare.png\xa5width\xcd\x02\x80\xa4crop\xc3";

/// The same from before there was a `crop`.
const OLD_PAYLOAD: &[u8] = b"\x82\xa5image\xa8hare.png\xa5width\xcd\x02\x80";

async fn next(broker: &Broker, queue: &str) -> Message {
    let queue = Name::new("queue", queue).unwrap();
    let subscribe = Subscribe::new(queue, 1, "test");
    let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
    let mut delivery =
        tokio::time::timeout(Duration::from_secs(60), subscription.next()).await.unwrap().unwrap();
    let message = std::mem::take(&mut delivery.message);
    delivery.ack();
    message
}

/// Takes a header that holds a time, and checks that it is one.
fn take_time(headers: &mut Headers, name: &str) -> i64 {
    let time = headers.remove(name).and_then(|value| value.as_int()).unwrap();
    assert!(time > 1_700_000_000_000, "{name} is in milliseconds since the Unix epoch: {time}");
    time
}

fn without_broker_headers(mut headers: Headers) -> Headers {
    headers.strip_broker_headers();
    headers
}

#[tokio::test(start_paused = true)]
async fn a_task_as_it_is_enqueued() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let task = Resize { image: "hare.png".into(), width: 640, crop: true };
    producer.enqueue(task).id(ID.parse().unwrap()).priority(Priority::Urgent).max_attempts(7).await.unwrap();
    let mut message = next(&broker, "taskhare.default.urgent").await;
    let enqueued_at = take_time(&mut message.headers, "taskhare-enqueued-at");
    let headers: Headers =
        [("taskhare-priority", Value::from("urgent")), ("taskhare-max-attempts", 7.into())]
            .into_iter()
            .collect();
    let expected = Message {
        id: Some(ID.into()),
        kind: Some("resize".into()),
        content_type: Some(CONTENT_TYPE.into()),
        timestamp: Some(u64::try_from(enqueued_at / 1000).unwrap()),
        headers,
        body: PAYLOAD.into(),
        ..Message::default()
    };
    message.headers = without_broker_headers(message.headers);
    assert_eq!(message, expected);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_options_has_no_headers_and_its_id_tells_the_time() {
    let broker = Broker::in_process();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let task = || Resize { image: "hare.png".into(), width: 640, crop: true };
    let id = producer.enqueue(task()).await.unwrap().id().to_string();
    let message = next(&broker, "taskhare.default.normal").await;
    assert!(without_broker_headers(message.headers).is_empty());
    assert_eq!((message.id.as_deref(), &id[14..15]), (Some(id.as_str()), "7"));

    producer.enqueue(task()).await.unwrap();
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Resize, ctx| {
            sender.send((ctx.id(), ctx.enqueued_at())).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let (id, enqueued_at) = received.recv().await.unwrap();
    let milliseconds = enqueued_at.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(id.as_u128() >> 80, milliseconds);
}

#[tokio::test(start_paused = true)]
async fn a_task_as_it_is_delayed() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let task = Resize { image: "hare.png".into(), width: 640, crop: true };
    producer.enqueue(task).delay(Duration::from_secs(20)).await.unwrap();
    let mut message = next(&broker, "taskhare.delay.04.1").await;
    take_time(&mut message.headers, "taskhare-due");
    // What 20 s are more than 310 units of 64 ms, and up to a millisecond by which the due time was rounded up.
    let hold = message.headers.remove("taskhare-hold").and_then(|hold| hold.as_int()).unwrap();
    assert!((160..=161).contains(&hold), "{hold}");
    let headers: Headers = [("taskhare-queue", "default")].into_iter().collect();
    assert_eq!(without_broker_headers(message.headers), headers);
    assert_eq!(message.expiration, None);
}

#[tokio::test(start_paused = true)]
async fn a_task_with_a_deadline_a_timeout_and_a_policy_as_it_is_enqueued() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let policy = RetryPolicy::exponential(Duration::from_millis(1500)).within(Duration::from_secs(60));
    let task = Resize { image: "hare.png".into(), width: 640, crop: true };
    let enqueue = producer.enqueue(task).deadline_in(Duration::from_secs(3600));
    enqueue.retry(policy).run_timeout(Duration::from_secs(5)).await.unwrap();
    let mut message = next(&broker, "taskhare.default.normal").await;
    take_time(&mut message.headers, "taskhare-deadline");
    let headers: Headers = [
        ("taskhare-run-timeout", Value::from(5000)),
        ("taskhare-retry", "exponential base=1500ms cap=3600000ms attempts=5 within=60000ms".into()),
    ]
    .into_iter()
    .collect();
    assert_eq!(without_broker_headers(message.headers), headers);
    let expiration = message.expiration.unwrap();
    assert!(
        expiration <= Duration::from_secs(3600) && expiration > Duration::from_secs(3590),
        "{expiration:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_as_it_is_retried_and_as_it_dies() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker)
        .handler_fn(|_: Resize, ctx| async move {
            match ctx.attempt() {
                1 => Err(TaskError::retry("the disk is full")),
                _ => Err(TaskError::reject("no such image")),
            }
        })
        .retry(RetryPolicy::fixed(Duration::from_secs(30)))
        .start()
        .await
        .unwrap();
    let task = Resize { image: "hare.png".into(), width: 640, crop: true };
    producer.enqueue(task).id(TaskId::from_u128(42)).await.unwrap();
    let mut letter = next(&broker, "taskhare.default.dead").await;
    assert_eq!((letter.id.as_deref(), letter.kind.as_deref()), (Some(ID), Some("resize")));
    assert_eq!(letter.body, PAYLOAD);
    let due = take_time(&mut letter.headers, "taskhare-due");
    let enqueued_at = take_time(&mut letter.headers, "taskhare-enqueued-at");
    let dead_at = take_time(&mut letter.headers, "taskhare-dead-at");
    let Some(Value::List(failures)) = letter.headers.remove("taskhare-failures") else {
        panic!("no failures")
    };
    for (entry, (attempt, error)) in failures.iter().zip([(1, "the disk is full"), (2, "no such image")]) {
        let Value::Table(entry) = entry else { panic!("{entry:?}") };
        let mut entry = entry.clone();
        take_time(&mut entry, "started");
        let expected: Headers =
            [("attempt", Value::from(attempt)), ("took", 0.into()), ("error", error.into())]
                .into_iter()
                .collect();
        assert_eq!(entry, expected);
    }
    assert_eq!(failures.len(), 2);
    // One is rounded up to the millisecond, the other down.
    assert!(enqueued_at + 30_000 <= due && due <= dead_at + 1, "{enqueued_at}, {due}, {dead_at}");
    let headers: Headers = [
        ("taskhare-attempt", Value::from(2)),
        ("taskhare-reason", "rejected".into()),
        ("taskhare-error", "no such image".into()),
        ("taskhare-queue", "default".into()),
    ]
    .into_iter()
    .collect();
    assert_eq!(without_broker_headers(letter.headers), headers);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_of_version_1_is_run() {
    let broker = Broker::in_process();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |task: Resize, ctx| {
            sender.send((task, ctx.id(), ctx.attempt(), ctx.priority())).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let message = Message {
        id: Some(ID.into()),
        kind: Some("resize".into()),
        content_type: Some(CONTENT_TYPE.into()),
        headers: [
            ("taskhare-attempt", Value::from(3)),
            ("taskhare-priority", "low".into()),
            ("taskhare-of-a-later-release", "is ignored".into()),
        ]
        .into_iter()
        .collect(),
        body: OLD_PAYLOAD.into(),
        ..Message::default()
    };
    let publish = Publish {
        exchange: Name::new("exchange", "taskhare.tasks").unwrap(),
        key: Name::new("key", "default.low").unwrap(),
        mandatory: true,
        message,
    };
    broker.transport().publish(&publish, Duration::from_secs(5)).await.unwrap();
    let task = Resize { image: "hare.png".into(), width: 640, crop: false };
    assert_eq!(received.recv().await.unwrap(), (task, TaskId::from_u128(42), 3, Priority::Low));
}

/// The messages in the queue of the schedules, as they come.
async fn next_command(broker: &Broker) -> (Message, Headers) {
    let mut message = next(broker, "taskhare.schedules").await;
    let Some(Value::Table(table)) = message.headers.remove("taskhare-schedule") else {
        panic!("{message:?}")
    };
    message.headers = without_broker_headers(message.headers);
    (message, table)
}

#[tokio::test(start_paused = true)]
async fn a_schedule_as_it_is_declared() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let cadence = Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin");
    let task = || Resize { image: "hare.png".into(), width: 640, crop: true };
    producer.schedule("nightly", cadence, task()).await.unwrap();
    let (message, table) = next_command(&broker).await;
    let expected: Headers = [
        ("name", Value::from("nightly")),
        ("cadence", "cron 0 9 * * MON-FRI in Europe/Berlin".into()),
        ("queue", "default".into()),
        ("misfire", "once".into()),
        ("overlap", "allow".into()),
        ("longest-run", 86_400_000.into()),
    ]
    .into_iter()
    .collect();
    assert_eq!(table, expected);
    let id: TaskId = message.id.as_deref().unwrap().parse().unwrap();
    let expected = Message {
        id: Some(id.to_string()),
        kind: Some("resize".into()),
        content_type: Some(CONTENT_TYPE.into()),
        timestamp: Some(u64::try_from(id.as_u128() >> 80).unwrap() / 1000),
        body: PAYLOAD.into(),
        ..Message::default()
    };
    assert_eq!(message, expected, "the id tells the time, and it is no task's message in any other way");

    let (start, second) = (UNIX_EPOCH + Duration::from_millis(1_700_000_000_123), Duration::from_secs(1));
    producer
        .schedule("often", Duration::from_millis(1500), task())
        .queue("images")
        .priority(Priority::Low)
        .deadline_in(60 * second)
        .run_timeout(5 * second)
        .retry(RetryPolicy::fixed(second))
        .max_attempts(7)
        .starting_at(start)
        .ending_at(start + 3600 * second)
        .limit(100)
        .jitter(second / 2)
        .misfire(Misfire::CatchUp(10 * second))
        .overlap(Overlap::Skip)
        .longest_run(600 * second)
        .await
        .unwrap();
    let (message, table) = next_command(&broker).await;
    let expected: Headers = [
        ("name", Value::from("often")),
        ("cadence", "every 1500ms".into()),
        ("queue", "images".into()),
        ("deadline-in", 60_000.into()),
        ("starts", 1_700_000_000_123_i64.into()),
        ("ends", 1_700_003_600_123_i64.into()),
        ("limit", 100.into()),
        ("jitter", 500.into()),
        ("misfire", "catch up 10000ms".into()),
        ("overlap", "skip".into()),
        ("longest-run", 600_000.into()),
    ]
    .into_iter()
    .collect();
    assert_eq!(table, expected);
    let expected: Headers = [
        ("taskhare-priority", Value::from("low")),
        ("taskhare-run-timeout", 5000.into()),
        ("taskhare-retry", "fixed wait=1000ms attempts=5".into()),
        ("taskhare-max-attempts", 7.into()),
    ]
    .into_iter()
    .collect();
    assert_eq!(message.headers, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_become_of_a_schedule_as_it_is_told() {
    let broker = Broker::in_process();
    let schedules = broker.schedules().within(Duration::from_millis(1));
    // Nobody answers.
    schedules.pause("nightly").await.unwrap_err();
    schedules.resume("nightly").await.unwrap_err();
    schedules.trigger("nightly").await.unwrap_err();
    schedules.remove("nightly").await.unwrap_err();
    schedules.get("nightly").await.unwrap_err();
    schedules.list().await.unwrap_err();
    for (kind, name) in [
        ("taskhare.schedule.pause", Some("nightly")),
        ("taskhare.schedule.resume", Some("nightly")),
        ("taskhare.schedule.trigger", Some("nightly")),
        ("taskhare.schedule.remove", Some("nightly")),
        ("taskhare.schedule.list", Some("nightly")),
        ("taskhare.schedule.list", None),
    ] {
        let (message, table) = next_command(&broker).await;
        assert_eq!(table, name.map(|name| ("name", name)).into_iter().collect(), "{kind}");
        let id: TaskId = message.id.as_deref().unwrap().parse().unwrap();
        assert!(message.reply_to.is_some());
        let expected = Message {
            id: message.id.clone(),
            kind: Some(kind.into()),
            timestamp: Some(u64::try_from(id.as_u128() >> 80).unwrap() / 1000),
            reply_to: message.reply_to.clone(),
            ..Message::default()
        };
        assert_eq!(message, expected);
    }
}

/// Where a consumer finds it, and what it tells when it has ended.
#[tokio::test(start_paused = true)]
async fn a_tick_as_it_is_run_and_as_its_end_is_reported() {
    let broker = Broker::in_process();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let task = Resize { image: "hare.png".into(), width: 640, crop: true };
    producer.schedule("nightly", Duration::from_secs(60), task).await.unwrap();
    next_command(&broker).await;
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Resize, ctx: TaskContext| {
            sender.send(ctx.tick().cloned().unwrap()).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let tick: Headers = [
        ("schedule", Value::from("nightly")),
        ("sequence", 7.into()),
        ("planned", 1_700_000_000_123_i64.into()),
        ("triggered", true.into()),
        ("reports", true.into()),
    ]
    .into_iter()
    .collect();
    let message = Message {
        id: Some(ID.into()),
        kind: Some("resize".into()),
        content_type: Some(CONTENT_TYPE.into()),
        headers: [("taskhare-tick", Value::Table(tick))].into_iter().collect(),
        body: PAYLOAD.into(),
        ..Message::default()
    };
    let publish = Publish {
        exchange: Name::new("exchange", "taskhare.tasks").unwrap(),
        key: Name::new("key", "default.normal").unwrap(),
        mandatory: true,
        message,
    };
    broker.transport().publish(&publish, Duration::from_secs(5)).await.unwrap();
    let tick = received.recv().await.unwrap();
    let planned = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    assert_eq!((tick.schedule(), tick.sequence(), tick.is_triggered()), ("nightly", 7, true));
    assert_eq!(tick.planned_at(), planned);

    let (message, table) = next_command(&broker).await;
    let expected: Headers = [("name", Value::from("nightly")), ("sequence", 7.into())].into_iter().collect();
    assert_eq!((message.kind.as_deref(), table), (Some("taskhare.schedule.ended"), expected));
    assert_eq!((message.content_type, message.reply_to, message.headers.len()), (None, None, 0));
}
