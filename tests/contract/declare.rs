//! C1.

use std::time::Duration;

use taskhare::Error;
use taskhare::topology::ExchangeKind;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::topology::Topology;

use crate::support::*;

on_every_transport![
    declaring_again_changes_nothing,
    fifty_at_once_declare_the_same,
    a_queue_with_another_argument_is_a_conflict,
    a_queue_with_one_argument_more_is_a_conflict,
    a_queue_with_one_argument_less_is_a_conflict,
    a_queue_of_another_kind_is_a_conflict,
    an_exchange_of_another_kind_is_a_conflict,
    an_exchange_with_another_alternate_is_a_conflict,
    after_a_conflict_what_exists_is_as_it_was,
    after_a_conflict_other_declarations_work,
    a_binding_to_nothing_is_refused,
    a_missing_queue_has_no_depth,
];

async fn declaring_again_changes_nothing(broker: &Broker) {
    for kind in BOTH_KINDS {
        let topology = everything(kind);
        declare(broker, topology.clone()).await;
        let into = Route {
            exchange: topology.exchanges[1].name.clone(),
            key: text_name("a.b"),
            queue: topology.queues[0].name.clone(),
        };
        publish(broker, &into, message("kept")).await;
        declare(broker, topology).await;
        depth_becomes(broker, &into.queue, 1).await;
        let mut subscription = subscribe(broker, &into.queue, 5).await;
        assert_eq!(consume(&mut subscription, 1).await, ["kept"]);
        nothing(&mut subscription).await;
    }
}

async fn fifty_at_once_declare_the_same(broker: &Broker) {
    let topology = everything(QUORUM);
    let mut declaring = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (broker, topology) = (broker.clone(), topology.clone());
        declaring.spawn(async move { broker.declare(&topology).await });
    }
    let results = within(declaring.join_all()).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

async fn a_queue_with_another_argument_is_a_conflict(broker: &Broker) {
    for kind in BOTH_KINDS {
        let theirs = Queue { message_ttl: Some(Duration::from_secs(1)), ..queue(kind) };
        let ours = Queue { message_ttl: Some(Duration::from_secs(2)), ..theirs.clone() };
        let expected = [format!("queue '{}'", ours.name), text("x-message-ttl"), text("2000"), text("1000")];
        assert_eq!(queue_conflict(broker, theirs, ours).await, expected);
    }
}

async fn a_queue_with_one_argument_more_is_a_conflict(broker: &Broker) {
    for kind in BOTH_KINDS {
        let theirs = queue(kind);
        let ours = Queue { message_ttl: Some(Duration::from_secs(2)), ..theirs.clone() };
        let expected = [format!("queue '{}'", ours.name), text("x-message-ttl"), text("2000"), text("none")];
        assert_eq!(queue_conflict(broker, theirs, ours).await, expected);
    }
}

async fn a_queue_with_one_argument_less_is_a_conflict(broker: &Broker) {
    for kind in BOTH_KINDS {
        let theirs = Queue { message_ttl: Some(Duration::from_secs(1)), ..queue(kind) };
        let ours = Queue { message_ttl: None, ..theirs.clone() };
        let expected = [format!("queue '{}'", ours.name), text("x-message-ttl"), text("none"), text("1000")];
        assert_eq!(queue_conflict(broker, theirs, ours).await, expected);
    }
}

async fn a_queue_of_another_kind_is_a_conflict(broker: &Broker) {
    let theirs = queue(QUORUM);
    let ours = Queue { kind: CLASSIC, ..theirs.clone() };
    let object = format!("queue '{}'", ours.name);
    // Which of the many differences is named first is the broker's choice.
    assert_eq!(queue_conflict(broker, theirs, ours).await[0], object);
}

async fn an_exchange_of_another_kind_is_a_conflict(broker: &Broker) {
    let theirs = exchange(ExchangeKind::Direct);
    let mut ours = theirs.clone();
    ours.kind = ExchangeKind::Topic;
    let expected = [format!("exchange '{}'", ours.name), text("type"), text("topic"), text("direct")];
    declare(broker, Topology { exchanges: vec![theirs], ..Topology::default() }).await;
    let topology = Topology { exchanges: vec![ours], ..Topology::default() };
    assert_eq!(conflict(broker, topology).await, expected);
}

async fn an_exchange_with_another_alternate_is_a_conflict(broker: &Broker) {
    let alternate = exchange(ExchangeKind::Fanout);
    let theirs = exchange(ExchangeKind::Direct);
    let mut ours = theirs.clone();
    ours.alternate = Some(alternate.name.clone());
    let object = format!("exchange '{}'", ours.name);
    let expected = [object, text("alternate-exchange"), alternate.name.to_string(), text("none")];
    declare(broker, Topology { exchanges: vec![alternate, theirs], ..Topology::default() }).await;
    let topology = Topology { exchanges: vec![ours], ..Topology::default() };
    assert_eq!(conflict(broker, topology).await, expected);
}

async fn after_a_conflict_what_exists_is_as_it_was(broker: &Broker) {
    let theirs = queue(QUORUM);
    let route = open(broker, theirs.clone()).await;
    publish(broker, &route, message("kept")).await;
    let ours = Queue { message_ttl: Some(Duration::from_millis(1)), ..theirs.clone() };
    queue_conflict(broker, theirs, ours).await;
    let mut subscription = subscribe(broker, &route.queue, 1).await;
    assert_eq!(consume(&mut subscription, 1).await, ["kept"]);
}

async fn after_a_conflict_other_declarations_work(broker: &Broker) {
    let theirs = queue(CLASSIC);
    let ours = Queue { max_length: Some(1), ..theirs.clone() };
    queue_conflict(broker, theirs, ours).await;
    let route = open(broker, queue(CLASSIC)).await;
    publish(broker, &route, message("works")).await;
    depth_becomes(broker, &route.queue, 1).await;
}

async fn a_binding_to_nothing_is_refused(broker: &Broker) {
    let (exchange, queue) = (exchange(ExchangeKind::Direct), queue(CLASSIC));
    let bindings = vec![to_queue(&exchange, &unique("key"), &queue)];
    let topology = Topology { exchanges: vec![exchange], bindings, ..Topology::default() };
    let error = within(broker.declare(&topology)).await.unwrap_err();
    assert!(matches!(error, Error::Declare { .. }), "{error:?}");
    assert!(error.to_string().contains(queue.name.as_str()), "{error}");
}

async fn a_missing_queue_has_no_depth(broker: &Broker) {
    assert_eq!(within(broker.depth(&unique("missing"))).await.unwrap(), None);
    let route = open(broker, queue(CLASSIC)).await;
    assert_eq!(within(broker.depth(&route.queue)).await.unwrap(), Some(0));
}

/// One of everything: an alternate exchange, every kind of exchange and binding, every argument of a queue.
fn everything(kind: QueueKind) -> Topology {
    let alternate = exchange(ExchangeKind::Fanout);
    let mut topic = exchange(ExchangeKind::Topic);
    topic.alternate = Some(alternate.name.clone());
    let direct = exchange(ExchangeKind::Direct);
    let mut full = queue(kind);
    full.message_ttl = Some(Duration::from_secs(3600));
    full.max_length = Some(100);
    full.single_active_consumer = true;
    full.dead_letter =
        Some(taskhare::topology::DeadLetter { exchange: alternate.name.clone(), key: Some(unique("dead")) });
    let caught = queue(kind);
    let bindings = vec![
        to_queue(&topic, &text_name("a.*"), &full),
        to_exchange(&topic, &text_name("#.b"), &direct),
        to_queue(&direct, &text_name("a.b"), &full),
        to_queue(&alternate, &text_name("any"), &caught),
    ];
    Topology { exchanges: vec![alternate, topic, direct], queues: vec![full, caught], bindings }
}

/// Declares `theirs`, then `ours`, and returns the object, the argument, our value and theirs.
async fn queue_conflict(broker: &Broker, theirs: Queue, ours: Queue) -> [String; 4] {
    declare(broker, Topology { queues: vec![theirs], ..Topology::default() }).await;
    conflict(broker, Topology { queues: vec![ours], ..Topology::default() }).await
}

async fn conflict(broker: &Broker, topology: Topology) -> [String; 4] {
    match within(broker.declare(&topology)).await {
        Err(Error::TopologyConflict { object, argument, ours, theirs }) => [object, argument, ours, theirs],
        other => panic!("a conflict was to come, and this did: {other:?}"),
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}
