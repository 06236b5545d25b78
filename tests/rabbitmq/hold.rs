//! C17: every way to lose a tenure, and what is on the broker then.

use crate::reconnect::Proxied;
use crate::*;

use taskhare::testing::Fault;

/// What became of the publishes of a tenure, by id.
#[derive(Debug, Default)]
struct Fates {
    confirmed: BTreeSet<String>,
    unconfirmed: BTreeSet<String>,
    unavailable: BTreeSet<String>,
}

/// With the queue `ledger`, of which one consumer is active.
async fn with_ledger(lab: &Lab) {
    let ledger = Queue { single_active_consumer: true, ..Queue::new(name("ledger"), QUORUM) };
    lab.amqp.declare(&bound(ledger)).await.unwrap();
}

async fn hold(lab: &Lab) -> Box<dyn Tenure> {
    lab.amqp.hold(subscribe("ledger", 1000)).await.unwrap()
}

async fn send(tenure: &dyn Tenure, key: &str, id: &str) -> Result<(), PublishError> {
    tenure.publish(&publish(key, id), PATIENCE).await
}

async fn take(tenure: &mut Box<dyn Tenure>) -> Option<Delivery> {
    tokio::time::timeout(PATIENCE, tenure.next()).await.expect("a delivery or the end in time")
}

/// Publishes into `q` without a pause until nothing is sent any more.
async fn pump(tenure: &dyn Tenure) -> Fates {
    let (mut waiting, mut fates, mut unavailable) = (Vec::new(), Fates::default(), 0);
    for count in 0_u32.. {
        let id = count.to_string();
        let mut outcome = tenure.publish(&publish("q", &id), PATIENCE);
        // Known at once only if it was not sent, and then for all later ones too.
        match futures_util::FutureExt::now_or_never(&mut outcome) {
            Some(Err(PublishError::Unavailable { .. })) => {
                fates.unavailable.insert(id);
                unavailable += 1;
                if unavailable == 10 {
                    break;
                }
            }
            Some(Ok(())) => drop(fates.confirmed.insert(id)),
            Some(other) => panic!("{other:?} for {id}"),
            None => waiting.push((id, outcome)),
        }
        if count % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for (id, outcome) in waiting {
        match outcome.await {
            Ok(()) => drop(fates.confirmed.insert(id)),
            Err(PublishError::Unconfirmed { .. }) => drop(fates.unconfirmed.insert(id)),
            other => panic!("{other:?} for {id}"),
        }
    }
    fates
}

/// Does `harm` to a tenure that holds three deliveries and publishes, and sees that it ends as it should.
async fn ends(lab: &Lab, harm: impl AsyncFnOnce(&dyn Tenure, &Delivery)) {
    with_ledger(lab).await;
    let mut tenure = hold(lab).await;
    let mut held = Vec::new();
    for id in ["a", "b", "c"] {
        send(&*tenure, "ledger", id).await.unwrap();
        held.push(take(&mut tenure).await.unwrap());
    }
    let (fates, ()) = tokio::join!(pump(&*tenure), harm(&*tenure, &held[0]));
    assert!(fates.confirmed.len() > 10, "{fates:?}");
    assert!(take(&mut tenure).await.is_none(), "deliveries end");
    assert!(held.iter().all(Delivery::is_lost));
    let late = send(&*tenure, "q", "late").await;
    assert!(matches!(late, Err(PublishError::Unavailable { .. })), "{late:?}");

    // The next one works, and what it publishes is the last in the queue.
    with_ledger(lab).await;
    let mut next_tenure = hold(lab).await;
    send(&*next_tenure, "ledger", "d").await.unwrap();
    let mut ids = BTreeSet::new();
    while !ids.contains("d") {
        let delivery = take(&mut next_tenure).await.unwrap();
        ids.insert(id(&delivery).to_owned());
        delivery.ack();
    }
    send(&*next_tenure, "q", "end").await.unwrap();
    let mut subscription = lab.subscribe(1000).await;
    let mut seen = BTreeSet::new();
    while !seen.contains("end") {
        let delivery = next(&mut subscription).await;
        assert!(seen.insert(id(&delivery).to_owned()), "twice: {delivery:?}");
        delivery.ack();
    }
    let lost: Vec<_> = fates.confirmed.difference(&seen).collect();
    assert!(lost.is_empty(), "confirmed and not there: {lost:?}");
    let phantoms: Vec<_> = fates.unavailable.intersection(&seen).collect();
    assert!(phantoms.is_empty() && !seen.contains("late"), "never sent, and there: {phantoms:?}");
}

async fn close_connections(lab: &Lab) {
    let management = TestBroker::shared().await.unwrap().management();
    let is_scheduling = |it: &taskhare::management::Connection| it.user_provided_name.contains(" schedule ");
    eventually("the connection shows", async || {
        management.connections(&lab.vhost).await.unwrap().iter().any(is_scheduling)
    })
    .await;
    management.close_connections(&lab.vhost).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_closes_the_connection() {
    let lab = Lab::new().await;
    ends(&lab, async |_, _| close_connections(&lab).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_closes_the_channel() {
    let lab = Lab::new().await;
    let to_nowhere = Publish { exchange: name("missing"), ..publish("q", "x") };
    ends(&lab, async |tenure, _| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let outcome = tenure.publish(&to_nowhere, PATIENCE).await;
        let Err(PublishError::Unconfirmed { last_loss: Some(why), .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(why.contains("no exchange 'missing'"), "{why}");
    })
    .await;
    // Others on the connection go on, and it is not made anew for a channel.
    let connections = TestBroker::shared().await.unwrap().management().connections(&lab.vhost).await.unwrap();
    let scheduling = connections.iter().filter(|it| it.user_provided_name.contains(" schedule "));
    assert!(scheduling.count() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_deleted() {
    let lab = Lab::new().await;
    ends(&lab, async |_, _| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lab.amqp.delete(&name("ledger")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_cut_and_says_nothing() {
    let Proxied { lab, proxy } = Proxied::new().await;
    ends(&lab, async |_, held| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Fault::Drop);
        eventually("the heartbeat tells", async || held.is_lost()).await;
        proxy.set(Fault::None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_resets_the_connection() {
    let Proxied { lab, proxy } = Proxied::new().await;
    ends(&lab, async |_, held| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Fault::Reset);
        eventually("it is noticed", async || held.is_lost()).await;
        proxy.set(Fault::None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_holds_up_publishes_and_ends_nothing() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    with_ledger(&lab).await;
    let mut tenure = hold(&lab).await;
    send(&*tenure, "ledger", "before").await.unwrap();
    let held = take(&mut tenure).await.unwrap();
    // A subscription of the same handle, over another connection.
    lab.publish("other").await;
    let mut subscription = lab.subscribe(1).await;
    let other = next(&mut subscription).await;

    broker.set_memory_alarm(true).await.unwrap();
    let outcome = tenure.publish(&publish("ledger", "during"), Duration::from_millis(300)).await;
    assert!(matches!(outcome, Err(PublishError::Unconfirmed { .. })), "{outcome:?}");
    other.ack();
    subscription.close().await;
    assert_eq!(lab.depth("q").await, 0, "acknowledgements arrive meanwhile");
    assert!(!held.is_lost());

    broker.set_memory_alarm(false).await.unwrap();
    send(&*tenure, "ledger", "after").await.unwrap();
    // It was on its way all the time, and comes once.
    for expected in ["during", "after"] {
        let delivery = take(&mut tenure).await.unwrap();
        assert_eq!(id(&delivery), expected);
        delivery.ack();
    }
    held.ack();
    tenure.close().await;
    assert_eq!(lab.depth("ledger").await, 0);
}
