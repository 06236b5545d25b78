//! C11.

use std::time::Duration;

use taskhare::Error;
use taskhare::topology::Queue;
use taskhare::topology::Topology;
use taskhare::transport::PublishError;
use taskhare::transport::Subscribe;

use crate::support::*;

on_every_transport![
    a_pending_next_ends,
    a_subscription_made_before_ends,
    pending_publishes_end,
    later_calls_say_that_it_is_closed,
    closing_twice_is_closing_once,
    settling_afterwards_is_harmless,
];

async fn a_pending_next_ends(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    let waiting = tokio::spawn(async move { subscription.next().await.is_none() });
    tokio::time::sleep(Duration::from_millis(20)).await;
    within(broker.close()).await;
    assert!(within(waiting).await.unwrap());
}

async fn a_subscription_made_before_ends(broker: &Broker) {
    let route = open(broker, queue(CLASSIC)).await;
    publish_all(broker, &route, &["a", "b"]).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    within(broker.close()).await;
    // Whatever had arrived may still come, and then the end.
    let mut held = Vec::new();
    while let Some(delivery) = within(subscription.next()).await {
        held.push(delivery);
    }
    within(subscription.cancel()).await;
    within(subscription.close()).await;
}

async fn pending_publishes_end(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut publishing = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (broker, route) = (broker.clone(), route.clone());
        publishing.spawn(async move {
            while try_publish(&broker, &route, message("a")).await.is_ok() {
                // A paused clock goes on only when there is a pause.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            try_publish(&broker, &route, message("a")).await
        });
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    within(broker.close()).await;
    let results = within(publishing.join_all()).await;
    assert!(results.iter().all(|result| *result == Err(PublishError::Closed)), "{results:?}");
}

async fn later_calls_say_that_it_is_closed(broker: &Broker) {
    let existing = queue(CLASSIC);
    let route = open(broker, existing.clone()).await;
    within(broker.close()).await;
    assert_eq!(try_publish(broker, &route, message("a")).await, Err(PublishError::Closed));
    for queue in [existing, queue(CLASSIC)] {
        let topology = Topology { queues: vec![queue], ..Topology::default() };
        let declared = within(broker.declare(&topology)).await;
        assert!(matches!(declared, Err(Error::Closed)), "{declared:?}");
    }
    let subscribe = Subscribe::new(route.queue.clone(), 1, "contract");
    let subscribed = within(broker.subscribe(subscribe)).await;
    assert!(matches!(subscribed, Err(Error::Closed)), "{subscribed:?}");
    let depth = within(broker.depth(&route.queue)).await;
    assert!(matches!(depth, Err(Error::Closed)), "{depth:?}");
}

async fn closing_twice_is_closing_once(broker: &Broker) {
    tokio::join!(within(broker.close()), within(broker.close()));
    within(broker.close()).await;
}

async fn settling_afterwards_is_harmless(broker: &Broker) {
    let route = open(broker, Queue { max_length: Some(5), ..queue(QUORUM) }).await;
    publish_all(broker, &route, &["a", "b", "c"]).await;
    let mut subscription = subscribe(broker, &route.queue, 3).await;
    let mut held = take(&mut subscription, 3).await.into_iter();
    within(broker.close()).await;
    held.next().unwrap().ack();
    held.next().unwrap().reject();
    held.next().unwrap().requeue();
}
