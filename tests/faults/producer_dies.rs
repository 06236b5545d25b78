//! kill -9 of the producer.

use taskhare::testing::Result;
use taskhare::testing::TestBroker;

use crate::run::FAST;
use crate::run::Run;

/// What was on its way is on the broker or not; nobody was told that it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_had_confirmed_before_it_was_killed_is_done_once() -> Result<()> {
    let run = Run::new(TestBroker::shared().await?, FAST).await;
    let (producer, consumer) = (run.producer(), run.consumer());
    run.until_confirmed(1, 2).await;
    producer.kill().await;
    run.note("the producer is killed");
    let account = run.finish(None, consumer).await;
    assert!(account.done() <= account.confirmed() + FAST.enqueued, "{account}");
    assert_eq!(account.repeats(), 0, "{account}");
    Ok(())
}
