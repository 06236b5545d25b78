//! C3 and P9: every way to lose a connection, and going on after it.

use crate::*;

use futures_util::FutureExt;
use taskhare::testing::Fault;
use taskhare::testing::Proxy;
use tokio::task::JoinSet;

/// A lab behind a network that fails. A silent peer is noticed within 4 seconds.
pub(crate) struct Proxied {
    pub(crate) lab: Lab,
    pub(crate) proxy: Proxy,
}

impl Proxied {
    pub(crate) async fn new() -> Self {
        let url = fresh_vhost().await;
        let proxy = Proxy::start(&url).await.unwrap();
        let mut options = options(&proxy.url(&url).unwrap());
        options.heartbeat = Duration::from_secs(2);
        let amqp = Arc::new(Amqp::connect(options).await.unwrap());
        amqp.declare(&queue("q", QUORUM)).await.unwrap();
        let vhost = vhost_of(&url).unwrap();
        Self { lab: Lab { url, vhost, amqp }, proxy }
    }
}

/// Publishes without a pause while `harm` is done, and consumes meanwhile: every confirmed message is delivered.
pub(crate) async fn survives(lab: &Lab, harm: impl AsyncFnOnce()) {
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut publishers = JoinSet::new();
    for publisher in 0..8 {
        let (amqp, done) = (lab.amqp.clone(), done.clone());
        publishers.spawn(async move {
            let mut confirmed = Vec::new();
            for count in 0.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let id = format!("{publisher}-{count}");
                amqp.send(publish("q", &id), PATIENCE).await.unwrap();
                confirmed.push(id);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            confirmed
        });
    }
    let mut subscription = lab.subscribe(100).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<BTreeSet<String>>();
    let consumer = tokio::spawn(async move {
        let (mut seen, mut expected) = (BTreeSet::new(), None::<BTreeSet<String>>);
        while expected.as_ref().is_none_or(|expected| !expected.is_subset(&seen)) {
            tokio::select! {
                all = &mut stopped, if expected.is_none() => expected = Some(all.unwrap()),
                delivery = subscription.next() => {
                    let delivery = delivery.unwrap();
                    seen.insert(id(&delivery).to_owned());
                    delivery.ack();
                }
            }
        }
        subscription.close().await;
    });
    harm().await;
    // It goes on: published and confirmed after the harm.
    lab.publish("after").await;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut confirmed: BTreeSet<String> = publishers.join_all().await.into_iter().flatten().collect();
    confirmed.insert("after".to_owned());
    stop.send(confirmed).unwrap();
    tokio::time::timeout(PATIENCE, consumer).await.expect("every confirmed message is delivered").unwrap();
}

async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_by_the_operator() {
    let lab = Lab::new().await;
    let management = TestBroker::shared().await.unwrap().management();
    survives(&lab, async || {
        for _ in 0..3 {
            let close = async || management.close_connections(&lab.vhost).await.unwrap() > 0;
            eventually("connections are there to be closed", close).await;
            a_while().await;
        }
    })
    .await;
}

/// As of a consumer whose slots are all taken meanwhile, so that it looks for nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_was_made_anew_unseen_ends_when_it_is_cancelled() {
    let lab = Lab::new().await;
    let mut subscription = lab.subscribe(1).await;
    let management = TestBroker::shared().await.unwrap().management();
    // Some are listed before others are.
    eventually("the loss is seen", async || {
        management.close_connections(&lab.vhost).await.unwrap();
        assert!(subscription.next().now_or_never().is_none(), "nothing was published");
        format!("{subscription:?}").contains("connecting")
    })
    .await;
    lab.publish("unseen").await;
    eventually("the new channel has it", async || lab.depth("q").await == 0).await;
    subscription.cancel().await;
    let end = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("it ends");
    assert!(end.is_none(), "{end:?}");
    eventually("it is back", async || lab.depth("q").await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_reset_and_closed() {
    let Proxied { lab, proxy } = Proxied::new().await;
    survives(&lab, async || {
        for fault in [Fault::Reset, Fault::Close, Fault::Reset] {
            proxy.set(fault);
            a_while().await;
            proxy.set(Fault::None);
            eventually("connected again", async || proxy.connections() == 2).await;
            a_while().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_everything() {
    let Proxied { lab, proxy } = Proxied::new().await;
    survives(&lab, async || {
        proxy.set(Fault::Drop);
        tokio::time::sleep(Duration::from_secs(7)).await;
        proxy.set(Fault::None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_started_again() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    survives(&lab, async || {
        // 3.10 writes down where a quorum queue is half a second after its declaration. One that was declared just
        // before a kill -9 exists after it, answers nothing and confirms nothing.
        tokio::time::sleep(Duration::from_secs(2)).await;
        broker.kill().await.unwrap();
        broker.start_again().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_freezes() {
    let broker = TestBroker::start().await.unwrap();
    let url = format!("{}?heartbeat=2", broker.fresh_vhost().await.unwrap());
    let lab = Lab::connected_to(&url).await;
    lab.amqp.declare(&queue("q", QUORUM)).await.unwrap();
    survives(&lab, async || {
        a_while().await;
        broker.freeze().await.unwrap();
        tokio::time::sleep(Duration::from_secs(7)).await;
        broker.thaw().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_queue_deleted_under_its_consumer_is_declared_and_consumed_again() {
    let lab = Lab::new().await;
    let mut subscription = lab.subscribe(10).await;
    lab.publish("before").await;
    let held = next(&mut subscription).await;
    let management = TestBroker::shared().await.unwrap().management();
    management.delete_queue(&lab.vhost, "q").await.unwrap();
    let again = tokio::spawn(async move { (next(&mut subscription).await, subscription) });
    let publish = || lab.amqp.send(publish("q", "after"), PATIENCE);
    eventually("the queue is back", async || publish().await.is_ok()).await;
    let (delivery, _subscription) = again.await.unwrap();
    assert_eq!(id(&delivery), "after");
    held.ack();
    delivery.ack();
    eventually("the broker holds nothing", async || lab.messages().await == 0).await;
}

#[tokio::test]
async fn a_delivery_held_longer_than_the_broker_allows_comes_again_and_others_go_on() {
    let broker = TestBroker::start().await.unwrap();
    for (setting, millis) in [("consumer_timeout", 1000), ("channel_tick_interval", 500)] {
        let set = format!("application:set_env(rabbit, {setting}, {millis}).");
        broker.rabbitmqctl(["eval".to_owned(), set]).await.unwrap();
    }
    let lab = Lab::on(&broker).await;
    let mut subscription = lab.subscribe(10).await;
    lab.publish("slow").await;
    // Up to 4.2 the broker closes the channel; since 4.3 it cancels the consumer, and the channel must be closed.
    let held = next(&mut subscription).await;
    let again = next(&mut subscription).await;
    assert_eq!((id(&again), again.redelivered), ("slow", true));
    held.ack();
    again.ack();
    lab.publish("after").await;
    let delivery = next(&mut subscription).await;
    assert_eq!(id(&delivery), "after");
    delivery.ack();
    subscription.close().await;
    assert_eq!(lab.depth("q").await, 0);
}

#[tokio::test]
async fn everything_is_declared_again_on_a_broker_that_forgot_it() {
    let lab = Lab::new().await;
    let broker = TestBroker::shared().await.unwrap();
    lab.amqp.declare(&queue("other", QueueKind::Classic)).await.unwrap();
    for queue in ["q", "other"] {
        broker.management().delete_queue(&lab.vhost, queue).await.unwrap();
    }
    let close = async || broker.management().close_connections(&lab.vhost).await.unwrap() > 0;
    eventually("its connection is closed", close).await;
    for queue in ["q", "other"] {
        let publish = || lab.amqp.send(publish(queue, "x"), PATIENCE);
        eventually("the queue is back", async || publish().await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_delivery_from_before_a_reconnect_settles_nothing_and_harms_nothing() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.publish_all(3).await;
    let mut subscription = lab.subscribe(2).await;
    let stale = [next(&mut subscription).await, next(&mut subscription).await];
    proxy.set(Fault::Reset);
    eventually("the connections are gone", async || proxy.connections() == 0).await;
    proxy.set(Fault::None);
    let mut fresh = Vec::new();
    for _ in 0..2 {
        fresh.push(next(&mut subscription).await);
    }
    stale.into_iter().for_each(Delivery::ack);
    let mut ids: Vec<&str> = fresh.iter().map(id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["0", "1"]);
    fresh.into_iter().for_each(Delivery::ack);
    next(&mut subscription).await.ack();
    eventually("the broker holds nothing", async || lab.messages().await == 0).await;
}

#[tokio::test]
async fn without_a_broker_a_publish_fails_by_its_timeout_and_says_why() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.publish("before").await;
    proxy.set(Fault::Reset);
    eventually("the connections are gone", async || proxy.connections() == 0).await;
    let limit = Duration::from_millis(200);
    let unavailable = async || {
        let outcome = lab.amqp.send(publish("q", "x"), limit).await;
        matches!(outcome, Err(PublishError::Unavailable { last_loss: Some(_), .. }))
    };
    eventually("it is not sent at all", unavailable).await;
    proxy.set(Fault::None);
    lab.publish("after").await;
}

#[tokio::test]
async fn a_publish_that_is_sent_and_not_confirmed_is_unconfirmed() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.publish("before").await;
    proxy.set(Fault::Drop);
    let outcome = lab.amqp.send(publish("q", "x"), Duration::from_millis(200)).await;
    assert!(matches!(outcome, Err(PublishError::Unconfirmed { .. })), "{outcome:?}");
    // What was dropped is missing from the stream for good, which no real network does to a connection that goes on.
    proxy.set(Fault::Reset);
    eventually("the connection is gone", async || proxy.connections() == 0).await;
    proxy.set(Fault::None);
    lab.publish("after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_an_alarm_publishes_fail_by_their_timeout_and_nothing_grows() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    let mut subscription = lab.subscribe(100).await;
    lab.publish("before").await;
    let held = next(&mut subscription).await;
    broker.set_memory_alarm(true).await.unwrap();
    let limit = Duration::from_millis(200);
    // Many times what may be unconfirmed, each with a body that would be missed.
    let (mut unconfirmed, mut unavailable) = (0, 0);
    let before = resident_kib();
    for _ in 0..24 {
        let all = (0..512).map(|_| {
            let mut large = publish("q", "x");
            large.message.body = vec![0; 4096];
            lab.amqp.send(large, limit)
        });
        for outcome in futures_util::future::join_all(all).await {
            match outcome {
                Err(PublishError::Unconfirmed { .. }) => unconfirmed += 1,
                Err(PublishError::Unavailable { .. }) => unavailable += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((1..=4096).contains(&unconfirmed), "{unconfirmed} sent, {unavailable} not sent");
    assert!(unavailable >= 24 * 512 - 4096, "{unconfirmed} sent, {unavailable} not sent");
    // 4096 bodies of 4 KiB, and as much again for all around them.
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 2 * 4096 * 4 + 16 * 1024, "{grown} KiB");
    // What does not publish goes on.
    held.ack();
    subscription.close().await;
    assert_eq!(lab.depth("q").await, 0);
    broker.set_memory_alarm(false).await.unwrap();
    lab.publish("after").await;
    lab.publish_all(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_disk_alarm_publishes_fail_by_their_timeout_and_consuming_goes_on() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    lab.publish_all(2).await;
    let mut subscription = lab.subscribe(1).await;
    let held = next(&mut subscription).await;
    broker.set_disk_alarm(true).await.unwrap();
    let outcome = lab.amqp.send(publish("q", "during"), Duration::from_millis(200)).await;
    assert!(matches!(outcome, Err(PublishError::Unconfirmed { .. })), "{outcome:?}");
    held.ack();
    next(&mut subscription).await.ack();
    broker.set_disk_alarm(false).await.unwrap();
    lab.publish("after").await;
    // What was sent meanwhile was read once the alarm was over.
    for expected in ["during", "after"] {
        let delivery = next(&mut subscription).await;
        assert_eq!(id(&delivery), expected);
        delivery.ack();
    }
    subscription.close().await;
    assert_eq!(lab.depth("q").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_confirms_nothing_holds_up_others_no_longer_than_it_lasts() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    lab.amqp.declare(&queue("stuck", QUORUM)).await.unwrap();
    lab.amqp.send(publish("stuck", "before"), PATIENCE).await.unwrap();
    // As if it had lost its majority.
    let each = |call: &str| {
        format!("[sys:{call}(N) || N <- registered(), lists:suffix(\"_stuck\", atom_to_list(N))].")
    };
    let suspended = broker.rabbitmqctl(["eval".to_owned(), each("suspend")]).await.unwrap();
    assert_eq!(suspended.trim(), "[ok]");
    let limit = Duration::from_millis(200);
    let stuck = async |count: usize| {
        let all = (0..count).map(|_| lab.amqp.send(publish("stuck", "x"), limit));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(|it| matches!(it, Err(PublishError::Unconfirmed { .. }))), "{all:?}");
    };
    stuck(20).await;
    // Behind a few of them the broker still takes others, and behind many it does not.
    lab.publish_all(100).await;
    stuck(500).await;
    let outcome = lab.amqp.send(publish("q", "held up"), limit).await;
    assert!(matches!(outcome, Err(PublishError::Unconfirmed { .. })), "{outcome:?}");
    broker.rabbitmqctl(["eval".to_owned(), each("resume")]).await.unwrap();
    lab.publish_all(1000).await;
    lab.amqp.send(publish("stuck", "after"), PATIENCE).await.unwrap();
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefetch_set_last_is_the_one_of_the_next_connection() {
    let lab = Lab::new().await;
    lab.publish_all(10).await;
    let management = TestBroker::shared().await.unwrap().management();
    for (set, then, expected) in [(Some(5), None, 5), (None, Some(3), 3)] {
        let mut subscription = lab.subscribe(1).await;
        let held = next(&mut subscription).await;
        if let Some(prefetch) = set {
            subscription.set_prefetch(prefetch);
        }
        let close = async || management.close_connections(&lab.vhost).await.unwrap() > 0;
        eventually("connections are there to be closed", close).await;
        eventually("the loss is noticed", async || held.is_lost()).await;
        if let Some(prefetch) = then {
            subscription.set_prefetch(prefetch);
        }
        let mut again = Vec::new();
        while again.len() < expected {
            again.extend(Some(next(&mut subscription).await).filter(|delivery| !delivery.is_lost()));
        }
        nothing(&mut subscription).await;
        subscription.close().await;
        eventually("all are back", async || lab.depth("q").await == 10).await;
    }
}
