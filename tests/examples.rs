//! The examples on RabbitMQ. `./dev examples` runs them without one.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::process::Command;

/// What it says on its standard output, once it has ended well.
async fn example(name: &str, arguments: &[&str], url: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--features", "full,testing", "--example", name, "--"])
        .args(arguments)
        .env("AMQP_URL", url)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (said, complained) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(output.status.success(), "{name}: {}\n{}{}", output.status, said.unwrap(), complained.unwrap());
    said.unwrap()
}

/// Those that `./dev examples` runs.
fn names() -> impl Iterator<Item = &'static str> {
    let (_, list) = include_str!("../dev").split_once("EXAMPLES=(").unwrap();
    list.split(')').next().unwrap().split_whitespace()
}

#[tokio::test]
async fn examples_that_end_by_themselves_check_themselves() -> Result<()> {
    let broker = TestBroker::shared().await?;
    for name in names() {
        example(name, &[], &broker.fresh_vhost().await?).await;
    }
    Ok(())
}

#[tokio::test]
async fn the_consumer_does_what_the_producer_enqueued() -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let (consumed, produced) =
        tokio::join!(example("consumer", &["300"], &url), example("producer", &["300"], &url));
    assert!(produced.contains("enqueued 300 tasks"), "{produced}");
    for image in 0..300 {
        assert!(consumed.lines().any(|line| line == format!("thumbnail of image {image}")), "{consumed}");
    }
    Ok(())
}

#[tokio::test]
async fn of_three_schedulers_one_is_killed_after_the_other() -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let said = example("schedulers", &[], &url).await;
    assert!(said.contains("30 ticks, each once"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_loses_a_node_and_no_task() {
    let said = example("cluster", &[], "").await;
    assert!(said.contains("no task lost"), "{said}");
}
