//! C6.

use std::time::Duration;

use taskhare::topology::Queue;
use tokio::time::Instant;

use crate::support::*;

on_every_transport![
    the_limit_of_the_queue_dead_letters,
    the_limit_of_the_message_dead_letters,
    the_shorter_limit_counts,
    expiry_is_from_the_head_only,
    an_expired_message_is_not_delivered,
    expired_without_a_dead_letter_exchange_is_gone,
    what_is_delivered_does_not_expire,
    what_comes_back_too_late_expires,
    a_dead_letter_does_not_expire_again,
    many_expire_in_order,
];

const LONG: Duration = Duration::from_secs(3600);

/// Brokers count in whole milliseconds: what is published late in one expires early in another.
const ROUNDING: Duration = Duration::from_millis(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn has_passed(since: Instant, ttl: Duration) {
    assert!(since.elapsed() + ROUNDING >= ttl, "{ttl:?} was over after {:?}", since.elapsed());
}

async fn the_limit_of_the_queue_dead_letters(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |queue| queue.message_ttl = Some(ms(300))).await;
        let published = Instant::now();
        publish(broker, &route, message("a")).await;
        let mut subscription = subscribe(broker, &dead.queue, 1).await;
        assert_eq!(consume(&mut subscription, 1).await, ["a"]);
        has_passed(published, ms(300));
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn the_limit_of_the_message_dead_letters(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        let published = Instant::now();
        publish(broker, &route, expiring("a", ms(300))).await;
        let mut subscription = subscribe(broker, &dead.queue, 1).await;
        assert_eq!(consume(&mut subscription, 1).await, ["a"]);
        has_passed(published, ms(300));
    }
}

async fn the_shorter_limit_counts(broker: &Broker) {
    for kind in BOTH_KINDS {
        for (queues, messages) in [(LONG, ms(250)), (ms(250), LONG)] {
            let (route, dead) = open_with_dead(broker, kind, |queue| queue.message_ttl = Some(queues)).await;
            publish(broker, &route, expiring("a", messages)).await;
            let mut subscription = subscribe(broker, &dead.queue, 1).await;
            assert_eq!(consume(&mut subscription, 1).await, ["a"]);
        }
    }
}

async fn expiry_is_from_the_head_only(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        let published = Instant::now();
        publish(broker, &route, expiring("long", ms(1_500))).await;
        publish(broker, &route, expiring("short", ms(100))).await;
        let mut subscription = subscribe(broker, &dead.queue, 5).await;
        nothing(&mut subscription).await;
        depth_becomes(broker, &route.queue, 2).await;
        assert_eq!(consume(&mut subscription, 2).await, ["long", "short"]);
        has_passed(published, ms(1_500));
    }
}

async fn an_expired_message_is_not_delivered(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        publish(broker, &route, message("a")).await;
        publish(broker, &route, expiring("b", ms(100))).await;
        publish(broker, &route, message("c")).await;
        tokio::time::sleep(ms(300)).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        assert_eq!(consume(&mut subscription, 2).await, ["a", "c"]);
        let mut subscription = subscribe(broker, &dead.queue, 1).await;
        assert_eq!(consume(&mut subscription, 1).await, ["b"]);
    }
}

async fn expired_without_a_dead_letter_exchange_is_gone(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, Queue { message_ttl: Some(ms(100)), ..queue(kind) }).await;
        publish_all(broker, &route, &["a", "b"]).await;
        depth_becomes(broker, &route.queue, 0).await;
        nothing(&mut subscribe(broker, &route.queue, 1).await).await;
    }
}

async fn what_is_delivered_does_not_expire(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |queue| queue.message_ttl = Some(ms(500))).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        publish(broker, &route, message("a")).await;
        let held = next(&mut subscription).await;
        tokio::time::sleep(ms(700)).await;
        held.ack();
        within(subscription.close()).await;
        nothing(&mut subscribe(broker, &dead.queue, 1).await).await;
        depth_becomes(broker, &route.queue, 0).await;
    }
}

async fn what_comes_back_too_late_expires(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |queue| queue.message_ttl = Some(ms(500))).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        publish(broker, &route, message("a")).await;
        let held = next(&mut subscription).await;
        tokio::time::sleep(ms(700)).await;
        held.requeue();
        assert_eq!(consume(&mut subscribe(broker, &dead.queue, 1).await, 1).await, ["a"]);
        nothing(&mut subscription).await;
    }
}

async fn a_dead_letter_does_not_expire_again(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |_| ()).await;
        publish(broker, &route, expiring("a", ms(100))).await;
        depth_becomes(broker, &dead.queue, 1).await;
        tokio::time::sleep(ms(300)).await;
        let delivery = next(&mut subscribe(broker, &dead.queue, 1).await).await;
        assert_eq!(delivery.message.expiration, None);
        delivery.ack();
    }
}

async fn many_expire_in_order(broker: &Broker) {
    for kind in BOTH_KINDS {
        let (route, dead) = open_with_dead(broker, kind, |queue| queue.message_ttl = Some(ms(200))).await;
        let expected = publish_numbers(broker, &route, 100).await;
        let mut subscription = subscribe(broker, &dead.queue, 10).await;
        assert_eq!(consume(&mut subscription, 100).await, expected);
    }
}
