//! C1, C3, C4, C5, C8, C9: declaring and consuming.

use crate::*;

#[tokio::test]
async fn deliveries_come_in_order_and_at_most_the_prefetch_at_a_time() {
    let lab = Lab::new().await;
    for id in 0..6 {
        lab.publish(&id.to_string()).await;
    }
    let mut subscription = lab.subscribe(3).await;
    let mut held = Vec::new();
    for expected in 0..3 {
        let delivery = next(&mut subscription).await;
        assert_eq!(id(&delivery), expected.to_string());
        held.push(delivery);
    }
    nothing(&mut subscription).await;
    held.remove(1).ack();
    let delivery = next(&mut subscription).await;
    assert_eq!(id(&delivery), "3");
    nothing(&mut subscription).await;
}

#[tokio::test]
async fn each_settlement_does_what_it_says() {
    let lab = Lab::new().await;
    let kind = QueueKind::Quorum { group_size: 1, delivery_limit: 100 };
    lab.amqp.declare(&with_dead_letters(Queue::new(name("work"), kind))).await.unwrap();
    for id in ["ack", "requeue", "reject", "drop"] {
        lab.amqp.send(publish("work", id), PATIENCE).await.unwrap();
    }
    let mut work = lab.amqp.subscribe(subscribe("work", 10)).await.unwrap();
    let mut dead = lab.amqp.subscribe(subscribe("dead", 10)).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(next(&mut work).await);
    }
    for delivery in all {
        assert!(!delivery.redelivered);
        match id(&delivery) {
            "ack" => delivery.ack(),
            "requeue" => delivery.requeue(),
            "reject" => delivery.reject(),
            _ => drop(delivery),
        }
    }
    let rejected = next(&mut dead).await;
    assert_eq!(id(&rejected), "reject");
    rejected.ack();
    let mut back = BTreeSet::new();
    for _ in 0..2 {
        let delivery = next(&mut work).await;
        assert!(delivery.redelivered);
        // Since 4.3 a requeue is no failure.
        assert!(delivery.returned <= 1, "{delivery:?}");
        back.insert(id(&delivery).to_owned());
        delivery.ack();
    }
    assert_eq!(back, ["drop", "requeue"].map(str::to_owned).into());
    nothing(&mut work).await;
    work.close().await;
    assert_eq!(lab.depth("work").await, 0);
}

#[tokio::test]
async fn a_message_returned_too_often_is_dead_lettered() {
    let lab = Lab::new().await;
    let kind = QueueKind::Quorum { group_size: 1, delivery_limit: 2 };
    lab.amqp.declare(&with_dead_letters(Queue::new(name("work"), kind))).await.unwrap();
    lab.amqp.send(publish("work", "x"), PATIENCE).await.unwrap();
    for returned in 0..3 {
        let mut work = lab.amqp.subscribe(subscribe("work", 1)).await.unwrap();
        let delivery = next(&mut work).await;
        assert_eq!(delivery.returned, returned);
        // As if the process had died. A requeue would count too, before 4.3.
        work.close().await;
    }
    let mut dead = lab.amqp.subscribe(subscribe("dead", 1)).await.unwrap();
    let delivery = next(&mut dead).await;
    assert_eq!(id(&delivery), "x");
    delivery.ack();
}

#[tokio::test]
async fn settling_in_any_order_settles_each_once() {
    let lab = Lab::new().await;
    lab.publish_all(3000).await;
    let mut subscription = lab.subscribe(100).await;
    let (mut held, mut acked) = (Vec::new(), BTreeSet::new());
    while acked.len() < 3000 {
        if held.len() < 100 && acked.len() + held.len() < 3000 {
            held.push(next(&mut subscription).await);
            continue;
        }
        let delivery = held.swap_remove(fastrand::usize(..held.len()));
        if fastrand::u8(..) < 20 {
            delivery.requeue();
        } else {
            assert!(acked.insert(id(&delivery).to_owned()), "twice: {delivery:?}");
            delivery.ack();
        }
    }
    subscription.close().await;
    assert_eq!(lab.depth("q").await, 0);
}

#[tokio::test]
async fn a_settled_delivery_is_reported_soon_while_others_are_held() {
    let lab = Lab::new().await;
    lab.publish_all(3).await;
    let mut subscription = lab.subscribe(100).await;
    let first = next(&mut subscription).await;
    next(&mut subscription).await.ack();
    next(&mut subscription).await.ack();
    eventually("the broker holds only what is not settled", async || lab.messages().await == 1).await;
    first.ack();
    eventually("the broker holds nothing", async || lab.messages().await == 0).await;
}

#[tokio::test]
async fn cancel_stops_deliveries_and_what_is_at_hand_can_still_be_settled() {
    let lab = Lab::new().await;
    lab.publish_all(10).await;
    let mut subscription = lab.subscribe(5).await;
    let first = next(&mut subscription).await;
    subscription.cancel().await;
    let mut rest = Vec::new();
    while let Some(delivery) = subscription.next().await {
        rest.push(delivery);
    }
    assert!(rest.len() <= 4, "{}", rest.len());
    assert!(subscription.next().await.is_none());
    first.ack();
    subscription.close().await;
    eventually("all but the acked one are back", async || lab.depth("q").await == 9).await;
    // Too late, and harmless.
    rest.into_iter().for_each(Delivery::ack);
    lab.publish("x").await;
    eventually("nothing was lost", async || lab.depth("q").await == 10).await;
}

#[tokio::test]
async fn dropping_a_subscription_gives_back_what_is_held() {
    let lab = Lab::new().await;
    lab.publish_all(10).await;
    let mut subscription = lab.subscribe(5).await;
    let held = [next(&mut subscription).await, next(&mut subscription).await];
    drop(subscription);
    eventually("everything is back", async || lab.depth("q").await == 10).await;
    let mut subscription = lab.subscribe(10).await;
    held.into_iter().for_each(Delivery::ack);
    lab.work_off(&mut subscription, 10).await;
}

#[tokio::test]
async fn waiting_for_a_delivery_may_be_dropped_at_any_time() {
    let lab = Lab::new().await;
    lab.publish_all(500).await;
    let mut subscription = lab.subscribe(50).await;
    let mut done = BTreeSet::new();
    while done.len() < 500 {
        let wait = Duration::from_micros(fastrand::u64(..500));
        if let Ok(delivery) = tokio::time::timeout(wait, subscription.next()).await {
            let delivery = delivery.unwrap();
            assert!(done.insert(id(&delivery).to_owned()), "twice: {delivery:?}");
            delivery.ack();
        }
    }
}

#[tokio::test]
async fn of_single_active_consumers_one_works_until_it_goes() {
    let lab = Lab::new().await;
    let mut single = Queue::new(name("single"), QUORUM);
    single.single_active_consumer = true;
    lab.amqp.declare(&bound(single)).await.unwrap();
    let mut active = lab.amqp.subscribe(subscribe("single", 1)).await.unwrap();
    let mut waiting = lab.amqp.subscribe(subscribe("single", 1)).await.unwrap();
    for id in ["a", "b"] {
        lab.amqp.send(publish("single", id), PATIENCE).await.unwrap();
    }
    let delivery = next(&mut active).await;
    nothing(&mut waiting).await;
    delivery.ack();
    let held = next(&mut active).await;
    active.close().await;
    let delivery = next(&mut waiting).await;
    assert_eq!(id(&delivery), id(&held));
    delivery.ack();
}

#[tokio::test]
async fn a_missing_queue_is_named() {
    let lab = Lab::new().await;
    assert_eq!(lab.amqp.depth(&name("missing")).await.unwrap(), None);
    let error = lab.amqp.subscribe(subscribe("missing", 1)).await.unwrap_err();
    assert!(matches!(&error, taskhare::Error::Consume { queue, .. } if queue == "missing"), "{error:?}");
    lab.publish("still works").await;
}

#[tokio::test]
async fn declaring_otherwise_is_a_conflict_that_names_both_values() {
    let lab = Lab::new().await;
    let mut limited = Queue::new(name("limited"), QueueKind::Quorum { group_size: 3, delivery_limit: 20 });
    limited.dead_letter = Some(DeadLetter { exchange: name("tasks"), key: None });
    lab.amqp.declare(&bound(limited.clone())).await.unwrap();
    lab.amqp.declare(&bound(limited.clone())).await.unwrap();
    type Change = fn(&mut Queue);
    let table: [(Change, &str); 4] = [
        (
            |it| it.kind = QueueKind::Quorum { group_size: 3, delivery_limit: 5 },
            "queue 'limited' exists with x-delivery-limit = 20, and 5 was asked for",
        ),
        (
            |it| it.single_active_consumer = true,
            "queue 'limited' exists with x-single-active-consumer = none, and true was asked for",
        ),
        (
            |it| it.max_length = Some(7),
            "queue 'limited' exists with x-max-length = none, and 7 was asked for",
        ),
        (
            |it| it.dead_letter = Some(DeadLetter { exchange: name("other"), key: None }),
            "queue 'limited' exists with x-dead-letter-exchange = tasks, and other was asked for",
        ),
    ];
    for (change, expected) in table {
        let mut other = limited.clone();
        change(&mut other);
        let error = lab.amqp.declare(&bound(other)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    // Which of the arguments that differ is named depends on the version.
    let error = lab.amqp.declare(&queue("limited", QueueKind::Classic)).await.unwrap_err();
    assert!(matches!(error, taskhare::Error::TopologyConflict { .. }), "{error:?}");
    let topic = Exchange { name: name("tasks"), kind: ExchangeKind::Topic, alternate: None };
    let error =
        lab.amqp.declare(&Topology { exchanges: vec![topic], ..Topology::default() }).await.unwrap_err();
    assert_eq!(error.to_string(), "exchange 'tasks' exists with type = direct, and topic was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_declare_the_same_at_the_same_time() {
    let lab = Lab::new().await;
    let mut topology = Topology::default();
    for index in 0..10 {
        topology.merge(&queue(&format!("q{index}"), QUORUM));
    }
    let mut handles = Vec::new();
    for _ in 0..6 {
        handles.push(Arc::new(Amqp::connect(options(&lab.url)).await.unwrap()));
    }
    let all = handles.iter().flat_map(|amqp| [amqp, amqp]).map(|amqp| {
        let (amqp, topology) = (amqp.clone(), topology.clone());
        tokio::spawn(async move { amqp.declare(&topology).await })
    });
    for outcome in futures_util::future::join_all(all).await {
        outcome.unwrap().unwrap();
    }
}

#[tokio::test]
async fn limits_on_how_long_a_delivery_is_held_are_accepted_and_since_4_3_kept() {
    let lab = Lab::new().await;
    let version = TestBroker::shared().await.unwrap().management().version().await.unwrap();
    let number = |index| version.split('.').nth(index).and_then(|part| part.parse::<u32>().ok()).unwrap();
    let is_kept = (number(0), number(1)) >= (4, 3);
    let limit = Some(Duration::from_secs(2));
    let of_queue = Queue { consumer_timeout: limit, ..Queue::new(name("limited"), QUORUM) };
    let of_consumer = Queue::new(name("free"), QUORUM);
    let mut topology = bound(of_queue);
    topology.merge(&bound(of_consumer));
    lab.amqp.declare(&topology).await.unwrap();
    lab.amqp.declare(&topology).await.unwrap();
    for (queue, consumer_timeout) in [("limited", None), ("free", limit)] {
        lab.amqp.send(publish(queue, "x"), PATIENCE).await.unwrap();
        let subscribe = Subscribe { consumer_timeout, ..subscribe(queue, 1) };
        let mut subscription = lab.amqp.subscribe(subscribe).await.unwrap();
        let held = next(&mut subscription).await;
        if is_kept {
            let again = next(&mut subscription).await;
            assert!(again.redelivered);
            again.ack();
        } else {
            nothing(&mut subscription).await;
        }
        held.ack();
        subscription.close().await;
        eventually("it is done", async || lab.depth(queue).await == 0).await;
    }
    // A classic queue has no such limit: what says so is the caller's to know.
    lab.amqp.declare(&queue("classic", QueueKind::Classic)).await.unwrap();
    let subscribe = Subscribe { consumer_timeout: limit, ..subscribe("classic", 1) };
    let refused = lab.amqp.subscribe(subscribe).await.map(drop);
    match refused {
        Err(taskhare::Error::Consume { queue, .. }) if is_kept => assert_eq!(queue, "classic"),
        other => assert!(!is_kept && other.is_ok(), "{other:?}"),
    }
}
