//! C12: futures dropped halfway.

use std::collections::BTreeSet;

use taskhare::topology::ExchangeKind;
use taskhare::topology::Topology;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;

use crate::support::*;

/// More polls than any of these takes on RabbitMQ.
const POLLS: usize = 12;

on_every_transport![
    a_declare_may_be_dropped,
    a_publish_may_be_dropped,
    a_subscribe_may_be_dropped,
    a_next_may_be_dropped,
    a_depth_may_be_dropped,
    a_cancel_may_be_dropped,
    a_close_of_a_subscription_may_be_dropped,
    a_close_may_be_dropped,
    publishes_may_be_dropped_among_others,
];

async fn a_declare_may_be_dropped(broker: &Broker) {
    for polls in 0..POLLS {
        let (exchange, queue) = (exchange(ExchangeKind::Direct), queue(CLASSIC));
        let key = unique("key");
        let bindings = vec![to_queue(&exchange, &key, &queue)];
        let route = Route { exchange: exchange.name.clone(), key, queue: queue.name.clone() };
        let topology = Topology { exchanges: vec![exchange], queues: vec![queue], bindings };
        abandon(broker.declare(&topology), polls).await;
        declare(broker, topology).await;
        publish(broker, &route, message("a")).await;
        depth_becomes(broker, &route.queue, 1).await;
    }
}

async fn a_publish_may_be_dropped(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut subscription = subscribe(broker, &route.queue, 10).await;
    for polls in 0..POLLS {
        let (exchange, key) = (route.exchange.clone(), route.key.clone());
        let dropped = Publish { exchange, key, mandatory: true, message: message("dropped") };
        let outcome = abandon(broker.publish(&dropped, LIMIT), polls).await;
        publish(broker, &route, message("whole")).await;
        let mut got = consume(&mut subscription, 1).await;
        // The dropped one may have been published, and has been if it said so.
        if got == ["dropped"] {
            got = consume(&mut subscription, 1).await;
        } else {
            assert_eq!(outcome, None, "after {polls} polls");
        }
        assert_eq!(got, ["whole"], "after {polls} polls");
    }
}

async fn a_subscribe_may_be_dropped(broker: &Broker) {
    for kind in BOTH_KINDS {
        for polls in 0..POLLS {
            let route = open(broker, queue(kind)).await;
            publish_all(broker, &route, &["a", "b"]).await;
            let dropped = Subscribe::new(route.queue.clone(), 1, "dropped");
            drop(abandon(broker.subscribe(dropped), polls).await);
            // A subscriber nobody knows of would hold one of them for ever.
            let mut subscription = subscribe(broker, &route.queue, 2).await;
            let got = BTreeSet::from_iter(consume(&mut subscription, 2).await);
            assert_eq!(got, BTreeSet::from(["a".into(), "b".into()]), "after {polls} polls");
        }
    }
}

async fn a_next_may_be_dropped(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    for polls in 0..POLLS {
        assert!(abandon(subscription.next(), polls).await.is_none(), "nothing was published");
    }
    publish_all(broker, &route, &["a", "b", "c"]).await;
    let mut got = Vec::new();
    while got.len() < 3 {
        for polls in 0..POLLS {
            if let Some(delivery) = abandon(subscription.next(), polls).await {
                let delivery = delivery.unwrap();
                got.push(body(&delivery));
                delivery.ack();
            }
        }
    }
    assert_eq!(got, ["a", "b", "c"]);
}

async fn a_depth_may_be_dropped(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let missing = unique("missing");
    for polls in 0..POLLS {
        abandon(broker.depth(&route.queue), polls).await;
        abandon(broker.depth(&missing), polls).await;
        assert_eq!(within(broker.depth(&route.queue)).await.unwrap(), Some(0));
    }
}

async fn a_cancel_may_be_dropped(broker: &Broker) {
    for polls in 0..POLLS {
        let route = open(broker, queue(QUORUM)).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        let held = next(&mut subscription).await;
        abandon(subscription.cancel(), polls).await;
        held.ack();
        within(subscription.close()).await;
        let mut other = subscribe(broker, &route.queue, 1).await;
        assert_eq!(consume(&mut other, 1).await, ["b"], "after {polls} polls");
    }
}

async fn a_close_of_a_subscription_may_be_dropped(broker: &Broker) {
    for polls in 0..POLLS {
        let route = open(broker, queue(QUORUM)).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let mut subscription = subscribe(broker, &route.queue, 2).await;
        let held = next(&mut subscription).await;
        abandon(subscription.close(), polls).await;
        drop(subscription);
        drop(held);
        depth_becomes(broker, &route.queue, 2).await;
        let mut other = subscribe(broker, &route.queue, 2).await;
        // In order only if it was closed to the end.
        let got = BTreeSet::from_iter(consume(&mut other, 2).await);
        assert_eq!(got, BTreeSet::from(["a".into(), "b".into()]), "after {polls} polls");
    }
}

async fn a_close_may_be_dropped(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    abandon(broker.close(), 1).await;
    within(broker.close()).await;
    assert!(try_publish(broker, &route, message("a")).await.is_err());
}

async fn publishes_may_be_dropped_among_others(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut publishing = tokio::task::JoinSet::new();
    for index in 0..300 {
        let (broker, route) = (broker.clone(), route.clone());
        publishing.spawn(async move {
            let publish = try_publish(&broker, &route, message(index.to_string()));
            let polls = if index % 2 == 0 { index % POLLS } else { usize::MAX };
            (index, abandon(publish, polls).await)
        });
    }
    let outcomes = within(publishing.join_all()).await;
    assert!(outcomes.iter().all(|(index, outcome)| match outcome {
        Some(outcome) => outcome.is_ok(),
        None => index % 2 == 0,
    }));
    publish(broker, &route, message("end")).await;
    let mut subscription = subscribe(broker, &route.queue, 50).await;
    let mut got = BTreeSet::new();
    loop {
        let body = consume(&mut subscription, 1).await.remove(0);
        if body == "end" {
            break;
        }
        assert!(got.insert(body), "each once");
    }
    let confirmed = outcomes.iter().filter(|(_, outcome)| outcome.is_some());
    let lost: Vec<usize> =
        confirmed.map(|(index, _)| *index).filter(|index| !got.contains(&index.to_string())).collect();
    assert!(lost.is_empty(), "confirmed and not delivered: {lost:?}");
}
