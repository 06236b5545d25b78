//! C4 and C8: what is rejected or comes back too often.

use taskhare::topology::DeadLetter;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::transport::Delivery;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Value;

use crate::support::*;

on_every_transport![
    rejected_goes_to_the_dead_letter_exchange,
    a_dead_letter_is_the_message_it_was,
    a_dead_letter_keeps_its_key_unless_told_otherwise,
    a_dead_letter_says_what_happened,
    expired_says_what_happened,
    deaths_add_up,
    what_comes_back_too_often_is_dead,
    a_classic_queue_never_has_enough,
    what_is_dead_does_not_hold_up_the_rest,
];

async fn rejected_goes_to_the_dead_letter_exchange(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let mut subscription = subscribe(broker, &route.queue, 3).await;
        let mut held = take(&mut subscription, 3).await;
        held.remove(1).reject();
        held.into_iter().for_each(Delivery::ack);
        assert_eq!(consume(&mut subscribe(broker, &dead.queue, 3).await, 1).await, ["b"]);
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn a_dead_letter_is_the_message_it_was(broker: &Broker) {
    let published = Message {
        id: Some("id".to_owned()),
        kind: Some("kind".into()),
        timestamp: Some(1_754_000_000),
        headers: Headers::from_iter([("attempt", 3)]),
        ..message("payload")
    };
    for kind in BOTH_KINDS {
        let mut arrived = rejected(broker, kind, published.clone()).await.0;
        arrived.headers.strip_broker_headers();
        assert_eq!(arrived, published);
    }
}

async fn a_dead_letter_keeps_its_key_unless_told_otherwise(broker: &Broker) {
    for kind in BOTH_KINDS {
        let dead = open(broker, queue(kind)).await;
        let dead_letter = Some(DeadLetter { exchange: dead.exchange.clone(), key: None });
        let source = open(broker, Queue { dead_letter, ..queue(kind) }).await;
        // The same key leads into the source and, from the dead-letter exchange, into the queue of the dead.
        let same_key = taskhare::topology::Binding {
            exchange: dead.exchange.clone(),
            key: source.key.clone(),
            to: taskhare::topology::Target::Queue(dead.queue.clone()),
        };
        let topology = taskhare::topology::Topology { bindings: vec![same_key], ..Default::default() };
        declare(broker, topology).await;
        publish(broker, &source, message("a")).await;
        next(&mut subscribe(broker, &source.queue, 1).await).await.reject();
        assert_eq!(consume(&mut subscribe(broker, &dead.queue, 1).await, 1).await, ["a"]);
    }
}

async fn a_dead_letter_says_what_happened(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (arrived, source) = rejected(broker, kind, message("a")).await;
        died(&arrived, &source, "rejected", 1);
        assert_eq!(text(&arrived.headers, "x-first-death-reason"), "rejected");
        assert_eq!(text(&arrived.headers, "x-first-death-queue"), source.queue.as_str());
    }
}

async fn expired_says_what_happened(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (source, dead) = open_with_dead(broker, kind, |_| ()).await;
        publish(broker, &source, expiring("a", std::time::Duration::from_millis(100))).await;
        let delivery = next(&mut subscribe(broker, &dead.queue, 1).await).await;
        died(&delivery.message, &source, "expired", 1);
        delivery.ack();
    }
}

async fn deaths_add_up(broker: &Broker) {
    for kind in BOTH_KINDS {
        // Rejected into a queue where it waits, and back from there: a loop that a rejection allows.
        let work = open(broker, queue(kind)).await;
        let mut waiting = queue(kind);
        waiting.message_ttl = Some(std::time::Duration::from_millis(100));
        waiting.dead_letter =
            Some(DeadLetter { exchange: work.exchange.clone(), key: Some(work.key.clone()) });
        let waiting = open(broker, waiting).await;
        let mut source = queue(kind);
        source.dead_letter =
            Some(DeadLetter { exchange: waiting.exchange.clone(), key: Some(waiting.key.clone()) });
        let source = open(broker, source).await;
        publish(broker, &source, message("a")).await;
        next(&mut subscribe(broker, &source.queue, 1).await).await.reject();
        let delivery = next(&mut subscribe(broker, &work.queue, 1).await).await;
        died(&delivery.message, &waiting, "expired", 1);
        let Some(Value::List(deaths)) = delivery.message.headers.get("x-death") else {
            panic!("no x-death: {delivery:?}")
        };
        assert_eq!(deaths.len(), 2);
        assert_eq!(text(&delivery.message.headers, "x-first-death-queue"), source.queue.as_str());
        delivery.ack();
    }
}

async fn what_comes_back_too_often_is_dead(broker: &Broker) {
    let limited = QueueKind::Quorum { group_size: 1, delivery_limit: 2 };
    let (route, dead) = open_with_dead(broker, limited, |_| ()).await;
    publish(broker, &route, message("a")).await;
    // By closing: a quorum queue since 4.3 does not count what is requeued.
    for returned in 0..3 {
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.returned, returned);
        within(subscription.close()).await;
        drop(delivery);
    }
    let delivery = next(&mut subscribe(broker, &dead.queue, 1).await).await;
    died(&delivery.message, &route, "delivery_limit", 1);
    delivery.ack();
    depth_becomes(broker, &route.queue, 0).await;
}

async fn a_classic_queue_never_has_enough(broker: &Broker) {
    let (route, _dead) = open_with_dead(broker, CLASSIC, |_| ()).await;
    publish(broker, &route, message("a")).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    for _ in 0..50 {
        next(&mut subscription).await.requeue();
    }
    assert_eq!(consume(&mut subscription, 1).await, ["a"]);
}

async fn what_is_dead_does_not_hold_up_the_rest(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        for index in 0..100 {
            publish(broker, &route, message(index.to_string())).await;
        }
        for index in 0..100 {
            let delivery = next(&mut subscription).await;
            assert_eq!(body(&delivery), index.to_string());
            if index % 2 == 0 { delivery.ack() } else { delivery.reject() }
        }
        depth_becomes(broker, &dead.queue, 50).await;
        depth_becomes(broker, &route.queue, 0).await;
    }
}

/// Publishes `message`, rejects it, and returns it as it arrived, and the queue it died in.
async fn rejected(broker: &Broker, kind: QueueKind, message: Message) -> (Message, Route) {
    let (source, dead) = open_with_dead(broker, kind, |_| ()).await;
    publish(broker, &source, message).await;
    next(&mut subscribe(broker, &source.queue, 1).await).await.reject();
    let delivery = next(&mut subscribe(broker, &dead.queue, 1).await).await;
    let arrived = delivery.message.clone();
    delivery.ack();
    (arrived, source)
}

/// Whether the last death in the message's record is this one.
fn died(message: &Message, source: &Route, reason: &str, count: i64) {
    let Some(Value::List(deaths)) = message.headers.get("x-death") else { panic!("no x-death: {message:?}") };
    let Some(Value::Table(last)) = deaths.first() else { panic!("an empty x-death: {message:?}") };
    assert_eq!(text(last, "queue"), source.queue.as_str());
    assert_eq!(text(last, "reason"), reason);
    assert_eq!(text(last, "exchange"), source.exchange.as_str());
    assert_eq!(last.get("count").and_then(Value::as_int), Some(count));
    assert!(matches!(last.get("time"), Some(Value::Timestamp(_))), "{last:?}");
}

fn text<'a>(headers: &'a Headers, name: &str) -> &'a str {
    headers.get(name).and_then(Value::as_text).unwrap_or_else(|| panic!("no {name} in {headers:?}"))
}
