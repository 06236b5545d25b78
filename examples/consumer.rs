//! The other half of the pair: runs the tasks of `producer` until it has done as many as asked, or until Ctrl-C.
//!
//! ```text
//! export AMQP_URL=amqp://localhost
//! cargo run --example consumer        # 100 tasks
//! cargo run --example consumer 1000
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Task;
use tokio::sync::Semaphore;

/// The same in both programs: in an application, a crate that both use.
#[derive(Serialize, Deserialize)]
struct Thumbnail {
    image: u32,
}

impl Task for Thumbnail {
    const NAME: &'static str = "thumbnail";
    type Output = ();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").map_err(|_| "set AMQP_URL, to amqp://localhost perhaps")?;
    let count = std::env::args().nth(1).map_or(Ok(100), |count| count.parse())?;
    let broker = Broker::connect(&url).await?;

    let done = Arc::new(Semaphore::new(0));
    let count_up = done.clone();
    let consumer = Consumer::builder(&broker)
        .handler_blocking(move |task: Thumbnail, _ctx| {
            std::thread::sleep(Duration::from_millis(10)); // the work
            println!("thumbnail of image {}", task.image);
            count_up.add_permits(1);
            Ok(())
        })
        .start()
        .await?;
    let enough = async {
        tokio::select! { _ = done.acquire_many(count) => (), _ = tokio::signal::ctrl_c() => () }
    };
    let receipt = consumer.run_until(enough).await;

    println!("{} were running and finished, {} went back", receipt.finished(), receipt.unstarted());
    broker.close().await;
    Ok(())
}
