//! Several processes that declare the same queue at once: for all but one it exists before it works.

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Producer;
use taskhare::Task;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::task::JoinSet;

#[derive(Serialize, Deserialize)]
struct Nothing;

impl Task for Nothing {
    const NAME: &'static str = "nothing";
    type Output = ();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_another_process_declares_just_now_takes_tasks() -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let mut brokers = Vec::new();
    for _ in 0..8 {
        brokers.push(Broker::connect(&url).await.unwrap());
    }
    for round in 0..10 {
        let queue = format!("new-{round}");
        let mut enqueued = JoinSet::new();
        for broker in &brokers {
            let (broker, queue) = (broker.clone(), queue.clone());
            enqueued.spawn(async move {
                let producer = Producer::builder(&broker).build().await.unwrap();
                producer.enqueue(Nothing).queue(&queue).await.map(drop)
            });
        }
        for outcome in enqueued.join_all().await {
            assert!(outcome.is_ok(), "round {round}: {outcome:?}");
        }
        assert_eq!(brokers[0].waiting(&queue).await.unwrap(), 8);
    }
    Ok(())
}
