//! C4 and C5.

use crate::support::*;

on_every_transport![
    acked_is_gone,
    acks_may_come_in_any_order,
    requeued_comes_again_at_the_head,
    requeued_is_marked,
    dropped_unsettled_is_requeued,
    rejected_is_gone_without_a_dead_letter_exchange,
    a_cancelled_subscription_ends_after_what_is_at_hand,
    a_cancelled_subscription_leaves_the_rest_to_others,
    closing_gives_back_in_order,
    closing_carries_out_what_was_settled,
    closing_counts_as_a_return,
    dropping_gives_back,
    settling_after_the_close_is_harmless,
    cancel_and_close_may_be_repeated,
];

async fn acked_is_gone(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        assert_eq!(consume(&mut subscription, 2).await, ["a", "b"]);
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 0).await;
        nothing(&mut subscribe(broker, &route.queue, 1).await).await;
    }
}

async fn acks_may_come_in_any_order(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c", "d", "e"]).await;
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        let mut held = take(&mut subscription, 5).await;
        for index in [3, 0, 1] {
            held.remove(index).ack();
        }
        assert_eq!(bodies(&held), ["b", "e"]);
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 2).await;
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        assert_eq!(consume(&mut subscription, 2).await, ["b", "e"]);
    }
}

async fn requeued_comes_again_at_the_head(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        next(&mut subscription).await.requeue();
        assert_eq!(consume(&mut subscription, 3).await, ["a", "b", "c"]);
    }
}

async fn requeued_is_marked(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish(broker, &route, message("a")).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        for times in 0..3 {
            let delivery = next(&mut subscription).await;
            assert_eq!(delivery.redelivered, times > 0);
            // A classic queue counts nothing, and a quorum queue since 4.3 only failures.
            assert!(delivery.returned == 0 || delivery.returned == times, "{delivery:?}");
            assert!(kind != CLASSIC || delivery.returned == 0);
            delivery.requeue();
        }
    }
}

async fn dropped_unsettled_is_requeued(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        drop(next(&mut subscription).await);
        assert_eq!(consume(&mut subscription, 2).await, ["a", "b"]);
    }
}

async fn rejected_is_gone_without_a_dead_letter_exchange(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        next(&mut subscription).await.reject();
        assert_eq!(consume(&mut subscription, 1).await, ["b"]);
        within(subscription.close()).await;
        nothing(&mut subscribe(broker, &route.queue, 1).await).await;
    }
}

async fn a_cancelled_subscription_ends_after_what_is_at_hand(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c", "d"]).await;
        let mut subscription = subscribe(broker, &route.queue, 3).await;
        let first = next(&mut subscription).await;
        within(subscription.cancel()).await;
        // Between none and two more had arrived.
        let mut rest = Vec::new();
        while let Some(delivery) = within(subscription.next()).await {
            rest.push(delivery);
        }
        assert!(["b", "c"].starts_with(&bodies(&rest).iter().map(String::as_str).collect::<Vec<_>>()));
        publish(broker, &route, message("e")).await;
        assert!(within(subscription.next()).await.is_none(), "it has ended");
        // What is at hand can still be settled.
        let settled = 1 + rest.len() as u64;
        first.ack();
        rest.into_iter().for_each(taskhare::transport::Delivery::ack);
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 5 - settled).await;
    }
}

async fn a_cancelled_subscription_leaves_the_rest_to_others(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let mut cancelled = subscribe(broker, &route.queue, 1).await;
        let held = next(&mut cancelled).await;
        within(cancelled.cancel()).await;
        let mut other = subscribe(broker, &route.queue, 1).await;
        held.ack();
        assert_eq!(consume(&mut other, 2).await, ["b", "c"]);
    }
}

async fn closing_gives_back_in_order(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c", "d", "e"]).await;
        let mut subscription = subscribe(broker, &route.queue, 3).await;
        let held = take(&mut subscription, 3).await;
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 5).await;
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        let again = take(&mut subscription, 5).await;
        assert_eq!(bodies(&again), ["a", "b", "c", "d", "e"]);
        let redelivered: Vec<bool> = again.iter().map(|delivery| delivery.redelivered).collect();
        assert_eq!(redelivered, [true, true, true, false, false]);
        drop(held);
    }
}

async fn closing_carries_out_what_was_settled(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_numbers(broker, &route, 200).await;
        let mut subscription = subscribe(broker, &route.queue, 200).await;
        let mut held = take(&mut subscription, 200).await;
        let kept = held.pop().unwrap();
        held.into_iter().for_each(taskhare::transport::Delivery::ack);
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 1).await;
        drop(kept);
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        assert_eq!(consume(&mut subscription, 1).await, ["199"]);
    }
}

async fn closing_counts_as_a_return(broker: &Broker) {
    for (kind, counts) in [(CLASSIC, false), (QUORUM, true)] {
        let route = open(broker, queue(kind)).await;
        publish(broker, &route, message("a")).await;
        for times in 0..3 {
            let mut subscription = subscribe(broker, &route.queue, 1).await;
            let delivery = next(&mut subscription).await;
            assert_eq!(delivery.redelivered, times > 0);
            assert_eq!(delivery.returned, if counts { times } else { 0 });
            within(subscription.close()).await;
            drop(delivery);
        }
    }
}

async fn dropping_gives_back(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let mut subscription = subscribe(broker, &route.queue, 2).await;
        let held = next(&mut subscription).await;
        drop(subscription);
        depth_becomes(broker, &route.queue, 3).await;
        drop(held);
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        assert_eq!(consume(&mut subscription, 3).await, ["a", "b", "c"]);
    }
}

async fn settling_after_the_close_is_harmless(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        let mut subscription = subscribe(broker, &route.queue, 3).await;
        let mut held = take(&mut subscription, 3).await.into_iter();
        within(subscription.close()).await;
        held.next().unwrap().ack();
        held.next().unwrap().reject();
        held.next().unwrap().requeue();
        depth_becomes(broker, &route.queue, 3).await;
        let mut subscription = subscribe(broker, &route.queue, 3).await;
        assert_eq!(consume(&mut subscription, 3).await, ["a", "b", "c"]);
        nothing(&mut subscription).await;
    }
}

async fn cancel_and_close_may_be_repeated(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    within(subscription.cancel()).await;
    within(subscription.cancel()).await;
    within(subscription.close()).await;
    within(subscription.close()).await;
    within(subscription.cancel()).await;
    assert!(within(subscription.next()).await.is_none());
}
