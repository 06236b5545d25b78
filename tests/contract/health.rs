//! C19 health.

use taskhare::transport::Health;

use crate::support::*;

on_every_transport![nothing_is_told_while_all_is_well];

async fn nothing_is_told_while_all_is_well(broker: &Broker) {
    let mut health = broker.health();
    let route = open(broker, queue(QUORUM)).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    publish(broker, &route, message("a")).await;
    next(&mut subscription).await.ack();
    assert_eq!(*health.borrow_and_update(), Health::default());
}
