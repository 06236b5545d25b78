//! The end of a process right after it has closed its broker.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Producer;
use taskhare::Task;
use taskhare::testing::TestBroker;
use tokio::runtime::Runtime;

#[derive(Serialize, Deserialize)]
struct Last;

impl Task for Last {
    const NAME: &'static str = "last";
    type Output = ();
}

/// The client library closes a dropped channel in a task of its own, and panics when the runtime ends before that task.
/// We close channels ourselves, which made it rare: 1 in 200 ends before, about 1 in 1800 since, on a busy machine. The
/// rest has no known cause.
#[ignore = "a known, harmless panic remains, too rare to be found and too frequent for a pipeline"]
#[test]
fn nothing_panics_when_a_process_ends_right_after_close() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let url = Runtime::new()
        .unwrap()
        .block_on(async { TestBroker::shared().await.unwrap().fresh_vhost().await.unwrap() });
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|location| location.file().contains("/amqprs-")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(panic);
    }));
    for _ in 0..200 {
        Runtime::new().unwrap().block_on(async {
            let broker = Broker::connect(&url).await.unwrap();
            Producer::builder(&broker).build().await.unwrap().enqueue(Last).await.unwrap();
            broker.close().await;
        });
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}
