//! One test for each way in which the client library, used carelessly, loses the connection or hangs: `amqprs` 2.1.5
//! is not cancel-safe and recovers from nothing. In the order in which they were found.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use taskhare::testing::Fault;
use tokio::time::timeout;

use crate::raw::RawClient;
use crate::raw::long;
use crate::raw::table;
use crate::reconnect::Proxied;
use crate::*;

/// The names of the connections, which change when one is made anew.
async fn connections(lab: &Lab) -> BTreeSet<String> {
    let management = TestBroker::shared().await.unwrap().management();
    management.connections(&lab.vhost).await.unwrap().into_iter().map(|it| it.name).collect()
}

/// Does `harm`, and finds the same connections after it.
async fn keeps_its_connections(lab: &Lab, harm: impl AsyncFnOnce()) {
    lab.publish("warm").await;
    let subscription = lab.subscribe(1).await;
    eventually("both are listed", async || connections(lab).await.len() == 2).await;
    let before = connections(lab).await;
    harm().await;
    drop(subscription);
    lab.publish("after").await;
    lab.subscribe(1).await.close().await;
    assert_eq!(connections(lab).await, before);
}

// 1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_declares_on_one_handle_do_not_mix_replies() {
    let lab = Lab::new().await;
    for (index, count) in [(0, 3), (1, 5), (2, 7)] {
        let queue_name = format!("q{index}");
        lab.amqp.declare(&queue(&queue_name, QueueKind::Classic)).await.unwrap();
        for id in 0..count {
            lab.amqp.send(publish(&queue_name, &id.to_string()), PATIENCE).await.unwrap();
        }
    }
    keeps_its_connections(&lab, async || {
        let all = (0..300).map(|round| {
            let amqp = lab.amqp.clone();
            tokio::spawn(async move {
                let queue_name = name(&format!("q{}", round % 3));
                amqp.declare(&queue(queue_name.as_str(), QueueKind::Classic)).await.unwrap();
                (round % 3, amqp.depth(&queue_name).await.unwrap())
            })
        });
        for answer in futures_util::future::join_all(all).await {
            let (index, depth) = answer.unwrap();
            assert_eq!(depth, Some([3, 5, 7][index]));
        }
    })
    .await;
}

// 2, 3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_declare_leaves_the_connection_usable() {
    let lab = Lab::new().await;
    keeps_its_connections(&lab, async || {
        for round in 0..200 {
            let topology = queue(&format!("q{}", round % 20), QueueKind::Classic);
            let _ = timeout(Duration::from_micros(10 * round), lab.amqp.declare(&topology)).await;
            let _ = timeout(Duration::from_micros(10 * round), lab.amqp.depth(&name("q"))).await;
        }
    })
    .await;
}

// 2, 3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_subscribe_leaves_the_connection_usable_and_no_consumer() {
    let lab = Lab::new().await;
    keeps_its_connections(&lab, async || {
        for round in 0..200 {
            let subscribe = lab.amqp.subscribe(subscribe("q", 10));
            let _ = timeout(Duration::from_micros(20 * round), subscribe).await;
        }
    })
    .await;
    let consumers = async || {
        let queues = TestBroker::shared().await.unwrap().management().queues(&lab.vhost).await.unwrap();
        queues.iter().map(|queue| queue.consumers).sum::<u64>()
    };
    eventually("none consumes", async || consumers().await == 0).await;
}

// 4
#[tokio::test]
async fn a_lost_connection_leaves_no_socket_behind() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.publish("x").await;
    let mut subscription = lab.subscribe(1).await;
    let _held = next(&mut subscription).await;
    for _ in 0..3 {
        proxy.set(Fault::Drop);
        // Both ends notice a silent peer after two heartbeats of 2 seconds.
        let is_lost = async || {
            let outcome = lab.amqp.send(publish("q", "x"), Duration::from_millis(100)).await;
            matches!(outcome, Err(PublishError::Unavailable { .. }))
        };
        eventually("the loss is noticed", is_lost).await;
        proxy.set(Fault::None);
        lab.publish("x").await;
    }
    eventually("what is left is one connection of each kind", async || proxy.connections() == 2).await;
    next(&mut subscription).await.ack();
}

// 5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_cancel_or_close_leaves_the_connection_usable() {
    let lab = Lab::new().await;
    keeps_its_connections(&lab, async || {
        for round in 0..100 {
            let mut subscription = lab.subscribe(10).await;
            if round % 2 == 0 {
                let _ = timeout(Duration::from_micros(20 * round), subscription.cancel()).await;
            }
            let _ = timeout(Duration::from_micros(20 * round), subscription.close()).await;
        }
    })
    .await;
}

// 5: by construction. A dropped basic_get kills the channel's task.
#[test]
fn messages_are_never_fetched_singly() {
    for (path, code) in sources() {
        assert!(!code.contains(concat!("basic_", "get(")), "{}", path.display());
    }
}

// 6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_closed_channels_do_not_exhaust_ids() {
    let lab = Lab::new().await;
    for _ in 0..50 {
        // Each one closes its channel.
        let all = (0..50).map(|_| async { lab.amqp.depth(&name("missing")).await.unwrap() });
        for depth in futures_util::future::join_all(all).await {
            assert_eq!(depth, None);
        }
    }
    lab.publish("after").await;
}

// 7, 8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_while_the_channel_is_closed_does_not_cost_the_connection() {
    let lab = Lab::new().await;
    keeps_its_connections(&lab, async || {
        let mut all = tokio::task::JoinSet::new();
        for publisher in 0..4 {
            let amqp = lab.amqp.clone();
            all.spawn(async move {
                for round in 0..150 {
                    let missing = Publish { exchange: name("missing"), ..publish("q", "x") };
                    let brief = Duration::from_millis(2);
                    let _ = amqp.send(missing, brief).await;
                    amqp.send(publish("q", &format!("{publisher}-{round}")), PATIENCE).await.unwrap();
                }
            });
        }
        while let Some(outcome) = all.join_next().await {
            outcome.unwrap();
        }
    })
    .await;
}

// 7, for acks
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_while_the_channel_is_closed_does_not_cost_the_connection() {
    let lab = Lab::new().await;
    lab.publish_all(200).await;
    keeps_its_connections(&lab, async || {
        for _ in 0..20 {
            let mut subscription = lab.subscribe(100).await;
            let mut held = Vec::new();
            for _ in 0..50 {
                held.push(next(&mut subscription).await);
            }
            let settling = tokio::task::spawn_blocking(|| held.into_iter().for_each(Delivery::requeue));
            subscription.close().await;
            settling.await.unwrap();
        }
    })
    .await;
}

// 9
#[tokio::test]
async fn closing_while_deliveries_flow_is_orderly() {
    let lab = Lab::new().await;
    lab.publish_all(1000).await;
    for _ in 0..10 {
        let other = Lab::connected_to(&lab.url).await;
        let mut subscription = other.subscribe(100).await;
        let delivery = next(&mut subscription).await;
        timeout(Duration::from_secs(5), other.amqp.close()).await.expect("close does not hang");
        drop(delivery);
        assert!(subscription.next().await.is_none());
    }
    eventually("nothing was lost", async || lab.depth("q").await == 1000).await;
}

// 10: by construction. A request awaited in a callback waits for itself.
#[test]
fn callbacks_await_nothing() {
    let mut callbacks = 0;
    for (path, code) in sources() {
        let blocks = code.split("Callback for ").skip(1);
        for block in blocks.map(|rest| rest.split("\n}\n").next().unwrap()) {
            callbacks += 1;
            assert!(!block.contains(".await"), "{}: {block}", path.display());
        }
    }
    assert_eq!(callbacks, 3, "one for connections, two for channels");
}

// 11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_into_a_stuck_socket_ends_by_its_timeout() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.publish("warm").await;
    proxy.set(Fault::Stall);
    let mut large = publish("q", "x");
    large.message.body = vec![0; 64 * 1024];
    let all = (0..600).map(|_| lab.amqp.send(large.clone(), Duration::from_secs(1)));
    let all = timeout(PATIENCE, futures_util::future::join_all(all)).await.expect("none hangs");
    assert!(all.iter().all(Result::is_err));
    proxy.set(Fault::None);
    lab.publish("after").await;
}

// 12
#[tokio::test]
async fn a_message_that_cannot_be_decoded_ends_as_a_dead_letter_and_others_go_on() {
    let lab = Lab::new().await;
    let kind = QueueKind::Quorum { group_size: 1, delivery_limit: 4 };
    lab.amqp.declare(&with_dead_letters(Queue::new(name("work"), kind))).await.unwrap();
    let poison = table(&[(b"x", b'S', &long(&[0xff, 0xfe]))]);
    for id in 0..20 {
        if id == 10 {
            let mut raw = RawClient::connect(&lab.url).await.unwrap();
            raw.publish("tasks", "work", &poison, b"poison").await.unwrap();
            raw.close().await.unwrap();
        }
        lab.amqp.send(publish("work", &id.to_string()), PATIENCE).await.unwrap();
    }
    let mut work = lab.amqp.subscribe(subscribe("work", 100)).await.unwrap();
    lab.work_off(&mut work, 20).await;
    eventually("it is a dead letter", async || lab.depth("dead").await == 1).await;
    // And deliveries come at full width again.
    for id in 0..20 {
        lab.amqp.send(publish("work", &id.to_string()), PATIENCE).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(next(&mut work).await);
        // The first one tells that the worst is over.
        if held.len() == 1 {
            held.remove(0).ack();
        }
    }
}

// 13
#[tokio::test]
async fn texts_too_long_for_amqp_are_refused_and_nothing_panics() {
    let lab = Lab::new().await;
    keeps_its_connections(&lab, async || {
        assert!(Name::new("queue", "x".repeat(256)).is_err());
        let mut long = publish("q", &"x".repeat(256));
        assert!(matches!(lab.amqp.send(long.clone(), PATIENCE).await, Err(PublishError::Refused(_))));
        long.message.id = None;
        long.message.headers.insert("x".repeat(256), 1);
        assert!(matches!(lab.amqp.send(long, PATIENCE).await, Err(PublishError::Refused(_))));
        let longest = Subscribe { tag: "ü".repeat(300), ..subscribe("q", 1) };
        lab.amqp.subscribe(longest).await.unwrap().close().await;
    })
    .await;
}

// 14: by construction. The client library panics to end its tasks, and relies on that not ending the process.
#[test]
fn panics_unwind() {
    assert!(!manifest().contains("panic = \"abort\""));
}

// 15
#[tokio::test]
async fn an_unknown_method_from_the_broker_costs_only_a_reconnect() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.publish("before").await;
    let mut subscription = lab.subscribe(1).await;
    next(&mut subscription).await.ack();
    // Class 99, method 99, on channel 0: the task that reads the socket panics on it.
    proxy.inject(&[1, 0, 0, 0, 0, 0, 4, 0, 99, 0, 99, 0xCE]);
    lab.publish("after").await;
    let delivery = next(&mut subscription).await;
    assert_eq!(id(&delivery), "after");
    delivery.ack();
}

// 16: by construction. With this feature bad input panics instead of being refused by the broker.
#[test]
fn compliance_asserts_are_off() {
    assert!(!manifest().contains("compliance_assert"));
}

// The library spawns a task when a handle is dropped, which panics outside of a runtime.
#[test]
fn everything_may_be_dropped_outside_of_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (lab, subscription, delivery) = runtime.block_on(async {
        let lab = Lab::new().await;
        lab.publish("x").await;
        let mut subscription = lab.subscribe(1).await;
        let delivery = next(&mut subscription).await;
        (lab, subscription, delivery)
    });
    drop(subscription);
    drop(delivery);
    drop(lab);
    let (lab, mut subscription) = runtime.block_on(async {
        let lab = Lab::new().await;
        lab.publish("x").await;
        let subscription = lab.subscribe(1).await;
        (lab, subscription)
    });
    let delivery = runtime.block_on(next(&mut subscription));
    drop(runtime);
    drop(delivery);
    drop(subscription);
    drop(lab);
}

fn manifest() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap()
}

fn sources() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transport/amqp");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}
