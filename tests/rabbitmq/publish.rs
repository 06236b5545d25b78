//! C2, C10, C11, C12: publishing.

use crate::reconnect::Proxied;
use crate::*;

use taskhare::transport::Headers;
use taskhare::transport::Value;

#[tokio::test]
async fn confirmed_messages_are_in_the_queue() {
    let lab = Lab::new().await;
    lab.publish_all(2000).await;
    eventually("all are ready", async || lab.depth("q").await == 2000).await;
}

#[tokio::test]
async fn a_message_arrives_as_it_was_published() {
    let text = |text: &str| Some(text.to_owned());
    let mut headers = Headers::new();
    headers.insert("null", Value::Null);
    headers.insert("bool", true);
    headers.insert("int", i64::MIN);
    headers.insert("float", Value::Float(-0.25));
    headers.insert("text", "häre");
    headers.insert("bytes", Value::Bytes(vec![0, 200, 255]));
    headers.insert("time", Value::Timestamp(1_700_000_000));
    headers.insert("list", Value::List(vec![Value::Int(1), Value::Bool(false), Value::List(vec![])]));
    headers.insert("table", Value::Table([("deep", Value::Table(Headers::new()))].into_iter().collect()));
    let full = Message {
        id: text("id"),
        kind: Some("resize".into()),
        content_type: Some("application/msgpack".into()),
        correlation_id: text("c"),
        reply_to: text("r"),
        timestamp: Some(1_700_000_000),
        expiration: Some(Duration::from_millis(86_400_000)),
        headers,
        body: vec![7; 300_000],
    };
    let lab = Lab::new().await;
    lab.amqp.declare(&queue("classic", QueueKind::Classic)).await.unwrap();
    for key in ["q", "classic"] {
        let mut subscription = lab.amqp.subscribe(subscribe(key, 10)).await.unwrap();
        for message in [full.clone(), Message::default()] {
            let publish = Publish { message: message.clone(), ..publish(key, "") };
            lab.amqp.send(publish, PATIENCE).await.unwrap();
            let delivery = next(&mut subscription).await;
            assert_eq!(delivery.message, message);
            assert!(!delivery.redelivered);
            assert_eq!(delivery.returned, 0);
            delivery.ack();
        }
    }
}

#[tokio::test]
async fn what_reaches_no_queue_is_told_from_what_does() {
    let lab = Lab::new().await;
    let all = (0..1000).map(|id| {
        let key = if id % 3 == 0 { "nowhere" } else { "q" };
        let mut publish = publish(key, &id.to_string());
        // Those without an id are told apart too, by where they go.
        if id % 2 == 0 {
            publish.message.id = None;
        }
        lab.amqp.send(publish, PATIENCE)
    });
    for (id, outcome) in futures_util::future::join_all(all).await.into_iter().enumerate() {
        let expected = if id % 3 == 0 { Err(PublishError::Unroutable) } else { Ok(()) };
        assert_eq!(outcome, expected, "{id}");
    }
    let optional = Publish { mandatory: false, ..publish("nowhere", "x") };
    assert_eq!(lab.amqp.send(optional, PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn a_full_queue_rejects() {
    let lab = Lab::new().await;
    let mut full = Queue::new(name("full"), QueueKind::Classic);
    full.max_length = Some(2);
    lab.amqp.declare(&bound(full)).await.unwrap();
    let mut outcomes = Vec::new();
    for id in 0..4 {
        outcomes.push(lab.amqp.send(publish("full", &id.to_string()), PATIENCE).await);
    }
    assert_eq!(outcomes, [Ok(()), Ok(()), Err(PublishError::Rejected), Err(PublishError::Rejected)]);
}

#[tokio::test]
async fn a_publish_that_the_broker_refuses_fails_and_others_do_not() {
    let lab = Lab::new().await;
    let refused = async {
        let publish = Publish { exchange: name("missing"), ..publish("q", "x") };
        lab.amqp.send(publish, PATIENCE).await
    };
    let (refused, ()) = tokio::join!(refused, lab.publish_all(2000));
    let Err(PublishError::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("no exchange 'missing'"), "{reason}");
}

#[tokio::test]
async fn a_user_without_permission_is_told_so() {
    let broker = TestBroker::shared().await.unwrap();
    let lab = Lab::new().await;
    let url = reader(broker, &lab).await;
    let limited = Amqp::connect(options(&url)).await.unwrap();
    let refused = limited.send(publish("q", "x"), PATIENCE).await;
    assert!(
        matches!(&refused, Err(PublishError::Forbidden(reason)) if reason.contains("ACCESS_REFUSED")),
        "{refused:?}"
    );
    let refused = limited.declare(&queue("other", QUORUM)).await.unwrap_err();
    assert!(matches!(refused, taskhare::Error::AccessRefused { .. }), "{refused:?}");
    let refused = limited.subscribe(subscribe("q", 1)).await.unwrap_err();
    assert!(matches!(refused, taskhare::Error::AccessRefused { .. }), "{refused:?}");
    let refused = limited.hold(subscribe("q", 1)).await.unwrap_err();
    assert!(matches!(refused, taskhare::Error::AccessRefused { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_message_larger_than_the_broker_takes_is_refused() {
    let broker = TestBroker::start_with("max_message_size = 1000").await.unwrap();
    let lab = Lab::on(&broker).await;
    let mut large = publish("q", "large");
    large.message.body = vec![0; 1001];
    let (refused, ()) = tokio::join!(lab.amqp.send(large, PATIENCE), lab.publish_all(100));
    assert!(matches!(&refused, Err(PublishError::Refused(reason)) if reason.contains("1001")), "{refused:?}");
}

#[tokio::test]
async fn headers_up_to_the_limit_travel_and_larger_ones_are_refused() {
    let lab = Lab::new().await;
    let mut subscription = lab.subscribe(1).await;
    let with = |size: usize| {
        let mut publish = publish("q", "x");
        publish.message.headers.insert("x", "x".repeat(size));
        publish
    };
    lab.amqp.send(with(102_000), PATIENCE).await.unwrap();
    next(&mut subscription).await.ack();
    let refused = lab.amqp.send(with(110_000), PATIENCE).await;
    assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
    lab.publish("still works").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_may_be_dropped_at_any_time() {
    let lab = Lab::new().await;
    let mut kept = Vec::new();
    for round in 0..200_u64 {
        for id in 0..10 {
            let (amqp, dropped) = (lab.amqp.clone(), publish("q", &format!("dropped-{round}-{id}")));
            let micros = fastrand::u64(..2000);
            tokio::spawn(async move {
                let publish = amqp.send(dropped, PATIENCE);
                let _ = tokio::time::timeout(Duration::from_micros(micros), publish).await;
            });
        }
        let (amqp, publish) = (lab.amqp.clone(), publish("q", &format!("kept-{round}")));
        kept.push(tokio::spawn(async move { amqp.send(publish, PATIENCE).await }));
        let wrong = Publish { key: name("nowhere"), ..crate::publish("q", &format!("wrong-{round}")) };
        assert_eq!(lab.amqp.send(wrong, PATIENCE).await, Err(PublishError::Unroutable));
    }
    for outcome in kept {
        outcome.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn after_close_publishes_end_with_closed() {
    let lab = Lab::new().await;
    lab.publish("before").await;
    let mut subscription = lab.subscribe(1).await;
    let delivery = next(&mut subscription).await;
    lab.amqp.close().await;
    lab.amqp.close().await;
    assert_eq!(lab.amqp.send(publish("q", "after"), PATIENCE).await, Err(PublishError::Closed));
    assert!(matches!(lab.amqp.declare(&queue("q", QUORUM)).await, Err(taskhare::Error::Closed)));
    assert!(matches!(lab.amqp.subscribe(subscribe("q", 1)).await, Err(taskhare::Error::Closed)));
    assert!(subscription.next().await.is_none());
    delivery.ack();
    let gone = async || {
        let management = TestBroker::shared().await.unwrap().management();
        management.connections(&lab.vhost).await.unwrap().is_empty()
    };
    eventually("both connections are closed", gone).await;
}

#[tokio::test]
async fn close_ends_publishes_that_wait() {
    let proxied = Proxied::new().await;
    let lab = &proxied.lab;
    lab.publish("warm").await;
    proxied.proxy.set(taskhare::testing::Fault::Stall);
    let waiting = tokio::spawn({
        let amqp = lab.amqp.clone();
        async move { amqp.send(publish("q", "x"), PATIENCE).await }
    });
    tokio::task::yield_now().await;
    lab.amqp.close().await;
    assert_eq!(waiting.await.unwrap(), Err(PublishError::Closed));
}

/// A user who may connect to the virtual host and nothing else.
async fn reader(broker: &TestBroker, lab: &Lab) -> String {
    let user = format!("reader-{}", fastrand::u32(..));
    broker.add_user(&user, "secret", "^$", "^$", "^$", &lab.vhost).await.unwrap()
}
