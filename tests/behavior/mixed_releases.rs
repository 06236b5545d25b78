//! What another release of taskhare has written, which shares the broker while a fleet is being deployed.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Event;
use taskhare::OnDuplicate;
use taskhare::Producer;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Standing;
use taskhare::TaskId;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;
use taskhare::transport::Value;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letter;
use crate::support::dead_letters;
use crate::support::quiet;
use crate::support::reason;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const NEWER: &str = "application/vnd.taskhare.v2+msgpack";

async fn publish(broker: &Broker, exchange: &str, key: &str, message: Message) {
    let exchange = Name::new("exchange", exchange).unwrap();
    let publish = Publish { exchange, key: Name::new("key", key).unwrap(), mandatory: true, message };
    broker.transport().publish(&publish, SECOND).await.unwrap();
}

/// The next message in a queue on the broker, for good.
async fn next(broker: &Broker, queue: &str) -> Message {
    let subscribe = Subscribe::new(Name::new("queue", queue).unwrap(), 1, "test");
    let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
    let mut delivery = tokio::time::timeout(HOUR, subscription.next()).await.unwrap().unwrap();
    let mut message = std::mem::take(&mut delivery.message);
    delivery.ack();
    subscription.close().await;
    message.headers.strip_broker_headers();
    message
}

/// As a later release may enqueue it.
fn newer() -> Message {
    let headers = [("taskhare-priority", Value::from("low")), ("taskhare-mood", "bright".into())];
    Message {
        id: Some(TaskId::new().to_string()),
        kind: Some("act".into()),
        content_type: Some(NEWER.into()),
        reply_to: Some("somebody".to_owned()),
        headers: headers.into_iter().collect(),
        body: b"not as we write it".to_vec(),
        ..Message::default()
    }
}

async fn consumer(broker: &Broker) -> (Actor, Consumer) {
    let actor = Actor::new();
    let consumer = Consumer::builder(broker).handler(actor.clone()).start().await.unwrap();
    (actor, consumer)
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_later_release_stays_for_who_can_read_it_and_holds_up_no_others() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (actor, consumer) = consumer(&broker).await;
    let message = newer();
    publish(&broker, "taskhare.tasks", "default.low", message.clone()).await;
    for count in 1..20 {
        producer.enqueue(Act::Succeed).await.unwrap();
        actor.wait_for(count).await;
        tokio::time::sleep(10 * SECOND).await;
    }
    assert_eq!(broker.dead("default").await.unwrap(), 0);
    consumer.shutdown().await;

    let mut passed_on = next(&broker, "taskhare.default.low").await;
    let since = passed_on.headers.remove("taskhare-unread-since").and_then(|since| since.as_int());
    assert!(since.is_some());
    assert_eq!(passed_on.headers.remove("taskhare-queue"), Some("default".into()));
    assert_eq!(passed_on, message, "as it came otherwise");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nobody_can_read_is_a_dead_letter_after_a_day() {
    let broker = quiet();
    let (actor, _consumer) = consumer(&broker).await;
    let message = newer();
    publish(&broker, "taskhare.tasks", "default.low", message.clone()).await;
    tokio::time::sleep(23 * HOUR).await;
    assert_eq!(broker.dead("default").await.unwrap(), 0);
    tokio::time::sleep(2 * HOUR).await;
    dead_letters(&broker, "default", 1).await;
    let letter = dead_letter(&broker).await;
    let (reason, error) = reason(&letter);
    assert!(reason == "foreign" && error.contains("v2+msgpack") && error.contains("86400s"), "{error}");
    assert_eq!(
        (letter.id, letter.body, letter.content_type),
        (message.id, message.body, message.content_type)
    );
    assert!(actor.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn fields_and_headers_of_a_later_release_are_ignored() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Greet {
        name: String,
    }
    impl taskhare::Task for Greet {
        const NAME: &'static str = "greet";
        type Output = ();
    }
    let broker = Broker::in_process();
    let (sender, mut ran) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker).handler_fn(move |task: Greet, ctx| {
        sender.send((task, ctx.attempt())).unwrap();
        async { Ok(()) }
    });
    let _consumer = consumer.start().await.unwrap();
    let message = Message {
        kind: Some("greet".into()),
        content_type: Some("application/vnd.taskhare.v1+msgpack".into()),
        headers: [
            ("taskhare-mood", Value::from("bright")),
            ("taskhare-retry", "of a later release wait=7".into()),
            ("taskhare-failures", "of a later release".into()),
            ("taskhare-tick", Value::Table(Headers::new())),
            ("taskhare-attempt", 2.into()),
        ]
        .into_iter()
        .collect(),
        // {"mood": ["bright", {"since": nil}], "name": "hare"}
        body: b"\x82\xa4mood\x92\xa6bright\x81\xa5since\xc0\xa4name\xa4hare".to_vec(),
        ..newer()
    };
    publish(&broker, "taskhare.tasks", "default.normal", message).await;
    assert_eq!(ran.recv().await.unwrap(), (Greet { name: "hare".to_owned() }, 2));
}

/// What each of the streams may hold that this release does not know.
fn unknown(kinds: &[&'static str]) -> Vec<Message> {
    let id = TaskId::new().to_string();
    let headers = [
        ("taskhare-source", Value::from("later")),
        ("taskhare-sequence", 1.into()),
        ("taskhare-unique", "user-7".into()),
        ("taskhare-revision", "of a later release".into()),
        ("taskhare-at", "noon".into()),
        ("taskhare-until", "midnight".into()),
    ];
    let all = kinds.iter().flat_map(|kind| {
        let body = b"\xc1of a later release".to_vec();
        let full = Message {
            id: Some(id.clone()),
            kind: Some((*kind).into()),
            headers: headers.clone().into_iter().collect(),
            body,
            ..Message::default()
        };
        let bare = Message { kind: Some((*kind).into()), ..Message::default() };
        [full, bare, Message { content_type: Some(NEWER.into()), ..newer() }, Message::default()]
    });
    all.collect()
}

#[tokio::test(start_paused = true)]
async fn a_decision_of_a_later_release_is_passed_over_and_those_after_it_count() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (actor, _consumer) = consumer(&broker).await;
    let id = producer.enqueue(Act::Succeed).delay(60 * SECOND).await.unwrap().id();
    for message in unknown(&["taskhare.paused", "taskhare.cancelled", "taskhare.rescheduled"]) {
        let message = Message { id: message.id.map(|_| "no id of a task".to_owned()), ..message };
        publish(&broker, "taskhare.control", "any", message).await;
    }
    producer.cancel(id).await.unwrap();
    let other = producer.enqueue(Act::Succeed).delay(120 * SECOND).await.unwrap().id();
    assert_eq!(actor.wait_for(1).await[0].id, other);
    // Nor does it keep anybody from starting.
    self::consumer(&broker).await.1.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_a_later_release_is_passed_over_and_those_after_it_count() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let first = producer.enqueue(Act::Succeed).unique("user-7").await.unwrap();
    for message in unknown(&["taskhare.lent", "taskhare.claimed", "taskhare.released"]) {
        publish(&broker, "taskhare.unique", "any", message).await;
    }
    for producer in [producer, Producer::builder(&broker).build().await.unwrap()] {
        let again = producer.enqueue(Act::Succeed).unique("user-7").on_duplicate(OnDuplicate::Coalesce);
        assert_eq!(again.await.unwrap().id(), first.id());
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_a_later_release_are_passed_over_and_those_after_them_are_read() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let _scheduler = Scheduler::builder(&broker).start().await.unwrap();
    let (_, _consumer) = consumer(&broker).await;
    let mut live = broker.events().subscribe().await.unwrap();
    for message in unknown(&["taskhare.moods", "taskhare.consumer", "taskhare.events"]) {
        publish(&broker, "taskhare.events", "any", message).await;
    }
    let id = producer.enqueue(Act::Succeed).await.unwrap().id();
    loop {
        match tokio::time::timeout(HOUR, live.next()).await.unwrap().unwrap() {
            Event::Task(event) if event.id == id && event.change.kind().is_end() => break,
            _ => {}
        }
    }
    let state = broker.status(id).await.unwrap().unwrap();
    assert!(matches!(state.standing, Standing::Done(_)), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_scheduler_does_not_understand_is_left_to_one_that_does() {
    let broker = Broker::in_process();
    let (actor, _consumer) = consumer(&broker).await;
    let sweep = Schedule::new("sweep", 10 * SECOND, Act::Succeed);
    let scheduler = Scheduler::builder(&broker).schedule(sweep).start().await.unwrap();
    actor.wait_for(1).await;
    let table = |entries: &[(&'static str, Value)]| {
        let table = [("name", Value::from("later"))].into_iter().chain(entries.iter().cloned());
        [("taskhare-schedule", Value::Table(table.collect()))].into_iter().collect::<Headers>()
    };
    let command = |kind: &'static str| Message {
        id: Some(TaskId::new().to_string()),
        kind: Some(kind.into()),
        headers: table(&[]),
        ..Message::default()
    };
    let left = [
        Message { headers: table(&[("version", 7.into())]), ..newer() },
        Message { headers: table(&[("cadence", "when it rains".into())]), ..newer() },
        command("taskhare.schedule.split"),
    ];
    for message in left.iter().cloned().chain([command("unrelated")]) {
        publish(&broker, "taskhare.tasks", "schedules", message).await;
    }
    actor.wait_for(4).await;
    assert_eq!(broker.undeliverable().count().await.unwrap(), 1, "what is nobody's");
    scheduler.shutdown().await;

    let subscribe = Subscribe::new(Name::new("queue", "taskhare.schedules").unwrap(), 8, "test");
    let mut ledger = broker.transport().subscribe(subscribe).await.unwrap();
    let mut found = Vec::new();
    while found.len() < left.len() {
        let mut delivery = tokio::time::timeout(HOUR, ledger.next()).await.unwrap().unwrap();
        let mut message = std::mem::take(&mut delivery.message);
        message.headers.strip_broker_headers();
        if left.contains(&message) {
            found.push(message);
        }
        std::mem::forget(delivery);
    }
    assert_eq!(found, left);
}
