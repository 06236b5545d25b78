//! What scenarios are written with.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

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
use taskhare::transport::in_process::InProcess;

pub(crate) type Broker = Arc<dyn Transport>;

/// How long anything may take on a busy machine before the scenario has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How long nothing has to happen before we believe that nothing will.
const QUIET: Duration = Duration::from_millis(400);

/// How often something that takes time is looked at.
const GLANCE: Duration = Duration::from_millis(20);

pub(crate) const CLASSIC: QueueKind = QueueKind::Classic;
pub(crate) const QUORUM: QueueKind = QueueKind::Quorum { group_size: 1, delivery_limit: 1_000_000 };
pub(crate) const BOTH_KINDS: [QueueKind; 2] = [CLASSIC, QUORUM];

pub(crate) fn in_process() -> Broker {
    Arc::new(InProcess::new())
}

/// RabbitMQ, in a virtual host of its own.
// Until the harness and the amqp transport are here: `any()` is never true.
#[cfg(feature = "testing")]
pub(crate) async fn rabbitmq() -> Broker {
    use taskhare::testing::TestBroker;
    use taskhare::transport::amqp::Amqp;
    use taskhare::transport::amqp::Options;

    let url = TestBroker::shared().await.unwrap().fresh_vhost().await.unwrap();
    Arc::new(Amqp::connect(Options::from_urls(&url).unwrap()).await.unwrap())
}

/// A name nobody has used.
pub(crate) fn unique(name: &str) -> Name {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    text_name(&format!("{name}-{}-{count}", std::process::id()))
}

pub(crate) fn text_name(name: &str) -> Name {
    Name::new("name", name).unwrap()
}

pub(crate) fn exchange(kind: ExchangeKind) -> Exchange {
    Exchange { name: unique("exchange"), kind, alternate: None }
}

pub(crate) fn queue(kind: QueueKind) -> Queue {
    Queue::new(unique("queue"), kind)
}

pub(crate) fn to_queue(exchange: &Exchange, key: &Name, queue: &Queue) -> Binding {
    Binding { exchange: exchange.name.clone(), key: key.clone(), to: Target::Queue(queue.name.clone()) }
}

pub(crate) fn to_exchange(exchange: &Exchange, key: &Name, target: &Exchange) -> Binding {
    Binding { exchange: exchange.name.clone(), key: key.clone(), to: Target::Exchange(target.name.clone()) }
}

/// A queue and the way into it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) exchange: Name,
    pub(crate) key: Name,
    pub(crate) queue: Name,
}

/// Declares `queue` behind a direct exchange of its own.
pub(crate) async fn open(broker: &Broker, queue: Queue) -> Route {
    let exchange = exchange(ExchangeKind::Direct);
    let key = unique("key");
    let route = Route { exchange: exchange.name.clone(), key: key.clone(), queue: queue.name.clone() };
    let bindings = vec![to_queue(&exchange, &key, &queue)];
    declare(broker, Topology { exchanges: vec![exchange], queues: vec![queue], bindings }).await;
    route
}

/// Declares a queue of `kind`, changed by `with`, that dead-letters into a second one.
pub(crate) async fn open_with_dead(
    broker: &Broker,
    kind: QueueKind,
    with: impl FnOnce(&mut Queue),
) -> (Route, Route) {
    let dead = open(broker, queue(kind)).await;
    let mut queue = queue(kind);
    queue.dead_letter = Some(DeadLetter { exchange: dead.exchange.clone(), key: Some(dead.key.clone()) });
    with(&mut queue);
    (open(broker, queue).await, dead)
}

pub(crate) async fn declare(broker: &Broker, topology: Topology) {
    within(broker.declare(&topology)).await.unwrap();
}

pub(crate) fn message(body: impl Into<Vec<u8>>) -> Message {
    Message { body: body.into(), ..Message::default() }
}

pub(crate) fn expiring(body: &str, expiration: Duration) -> Message {
    Message { expiration: Some(expiration), ..message(body) }
}

/// A mandatory publish over `route`.
pub(crate) fn over(route: &Route, message: Message) -> Publish {
    let (exchange, key) = (route.exchange.clone(), route.key.clone());
    Publish { exchange, key, mandatory: true, message }
}

pub(crate) async fn try_publish(
    broker: &Broker,
    route: &Route,
    message: Message,
) -> Result<(), PublishError> {
    within(broker.publish(&over(route, message), LIMIT)).await
}

pub(crate) async fn publish(broker: &Broker, route: &Route, message: Message) {
    try_publish(broker, route, message).await.unwrap();
}

/// Publishes a message for each of `bodies`, in order.
pub(crate) async fn publish_all(broker: &Broker, route: &Route, bodies: &[&str]) {
    for body in bodies {
        publish(broker, route, message(*body)).await;
    }
}

/// Publishes the numbers from 0; the bodies.
pub(crate) async fn publish_numbers(broker: &Broker, route: &Route, count: usize) -> Vec<String> {
    let bodies: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    for body in &bodies {
        publish(broker, route, message(body.as_str())).await;
    }
    bodies
}

pub(crate) async fn subscribe(broker: &Broker, queue: &Name, prefetch: u16) -> Box<dyn Subscription> {
    let subscribe = Subscribe::new(queue.clone(), prefetch, "contract");
    within(broker.subscribe(subscribe)).await.unwrap()
}

pub(crate) async fn hold(broker: &Broker, queue: &Name, prefetch: u16) -> Box<dyn Tenure> {
    let subscribe = Subscribe::new(queue.clone(), prefetch, "contract");
    within(broker.hold(subscribe)).await.unwrap()
}

/// Where deliveries come from.
pub(crate) trait Deliveries {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>>;
}

impl Deliveries for Box<dyn Subscription> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll_next(cx)
    }
}

impl Deliveries for Box<dyn Tenure> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll_next(cx)
    }
}

/// The next delivery, which has to come.
pub(crate) async fn next(subscription: &mut impl Deliveries) -> Delivery {
    within(poll_fn(|cx| subscription.poll(cx))).await.expect("the subscription has not ended")
}

/// The next `count` deliveries.
pub(crate) async fn take(subscription: &mut impl Deliveries, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(subscription).await);
    }
    taken
}

/// Acks the next `count` deliveries and returns their bodies.
pub(crate) async fn consume(subscription: &mut impl Deliveries, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    for _ in 0..count {
        let delivery = next(subscription).await;
        bodies.push(body(&delivery));
        delivery.ack();
    }
    bodies
}

/// Nothing comes for a while.
pub(crate) async fn nothing(subscription: &mut impl Deliveries) {
    let came = tokio::time::timeout(QUIET, poll_fn(|cx| subscription.poll(cx))).await;
    assert!(came.is_err(), "nothing was to come, and this did: {came:?}");
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.clone()).unwrap()
}

pub(crate) fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}

/// Waits until `queue` holds `expected` messages ready. Statistics may lag, so it looks again.
pub(crate) async fn depth_becomes(broker: &Broker, queue: &Name, expected: u64) {
    let mut last = None;
    let reached = async {
        loop {
            last = broker.depth(queue).await.unwrap();
            if last == Some(expected) {
                return;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, reached).await;
    assert!(reached.is_ok(), "{queue} was to hold {expected} messages, and holds {last:?}");
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("this is done in time")
}

/// Polls `future` so many times, and drops it. What it came to, if it did.
pub(crate) async fn abandon<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Some(output);
        }
        // Lets whatever it waits for go on, so that the next poll stops somewhere else.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}
