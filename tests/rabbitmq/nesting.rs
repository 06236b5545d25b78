//! Headers nested as deeply as fit into a frame.

use crate::raw::RawClient;
use crate::*;

/// Lists in lists, as many as fit.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = raw::long(&[]);
    for _ in 1..depth {
        value = raw::long(&[&[b'A'][..], &value].concat());
    }
    raw::table(&[(b"x", b'A', &value)])
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_nested_to_the_limit_end_nobody() {
    let lab = Lab::new().await;
    for depth in [100, 1000, 5000, 10_000, 20_000] {
        let mut raw = RawClient::connect(&lab.url).await.unwrap();
        eprintln!("depth {depth}");
        if let Err(error) = raw.publish("tasks", "q", &nested(depth), b"deep").await {
            eprintln!("publish: {error}");
        }
        if let Err(error) = raw.close().await {
            eprintln!("close: {error}");
        }
        eprintln!("in the queue: {}", lab.depth("q").await);
        let mut subscription = lab.subscribe(1).await;
        let delivery = tokio::time::timeout(Duration::from_secs(5), subscription.next()).await;
        eprintln!("depth {depth}: {}", delivery.is_ok());
        if let Ok(Some(delivery)) = delivery {
            delivery.ack();
        }
        subscription.close().await;
        lab.amqp.purge(&name("q")).await.unwrap();
    }
}
