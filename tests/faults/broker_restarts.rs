//! kill -9 and an orderly restart of the broker.

use taskhare::testing::Result;
use taskhare::testing::TestBroker;

use crate::run::FAST;
use crate::run::Run;

/// One loss of all connections: what the consumer had not settled comes again, and what was not confirmed is sent
/// again.
const MOST_REPEATS: usize = FAST.held() + FAST.enqueued;

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_the_kill_of_their_broker() -> Result<()> {
    let broker = TestBroker::start().await?;
    let run = Run::new(&broker, FAST).await;
    let (producer, consumer) = (run.producer(), run.consumer());
    run.until_done(1, 4).await;
    broker.kill().await?;
    run.note("the broker is killed");
    broker.start_again().await?;
    run.note("the broker is ready again");
    let account = run.finish(Some(producer), consumer).await;
    assert!(account.repeats() <= MOST_REPEATS, "{account}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_an_orderly_restart_of_their_broker() -> Result<()> {
    let broker = TestBroker::start().await?;
    let run = Run::new(&broker, FAST).await;
    let (producer, consumer) = (run.producer(), run.consumer());
    run.until_done(1, 4).await;
    broker.stop().await?;
    run.note("the broker has stopped");
    broker.start_again().await?;
    run.note("the broker is ready again");
    let account = run.finish(Some(producer), consumer).await;
    assert!(account.repeats() <= MOST_REPEATS, "{account}");
    Ok(())
}
