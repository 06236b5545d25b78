//! C16.

use taskhare::topology::Queue;
use taskhare::topology::Topology;
use taskhare::transport::PublishError;

use crate::support::*;

on_every_transport![
    a_deleted_queue_is_gone_with_all_that_was_in_it,
    a_deleted_queue_can_be_declared_again_otherwise,
    a_queue_that_is_not_there_can_be_deleted,
];

async fn a_deleted_queue_is_gone_with_all_that_was_in_it(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        publish_all(broker, &route, &["a", "b"]).await;
        within(broker.delete(&route.queue)).await.unwrap();
        assert_eq!(within(broker.depth(&route.queue)).await.unwrap(), None);
        assert_eq!(try_publish(broker, &route, message("c")).await, Err(PublishError::Unroutable));
        nothing(&mut subscribe(broker, &dead.queue, 1).await).await;
    }
}

async fn a_deleted_queue_can_be_declared_again_otherwise(broker: &Broker) {
    for (kind, other) in [(QUORUM, CLASSIC), (CLASSIC, QUORUM)] {
        let queue = queue(kind);
        let route = open(broker, queue.clone()).await;
        publish_all(broker, &route, &["a"]).await;
        within(broker.delete(&route.queue)).await.unwrap();
        declare(broker, Topology { queues: vec![Queue::new(queue.name, other)], ..Topology::default() })
            .await;
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn a_queue_that_is_not_there_can_be_deleted(broker: &Broker) {
    within(broker.delete(&unique("nowhere"))).await.unwrap();
}
