//! Headers nested in themselves. What ends the process is in `docs/security.md`.

use taskhare::transport::Value;

use crate::raw::RawClient;
use crate::*;

/// A header that is a list in a list, so many.
fn nested(depth: usize) -> Vec<u8> {
    let value = (1..depth).fold(raw::long(&[]), |value, _| raw::long(&[&[b'A'][..], &value].concat()));
    raw::table(&[(b"x", b'A', &value)])
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_read_as_deep_as_they_may_be_nested_and_no_deeper() {
    let lab = Lab::new().await;
    for (depth, read) in [(20, 20), (33, 33), (300, 33)] {
        let mut raw = RawClient::connect(&lab.url).await.unwrap();
        raw.publish("tasks", "q", &nested(depth), b"deep").await.unwrap();
        raw.close().await.unwrap();
        let mut subscription = lab.subscribe(1).await;
        let delivery = next(&mut subscription).await;
        let levels = std::iter::successors(delivery.message.headers.get("x"), |value| match value {
            Value::List(values) => values.first(),
            _ => None,
        });
        assert_eq!(levels.filter(|value| matches!(value, Value::List(_))).count(), read, "of {depth}");
        delivery.ack();
        subscription.close().await;
    }
}
