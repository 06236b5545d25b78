//! Each kind of bad input: a typed error, or a dead letter that says why.

use std::sync::Arc;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Task;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;
use taskhare::transport::Transport;
use taskhare::transport::Value;

use crate::support::Act;
use crate::support::Actor;

#[derive(serde::Serialize, serde::Deserialize)]
struct Other {
    text: String,
}

impl Task for Other {
    const NAME: &'static str = "other";
    type Output = ();
}

/// Tasks of another type by the same name.
#[derive(serde::Serialize, serde::Deserialize)]
struct Impostor {
    text: String,
}

impl Task for Impostor {
    const NAME: &'static str = "act";
    type Output = ();
}

struct Setup {
    broker: Broker,
    producer: Producer,
    actor: Actor,
    _consumer: Consumer,
}

async fn setup() -> Setup {
    let broker = Broker::builder().max_payload(1000).in_process().unwrap();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    Setup { broker, producer, actor, _consumer: consumer }
}

/// Takes the next dead letter, and checks that good tasks still run.
async fn dead_letter(setup: &Setup) -> Message {
    let transport: &Arc<dyn Transport> = setup.broker.transport();
    let queue = Name::new("queue", "taskhare.default.dead").unwrap();
    let subscribe = Subscribe::new(queue, 1, "test");
    let mut dead = transport.subscribe(subscribe).await.unwrap();
    let mut delivery = tokio::time::timeout(Duration::from_secs(60), dead.next()).await.unwrap().unwrap();
    let message = std::mem::take(&mut delivery.message);
    delivery.ack();
    let before = setup.actor.seen().len();
    setup.producer.enqueue(Act::Succeed).await.unwrap();
    setup.actor.wait_for(before + 1).await;
    message
}

fn text<'a>(headers: &'a Headers, name: &str) -> &'a str {
    headers.get(name).and_then(Value::as_text).unwrap_or_default()
}

async fn publish(setup: &Setup, message: Message) {
    let publish = Publish {
        exchange: Name::new("exchange", "taskhare.tasks").unwrap(),
        key: Name::new("key", "default.normal").unwrap(),
        mandatory: true,
        message,
    };
    setup.broker.transport().publish(&publish, Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_handler_is_dead_on_the_first_delivery() {
    let setup = setup().await;
    let id = setup.producer.enqueue(Other { text: "?".into() }).await.unwrap().id();
    let letter = dead_letter(&setup).await;
    assert_eq!(letter.id, Some(id.to_string()));
    assert_eq!(text(&letter.headers, "taskhare-reason"), "unknown-task");
    assert!(text(&letter.headers, "taskhare-error").contains("\"other\""));
    assert_eq!(text(&letter.headers, "taskhare-queue"), "default");
}

#[tokio::test(start_paused = true)]
async fn a_payload_of_another_type_is_dead_on_the_first_delivery() {
    let setup = setup().await;
    setup.producer.enqueue(Impostor { text: "?".into() }).await.unwrap();
    let letter = dead_letter(&setup).await;
    assert_eq!(text(&letter.headers, "taskhare-reason"), "undecodable");
    assert!(setup.actor.seen().len() == 1, "only the good task ran");
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_no_message_pack_is_dead_with_its_bytes_kept() {
    let setup = setup().await;
    setup.producer.enqueue(Act::Succeed).await.unwrap();
    setup.actor.wait_for(1).await;
    let mut message = Message { id: Some(taskhare::TaskId::new().to_string()), ..Message::default() };
    message.kind = Some("act".into());
    message.content_type = Some("application/vnd.taskhare.v1+msgpack".into());
    message.body = vec![0xc1, 0xff, 0x00];
    publish(&setup, message).await;
    let letter = dead_letter(&setup).await;
    assert_eq!(text(&letter.headers, "taskhare-reason"), "undecodable");
    assert_eq!(letter.body, [0xc1, 0xff, 0x00]);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_message_is_dead_as_it_came() {
    let setup = setup().await;
    let foreign = Message {
        content_type: Some("application/json".into()),
        headers: [("tenant", "blue")].into_iter().collect(),
        body: b"{}".to_vec(),
        ..Message::default()
    };
    publish(&setup, foreign).await;
    let letter = dead_letter(&setup).await;
    assert_eq!(text(&letter.headers, "taskhare-reason"), "foreign");
    assert!(text(&letter.headers, "taskhare-error").contains("application/json"));
    assert_eq!(text(&letter.headers, "tenant"), "blue");
    assert_eq!(
        (letter.content_type.as_deref(), letter.body.as_slice()),
        (Some("application/json"), &b"{}"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_payload_over_the_limit_is_refused_with_both_sizes() {
    let setup = setup().await;
    let error = setup.producer.enqueue(Other { text: "x".repeat(2000) }).await.unwrap_err();
    let Error::TooLarge { task, size, limit } = &error else { panic!("{error}") };
    assert_eq!((task.as_str(), *limit), ("other", 1000));
    assert!(*size > 2000);
}

#[tokio::test(start_paused = true)]
async fn the_limit_itself_has_a_limit() {
    let error = Broker::builder().max_payload(16 * 1024 * 1024).in_process().unwrap_err();
    assert!(matches!(error, Error::InvalidSetting { setting: "max_payload", .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn names_that_no_broker_takes_are_refused() {
    let setup = setup().await;
    for queue in ["", "two words", "star*", "hash#", "tab\t", &"x".repeat(97), &"x".repeat(300)] {
        let error = setup.producer.enqueue(Act::Succeed).queue(queue).await.unwrap_err();
        assert!(matches!(error, Error::InvalidName { what: "queue", .. }), "{error}");
        let consumer = Consumer::builder(&setup.broker).handler(Actor::new()).queue(queue).start().await;
        assert!(matches!(consumer.unwrap_err(), Error::InvalidName { what: "queue", .. }));
        let namespace = Broker::builder().namespace(queue).in_process().unwrap_err();
        assert!(matches!(namespace, Error::InvalidName { what: "namespace", .. }), "{namespace}");
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Nameless;

impl Task for Nameless {
    const NAME: &'static str = "";
    type Output = ();
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_name_is_refused() {
    let setup = setup().await;
    let error = setup.producer.enqueue(Nameless).await.unwrap_err();
    assert!(matches!(error, Error::InvalidName { what: "task", .. }), "{error}");
}
