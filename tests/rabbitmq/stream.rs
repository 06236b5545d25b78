//! C13: a reader of a stream, and what happens to it on the way.

use crate::*;

use taskhare::testing::Fault;
use taskhare::transport::Start;

use crate::reconnect::Proxied;

const HOUR: Duration = Duration::from_secs(3600);

fn log() -> Topology {
    bound(Queue::new(name("log"), QueueKind::Stream { group_size: 1, max_age: HOUR, max_bytes: 1 << 30 }))
}

async fn read(amqp: &Amqp, start: Start, prefetch: u16) -> Box<dyn Subscription> {
    amqp.subscribe(Subscribe { start: Some(start), ..subscribe("log", prefetch) }).await.unwrap()
}

/// Reads and acks so many.
async fn read_on(reader: &mut Box<dyn Subscription>, count: usize) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let delivery = next(reader).await;
        seen.push((delivery.offset.unwrap(), id(&delivery).to_owned()));
        delivery.ack();
    }
    seen
}

async fn publish_to(amqp: &Amqp, ids: impl IntoIterator<Item = String>) {
    let all = ids.into_iter().map(|id| async move { amqp.send(publish("log", &id), PATIENCE).await });
    for outcome in futures_util::future::join_all(all).await {
        outcome.unwrap();
    }
}

async fn close_connections(lab: &Lab) {
    let management = TestBroker::shared().await.unwrap().management();
    let close = async || management.close_connections(&lab.vhost).await.unwrap() > 0;
    eventually("connections are there to be closed", close).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_in_the_midst_of_what_was_stored_at_once() {
    let lab = Lab::new().await;
    lab.amqp.declare(&log()).await.unwrap();
    publish_to(&lab.amqp, (0..300).map(|id| id.to_string())).await;
    let whole = read_on(&mut read(&lab.amqp, Start::First, 100).await, 300).await;
    let mut reader = read(&lab.amqp, Start::First, 50).await;
    let mut seen = read_on(&mut reader, 37).await;
    // Handed out is handed out, settled or not.
    let held = next(&mut reader).await;
    seen.push((held.offset.unwrap(), id(&held).to_owned()));
    for _ in 0..3 {
        close_connections(&lab).await;
        seen.extend(read_on(&mut reader, 41).await);
    }
    held.requeue();
    seen.extend(read_on(&mut reader, 300 - 38 - 3 * 41).await);
    assert_eq!(seen, whole);
    nothing(&mut reader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_a_failing_network_skips_and_repeats_nothing() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.amqp.declare(&log()).await.unwrap();
    let mut reader = read(&lab.amqp, Start::Next, 20).await;
    let publishing = async {
        // By way of the same network, so some are published twice: the stream then has them twice.
        for round in 0..150 {
            publish_to(&lab.amqp, (0..4).map(|id| format!("{round}-{id}"))).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        publish_to(&lab.amqp, ["end".to_owned()]).await;
    };
    let harm = async {
        for fault in [Fault::Reset, Fault::Close, Fault::Reset, Fault::Close] {
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxy.set(fault);
            tokio::time::sleep(Duration::from_millis(200)).await;
            proxy.set(Fault::None);
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(_, id)| id != "end") {
            seen.extend(read_on(&mut reader, 1).await);
        }
        seen
    };
    let ((), (), seen) = tokio::join!(publishing, harm, reading);
    let whole = read_on(&mut read(&lab.amqp, Start::First, 100).await, seen.len()).await;
    assert_eq!(seen, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_a_reader_that_has_read_nothing_is_away_is_read() {
    let Proxied { lab, proxy } = Proxied::new().await;
    lab.amqp.declare(&log()).await.unwrap();
    let mut reader = read(&lab.amqp, Start::Next, 20).await;
    let direct = Lab::connected_to(&lab.url).await;
    proxy.set(Fault::Close);
    nothing(&mut reader).await;
    publish_to(&direct.amqp, ["meanwhile".to_owned()]).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    proxy.set(Fault::None);
    assert_eq!(read_on(&mut reader, 1).await, [(0, "meanwhile".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_made_anew_is_read_from_its_start() {
    let management = TestBroker::shared().await.unwrap().management();
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<String>>();
    // As long as the old one, longer, and shorter.
    for (index, new) in [ids(&["x", "y", "z"]), ids(&["x", "y", "z", "u"]), ids(&["x"])].iter().enumerate() {
        let Proxied { lab, proxy } = Proxied::new().await;
        lab.amqp.declare(&log()).await.unwrap();
        publish_to(&lab.amqp, ids(&["a"])).await;
        let mut reader = read(&lab.amqp, Start::Next, 20).await;
        publish_to(&lab.amqp, ids(&["d", "e"])).await;
        assert_eq!(read_on(&mut reader, 2).await.len(), 2);
        let direct = Lab::connected_to(&lab.url).await;
        proxy.set(Fault::Close);
        nothing(&mut reader).await;
        management.delete_queue(&lab.vhost, "log").await.unwrap();
        direct.amqp.declare(&log()).await.unwrap();
        for id in new {
            publish_to(&direct.amqp, [id.clone()]).await;
        }
        proxy.set(Fault::None);
        let seen = read_on(&mut reader, new.len()).await;
        assert_eq!(seen.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), *new, "{index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_deleted_under_its_reader_comes_back_and_is_read_from_its_start() {
    let lab = Lab::new().await;
    lab.amqp.declare(&log()).await.unwrap();
    publish_to(&lab.amqp, ["a".to_owned(), "b".to_owned()]).await;
    let mut reader = read(&lab.amqp, Start::First, 20).await;
    assert_eq!(read_on(&mut reader, 2).await.len(), 2);
    TestBroker::shared().await.unwrap().management().delete_queue(&lab.vhost, "log").await.unwrap();
    nothing(&mut reader).await;
    let returns = async || lab.amqp.depth(&name("log")).await.unwrap().is_some();
    let back = eventually("the stream is declared again", returns);
    tokio::select! {
        () = back => {}
        came = reader.next() => panic!("nothing was published: {came:?}"),
    }
    lab.amqp.send(publish("log", "c"), PATIENCE).await.unwrap();
    assert_eq!(read_on(&mut reader, 1).await, [(0, "c".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_quiet_stream_stays_where_it_is() {
    let lab = Lab::new().await;
    lab.amqp.declare(&log()).await.unwrap();
    publish_to(&lab.amqp, ["a".to_owned()]).await;
    let mut reader = read(&lab.amqp, Start::First, 20).await;
    assert_eq!(read_on(&mut reader, 1).await.len(), 1);
    close_connections(&lab).await;
    // Longer than it waits for a proof that the stream is still the same.
    let quiet = tokio::time::timeout(Duration::from_secs(12), reader.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    publish_to(&lab.amqp, ["b".to_owned()]).await;
    assert_eq!(read_on(&mut reader, 1).await, [(1, "b".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_on_and_from_its_beginning_after_its_broker_was_killed() {
    let broker = TestBroker::start().await.unwrap();
    let lab = Lab::on(&broker).await;
    lab.amqp.declare(&log()).await.unwrap();
    let mut reader = read(&lab.amqp, Start::First, 20).await;
    publish_to(&lab.amqp, (0..10).map(|id| id.to_string())).await;
    let mut seen = read_on(&mut reader, 10).await;
    // What was declared in the last instants before a kill may not be there afterwards.
    tokio::time::sleep(Duration::from_secs(10)).await;
    broker.kill().await.unwrap();
    broker.start_again().await.unwrap();
    publish_to(&lab.amqp, (10..20).map(|id| id.to_string())).await;
    seen.extend(read_on(&mut reader, 10).await);
    let whole = read_on(&mut read(&lab.amqp, Start::First, 20).await, 20).await;
    assert_eq!(seen, whole);
}

/// Longer than a stream may say nothing before it is asked again, twice.
const SILENT: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_silent_stream_asks_again_and_skips_and_repeats_nothing() {
    let lab = Lab::new().await;
    lab.amqp.declare(&log()).await.unwrap();
    let mut reader = read(&lab.amqp, Start::First, 20).await;
    publish_to(&lab.amqp, (0..3).map(|id| id.to_string())).await;
    let mut seen = read_on(&mut reader, 3).await;
    let silent = tokio::time::timeout(SILENT, reader.next()).await;
    assert!(silent.is_err(), "{silent:?}");
    publish_to(&lab.amqp, (3..6).map(|id| id.to_string())).await;
    seen.extend(read_on(&mut reader, 3).await);
    let whole = read_on(&mut read(&lab.amqp, Start::First, 20).await, 6).await;
    assert_eq!(seen, whole);
}
