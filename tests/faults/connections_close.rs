//! An operator who closes connections.

use taskhare::testing::Result;
use taskhare::testing::TestBroker;

use crate::run::Run;
use crate::run::SLOW;
use crate::worker::TASKS;

/// The two of the producer, and the four of the consumer: to tell of tasks, each has one of its own.
const CONNECTIONS: usize = 6;

/// Each loss of a consumer's connection gives back at most what it had; each loss of a producer's makes it send again
/// what it has on its way.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_the_end_of_every_connection_ten_times() -> Result<()> {
    let run = Run::new(TestBroker::shared().await?, SLOW).await;
    let management = run.broker.management();
    let (mut producer, consumer) = (run.producer(), run.consumer());
    for part in 1..=10 {
        run.until_done(part, 16).await;
        run.until("all are connected", async |_| {
            let expected = CONNECTIONS - 2 * usize::from(producer.has_ended());
            management.connections(&run.vhost).await.unwrap().len() == expected
        })
        .await;
        assert!(run.done() < TASKS as usize, "in the middle");
        let closed = management.close_connections(&run.vhost).await?;
        run.note(&format!("{closed} connections are closed"));
    }
    let account = run.finish(Some(producer), consumer).await;
    assert!(account.redelivered() <= 10 * SLOW.held(), "{account}");
    assert!(account.repeats() <= 10 * (SLOW.held() + SLOW.enqueued), "{account}");
    Ok(())
}
