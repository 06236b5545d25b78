//! C13.

use std::time::Duration;

use taskhare::Error;
use taskhare::topology::Queue;
use taskhare::topology::QueueKind;
use taskhare::topology::Topology;
use taskhare::transport::Delivery;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Start;
use taskhare::transport::Subscribe;
use taskhare::transport::Subscription;

use crate::support::*;

on_every_transport![
    each_of_many_readers_sees_everything,
    what_is_published_at_once_is_read_once_and_in_order,
    a_reader_from_the_next_one_sees_only_what_comes_later,
    a_reader_from_some_time_ago_sees_what_came_since,
    a_reader_from_an_offset_sees_that_message_and_all_after_it,
    a_reader_from_beyond_the_end_sees_what_comes_next,
    a_reader_from_an_offset_that_is_gone_begins_with_the_oldest,
    however_a_delivery_is_settled_the_stream_goes_on_and_keeps_it,
    offsets_ascend_and_are_the_same_for_all,
    a_reader_that_settles_nothing_is_held_up,
    a_cancelled_reader_comes_to_its_end,
    setting_the_prefetch_of_a_reader_is_harmless,
    a_stream_delivers_messages_as_published,
    a_stream_has_no_depth,
    what_is_too_much_goes_the_oldest_first,
    what_is_too_old_goes,
    a_stream_with_other_limits_is_a_conflict,
];

const HOUR: Duration = Duration::from_secs(3600);

fn stream(max_age: Duration, max_bytes: u64) -> Queue {
    queue(QueueKind::Stream { group_size: 1, max_age, max_bytes })
}

async fn open_stream(broker: &Broker) -> Route {
    open(broker, stream(HOUR, 1 << 30)).await
}

async fn read(broker: &Broker, stream: &Name, start: Start, prefetch: u16) -> Box<dyn Subscription> {
    let subscribe = Subscribe { start: Some(start), ..Subscribe::new(stream.clone(), prefetch, "contract") };
    within(broker.subscribe(subscribe)).await.unwrap()
}

async fn each_of_many_readers_sees_everything(broker: &Broker) {
    let route = open_stream(broker).await;
    let mut early = read(broker, &route.queue, Start::First, 10).await;
    publish_all(broker, &route, &["a", "b", "c", "d"]).await;
    let mut late = read(broker, &route.queue, Start::First, 10).await;
    publish_all(broker, &route, &["e"]).await;
    for reader in [&mut early, &mut late] {
        assert_eq!(consume(reader, 5).await, ["a", "b", "c", "d", "e"]);
        nothing(reader).await;
    }
}

async fn what_is_published_at_once_is_read_once_and_in_order(broker: &Broker) {
    let route = open_stream(broker).await;
    let mut publishing = tokio::task::JoinSet::new();
    for n in 0..500 {
        let (broker, route) = (broker.clone(), route.clone());
        publishing.spawn(async move { publish(&broker, &route, message(n.to_string())).await });
    }
    within(publishing.join_all()).await;
    let once = consume(&mut read(broker, &route.queue, Start::First, 100).await, 500).await;
    for prefetch in [1, 7, 1000] {
        let mut reader = read(broker, &route.queue, Start::First, prefetch).await;
        assert_eq!(consume(&mut reader, 500).await, once, "{prefetch}");
        nothing(&mut reader).await;
    }
    let mut numbers: Vec<u32> = once.iter().map(|body| body.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, Vec::from_iter(0..500));
}

async fn a_reader_from_the_next_one_sees_only_what_comes_later(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b"]).await;
    let mut reader = read(broker, &route.queue, Start::Next, 10).await;
    nothing(&mut reader).await;
    publish_all(broker, &route, &["c", "d"]).await;
    assert_eq!(consume(&mut reader, 2).await, ["c", "d"]);
}

async fn a_reader_from_some_time_ago_sees_what_came_since(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b"]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    publish_all(broker, &route, &["c"]).await;
    let mut recent = read(broker, &route.queue, Start::Ago(Duration::from_secs(2)), 10).await;
    let mut all = read(broker, &route.queue, Start::Ago(HOUR), 10).await;
    publish_all(broker, &route, &["d"]).await;
    assert_eq!(consume(&mut recent, 2).await, ["c", "d"]);
    assert_eq!(consume(&mut all, 4).await, ["a", "b", "c", "d"]);
}

async fn a_reader_from_an_offset_sees_that_message_and_all_after_it(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b", "c", "d"]).await;
    let all = take(&mut read(broker, &route.queue, Start::First, 10).await, 4).await;
    for (index, delivery) in all.iter().enumerate() {
        let start = Start::Offset(delivery.offset.unwrap());
        let mut reader = read(broker, &route.queue, start, 10).await;
        assert_eq!(consume(&mut reader, 4 - index).await, ["a", "b", "c", "d"][index..]);
        nothing(&mut reader).await;
    }
}

async fn a_reader_from_beyond_the_end_sees_what_comes_next(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b"]).await;
    let last = take(&mut read(broker, &route.queue, Start::First, 10).await, 2).await;
    let start = Start::Offset(last[1].offset.unwrap() + 1);
    let mut reader = read(broker, &route.queue, start, 10).await;
    nothing(&mut reader).await;
    publish_all(broker, &route, &["c", "d"]).await;
    assert_eq!(consume(&mut reader, 2).await, ["c", "d"]);
}

async fn a_reader_from_an_offset_that_is_gone_begins_with_the_oldest(broker: &Broker) {
    let route = open(broker, stream(HOUR, 2 << 20)).await;
    publish_all(broker, &route, &["oldest"]).await;
    let gone = next(&mut read(broker, &route.queue, Start::First, 1).await).await.offset.unwrap();
    publish_much(broker, &route).await;
    loses(broker, &route.queue, "oldest").await;
    let oldest = next(&mut read(broker, &route.queue, Start::First, 1).await).await;
    let first = next(&mut read(broker, &route.queue, Start::Offset(gone), 1).await).await;
    assert_eq!(first.offset, oldest.offset);
}

async fn however_a_delivery_is_settled_the_stream_goes_on_and_keeps_it(broker: &Broker) {
    for prefetch in [1, 10] {
        let route = open_stream(broker).await;
        publish_all(broker, &route, &["ack", "requeue", "reject", "drop", "ack"]).await;
        let mut reader = read(broker, &route.queue, Start::First, prefetch).await;
        for expected in ["ack", "requeue", "reject", "drop", "ack"] {
            let delivery = next(&mut reader).await;
            assert_eq!(body(&delivery), expected);
            assert!(!delivery.redelivered);
            assert_eq!(delivery.returned, 0);
            match expected {
                "ack" => delivery.ack(),
                "requeue" => delivery.requeue(),
                "reject" => delivery.reject(),
                _ => drop(delivery),
            }
        }
        nothing(&mut reader).await;
        publish_all(broker, &route, &["more"]).await;
        assert_eq!(consume(&mut reader, 1).await, ["more"]);
        within(reader.close()).await;
        let expected = ["ack", "requeue", "reject", "drop", "ack", "more"];
        assert_eq!(consume(&mut read(broker, &route.queue, Start::First, 10).await, 6).await, expected);
    }
}

async fn offsets_ascend_and_are_the_same_for_all(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b", "c"]).await;
    let offsets = async || {
        let deliveries = take(&mut read(broker, &route.queue, Start::First, 10).await, 3).await;
        deliveries.iter().map(|delivery| delivery.offset.unwrap()).collect::<Vec<u64>>()
    };
    let first = offsets().await;
    assert!(first.is_sorted_by(|one, next| one < next), "{first:?}");
    assert_eq!(offsets().await, first);
    for kind in BOTH_KINDS {
        let route = open(broker, queue(kind)).await;
        publish_all(broker, &route, &["a"]).await;
        let delivery = next(&mut subscribe(broker, &route.queue, 1).await).await;
        assert_eq!(delivery.offset, None);
    }
}

async fn a_reader_that_settles_nothing_is_held_up(broker: &Broker) {
    let route = open_stream(broker).await;
    let expected = publish_numbers(broker, &route, 200).await;
    let mut reader = read(broker, &route.queue, Start::First, 5).await;
    let mut held: Vec<Delivery> = Vec::new();
    while let Ok(delivery) = tokio::time::timeout(Duration::from_millis(400), reader.next()).await {
        held.push(delivery.unwrap());
    }
    assert!((5..200).contains(&held.len()), "{}", held.len());
    let mut got = bodies(&held);
    held.into_iter().for_each(Delivery::ack);
    got.extend(consume(&mut reader, 200 - got.len()).await);
    assert_eq!(got, expected);
}

async fn a_cancelled_reader_comes_to_its_end(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b"]).await;
    let mut reader = read(broker, &route.queue, Start::First, 1).await;
    let held = next(&mut reader).await;
    within(reader.cancel()).await;
    while let Some(delivery) = within(reader.next()).await {
        assert_eq!(body(&delivery), "b");
    }
    held.requeue();
    within(reader.close()).await;
    assert_eq!(consume(&mut read(broker, &route.queue, Start::First, 1).await, 2).await, ["a", "b"]);
}

async fn setting_the_prefetch_of_a_reader_is_harmless(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b", "c"]).await;
    let mut reader = read(broker, &route.queue, Start::First, 1).await;
    assert_eq!(consume(&mut reader, 1).await, ["a"]);
    reader.set_prefetch(10);
    assert_eq!(consume(&mut reader, 2).await, ["b", "c"]);
    nothing(&mut reader).await;
}

async fn a_stream_delivers_messages_as_published(broker: &Broker) {
    let route = open_stream(broker).await;
    let published = Message {
        id: Some("id".to_owned()),
        kind: Some("kind".into()),
        headers: [("x-own", 7), ("n", -1)].into_iter().collect(),
        timestamp: Some(1_700_000_000),
        ..message(vec![7; 100_000])
    };
    publish(broker, &route, published.clone()).await;
    publish(broker, &route, message("")).await;
    let mut reader = read(broker, &route.queue, Start::First, 1).await;
    for expected in [published, message("")] {
        let mut delivery = next(&mut reader).await;
        assert_eq!(std::mem::take(&mut delivery.message), expected);
    }
}

async fn a_stream_has_no_depth(broker: &Broker) {
    let route = open_stream(broker).await;
    publish_all(broker, &route, &["a", "b"]).await;
    assert_eq!(within(broker.depth(&route.queue)).await.unwrap(), Some(0));
}

/// Waits until the oldest message of a stream is not `gone` any more.
async fn loses(broker: &Broker, stream: &Name, gone: &str) {
    let lost = async {
        loop {
            let oldest = next(&mut read(broker, stream, Start::First, 1).await).await;
            if body(&oldest) != gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(lost).await;
}

/// More than a segment.
async fn publish_much(broker: &Broker, route: &Route) {
    for _ in 0..24 {
        publish(broker, route, message(vec![b'x'; 256 * 1024])).await;
    }
    publish(broker, route, message("newest")).await;
}

async fn what_is_too_much_goes_the_oldest_first(broker: &Broker) {
    let route = open(broker, stream(HOUR, 2 << 20)).await;
    publish_all(broker, &route, &["oldest"]).await;
    publish_much(broker, &route).await;
    loses(broker, &route.queue, "oldest").await;
    let mut reader = read(broker, &route.queue, Start::First, 10).await;
    let newest = async { while consume(&mut reader, 1).await != ["newest"] {} };
    within(newest).await;
}

async fn what_is_too_old_goes(broker: &Broker) {
    let route = open(broker, stream(Duration::from_secs(1), 1 << 22)).await;
    publish_all(broker, &route, &["oldest"]).await;
    publish_much(broker, &route).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = async {
        loop {
            // A broker looks for what is too old when it starts another segment.
            publish_much(broker, &route).await;
            let oldest = next(&mut read(broker, &route.queue, Start::First, 1).await).await;
            if body(&oldest) != "oldest" {
                return;
            }
        }
    };
    within(lost).await;
}

async fn a_stream_with_other_limits_is_a_conflict(broker: &Broker) {
    let ours = stream(HOUR, 1 << 22);
    let only = |queue: Queue| Topology { queues: vec![queue], ..Topology::default() };
    declare(broker, only(ours.clone())).await;
    declare(broker, only(ours.clone())).await;
    let kind = QueueKind::Stream { group_size: 1, max_age: HOUR * 2, max_bytes: 1 << 22 };
    match within(broker.declare(&only(Queue { kind, ..ours.clone() }))).await {
        Err(Error::TopologyConflict { object, argument, .. }) => {
            assert_eq!(object, format!("queue '{}'", ours.name));
            assert_eq!(argument, "x-max-age");
        }
        other => panic!("a conflict was to come, and this did: {other:?}"),
    }
}
