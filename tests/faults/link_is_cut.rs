//! A network that swallows everything.

use taskhare::testing::Fault;
use taskhare::testing::Proxy;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;

use crate::run::FAST;
use crate::run::Run;

/// Only heartbeats can tell. One loss of all connections, then, as when the broker restarts.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_a_link_that_is_silently_cut() -> Result<()> {
    let mut run = Run::new(TestBroker::shared().await?, FAST).await;
    let proxy = Proxy::start(&run.url).await?;
    run.url = format!("{}?heartbeat=2", proxy.url(&run.url)?);
    let (producer, consumer) = (run.producer(), run.consumer());
    run.until_done(1, 4).await;
    proxy.set(Fault::Drop);
    run.note("the link is cut");
    let management = run.broker.management();
    let all_are_given_up = async |_: &_| management.connections(&run.vhost).await.unwrap().is_empty();
    run.until("the broker has given up all connections", all_are_given_up).await;
    proxy.set(Fault::None);
    run.note("the link is whole again");
    let account = run.finish(Some(producer), consumer).await;
    assert!(account.redelivered() <= FAST.held(), "{account}");
    assert!(account.repeats() <= FAST.held() + FAST.enqueued, "{account}");
    Ok(())
}
