//! Networks that lose one direction, half of a connection, or only confirms; and slow ones.

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::testing::Fault;
use taskhare::testing::Proxy;

use crate::reconnect::Proxied;
use crate::reconnect::survives;
use crate::*;

/// Longer than both ends take to give up a silent peer.
const SILENT_FOR: Duration = Duration::from_secs(7);

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Nothing;

impl Task for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
}

/// An application behind a network that fails.
async fn application() -> (Broker, Proxy, String) {
    let url = TestBroker::shared().await.unwrap().fresh_vhost().await.unwrap();
    let proxy = Proxy::start(&url).await.unwrap();
    let broker = Broker::connect(&proxy.url(&url).unwrap()).await.unwrap();
    (broker, proxy, vhost_of(&url).unwrap())
}

/// How many messages the broker has in `queue`, with a consumer or not.
async fn messages(vhost: &str, queue: &str) -> u64 {
    let queues = TestBroker::shared().await.unwrap().management().queues(vhost).await.unwrap();
    queues.iter().find(|it| it.name == queue).map_or(0, |queue| queue.totals.messages)
}

async fn survives_a_while_of(fault: Fault) {
    let Proxied { lab, proxy } = Proxied::new().await;
    survives(&lab, async || {
        proxy.set(fault);
        tokio::time::sleep(SILENT_FOR).await;
        proxy.set(Fault::None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_gone_and_nobody_says_so() {
    survives_a_while_of(Fault::HalfOpen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hears_nothing() {
    survives_a_while_of(Fault::DropToBroker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_heard() {
    survives_a_while_of(Fault::DropToClient).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_costs_no_connection() {
    let Proxied { lab, proxy } = Proxied::new().await;
    let health = lab.amqp.health();
    survives(&lab, async || {
        for fault in [Fault::Delay(Duration::from_millis(300)), Fault::Jitter(Duration::from_millis(600))] {
            proxy.set(fault);
            // Longer than a heartbeat may be missing.
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    })
    .await;
    assert_eq!((health.borrow().reconnects, proxy.connections()), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirms_that_come_late_are_waited_for_and_nothing_is_published_twice() {
    let Proxied { lab, proxy } = Proxied::new().await;
    let health = lab.amqp.health();
    proxy.set(Fault::HoldConfirms);
    let amqp = lab.amqp.clone();
    let publishing = tokio::spawn(async move {
        let all = (0..100).map(|id: u32| amqp.send(publish("q", &id.to_string()), PATIENCE));
        futures_util::future::join_all(all).await
    });
    eventually("the broker has all of them", async || lab.messages().await == 100).await;
    eventually("it looks as if the broker took nothing", async || health.borrow().stalled.is_some()).await;
    assert!(!publishing.is_finished(), "nothing is said to be stored before it is known to be");
    proxy.set(Fault::None);
    for outcome in publishing.await.unwrap() {
        outcome.unwrap();
    }
    assert_eq!((lab.messages().await, health.borrow().reconnects), (100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_confirm_never_comes_is_unconfirmed_and_those_after_it_go_on() {
    let (broker, proxy, vhost) = application().await;
    let producer = Producer::builder(&broker).timeout(Duration::from_secs(1)).build().await.unwrap();
    producer.enqueue(Nothing).await.unwrap();
    proxy.set(Fault::LoseConfirms);
    let outcome = producer.enqueue(Nothing).await;
    assert!(matches!(outcome, Err(TaskhareError::Unconfirmed { .. })), "{outcome:?}");
    proxy.set(Fault::None);
    let patient = Producer::builder(&broker).timeout(PATIENCE).build().await.unwrap();
    patient.enqueue(Nothing).await.unwrap();
    let here = async || messages(&vhost, "taskhare.default.normal").await == 3;
    eventually("the unconfirmed one is there as well", here).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_and_dead_letters_wait_for_late_confirms_and_come_once() {
    let (broker, proxy, vhost) = application().await;
    let attempts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = attempts.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Nothing, ctx| {
            told.lock().unwrap().push((ctx.id(), ctx.attempt()));
            async { Err(TaskError::retry("as ever")) }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(50)).max_attempts(2))
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for enqueued in producer.enqueue_all((0..10).map(|_| Nothing).collect::<Vec<_>>()).await {
        enqueued.unwrap();
    }
    // The next attempt is there before the last one is known to be settled, for as long as it takes.
    for _ in 0..4 {
        proxy.set(Fault::HoldConfirms);
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.set(Fault::None);
        tokio::time::sleep(SILENCE).await;
    }
    eventually("all are dead", async || messages(&vhost, "taskhare.default.dead").await == 10).await;
    consumer.shutdown().await;
    assert_eq!(messages(&vhost, "taskhare.default.normal").await, 0);
    let mut attempts = attempts.lock().unwrap().clone();
    attempts.sort_unstable();
    let count = attempts.len();
    attempts.dedup();
    assert_eq!((attempts.len(), count), (20, 20), "two attempts for each task, and none twice");
    broker.close().await;
}
