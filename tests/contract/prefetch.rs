//! C14.

use taskhare::transport::Delivery;

use crate::support::*;

on_every_transport![
    as_many_more_as_set_come,
    what_was_held_no_longer_counts,
    a_smaller_prefetch_counts_only_what_comes_after_it,
    of_many_settings_the_last_one_counts,
    what_was_on_its_way_comes_once_and_in_order,
    what_comes_all_the_time_does_not_come_back,
    a_subscription_that_waits_has_room_for_more,
    after_a_cancel_setting_the_prefetch_starts_nothing,
    closing_in_the_midst_gives_back_everything,
];

const BODIES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

async fn as_many_more_as_set_come(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &BODIES).await;
        let mut subscription = subscribe(broker, &route.queue, 2).await;
        let mut held = take(&mut subscription, 2).await;
        subscription.set_prefetch(3);
        held.extend(take(&mut subscription, 3).await);
        nothing(&mut subscription).await;
        depth_becomes(broker, &route.queue, 3).await;
        assert_eq!(bodies(&held), ["a", "b", "c", "d", "e"]);
        held.into_iter().for_each(Delivery::ack);
        assert_eq!(consume(&mut subscription, 3).await, ["f", "g", "h"]);
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn what_was_held_no_longer_counts(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &BODIES).await;
        let mut subscription = subscribe(broker, &route.queue, 2).await;
        let old = take(&mut subscription, 2).await;
        subscription.set_prefetch(2);
        let mut new = take(&mut subscription, 2).await;
        old.into_iter().for_each(Delivery::ack);
        nothing(&mut subscription).await;
        new.remove(0).ack();
        assert_eq!(bodies(&take(&mut subscription, 1).await), ["e"]);
    }
}

async fn a_smaller_prefetch_counts_only_what_comes_after_it(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &BODIES).await;
        let mut subscription = subscribe(broker, &route.queue, 4).await;
        let held = take(&mut subscription, 4).await;
        subscription.set_prefetch(1);
        let next_one = take(&mut subscription, 1).await;
        nothing(&mut subscription).await;
        held.into_iter().for_each(Delivery::ack);
        nothing(&mut subscription).await;
        next_one.into_iter().for_each(Delivery::ack);
        assert_eq!(consume(&mut subscription, 3).await, ["f", "g", "h"]);
    }
}

async fn of_many_settings_the_last_one_counts(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        for prefetch in [5, 1, 0, 7, 2] {
            subscription.set_prefetch(prefetch);
        }
        nothing(&mut subscription).await;
        publish_all(broker, &route, &BODIES).await;
        let _held = take(&mut subscription, 2).await;
        nothing(&mut subscription).await;
        depth_becomes(broker, &route.queue, 6).await;
    }
}

async fn what_was_on_its_way_comes_once_and_in_order(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let expected = publish_numbers(broker, &route, 200).await;
        let mut subscription = subscribe(broker, &route.queue, 10).await;
        let mut got = Vec::new();
        for round in 0..40 {
            subscription.set_prefetch(if round % 2 == 0 { 30 } else { 3 });
            got.extend(consume(&mut subscription, 5).await);
        }
        assert_eq!(got, expected);
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 0).await;
    }
}

/// What is on its way from the broker while its consumer is another would be returned there, and counted as returned.
async fn what_comes_all_the_time_does_not_come_back(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let expected = publish_numbers(broker, &route, 2_000).await;
        let mut subscription = subscribe(broker, &route.queue, 20).await;
        let mut got = Vec::new();
        for number in 0..expected.len() {
            if number % 100 == 50 {
                subscription.set_prefetch(if number % 200 == 50 { 80 } else { 20 });
            }
            let delivery = next(&mut subscription).await;
            assert!(!delivery.redelivered, "number {number}");
            got.extend(bodies(std::slice::from_ref(&delivery)));
            delivery.ack();
        }
        assert_eq!(got, expected);
    }
}

async fn a_subscription_that_waits_has_room_for_more(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let held = next(&mut subscription).await;
        let mut other = subscribe(broker, &route.queue, 1).await;
        let taken = next(&mut other).await;
        subscription.set_prefetch(1);
        nothing(&mut subscription).await;
        publish_all(broker, &route, &["c"]).await;
        assert_eq!(consume(&mut subscription, 1).await, ["c"]);
        held.ack();
        taken.ack();
    }
}

async fn after_a_cancel_setting_the_prefetch_starts_nothing(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        let held = next(&mut subscription).await;
        within(subscription.cancel()).await;
        subscription.set_prefetch(5);
        let came = within(subscription.next()).await;
        assert!(came.is_none(), "{came:?}");
        held.ack();
        assert_eq!(consume(&mut subscribe(broker, &route.queue, 1).await, 1).await, ["b"]);
    }
}

async fn closing_in_the_midst_gives_back_everything(broker: &Broker) {
    for kind in BOTH_KINDS {
        for polls in 0..4 {
            let route = open(broker, queue(kind)).await;
            publish_all(broker, &route, &BODIES).await;
            let mut subscription = subscribe(broker, &route.queue, 2).await;
            let held = take(&mut subscription, 2).await;
            subscription.set_prefetch(3);
            let taken = abandon(subscription.next(), polls).await;
            within(subscription.close()).await;
            depth_becomes(broker, &route.queue, 8).await;
            drop((held, taken));
        }
    }
}
