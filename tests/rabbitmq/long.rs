//! Tasks that run for longer than the broker lets a consumer hold them.
//!
//! RabbitMQ 4.3 takes the timeout that a consumer asks for, to the second; older brokers have only their own, and look
//! once a minute.

use std::sync::Mutex;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;

use crate::*;

const SECOND: Duration = Duration::from_secs(1);

/// Takes so long.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Dig(Duration);

impl Task for Dig {
    const NAME: &'static str = "dig";
    type Output = ();
}

/// "started" or "done", how long it takes, and whether it had been delivered before.
type Event = (&'static str, Duration, bool);

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Seen {
    fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|(word, ..)| *word == what).count()
    }

    async fn consumer(&self, broker: &Broker, timeout: Duration) -> Consumer {
        let seen = self.clone();
        let note = move |word, time, again| seen.0.lock().unwrap().push((word, time, again));
        Consumer::builder(broker)
            .consumer_timeout(timeout)
            .concurrency(1)
            .prefetch(3)
            .shutdown_grace(SECOND)
            .handler_fn(move |Dig(time), ctx| {
                let note = note.clone();
                async move {
                    note("started", time, ctx.is_redelivered());
                    tokio::time::sleep(time).await;
                    note("done", time, ctx.is_redelivered());
                    Ok(())
                }
            })
            .start()
            .await
            .unwrap()
    }

    async fn wait_for(&self, what: &str, count: usize, limit: Duration) {
        let all = async {
            while self.count(what) < count {
                tokio::time::sleep(SECOND / 20).await;
            }
        };
        tokio::time::timeout(limit, all).await.unwrap_or_else(|_| panic!("not {count} {what}: {self:?}"));
    }
}

async fn setting(broker: &TestBroker) -> (Broker, Producer, String) {
    let url = broker.fresh_vhost().await.unwrap();
    let vhost = vhost_of(&url).unwrap();
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    (broker, producer, vhost)
}

/// The names of the lease queues.
async fn lease_queues(broker: &TestBroker, vhost: &str) -> Vec<String> {
    let queues = broker.management().queues(vhost).await.unwrap();
    queues.into_iter().map(|queue| queue.name).filter(|name| name.starts_with("taskhare.lease.")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_longer_than_the_timeout_runs_once_and_so_do_those_behind_it() {
    let lab = TestBroker::shared().await.unwrap();
    let (broker, producer, vhost) = setting(lab).await;
    let seen = Seen::default();
    let consumer = seen.consumer(&broker, 4 * SECOND).await;
    producer.enqueue(Dig(14 * SECOND)).await.unwrap();
    seen.wait_for("started", 1, PATIENCE).await;
    for task in producer.enqueue_all(vec![Dig(Duration::ZERO); 5]).await {
        task.unwrap();
    }
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(lease_queues(lab, &vhost).await.len(), 1);
    seen.wait_for("done", 6, PATIENCE).await;
    consumer.shutdown().await;
    assert_eq!(lease_queues(lab, &vhost).await.len(), 0, "nothing is left behind");
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
    assert_eq!((seen.count("started"), seen.count("done")), (6, 6), "{seen:?}");
    assert!(seen.0.lock().unwrap().iter().all(|(_, _, again)| !again), "{seen:?}");
}

/// Its connection is closed by an operator: what it held is given to somebody else, and the lease queue with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_task_whose_connection_is_lost_comes_back_once_in_seconds() {
    let lab = TestBroker::shared().await.unwrap();
    let (broker, producer, vhost) = setting(lab).await;
    let seen = Seen::default();
    let consumer = seen.consumer(&broker, 4 * SECOND).await;
    producer.enqueue(Dig(12 * SECOND)).await.unwrap();
    seen.wait_for("started", 1, PATIENCE).await;
    tokio::time::sleep(7 * SECOND).await;
    lab.management().close_connections(&vhost).await.unwrap();
    // The one that runs does not know of it; the other waits for its slot.
    seen.wait_for("done", 2, PATIENCE).await;
    assert_eq!(seen.0.lock().unwrap()[3], ("done", 12 * SECOND, true));
    tokio::time::sleep(SECOND).await;
    consumer.shutdown().await;
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
    assert_eq!((seen.count("started"), seen.count("done")), (2, 2), "{seen:?}");
}

/// The only timeout that 3.10 has is the node's, and it looks once a minute.
#[ignore = "takes three minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn a_task_longer_than_the_timeout_of_the_node_runs_once_and_without_leases_it_does_not() {
    let lab = TestBroker::start_with("consumer_timeout = 10000").await.unwrap();
    let version = lab.management().version().await.unwrap();
    let has_no_other = ["3.", "4.0", "4.1", "4.2"].iter().any(|before| version.starts_with(before));
    let (broker, producer, _) = setting(&lab).await;
    let (other_broker, other_producer, _) = setting(&lab).await;
    let (seen, other) = (Seen::default(), Seen::default());
    let consumer = seen.consumer(&broker, 10 * SECOND).await;
    // This one believes that it has half an hour.
    let other_consumer = other.consumer(&other_broker, 1800 * SECOND).await;
    other_producer.enqueue(Dig(150 * SECOND)).await.unwrap();
    for time in [150, 0, 0] {
        producer.enqueue(Dig(time * SECOND)).await.unwrap();
        seen.wait_for("started", 1, PATIENCE).await;
    }
    seen.wait_for("done", 3, 4 * PATIENCE).await;
    assert_eq!(seen.count("started"), 3, "{seen:?}");
    other.wait_for("done", 1, PATIENCE).await;
    tokio::time::sleep(SECOND).await;
    let has_come_back = other.count("started") > 1;
    assert_eq!(has_come_back, has_no_other, "4.3 takes the timeout that the consumer asks for: {other:?}");
    consumer.shutdown().await;
    drop(other_consumer);
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
}

/// The broker removes a lease queue that nobody has used for a day, with all that is in it. That day begins anew with
/// the broker, and what dead processes held is gone by its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_goes_home_though_the_broker_was_down_for_longer_than_it_keeps_the_queue() {
    let lab = TestBroker::start().await.unwrap();
    let home = queue("home", QUORUM);
    let mut leases = queue("leases", QUORUM);
    leases.queues[0].message_ttl = Some(SECOND);
    // Longer than 4.3 waits for consumers that it has lost (5 s): until then they keep what they held.
    leases.queues[0].expires = Some(10 * SECOND);
    let exchange = home.exchanges[0].name.clone();
    leases.queues[0].dead_letter = Some(DeadLetter { exchange, key: Some(name("home")) });
    let amqp = Amqp::connect(options(&lab.url())).await.unwrap();
    amqp.declare(&home).await.unwrap();
    amqp.declare(&leases).await.unwrap();
    let mut subscription = amqp.subscribe(subscribe("leases", 10)).await.unwrap();
    let mut held = Vec::new();
    for id in ["1", "2", "3"] {
        amqp.send(publish("leases", id), PATIENCE).await.unwrap();
        held.push(next(&mut subscription).await);
    }
    tokio::time::sleep(2 * SECOND).await;
    lab.kill().await.unwrap();
    drop((held, subscription, amqp));
    tokio::time::sleep(12 * SECOND).await;
    lab.start_again().await.unwrap();
    let amqp = Amqp::connect(options(&lab.url())).await.unwrap();
    // The counts of a broker that has just started are not to be trusted.
    let becomes = async |queue: &'static str, expected: Option<u64>| {
        let there = async {
            while amqp.depth(&name(queue)).await.unwrap() != expected {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{queue}: not {expected:?}"));
    };
    becomes("home", Some(3)).await;
    becomes("leases", None).await;
    becomes("home", Some(3)).await;
}
