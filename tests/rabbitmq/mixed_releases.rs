//! What another release of taskhare has written, through the real wheel and ledger; `behavior mixed_releases::` has the
//! rest.

use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskId;
use taskhare::transport::Headers;
use taskhare::transport::Value;

use crate::tasks::broker;
use crate::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Sweep;

impl Task for Sweep {
    const NAME: &'static str = "sweep";
    type Output = ();
}

/// As a later release may enqueue it.
fn newer() -> Message {
    Message {
        id: Some(TaskId::new().to_string()),
        kind: Some("sweep".into()),
        content_type: Some("application/vnd.taskhare.v2+msgpack".into()),
        headers: [("taskhare-priority", "urgent"), ("taskhare-mood", "bright")].into_iter().collect(),
        body: b"not as we write it".to_vec(),
        ..Message::default()
    }
}

async fn put(broker: &taskhare::Broker, key: &str, message: Message) {
    let publish = Publish { exchange: name("taskhare.tasks"), key: name(key), mandatory: true, message };
    broker.transport().publish(&publish, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_later_release_goes_round_until_it_can_be_read_and_holds_up_no_others() {
    let (broker, _) = broker().await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (sender, mut ran) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker).handler_fn(move |_: Sweep, ctx| {
        sender.send(ctx.id()).unwrap();
        async { Ok(()) }
    });
    let consumer = consumer.concurrency(1).start().await.unwrap();
    let message = newer();
    put(&broker, "default.urgent", message.clone()).await;
    // What the broker counts is half a second old: it may have gone round more often than is seen.
    let mut was_away = false;
    eventually("it goes away and comes round", async || {
        let id = producer.enqueue(Sweep).await.unwrap().id();
        assert_eq!(ran.recv().await, Some(id));
        let is_away = broker.delayed().await.unwrap() == 1;
        let is_round = was_away && !is_away;
        was_away |= is_away;
        is_round
    })
    .await;
    consumer.shutdown().await;

    let mut lane = broker.transport().subscribe(subscribe("taskhare.default.urgent", 1)).await.unwrap();
    let mut delivery = next(&mut lane).await;
    let mut found = std::mem::take(&mut delivery.message);
    delivery.ack();
    found.headers.strip_broker_headers();
    assert!(found.headers.remove("taskhare-unread-since").is_some());
    assert_eq!(found.headers.remove("taskhare-queue"), Some("default".into()));
    assert_eq!(found, message, "as it came otherwise");
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_a_later_release_is_left_to_a_scheduler_that_can_read_it() {
    let (broker, _) = broker().await;
    let (sender, mut ticks) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker).handler_fn(move |_: Sweep, ctx| {
        sender.send(ctx.tick().unwrap().sequence()).unwrap();
        async { Ok(()) }
    });
    let consumer = consumer.start().await.unwrap();
    let sweep = Schedule::new("sweep", Duration::from_millis(300), Sweep);
    let scheduler = Scheduler::builder(&broker).schedule(sweep).start().await.unwrap();
    assert_eq!(ticks.recv().await, Some(1));
    let table: Headers = [("name", "later"), ("cadence", "when it rains")].into_iter().collect();
    let mut later = newer();
    later.headers.insert("taskhare-schedule", Value::Table(table));
    put(&broker, "schedules", later.clone()).await;
    for sequence in 2..10 {
        assert_eq!(ticks.recv().await, Some(sequence));
    }
    scheduler.shutdown().await;
    consumer.shutdown().await;

    let mut ledger = broker.transport().subscribe(subscribe("taskhare.schedules", 8)).await.unwrap();
    loop {
        let mut delivery = next(&mut ledger).await;
        delivery.message.headers.strip_broker_headers();
        if delivery.message == later {
            break;
        }
        delivery.ack();
    }
}
