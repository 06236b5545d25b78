//! The transport on a real broker: what RabbitMQ and the network do to it, and what it makes of that.
#![allow(clippy::unwrap_used, clippy::panic)]

mod broker_traps;
mod connect;
mod control;
mod dead_letters;
mod deadline;
mod delay;
mod events;
mod health;
mod hold;
mod lanes;
#[cfg(feature = "limits")]
mod limits;
mod long;
mod management;
#[cfg(feature = "metrics")]
mod metrics;
mod mixed_releases;
mod nesting;
mod network;
mod operator;
mod permissions;
mod publish;
mod quarantine;
#[path = "../support/raw.rs"]
#[allow(dead_code)]
mod raw;
mod reconnect;
mod schedule;
mod status;
mod stream;
mod subscribe;
mod tasks;
mod ticks;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "otel")]
mod traces;
mod traps;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use async_trait::async_trait;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use taskhare::topology::Binding;
use taskhare::topology::DeadLetter;
use taskhare::topology::Exchange;
use taskhare::topology::ExchangeKind;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::topology::Target;
use taskhare::topology::Topology;
use taskhare::transport::Delivery;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::PublishError;
use taskhare::transport::Subscribe;
use taskhare::transport::Subscription;
use taskhare::transport::Tenure;
use taskhare::transport::Transport;
use taskhare::transport::amqp::Amqp;
use taskhare::transport::amqp::Options;

/// Long enough for any answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for a delivery that must not come.
const SILENCE: Duration = Duration::from_millis(300);

const QUORUM: QueueKind = QueueKind::Quorum { group_size: 3, delivery_limit: 1_000_000 };

/// A virtual host on the broker that all tests share, until the test ends that asks for it: thousands of idle queues
/// would slow down those after it, above all on 4.3.
async fn fresh_vhost() -> String {
    static ENDED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[derive(Default)]
    struct OfThisTest(Vec<String>);

    impl Drop for OfThisTest {
        fn drop(&mut self) {
            ENDED.lock().unwrap().append(&mut self.0);
        }
    }

    thread_local! {
        // Each test has a thread of its own.
        static OURS: RefCell<OfThisTest> = RefCell::default();
    }

    let broker = TestBroker::shared().await.unwrap();
    let ended = std::mem::take(&mut *ENDED.lock().unwrap());
    for url in ended {
        broker.remove_vhost(&url).await.unwrap();
    }
    let url = broker.fresh_vhost().await.unwrap();
    OURS.with_borrow_mut(|ours| ours.0.push(url.clone()));
    url
}

/// [`Transport::publish`] for messages made for the occasion.
#[async_trait]
trait Post {
    async fn send(&self, publish: Publish, limit: Duration) -> Result<(), PublishError>;
}

#[async_trait]
impl Post for Amqp {
    async fn send(&self, publish: Publish, limit: Duration) -> Result<(), PublishError> {
        self.publish(&publish, limit).await
    }
}

/// A transport in a virtual host of its own, with the queue `q` behind the exchange `tasks`.
struct Lab {
    url: String,
    vhost: String,
    amqp: Arc<Amqp>,
}

impl Lab {
    /// On the broker that all tests share.
    async fn new() -> Self {
        Self::at(&fresh_vhost().await).await
    }

    async fn on(broker: &TestBroker) -> Self {
        Self::at(&broker.fresh_vhost().await.unwrap()).await
    }

    async fn at(url: &str) -> Self {
        let lab = Self::connected_to(url).await;
        lab.amqp.declare(&queue("q", QUORUM)).await.unwrap();
        lab
    }

    async fn connected_to(url: &str) -> Self {
        let amqp = Arc::new(Amqp::connect(options(url)).await.unwrap());
        Self { url: url.to_owned(), vhost: vhost_of(url).unwrap(), amqp }
    }

    async fn subscribe(&self, prefetch: u16) -> Box<dyn Subscription> {
        self.amqp.subscribe(subscribe("q", prefetch)).await.unwrap()
    }

    async fn publish(&self, id: &str) {
        self.amqp.send(publish("q", id), PATIENCE).await.unwrap();
    }

    async fn publish_all(&self, count: usize) {
        let all = (0..count).map(|id| self.amqp.send(publish("q", &id.to_string()), PATIENCE));
        for outcome in futures_util::future::join_all(all).await {
            outcome.unwrap();
        }
    }

    /// How many messages are ready in `queue`.
    async fn depth(&self, queue: &str) -> u64 {
        self.amqp.depth(&name(queue)).await.unwrap().unwrap()
    }

    /// What the broker holds in `q`, with a consumer or not.
    async fn messages(&self) -> u64 {
        let queues = TestBroker::shared().await.unwrap().management().queues(&self.vhost).await.unwrap();
        queues.iter().find(|queue| queue.name == "q").map_or(0, |queue| queue.totals.messages)
    }

    /// Goes on until `count` different messages were acked.
    async fn work_off(&self, subscription: &mut Box<dyn Subscription>, count: usize) {
        let mut done = BTreeSet::new();
        while done.len() < count {
            let delivery = next(subscription).await;
            done.insert(delivery.message.id.clone().unwrap());
            delivery.ack();
        }
    }
}

fn options(url: &str) -> Options {
    let mut options = Options::from_urls(url).unwrap();
    options.longest_backoff = Duration::from_millis(500);
    options
}

fn name(name: &str) -> Name {
    Name::new("name", name).unwrap()
}

/// A queue behind the direct exchange `tasks`, under its own name.
fn queue(queue: &str, kind: QueueKind) -> Topology {
    bound(Queue::new(name(queue), kind))
}

fn bound(queue: Queue) -> Topology {
    let tasks = Exchange { name: name("tasks"), kind: ExchangeKind::Direct, alternate: None };
    let to = Target::Queue(queue.name.clone());
    let binding = Binding { exchange: name("tasks"), key: queue.name.clone(), to };
    Topology { exchanges: vec![tasks], queues: vec![queue], bindings: vec![binding] }
}

/// `queue`, with the queue `dead` for what it rejects.
fn with_dead_letters(mut queue: Queue) -> Topology {
    queue.dead_letter = Some(DeadLetter { exchange: name("tasks"), key: Some(name("dead")) });
    let mut topology = bound(Queue::new(name("dead"), QUORUM));
    topology.merge(&bound(queue));
    topology
}

fn publish(key: &str, id: &str) -> Publish {
    let message = Message { id: Some(id.to_owned()), body: b"hop".to_vec(), ..Message::default() };
    Publish { exchange: name("tasks"), key: name(key), mandatory: true, message }
}

fn subscribe(queue: &str, prefetch: u16) -> Subscribe {
    Subscribe::new(name(queue), prefetch, "test")
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await;
    delivery.expect("a delivery in time").expect("the subscription goes on")
}

async fn nothing(subscription: &mut Box<dyn Subscription>) {
    let delivery = tokio::time::timeout(SILENCE, subscription.next()).await;
    assert!(delivery.is_err(), "{delivery:?}");
}

fn id(delivery: &Delivery) -> &str {
    delivery.message.id.as_deref().unwrap()
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
