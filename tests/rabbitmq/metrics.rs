//! What a recorder gets of connections (feature `metrics`).

use metrics_util::debugging::DebuggingRecorder;

use crate::*;

#[tokio::test]
async fn each_lost_connection_is_counted_by_its_role() {
    let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
    let _guard = ::metrics::set_default_local_recorder(recorder);
    let lab = Lab::new().await;
    lab.publish("1").await;
    let mut subscription = lab.subscribe(1).await;
    subscription.next().await.unwrap().ack();
    let management = TestBroker::shared().await.unwrap().management();
    eventually("both connections show", async || {
        management.connections(&lab.vhost).await.unwrap().len() == 2
    })
    .await;
    management.close_connections(&lab.vhost).await.unwrap();
    lab.publish("2").await;
    subscription.next().await.unwrap().ack();
    let mut lost = BTreeSet::new();
    for (key, ..) in recorder.snapshotter().snapshot().into_vec() {
        if key.key().name() == "taskhare_connections_lost_total" {
            lost.extend(key.key().labels().map(|label| (label.key().to_owned(), label.value().to_owned())));
        }
    }
    let expected =
        [("role", "consume"), ("role", "publish")].map(|(key, role)| (key.to_owned(), role.to_owned()));
    assert_eq!(lost, expected.into());
}
