//! A tick is one message in two queues, by its header `CC`. Whatever becomes of the one in the lane, no copy of it goes to
//! the queue of the schedules a second time: it would be an old entry there.

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Headers;
use taskhare::transport::Value;

use crate::*;

const LANE: &str = "taskhare.default.normal";
const LEDGER: &str = "taskhare.schedules";
const REPLICATIONS: [Replication; 2] = [Replication::Quorum { group_size: 3 }, Replication::Classic];

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Report;

impl Task for Report {
    const NAME: &'static str = "report";
    type Output = ();
}

/// A broker with the queue of the schedules, which is empty.
async fn broker(replication: Replication) -> Broker {
    let url = fresh_vhost().await;
    let broker = Broker::builder().url(&url).replication(replication).delivery_limit(1);
    let broker = broker.connect().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.schedule("report", Duration::from_secs(60), Report).await.unwrap();
    eventually("it is declared", async || depth(&broker, LEDGER).await == 1).await;
    broker.transport().purge(&name(LEDGER)).await.unwrap();
    broker
}

async fn depth(broker: &Broker, queue: &str) -> u64 {
    broker.transport().depth(&name(queue)).await.unwrap().unwrap()
}

/// Fires a tick, into the lane and the queue of the schedules.
async fn fire(broker: &Broker, expiration: Option<Duration>) {
    let tick: Headers = [
        ("schedule", Value::from("report")),
        ("sequence", 1.into()),
        ("planned", 1_700_000_000_000_i64.into()),
        ("reports", true.into()),
    ]
    .into_iter()
    .collect();
    let headers = [
        ("taskhare-tick", Value::Table(tick)),
        ("taskhare-schedule", Value::Table(Headers::new())),
        ("CC", Value::List(vec!["schedules".into()])),
    ];
    let message = Message {
        id: Some(TaskId::new().to_string()),
        kind: Some("report".into()),
        content_type: Some("application/vnd.taskhare.v1+msgpack".into()),
        headers: headers.into_iter().collect(),
        expiration,
        body: vec![0x90],
        ..Message::default()
    };
    let (exchange, key) = (name("taskhare.tasks"), name("default.normal"));
    let publish = Publish { exchange, key, mandatory: true, message };
    broker.transport().publish(&publish, PATIENCE).await.unwrap();
}

async fn take(broker: &Broker, queue: &str) -> Box<dyn Subscription> {
    broker.transport().subscribe(subscribe(queue, 1)).await.unwrap()
}

/// That the dead letter of a tick has come, and to the dead letters only. RabbitMQ 4.3 leaves `CC` in its headers, though
/// it does not go by it, and nothing of ours publishes it with that.
async fn is_dead_only(broker: &Broker, in_ledger: u64, case: &str) {
    eventually(case, async || broker.dead("default").await.unwrap() == 1).await;
    tokio::time::sleep(SILENCE).await;
    assert_eq!((depth(broker, LEDGER).await, depth(broker, LANE).await), (in_ledger, 0), "{case}");
    let letters = broker.dead_letters("default").unwrap();
    assert_eq!(letters.requeue_all().await.unwrap(), 1, "{case}");
    eventually("it is in its lane", async || depth(broker, LANE).await == 1).await;
    tokio::time::sleep(SILENCE).await;
    assert_eq!(depth(broker, LEDGER).await, in_ledger, "requeued, {case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_the_broker_dead_letters_from_its_lane_is_no_entry_again() {
    for replication in REPLICATIONS {
        let rejecting = broker(replication).await;
        fire(&rejecting, None).await;
        next(&mut take(&rejecting, LANE).await).await.reject();
        is_dead_only(&rejecting, 1, &format!("rejected, {replication:?}")).await;

        let expiring = broker(replication).await;
        fire(&expiring, Some(Duration::from_millis(100))).await;
        is_dead_only(&expiring, 0, &format!("expired, {replication:?}")).await;
        let undeliverable = async || depth(&expiring, "taskhare.undeliverable").await == 1;
        eventually("the copy has expired too", undeliverable).await;
    }
    let returning = broker(REPLICATIONS[0]).await;
    fire(&returning, None).await;
    for _ in 0..2 {
        let mut lane = take(&returning, LANE).await;
        let _held = next(&mut lane).await;
        // As if the process had died. A requeue would count too, before 4.3.
        lane.close().await;
    }
    is_dead_only(&returning, 1, "over the delivery limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_rejected_is_no_task_again() {
    for replication in REPLICATIONS {
        let broker = broker(replication).await;
        fire(&broker, None).await;
        next(&mut take(&broker, LEDGER).await).await.reject();
        let undeliverable = async || depth(&broker, "taskhare.undeliverable").await == 1;
        eventually("it is undeliverable", undeliverable).await;
        tokio::time::sleep(SILENCE).await;
        assert_eq!((depth(&broker, LEDGER).await, depth(&broker, LANE).await), (0, 1), "{replication:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_is_retried_through_the_delay_wheel_is_an_entry_once_and_reports_its_end_once() {
    let broker = broker(REPLICATIONS[0]).await;
    let (sender, mut attempts) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Report, ctx| {
            sender.send((ctx.attempt(), ctx.tick().map(taskhare::Tick::sequence))).unwrap();
            async move { if ctx.attempt() < 3 { Err(TaskError::retry("as told")) } else { Ok(()) } }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(500)))
        .start()
        .await
        .unwrap();
    fire(&broker, None).await;
    for attempt in 1..=3 {
        assert_eq!(attempts.recv().await, Some((attempt, Some(1))));
    }
    consumer.shutdown().await;
    let mut ledger = broker.transport().subscribe(subscribe(LEDGER, 9)).await.unwrap();
    let (entry, ended) = (next(&mut ledger).await, next(&mut ledger).await);
    assert_eq!(entry.message.kind.as_deref(), Some("report"));
    assert_eq!(ended.message.kind.as_deref(), Some("taskhare.schedule.ended"));
    nothing(&mut ledger).await;
}
