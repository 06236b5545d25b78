//! C17.

use std::collections::BTreeSet;

use taskhare::Error;
use taskhare::topology::ExchangeKind;
use taskhare::topology::Queue;
use taskhare::topology::Topology;
use taskhare::transport::Delivery;
use taskhare::transport::Publish;
use taskhare::transport::PublishError;
use taskhare::transport::Subscribe;
use taskhare::transport::Tenure;

use crate::support::*;

on_every_transport![
    it_consumes_and_publishes,
    publishes_arrive_in_the_order_of_the_calls,
    a_publish_that_nobody_waits_for_is_sent,
    what_becomes_of_a_publish_is_told,
    a_rejected_publish_is_not_tried_again,
    a_missing_queue_cannot_be_held,
    closing_hands_all_that_was_held_to_the_next,
    dropping_hands_all_that_was_held_to_the_next,
    thousands_are_held_and_settled_in_any_order,
    after_the_close_nothing_is_sent,
    to_cancel_is_to_close,
    it_ends_with_its_queue,
    it_ends_with_the_transport,
];

/// A queue of which one consumer is active.
async fn open_single(broker: &Broker) -> Route {
    open(broker, Queue { single_active_consumer: true, ..queue(QUORUM) }).await
}

async fn send(tenure: &dyn Tenure, route: &Route, body: &str) -> Result<(), PublishError> {
    within(tenure.publish(&over(route, message(body)), LIMIT)).await
}

/// It ends, and whatever came before is lost.
async fn end(tenure: &mut Box<dyn Tenure>) {
    while let Some(delivery) = within(tenure.next()).await {
        drop(delivery);
    }
}

fn is_unavailable(outcome: &Result<(), PublishError>) -> bool {
    matches!(outcome, Err(PublishError::Unavailable { .. }))
}

async fn it_consumes_and_publishes(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let mut tenure = hold(broker, &route.queue, 10).await;
        for body in ["a", "b", "c"] {
            assert_eq!(send(&*tenure, &route, body).await, Ok(()));
            assert_eq!(consume(&mut tenure, 1).await, [body]);
        }
        within(tenure.close()).await;
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn publishes_arrive_in_the_order_of_the_calls(broker: &Broker) {
    let route = open_single(broker).await;
    let mut tenure = hold(broker, &route.queue, 1000).await;
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let calls = expected.iter().map(|body| tenure.publish(&over(&route, message(body.as_str())), LIMIT));
    let mut waiting: Vec<_> = calls.collect();
    // Waited for the other way round.
    while let Some(outcome) = waiting.pop() {
        assert_eq!(within(outcome).await, Ok(()));
    }
    assert_eq!(consume(&mut tenure, 500).await, expected);
}

async fn a_publish_that_nobody_waits_for_is_sent(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut tenure = hold(broker, &route.queue, 1).await;
    drop(tenure.publish(&over(&route, message("a")), LIMIT));
    assert_eq!(consume(&mut tenure, 1).await, ["a"]);
}

async fn what_becomes_of_a_publish_is_told(broker: &Broker) {
    let full = open(broker, Queue { max_length: Some(1), ..queue(CLASSIC) }).await;
    publish(broker, &full, message("the one")).await;
    depth_becomes(broker, &full.queue, 1).await;
    let route = open(broker, queue(QUORUM)).await;
    let astray = Route { key: unique("nowhere"), ..route.clone() };
    let tenure = hold(broker, &route.queue, 1).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        for (route, expected) in
            [(&route, Ok(())), (&astray, Err(PublishError::Unroutable)), (&full, Err(PublishError::Rejected))]
        {
            waiting.push((tenure.publish(&over(route, message("a")), LIMIT), expected));
        }
        let optional = Publish { mandatory: false, ..over(&astray, message("a")) };
        waiting.push((tenure.publish(&optional, LIMIT), Ok(())));
    }
    for (index, (outcome, expected)) in waiting.into_iter().enumerate() {
        assert_eq!(within(outcome).await, expected, "publish {index}");
    }
}

async fn a_rejected_publish_is_not_tried_again(broker: &Broker) {
    let fanout = exchange(ExchangeKind::Fanout);
    let (full, free) = (Queue { max_length: Some(1), ..queue(CLASSIC) }, queue(CLASSIC));
    let key = unique("key");
    let bindings = vec![to_queue(&fanout, &key, &full), to_queue(&fanout, &key, &free)];
    let route = Route { exchange: fanout.name.clone(), key, queue: free.name.clone() };
    declare(broker, Topology { exchanges: vec![fanout], queues: vec![full, free], bindings }).await;
    let other = open(broker, queue(QUORUM)).await;
    let tenure = hold(broker, &other.queue, 1).await;
    assert_eq!(send(&*tenure, &route, "a").await, Ok(()));
    assert_eq!(send(&*tenure, &route, "b").await, Err(PublishError::Rejected));
    assert_eq!(send(&*tenure, &other, "c").await, Ok(()));
    depth_becomes(broker, &route.queue, 2).await;
}

async fn a_missing_queue_cannot_be_held(broker: &Broker) {
    let missing = unique("missing");
    match within(broker.hold(Subscribe::new(missing.clone(), 1, "contract"))).await {
        Err(Error::Consume { queue, .. }) => assert_eq!(queue, missing.as_str()),
        other => panic!("an error was to come, and this did: {other:?}"),
    }
    let route = open(broker, queue(CLASSIC)).await;
    let tenure = hold(broker, &route.queue, 1).await;
    assert_eq!(send(&*tenure, &route, "works").await, Ok(()));
}

async fn closing_hands_all_that_was_held_to_the_next(broker: &Broker) {
    hands_over(broker, async |mut tenure| within(tenure.close()).await).await;
}

async fn dropping_hands_all_that_was_held_to_the_next(broker: &Broker) {
    hands_over(broker, async |tenure| drop(tenure)).await;
}

async fn hands_over(broker: &Broker, leave: impl AsyncFnOnce(Box<dyn Tenure>)) {
    let route = open_single(broker).await;
    let mut first = hold(broker, &route.queue, 1000).await;
    let mut second = hold(broker, &route.queue, 1000).await;
    let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for body in &all {
        assert_eq!(send(&*first, &route, body).await, Ok(()));
    }
    let held = take(&mut first, 100).await;
    assert_eq!(bodies(&held), all);
    nothing(&mut second).await;
    leave(first).await;
    let handed = take(&mut second, 100).await;
    assert_eq!(bodies(&handed), all);
    assert!(handed.iter().all(|delivery| delivery.redelivered));
    // It does nothing.
    held.into_iter().for_each(Delivery::ack);
    assert_eq!(send(&*second, &route, "later").await, Ok(()));
    let later = next(&mut second).await;
    assert_eq!((body(&later), later.redelivered), ("later".to_owned(), false));
}

async fn thousands_are_held_and_settled_in_any_order(broker: &Broker) {
    // More than RabbitMQ delivers from a quorum queue to whom it is told no limit.
    const ALL: usize = 3000;
    let route = open_single(broker).await;
    let mut first = hold(broker, &route.queue, 5000).await;
    let publishes = (0..ALL).map(|n| first.publish(&over(&route, message(n.to_string())), LIMIT));
    for outcome in publishes.collect::<Vec<_>>() {
        assert_eq!(within(outcome).await, Ok(()));
    }
    let held = take(&mut first, ALL).await;
    let (mut acked, mut kept): (Vec<_>, Vec<_>) =
        held.into_iter().enumerate().partition(|(index, _)| index % 7 != 0);
    fastrand::Rng::with_seed(7).shuffle(&mut acked);
    acked.into_iter().for_each(|(_, delivery)| delivery.ack());
    within(first.close()).await;
    assert!(kept.iter().all(|(_, delivery)| delivery.is_lost()));
    let mut second = hold(broker, &route.queue, 5000).await;
    let again = take(&mut second, kept.len()).await;
    kept.sort_by_key(|(index, _)| *index);
    let expected: Vec<String> = kept.iter().map(|(_, delivery)| body(delivery)).collect();
    assert_eq!(bodies(&again), expected);
    nothing(&mut second).await;
}

async fn after_the_close_nothing_is_sent(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut tenure = hold(broker, &route.queue, 10).await;
    assert_eq!(send(&*tenure, &route, "a").await, Ok(()));
    let held = next(&mut tenure).await;
    assert!(!held.is_lost());
    within(tenure.close()).await;
    assert!(held.is_lost());
    held.ack();
    let outcome = send(&*tenure, &route, "b").await;
    assert!(is_unavailable(&outcome), "{outcome:?}");
    assert!(within(tenure.next()).await.is_none());
    let mut subscription = subscribe(broker, &route.queue, 10).await;
    assert_eq!(consume(&mut subscription, 1).await, ["a"]);
    nothing(&mut subscription).await;
}

async fn to_cancel_is_to_close(broker: &Broker) {
    let route = open_single(broker).await;
    let mut tenure = hold(broker, &route.queue, 10).await;
    assert_eq!(send(&*tenure, &route, "a").await, Ok(()));
    let held = next(&mut tenure).await;
    within(tenure.cancel()).await;
    assert!(held.is_lost());
    assert!(is_unavailable(&send(&*tenure, &route, "b").await));
    assert_eq!(consume(&mut hold(broker, &route.queue, 10).await, 1).await, ["a"]);
}

async fn it_ends_with_its_queue(broker: &Broker) {
    let (route, other) = (open_single(broker).await, open(broker, queue(QUORUM)).await);
    let mut tenure = hold(broker, &route.queue, 10).await;
    assert_eq!(send(&*tenure, &route, "a").await, Ok(()));
    let held = next(&mut tenure).await;
    within(broker.delete(&route.queue)).await.unwrap();
    end(&mut tenure).await;
    assert!(held.is_lost());
    let outcome = send(&*tenure, &other, "b").await;
    assert!(is_unavailable(&outcome), "{outcome:?}");
    depth_becomes(broker, &other.queue, 0).await;
    let tenure = hold(broker, &other.queue, 10).await;
    assert_eq!(send(&*tenure, &other, "c").await, Ok(()));
}

async fn it_ends_with_the_transport(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut tenure = hold(broker, &route.queue, 10).await;
    assert_eq!(send(&*tenure, &route, "a").await, Ok(()));
    let waiting: Vec<_> = (0..10).map(|_| tenure.publish(&over(&route, message("pending")), LIMIT)).collect();
    within(broker.close()).await;
    let mut outcomes = BTreeSet::new();
    for outcome in waiting {
        outcomes.insert(format!("{:?}", within(outcome).await));
    }
    let expected = ["Ok(())", "Err(Closed)"].map(str::to_owned);
    assert!(outcomes.is_subset(&expected.into()), "{outcomes:?}");
    assert_eq!(send(&*tenure, &route, "b").await, Err(PublishError::Closed));
    end(&mut tenure).await;
    let refused = within(broker.hold(Subscribe::new(route.queue, 1, "contract"))).await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
}
