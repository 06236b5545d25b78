//! C15.

use taskhare::transport::Delivery;

use crate::support::*;

on_every_transport![
    what_waits_is_gone_and_what_is_held_stays,
    what_is_purged_is_not_dead_lettered,
    a_queue_that_is_not_there_has_nothing_to_purge,
];

async fn what_waits_is_gone_and_what_is_held_stays(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c", "d"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        let held = next(&mut subscription).await;
        depth_becomes(broker, &route.queue, 3).await;
        assert_eq!(within(broker.purge(&route.queue)).await.unwrap(), 3);
        depth_becomes(broker, &route.queue, 0).await;
        held.requeue();
        let again = take(&mut subscription, 1).await;
        assert_eq!(bodies(&again), ["a"]);
        again.into_iter().for_each(Delivery::ack);
        publish_all(broker, &route, &["e"]).await;
        assert_eq!(consume(&mut subscription, 1).await, ["e"], "it goes on");
    }
}

async fn what_is_purged_is_not_dead_lettered(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        publish_all(broker, &route, &["a", "b"]).await;
        assert_eq!(within(broker.purge(&route.queue)).await.unwrap(), 2);
        nothing(&mut subscribe(broker, &dead.queue, 1).await).await;
    }
}

async fn a_queue_that_is_not_there_has_nothing_to_purge(broker: &Broker) {
    assert_eq!(within(broker.purge(&unique("nowhere"))).await.unwrap(), 0);
}
