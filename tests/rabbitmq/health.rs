//! C19, and what consumers tell of it.

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerChange;
use taskhare::Event;
use taskhare::EventStream;
use taskhare::Task;
use taskhare::testing::Fault;

use crate::reconnect::Proxied;
use crate::*;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Nothing;

impl Task for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
}

async fn consumer(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler_fn(|_: Nothing, _| async { Ok(()) });
    builder.beat_every(Duration::from_millis(100)).start().await.unwrap()
}

/// What is told of a consumer, but that it is alive.
async fn told(events: &mut EventStream) -> ConsumerChange {
    loop {
        let next = tokio::time::timeout(PATIENCE, events.next());
        if let Some(Event::Consumer(event)) = next.await.expect("something is told")
            && !matches!(event.change, ConsumerChange::Alive(_))
        {
            return event.change;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_told_once_it_is_back() {
    let Proxied { lab, proxy } = Proxied::new().await;
    let mut health = lab.amqp.health();
    let _subscription = lab.subscribe(1).await;
    for count in 1..=2 {
        proxy.set(Fault::Reset);
        eventually("the connections are gone", async || proxy.connections() == 0).await;
        assert_eq!(health.borrow_and_update().reconnects, count - 1);
        proxy.set(Fault::None);
        tokio::time::timeout(PATIENCE, health.changed()).await.unwrap().unwrap();
        let now = health.borrow_and_update().clone();
        assert_eq!((now.reconnects, now.stalled), (count, None));
        let outage = now.outage.unwrap();
        assert!(!outage.reason.is_empty() && !outage.time.is_zero(), "{outage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_has_stalled_under_an_alarm_and_not_any_more_when_it_is_over() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    let health = lab.amqp.health();
    lab.publish("before").await;
    broker.set_memory_alarm(true).await.unwrap();
    let outcome = lab.amqp.send(publish("q", "during"), Duration::from_millis(200)).await;
    assert!(matches!(outcome, Err(PublishError::Unconfirmed { .. })), "{outcome:?}");
    assert_eq!(health.borrow().stalled, None, "it may yet be confirmed");
    eventually("it has stalled", async || health.borrow().stalled.is_some()).await;
    broker.set_memory_alarm(false).await.unwrap();
    eventually("it goes on", async || health.borrow().stalled.is_none()).await;
    assert_eq!(health.borrow().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_tells_that_it_was_cut_off() {
    let Proxied { lab, proxy } = Proxied::new().await;
    let broker = Broker::connect(&proxy.url(&lab.url).unwrap()).await.unwrap();
    let mut events = broker.events().subscribe().await.unwrap();
    let _consumer = consumer(&broker).await;
    assert!(matches!(told(&mut events).await, ConsumerChange::Started(_)));
    proxy.set(Fault::Reset);
    eventually("the connections are gone", async || proxy.connections() == 0).await;
    proxy.set(Fault::None);
    let change = told(&mut events).await;
    let ConsumerChange::Reconnected { reason, after } = change else { panic!("{change:?}") };
    assert!(!reason.is_empty() && !after.is_zero(), "{reason} {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_tells_that_the_broker_took_nothing_once_it_takes_something_again() {
    let node = TestBroker::start().await.unwrap();
    let broker = Broker::connect(&node.fresh_vhost().await.unwrap()).await.unwrap();
    let mut events = broker.events().subscribe().await.unwrap();
    let health = broker.transport().health();
    let consumer = consumer(&broker).await;
    assert!(matches!(told(&mut events).await, ConsumerChange::Started(_)));
    // Nobody publishes but the consumer, which says that it is alive.
    node.set_memory_alarm(true).await.unwrap();
    eventually("it has stalled", async || health.borrow().stalled.is_some()).await;
    node.set_memory_alarm(false).await.unwrap();
    let change = told(&mut events).await;
    assert!(matches!(change, ConsumerChange::Blocked { .. }), "{change:?}");
    assert_eq!(told(&mut events).await, ConsumerChange::Unblocked);
    consumer.shutdown().await;
    assert_eq!(told(&mut events).await, ConsumerChange::Draining);
    let stopped = ConsumerChange::Stopped { finished: 0, unstarted: 0, aborted: 0 };
    assert_eq!(told(&mut events).await, stopped);
}
