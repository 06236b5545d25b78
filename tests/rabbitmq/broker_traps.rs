//! The ten ways in which RabbitMQ, used as its features invite to, loses tasks or stops: what it does, where that is
//! cheap to show, and that taskhare does not fall into it. The others are shown elsewhere, or touch nothing that
//! exists:
//!
//! | trap | taskhare |
//! | --- | --- |
//! | 1 | also `delay::tasks_for_a_queue_that_is_gone_hold_up_no_others_and_are_found` |
//! | 2 | `delay::retries_that_take_several_hops_each_are_not_taken_for_a_cycle` |
//! | 5 a value in a queue of length one | keeps no such value; only the queues of dead letters drop their head |
//! | 6 a queue of length one as a lock | uniqueness is a log of claims (`unique`): no lock by length |
//! | 7, 8 a single active consumer as a lock, and with a consumer timeout | uses none yet |

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::topology::Overflow;

use crate::*;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Count(u32);

impl Task for Count {
    const NAME: &'static str = "count";
    type Output = ();
}

async fn broker() -> (Broker, String) {
    let url = fresh_vhost().await;
    (Broker::connect(&url).await.unwrap(), url)
}

/// A queue whose messages go to `tasks`, by their own keys, after `ttl`.
fn level(queue: &str, ttl: Duration) -> Queue {
    let dead_letter = Some(DeadLetter { exchange: name("tasks"), key: None });
    Queue { message_ttl: Some(ttl), dead_letter, ..Queue::new(name(queue), QUORUM) }
}

/// A message that goes through `level`, which is bound for `key` in the exchange `levels`.
async fn through(lab: &Lab, key: &str) {
    let publish = Publish { exchange: name("levels"), ..publish(key, key) };
    lab.amqp.send(publish, PATIENCE).await.unwrap();
}

// 1
#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_unroutable_messages_stop_a_delay_queue() {
    for (stuck, passes) in [(31, true), (32, false)] {
        let lab = Lab::new().await;
        let levels = Exchange { name: name("levels"), kind: ExchangeKind::Fanout, alternate: None };
        let to = Target::Queue(name("level"));
        let binding = Binding { exchange: name("levels"), key: name("any"), to };
        let queues = vec![level("level", Duration::from_millis(300))];
        let topology = Topology { exchanges: vec![levels], queues, bindings: vec![binding] };
        lab.amqp.declare(&topology).await.unwrap();
        for _ in 0..stuck {
            through(&lab, "nowhere").await;
        }
        through(&lab, "q").await;
        let mut arrived = lab.subscribe(1).await;
        let came = tokio::time::timeout(Duration::from_secs(3), arrived.next()).await.is_ok();
        assert_eq!(came, passes, "behind {stuck}");
    }
}

// 2
#[tokio::test(flavor = "multi_thread")]
async fn before_4_0_a_copied_x_death_ends_a_message_in_a_second_round() {
    let lab = Lab::new().await;
    // first ──► second ──► q
    let hop = |from: &str, to: &str| {
        let mut queue = level(from, Duration::from_millis(100));
        queue.dead_letter = Some(DeadLetter { exchange: name("tasks"), key: Some(name(to)) });
        bound(queue)
    };
    lab.amqp.declare(&hop("second", "q")).await.unwrap();
    lab.amqp.declare(&hop("first", "second")).await.unwrap();
    let version = TestBroker::shared().await.unwrap().management().version().await.unwrap();
    let notices = version.starts_with("3.");
    for (strips, passes) in [(true, true), (false, !notices)] {
        let mut arrived = lab.subscribe(1).await;
        lab.amqp.send(publish("first", "task"), PATIENCE).await.unwrap();
        let mut delivery = next(&mut arrived).await;
        let mut message = std::mem::take(&mut delivery.message);
        delivery.ack();
        if strips {
            message.headers.strip_broker_headers();
        }
        lab.amqp.send(Publish { message, ..publish("first", "task") }, PATIENCE).await.unwrap();
        let again = tokio::time::timeout(Duration::from_secs(3), arrived.next()).await;
        assert_eq!(again.is_ok(), passes, "stripped: {strips}, on {version}");
        again.into_iter().flatten().for_each(Delivery::ack);
        arrived.close().await;
    }
}

// 3
#[tokio::test(flavor = "multi_thread")]
async fn a_long_expiration_holds_up_a_short_one_behind_it_and_a_long_delay_holds_up_none() {
    let lab = Lab::new().await;
    let mut waits = Queue::new(name("waits"), QUORUM);
    waits.dead_letter = Some(DeadLetter { exchange: name("tasks"), key: Some(name("q")) });
    lab.amqp.declare(&bound(waits)).await.unwrap();
    for (id, milliseconds) in [("long", 2000), ("short", 200)] {
        let mut publish = publish("waits", id);
        publish.message.expiration = Some(Duration::from_millis(milliseconds));
        lab.amqp.send(publish, PATIENCE).await.unwrap();
    }
    let mut arrived = lab.subscribe(2).await;
    assert_eq!([id(&next(&mut arrived).await), id(&next(&mut arrived).await)], ["long", "short"]);

    let (broker, _) = broker().await;
    let (sender, mut ran) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |task: Count, _| {
            sender.send(task.0).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for milliseconds in [4000, 400] {
        producer
            .enqueue(Count(milliseconds))
            .delay(Duration::from_millis(milliseconds.into()))
            .await
            .unwrap();
    }
    assert_eq!([ran.recv().await.unwrap(), ran.recv().await.unwrap()], [400, 4000]);
    consumer.shutdown().await;
}

// 4
#[tokio::test(flavor = "multi_thread")]
async fn delayed_tasks_wait_on_the_broker_and_not_in_a_consumer() {
    let (broker, url) = broker().await;
    let consumer =
        Consumer::builder(&broker).handler_fn(|_: Count, _| async { Ok(()) }).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let tasks = producer.enqueue_all((0..200).map(Count)).delay(Duration::from_secs(3600)).await;
    assert!(tasks.iter().all(Result::is_ok));
    let management = TestBroker::shared().await.unwrap().management();
    eventually("all are in the wheel", async || broker.delayed().await.unwrap() == 200).await;
    let queues = management.queues(&vhost_of(&url).unwrap()).await.unwrap();
    assert!(queues.iter().all(|queue| queue.totals.unacknowledged == 0), "{queues:?}");
    let receipt = consumer.shutdown().await;
    assert!(receipt.tasks.is_empty(), "{receipt:?}");
}

/// Where a queue has no delivery limit, what comes back goes to its end, and pushes out what is newer. All of ours have
/// one.
// 5
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_to_a_full_queue_pushes_out_nothing_newer() {
    for closes in [true, false] {
        let lab = Lab::new().await;
        let queue = Queue::new(name("value"), QUORUM);
        let value = Queue { max_length: Some(1), overflow: Overflow::DropHead, ..queue };
        lab.amqp.declare(&bound(value)).await.unwrap();
        lab.amqp.send(publish("value", "old"), PATIENCE).await.unwrap();
        let mut holder = lab.amqp.subscribe(subscribe("value", 1)).await.unwrap();
        let old = next(&mut holder).await;
        for newer in ["newer", "newest"] {
            lab.amqp.send(publish("value", newer), PATIENCE).await.unwrap();
        }
        holder.cancel().await;
        if !closes {
            old.requeue();
        }
        holder.close().await;
        // Whenever it comes back.
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            eventually("one is left", async || lab.depth("value").await == 1).await;
        }
        let mut holder = lab.amqp.subscribe(subscribe("value", 1)).await.unwrap();
        assert_eq!(id(&next(&mut holder).await), "newest", "closes: {closes}");
    }
}

// 9
#[tokio::test(flavor = "multi_thread")]
async fn a_known_argument_that_differs_is_an_error_that_names_it() {
    let (broker, url) = broker().await;
    Producer::builder(&broker).queue("mail").build().await.unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    for (builder, argument) in [
        (Broker::builder().dead_letter_length(7), "x-max-length"),
        (Broker::builder().dead_letter_age(day), "x-message-ttl"),
        (Broker::builder().delivery_limit(7), "x-delivery-limit"),
    ] {
        let other = builder.url(&url).connect().await.unwrap();
        let error = Producer::builder(&other).queue("mail").build().await.unwrap_err();
        assert!(
            matches!(&error, Error::TopologyConflict { argument: named, .. } if named == argument),
            "{error}"
        );
    }
}

// 10
#[tokio::test(flavor = "multi_thread")]
async fn no_quorum_queue_has_the_brokers_default_delivery_limit() {
    let (broker, url) = broker().await;
    let consumer =
        Consumer::builder(&broker).handler_fn(|_: Count, _| async { Ok(()) }).start().await.unwrap();
    let management = TestBroker::shared().await.unwrap().management();
    let queues = management.queues(&vhost_of(&url).unwrap()).await.unwrap();
    let quorum: Vec<_> = queues.iter().filter(|queue| queue.kind == "quorum").collect();
    assert!(quorum.len() > 50, "{}", quorum.len());
    for queue in quorum {
        let limit = queue.arguments["x-delivery-limit"].as_u64();
        assert!(limit.is_some_and(|limit| limit >= 100), "{}: {limit:?}", queue.name);
    }
    consumer.shutdown().await;
}

// 10
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_handed_back_more_often_than_the_brokers_default_is_not_dead() {
    let (broker, _) = broker().await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Count(1)).await.unwrap();
    for _ in 0..22 {
        let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
        let consumer = Consumer::builder(&broker)
            .handler_fn(move |_: Count, ctx| {
                sender.send(ctx.attempt()).unwrap();
                async move {
                    ctx.cancelled().await;
                    Err(TaskError::retry("stopped early"))
                }
            })
            .start()
            .await
            .unwrap();
        assert_eq!(started.recv().await, Some(1), "uncounted");
        consumer.shutdown().await;
    }
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}
