//! C18.

use taskhare::topology::Binding;
use taskhare::topology::Exchange;
use taskhare::topology::ExchangeKind;
use taskhare::topology::Queue;
use taskhare::topology::Topology;
use taskhare::transport::Message;
use taskhare::transport::PublishError;
use taskhare::transport::Value;

use crate::support::*;

on_every_transport![
    copies_go_to_further_keys,
    a_queue_that_two_keys_lead_to_gets_one_copy,
    the_keys_of_the_copies_arrive,
    one_key_that_leads_somewhere_is_enough,
    a_copy_that_goes_somewhere_keeps_it_from_the_alternate,
    one_queue_that_refuses_rejects_it_though_others_hold_it,
];

/// `a` with these further keys.
fn copied(keys: &[&str]) -> Message {
    let mut message = message("a");
    message.headers.insert("CC", Value::List(keys.iter().map(|key| Value::from(*key)).collect()));
    message
}

/// A direct exchange with a queue behind each of `keys`.
async fn keyed(broker: &Broker, keys: &[&str], queues: &[Queue], alternate: Option<&Exchange>) -> Exchange {
    let direct =
        Exchange { alternate: alternate.map(|it| it.name.clone()), ..exchange(ExchangeKind::Direct) };
    let pairs = keys.iter().zip(queues);
    let bindings: Vec<Binding> =
        pairs.map(|(key, queue)| to_queue(&direct, &text_name(key), queue)).collect();
    let exchanges = alternate.into_iter().chain([&direct]).cloned().collect();
    declare(broker, Topology { exchanges, queues: queues.to_vec(), bindings }).await;
    direct
}

fn to(exchange: &Exchange, key: &str, queue: &Queue) -> Route {
    Route { exchange: exchange.name.clone(), key: text_name(key), queue: queue.name.clone() }
}

async fn copies_go_to_further_keys(broker: &Broker) {
    let queues: Vec<Queue> = (0..4).map(|_| queue(QUORUM)).collect();
    let direct = keyed(broker, &["a", "b", "c", "d"], &queues, None).await;
    publish(broker, &to(&direct, "a", &queues[0]), copied(&["b", "c", "nowhere"])).await;
    for (queue, expected) in queues.iter().zip([1, 1, 1, 0]) {
        depth_becomes(broker, &queue.name, expected).await;
    }
}

async fn a_queue_that_two_keys_lead_to_gets_one_copy(broker: &Broker) {
    for kind in BOTH_KINDS {
        let only = queue(kind);
        let direct = keyed(broker, &["a", "b"], &[only.clone(), only.clone()], None).await;
        publish(broker, &to(&direct, "a", &only), copied(&["b", "a"])).await;
        depth_becomes(broker, &only.name, 1).await;
    }
}

async fn the_keys_of_the_copies_arrive(broker: &Broker) {
    let queues = [queue(QUORUM), queue(CLASSIC)];
    let direct = keyed(broker, &["a", "b"], &queues, None).await;
    publish(broker, &to(&direct, "a", &queues[0]), copied(&["b"])).await;
    for queue in queues {
        let delivery = next(&mut subscribe(broker, &queue.name, 1).await).await;
        assert_eq!(delivery.message, copied(&["b"]));
        delivery.ack();
    }
}

async fn one_key_that_leads_somewhere_is_enough(broker: &Broker) {
    let only = queue(QUORUM);
    let direct = keyed(broker, &["b"], std::slice::from_ref(&only), None).await;
    let table: [(&[&str], _, u64); 3] = [
        (&["b"], Ok(()), 1),
        (&["nowhere", "b"], Ok(()), 2),
        (&["nowhere"], Err(PublishError::Unroutable), 2),
    ];
    for (keys, expected, depth) in table {
        let outcome = try_publish(broker, &to(&direct, "a", &only), copied(keys)).await;
        assert_eq!(outcome, expected, "{keys:?}");
        depth_becomes(broker, &only.name, depth).await;
    }
}

async fn a_copy_that_goes_somewhere_keeps_it_from_the_alternate(broker: &Broker) {
    let fanout = exchange(ExchangeKind::Fanout);
    let (only, astray) = (queue(QUORUM), queue(QUORUM));
    let direct = keyed(broker, &["b"], std::slice::from_ref(&only), Some(&fanout)).await;
    let bindings = vec![to_queue(&fanout, &text_name("any"), &astray)];
    declare(broker, Topology { exchanges: vec![], queues: vec![astray.clone()], bindings }).await;
    for (keys, expected) in [(["b"], [1, 0]), (["nowhere"], [1, 1])] {
        publish(broker, &to(&direct, "a", &only), copied(&keys)).await;
        depth_becomes(broker, &only.name, expected[0]).await;
        depth_becomes(broker, &astray.name, expected[1]).await;
    }
}

async fn one_queue_that_refuses_rejects_it_though_others_hold_it(broker: &Broker) {
    let (full, free) = (Queue { max_length: Some(1), ..queue(CLASSIC) }, queue(QUORUM));
    let direct = keyed(broker, &["a", "b"], &[full.clone(), free.clone()], None).await;
    publish(broker, &to(&direct, "a", &full), message("the one")).await;
    depth_becomes(broker, &full.name, 1).await;
    // Over a tenure, which sends it once.
    let tenure = hold(broker, &free.name, 1).await;
    let publish = over(&to(&direct, "a", &full), copied(&["b"]));
    assert_eq!(within(tenure.publish(&publish, LIMIT)).await, Err(PublishError::Rejected));
    drop(tenure);
    depth_becomes(broker, &free.name, 1).await;
}
