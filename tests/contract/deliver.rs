//! C3, C9 and C10.

use std::collections::BTreeSet;
use std::time::Duration;

use taskhare::Error;
use taskhare::topology::Queue;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Subscribe;
use taskhare::transport::Value;

use crate::support::*;

on_every_transport![
    deliveries_come_in_order,
    what_is_published_later_is_delivered,
    no_more_than_the_prefetch_is_unsettled,
    each_delivery_goes_to_one_subscriber,
    subscribers_take_turns,
    a_missing_queue_cannot_be_consumed,
    a_single_active_consumer_gets_everything,
    the_next_takes_over_when_the_single_active_one_closes,
    the_next_takes_over_when_the_single_active_one_is_dropped,
    every_field_arrives_as_published,
    every_type_of_header_arrives_as_published,
    nothing_but_a_body_arrives_as_published,
    bodies_of_every_size_arrive_as_published,
];

async fn deliveries_come_in_order(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let expected = publish_numbers(broker, &route, 100).await;
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        assert_eq!(consume(&mut subscription, 100).await, expected);
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn what_is_published_later_is_delivered(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        let consuming = tokio::spawn(async move { consume(&mut subscription, 3).await });
        tokio::task::yield_now().await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        assert_eq!(within(consuming).await.unwrap(), ["a", "b", "c"]);
    }
}

async fn no_more_than_the_prefetch_is_unsettled(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c", "d", "e"]).await;
        let mut subscription = subscribe(broker, &route.queue, 2).await;
        let mut held = take(&mut subscription, 2).await;
        nothing(&mut subscription).await;
        depth_becomes(broker, &route.queue, 3).await;
        held.remove(0).ack();
        held.extend(take(&mut subscription, 1).await);
        nothing(&mut subscription).await;
        assert_eq!(bodies(&held), ["b", "c"]);
    }
}

async fn each_delivery_goes_to_one_subscriber(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let mut consuming = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let mut subscription = subscribe(broker, &route.queue, 5).await;
            consuming.spawn(async move {
                let mut got = Vec::new();
                loop {
                    let delivery = next(&mut subscription).await;
                    let body = body(&delivery);
                    delivery.ack();
                    if body == "end" {
                        return got;
                    }
                    got.push(body);
                }
            });
        }
        let expected: BTreeSet<String> = (0..60).map(|n| n.to_string()).collect();
        for body in &expected {
            publish(broker, &route, message(body.as_str())).await;
        }
        publish_all(broker, &route, &["end"; 3]).await;
        let got: Vec<String> = within(consuming.join_all()).await.concat();
        assert_eq!(got.len(), 60, "each once");
        assert_eq!(BTreeSet::from_iter(got), expected);
    }
}

async fn subscribers_take_turns(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let mut one = subscribe(broker, &route.queue, 1).await;
        let mut other = subscribe(broker, &route.queue, 1).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let held = (next(&mut one).await, next(&mut other).await);
        assert_eq!(BTreeSet::from([body(&held.0), body(&held.1)]), BTreeSet::from(["a".into(), "b".into()]));
        nothing(&mut one).await;
        nothing(&mut other).await;
        held.1.ack();
        assert_eq!(consume(&mut other, 1).await, ["c"], "who has room gets it");
    }
}

async fn a_missing_queue_cannot_be_consumed(broker: &Broker) {
    let missing = unique("missing");
    let subscribe = Subscribe::new(missing.clone(), 1, "contract");
    match within(broker.subscribe(subscribe)).await {
        Err(Error::Consume { queue, .. }) => assert_eq!(queue, missing.as_str()),
        other => panic!("an error was to come, and this did: {other:?}"),
    }
    let route = open(broker, queue(CLASSIC)).await;
    publish(broker, &route, message("works")).await;
    depth_becomes(broker, &route.queue, 1).await;
}

async fn a_single_active_consumer_gets_everything(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, Queue { single_active_consumer: true, ..queue(kind) }).await;
        let mut active = subscribe(broker, &route.queue, 2).await;
        let mut waiting = subscribe(broker, &route.queue, 2).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let held = take(&mut active, 2).await;
        // It has no room, and still nobody else gets the third.
        nothing(&mut waiting).await;
        assert_eq!(bodies(&held), ["a", "b"]);
        held.into_iter().for_each(taskhare::transport::Delivery::ack);
        assert_eq!(consume(&mut active, 1).await, ["c"]);
        nothing(&mut waiting).await;
    }
}

async fn the_next_takes_over_when_the_single_active_one_closes(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, Queue { single_active_consumer: true, ..queue(kind) }).await;
        let mut active = subscribe(broker, &route.queue, 1).await;
        let mut waiting = subscribe(broker, &route.queue, 1).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        assert_eq!(consume(&mut active, 1).await, ["a"]);
        let held = next(&mut active).await;
        within(active.close()).await;
        // A ready one may come before the one given back.
        let taken = BTreeSet::from_iter(consume(&mut waiting, 2).await);
        assert_eq!(taken, BTreeSet::from(["b".into(), "c".into()]));
        drop(held);
    }
}

async fn the_next_takes_over_when_the_single_active_one_is_dropped(broker: &Broker) {
    let route = open(broker, Queue { single_active_consumer: true, ..queue(QUORUM) }).await;
    let mut active = subscribe(broker, &route.queue, 1).await;
    let mut waiting = subscribe(broker, &route.queue, 1).await;
    publish_all(broker, &route, &["a", "b"]).await;
    let held = next(&mut active).await;
    drop(active);
    let taken = BTreeSet::from_iter(consume(&mut waiting, 2).await);
    assert_eq!(taken, BTreeSet::from(["a".into(), "b".into()]));
    drop(held);
}

async fn every_field_arrives_as_published(broker: &Broker) {
    let message = Message {
        id: Some("0198c0de-id".to_owned()),
        kind: Some("resize".into()),
        content_type: Some("application/msgpack".into()),
        correlation_id: Some("correlated".to_owned()),
        reply_to: Some("reply.here".to_owned()),
        timestamp: Some(1_754_000_000),
        expiration: Some(Duration::from_millis(3_600_001)),
        headers: Headers::from_iter([("attempt", Value::Int(3))]),
        body: b"payload".to_vec(),
    };
    arrives(broker, message).await;
}

async fn every_type_of_header_arrives_as_published(broker: &Broker) {
    let mut headers = Headers::new();
    headers.insert("null", Value::Null);
    headers.insert("true", true);
    headers.insert("false", false);
    for (name, value) in [
        ("zero", 0),
        ("minus one", -1),
        ("byte", 255),
        ("short", -32_768),
        ("long", 2_147_483_648),
        ("least", i64::MIN),
        ("most", i64::MAX),
    ] {
        headers.insert(name, value);
    }
    headers.insert("float", Value::Float(-1234.5e-10));
    // Finite: RabbitMQ drops a connection that sends it another.
    headers.insert("largest float", Value::Float(f64::MAX));
    headers.insert("text", "Grüße, 世界 🐇");
    headers.insert("empty text", "");
    headers.insert("long text", "x".repeat(5_000));
    headers.insert("bytes", Value::Bytes((0..=255).collect()));
    headers.insert("empty bytes", Value::Bytes(Vec::new()));
    headers.insert("timestamp", Value::Timestamp(1_754_000_000));
    headers.insert("ключ", "a name that is not ASCII");
    headers.insert("empty list", Value::List(Vec::new()));
    headers.insert("empty table", Value::Table(Headers::new()));
    let every_type = headers.iter().map(|(_, value)| value.clone()).collect();
    let nested =
        Headers::from_iter([("table", Value::Table(headers.clone())), ("list", Value::List(every_type))]);
    headers.insert("nested", Value::Table(nested));
    arrives(broker, Message { headers, ..message("a") }).await;
}

async fn nothing_but_a_body_arrives_as_published(broker: &Broker) {
    arrives(broker, message("a")).await;
}

async fn bodies_of_every_size_arrive_as_published(broker: &Broker) {
    // Around the size of a frame (128 KiB) something may go wrong.
    for size in [0, 1, 131_063, 131_064, 131_065, 131_072, 200 * 1024] {
        let body: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
        arrives(broker, message(body)).await;
    }
}

async fn arrives(broker: &Broker, message: Message) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish(broker, &route, message.clone()).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        let delivery = next(&mut subscription).await;
        assert!(delivery.message == message, "{:?} arrived for {message:?}", delivery.message);
        assert!(!delivery.redelivered);
        assert_eq!(delivery.returned, 0);
        delivery.ack();
    }
}
