//! kill -9 of the consumer.

use taskhare::testing::Result;
use taskhare::testing::TestBroker;

use crate::run::FAST;
use crate::run::Run;

/// Each kill gives back what the consumer had and had not settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_killed_three_times_loses_nothing_and_repeats_at_most_what_it_had() -> Result<()> {
    let run = Run::new(TestBroker::shared().await?, FAST).await;
    let producer = run.producer();
    let mut consumer = run.consumer();
    for quarter in 1..=3 {
        run.until_done(quarter, 4).await;
        consumer.kill().await;
        run.note("the consumer is killed");
        consumer = run.consumer();
    }
    let account = run.finish(Some(producer), consumer).await;
    assert!(account.repeats() <= 3 * FAST.held(), "{account}");
    assert!(account.redelivered() <= 3 * FAST.held(), "{account}");
    Ok(())
}
