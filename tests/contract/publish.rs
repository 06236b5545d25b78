//! C2, C7, and how exchanges route.

use taskhare::topology::Binding;
use taskhare::topology::Exchange;
use taskhare::topology::ExchangeKind;
use taskhare::topology::Overflow;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::topology::Topology;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::PublishError;
use taskhare::transport::Value;

use crate::support::*;

on_every_transport![
    a_published_message_is_in_its_queue,
    what_reaches_no_queue_is_unroutable,
    what_need_not_arrive_is_fine_without_a_queue,
    what_no_exchange_takes_is_refused,
    after_a_refusal_publishing_works,
    hundreds_at_once_are_told_apart,
    a_full_queue_rejects,
    a_full_queue_takes_more_once_it_has_room,
    one_full_queue_of_two_rejects,
    a_full_queue_that_drops_its_head_keeps_the_newest,
    what_is_held_is_not_dropped_from_the_head,
    what_is_dropped_from_the_head_is_dead_lettered,
    a_topic_matches_words,
    a_fanout_reaches_all,
    exchanges_pass_on_to_exchanges,
    a_queue_reached_twice_gets_one_copy,
    what_matches_nothing_goes_to_the_alternate,
    what_matches_something_does_not_go_to_the_alternate,
];

async fn a_published_message_is_in_its_queue(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a", "b", "c"]).await;
        depth_becomes(broker, &route.queue, 3).await;
    }
}

async fn what_reaches_no_queue_is_unroutable(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let astray = Route { key: unique("nowhere"), ..route.clone() };
    assert_eq!(try_publish(broker, &astray, message("a")).await, Err(PublishError::Unroutable));
    publish(broker, &route, message("b")).await;
    depth_becomes(broker, &route.queue, 1).await;
}

async fn what_need_not_arrive_is_fine_without_a_queue(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let (exchange, key) = (route.exchange, unique("nowhere"));
    let publish = Publish { exchange, key, mandatory: false, message: message("a") };
    assert_eq!(within(broker.publish(&publish, LIMIT)).await, Ok(()));
}

async fn what_no_exchange_takes_is_refused(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let astray = Route { exchange: unique("missing"), ..route };
    match try_publish(broker, &astray, message("a")).await {
        Err(PublishError::Refused(reason)) => assert!(reason.contains(astray.exchange.as_str()), "{reason}"),
        other => panic!("a refusal was to come, and this did: {other:?}"),
    }
}

async fn after_a_refusal_publishing_works(broker: &Broker) {
    let route = open(broker, queue(QUORUM)).await;
    let astray = Route { exchange: unique("missing"), ..route.clone() };
    for round in 0..5 {
        let (refused, taken) = tokio::join!(
            try_publish(broker, &astray, message("a")),
            try_publish(broker, &route, message("b"))
        );
        assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?} in round {round}");
        assert_eq!(taken, Ok(()), "in round {round}");
    }
    // Where a refusal costs the channel, what was on its way is published again: at least five, perhaps more.
    let held = async {
        loop {
            if broker.depth(&route.queue).await.unwrap() >= Some(5) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(held).await;
}

async fn hundreds_at_once_are_told_apart(broker: &Broker) {
    let full = open(broker, Queue { max_length: Some(1), ..queue(CLASSIC) }).await;
    publish(broker, &full, message("the one")).await;
    depth_becomes(broker, &full.queue, 1).await;
    let open = open(broker, queue(QUORUM)).await;
    let astray = Route { key: unique("nowhere"), ..open.clone() };
    let mut publishing = tokio::task::JoinSet::new();
    for index in 0..300 {
        let (route, expected) = match index % 3 {
            0 => (open.clone(), Ok(())),
            1 => (astray.clone(), Err(PublishError::Unroutable)),
            _ => (full.clone(), Err(PublishError::Rejected)),
        };
        let broker = broker.clone();
        publishing.spawn(async move {
            let message = Message { id: Some(index.to_string()), ..message("a") };
            assert_eq!(try_publish(&broker, &route, message).await, expected, "publish {index}");
        });
    }
    within(publishing.join_all()).await;
    depth_becomes(broker, &open.queue, 100).await;
    depth_becomes(broker, &full.queue, 1).await;
}

async fn a_full_queue_rejects(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, Queue { max_length: Some(3), ..queue(kind) }).await;
        let taken = fill(broker, &route).await;
        // Quorum queues overshoot a little.
        assert!((3..10).contains(&taken), "it took {taken}");
        depth_becomes(broker, &route.queue, taken).await;
    }
}

async fn a_full_queue_takes_more_once_it_has_room(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, Queue { max_length: Some(3), ..queue(kind) }).await;
        let taken = fill(broker, &route).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        for _ in 0..taken {
            next(&mut subscription).await.ack();
        }
        within(subscription.close()).await;
        depth_becomes(broker, &route.queue, 0).await;
        publish(broker, &route, message("more")).await;
    }
}

async fn one_full_queue_of_two_rejects(broker: &Broker) {
    let fanout = exchange(ExchangeKind::Fanout);
    let (full, free) = (Queue { max_length: Some(1), ..queue(CLASSIC) }, queue(CLASSIC));
    let key = unique("key");
    let bindings = vec![to_queue(&fanout, &key, &full), to_queue(&fanout, &key, &free)];
    let route = Route { exchange: fanout.name.clone(), key, queue: full.name.clone() };
    declare(broker, Topology { exchanges: vec![fanout], queues: vec![full, free], bindings }).await;
    assert_eq!(fill(broker, &route).await, 1);
}

/// Publishes until it is rejected; how many were taken.
async fn fill(broker: &Broker, route: &Route) -> u64 {
    for taken in 0..100 {
        match try_publish(broker, route, message("a")).await {
            Ok(()) => {}
            Err(PublishError::Rejected) => return taken,
            Err(other) => panic!("a rejection was to come, and this did: {other:?}"),
        }
    }
    panic!("it is never full");
}

fn dropping(kind: QueueKind, most: u64) -> Queue {
    Queue { max_length: Some(most), overflow: Overflow::DropHead, ..queue(kind) }
}

async fn a_full_queue_that_drops_its_head_keeps_the_newest(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, dropping(kind, 2)).await;
        publish_all(broker, &route, &["a", "b", "c", "d", "e"]).await;
        depth_becomes(broker, &route.queue, 2).await;
        let mut subscription = subscribe(broker, &route.queue, 5).await;
        assert_eq!(consume(&mut subscription, 2).await, ["d", "e"]);
        nothing(&mut subscription).await;
    }
}

async fn what_is_held_is_not_dropped_from_the_head(broker: &Broker) {
    for kind in BOTH_KINDS {
        let route = open(broker, dropping(kind, 1)).await;
        let mut subscription = subscribe(broker, &route.queue, 1).await;
        publish_all(broker, &route, &["a"]).await;
        let held = next(&mut subscription).await;
        publish_all(broker, &route, &["b", "c"]).await;
        depth_becomes(broker, &route.queue, 1).await;
        held.ack();
        assert_eq!(consume(&mut subscription, 1).await, ["c"]);
    }
}

async fn what_is_dropped_from_the_head_is_dead_lettered(broker: &Broker) {
    for kind in BOTH_KINDS {
        let drops = |queue: &mut Queue| {
            queue.max_length = Some(1);
            queue.overflow = Overflow::DropHead;
        };
        let (route, dead) = open_with_dead(broker, kind, drops).await;
        publish_all(broker, &route, &["a", "b"]).await;
        let delivery = next(&mut subscribe(broker, &dead.queue, 1).await).await;
        assert_eq!(body(&delivery), "a");
        let reason = delivery.message.headers.get("x-first-death-reason");
        assert_eq!(reason.and_then(Value::as_text), Some("maxlen"));
        delivery.ack();
    }
}

async fn a_topic_matches_words(broker: &Broker) {
    let table: [(&str, &[&str], &[&str]); 8] = [
        ("a.b", &["a.b"], &["a", "a.b.c", "b.a", "a.bb"]),
        ("a.*", &["a.b", "a.c"], &["a", "a.b.c"]),
        ("*.b", &["a.b"], &["b", "a.a.b"]),
        ("a.#", &["a", "a.b", "a.b.c"], &["b.a", "aa"]),
        ("#.z", &["z", "a.z", "a.b.z"], &["z.a"]),
        ("a.#.z", &["a.z", "a.b.z", "a.b.c.z"], &["a", "z"]),
        ("*.*", &["a.b"], &["a", "a.b.c"]),
        ("#", &["a", "a.b"], &[]),
    ];
    for (pattern, matching, others) in table {
        let topic = exchange(ExchangeKind::Topic);
        let into = queue(CLASSIC);
        let bindings = vec![to_queue(&topic, &text_name(pattern), &into)];
        let exchange = topic.name.clone();
        declare(broker, Topology { exchanges: vec![topic], queues: vec![into.clone()], bindings }).await;
        for (keys, expected) in [(matching, Ok(())), (others, Err(PublishError::Unroutable))] {
            for key in keys {
                let route =
                    Route { exchange: exchange.clone(), key: text_name(key), queue: into.name.clone() };
                let got = try_publish(broker, &route, message("a")).await;
                assert_eq!(got, expected, "{pattern:?} and {key:?}");
            }
        }
        depth_becomes(broker, &into.name, matching.len() as u64).await;
    }
}

async fn a_fanout_reaches_all(broker: &Broker) {
    let fanout = exchange(ExchangeKind::Fanout);
    let queues: Vec<Queue> = (0..3).map(|_| queue(CLASSIC)).collect();
    let bindings = queues.iter().map(|queue| to_queue(&fanout, &unique("ignored"), queue)).collect();
    let way = publish_through(broker, &[fanout], &queues, bindings, "any").await;
    assert_eq!(way, [1, 1, 1]);
}

async fn exchanges_pass_on_to_exchanges(broker: &Broker) {
    let (first, second) = (exchange(ExchangeKind::Topic), exchange(ExchangeKind::Direct));
    let (near, far) = (queue(CLASSIC), queue(QUORUM));
    let bindings = vec![
        to_exchange(&first, &text_name("a.#"), &second),
        to_queue(&second, &text_name("a.b"), &far),
        to_queue(&second, &text_name("a.#"), &near),
        // Round in a circle.
        to_exchange(&second, &text_name("a.b"), &first),
    ];
    assert_eq!(publish_through(broker, &[first, second], &[near, far], bindings, "a.b").await, [0, 1]);
}

async fn a_queue_reached_twice_gets_one_copy(broker: &Broker) {
    let (first, second) = (exchange(ExchangeKind::Topic), exchange(ExchangeKind::Fanout));
    let only = queue(CLASSIC);
    let bindings = vec![
        to_queue(&first, &text_name("a.*"), &only),
        to_queue(&first, &text_name("#"), &only),
        to_exchange(&first, &text_name("a.b"), &second),
        to_queue(&second, &text_name("any"), &only),
    ];
    assert_eq!(publish_through(broker, &[first, second], &[only], bindings, "a.b").await, [1]);
}

async fn what_matches_nothing_goes_to_the_alternate(broker: &Broker) {
    let (first, alternate, queues, bindings) = with_alternate();
    let way = publish_through(broker, &[first, alternate], &queues, bindings, "astray").await;
    assert_eq!(way, [0, 1]);
}

async fn what_matches_something_does_not_go_to_the_alternate(broker: &Broker) {
    let (first, alternate, queues, bindings) = with_alternate();
    let way = publish_through(broker, &[first, alternate], &queues, bindings, "known").await;
    assert_eq!(way, [1, 0]);
}

fn with_alternate() -> (Exchange, Exchange, [Queue; 2], Vec<Binding>) {
    let alternate = exchange(ExchangeKind::Fanout);
    let mut first = exchange(ExchangeKind::Direct);
    first.alternate = Some(alternate.name.clone());
    let queues = [queue(QUORUM), queue(QUORUM)];
    let bindings = vec![
        to_queue(&first, &text_name("known"), &queues[0]),
        to_queue(&alternate, &text_name("any"), &queues[1]),
    ];
    (first, alternate, queues, bindings)
}

/// Declares all, publishes one message with `key` to the first exchange, and returns how deep the queues are.
async fn publish_through(
    broker: &Broker,
    exchanges: &[Exchange],
    queues: &[Queue],
    bindings: Vec<Binding>,
    key: &str,
) -> Vec<u64> {
    // An alternate exchange before those that name it.
    let in_order = exchanges.iter().rev().cloned().collect();
    declare(broker, Topology { exchanges: in_order, queues: queues.to_vec(), bindings }).await;
    let names: Vec<&Name> = queues.iter().map(|queue| &queue.name).collect();
    let route = Route { exchange: exchanges[0].name.clone(), key: text_name(key), queue: names[0].clone() };
    publish(broker, &route, message("a")).await;
    let mut depths = Vec::new();
    for name in names {
        // Confirmed means stored, so the first look is right.
        depths.push(within(broker.depth(name)).await.unwrap().unwrap());
    }
    depths
}
