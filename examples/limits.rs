//! A rate limit for what a service allows, and a circuit breaker for when it is down.
//!
//! ```text
//! cargo run --features limits --example limits                                  # no server needed
//! AMQP_URL=amqp://localhost cargo run --features limits --example limits        # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::CircuitBreaker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RateLimit;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;

const SECOND: Duration = Duration::from_secs(1);

/// A text message, by a provider that allows ten a second.
#[derive(Clone, Serialize, Deserialize)]
struct SendText;

impl Task for SendText {
    const NAME: &'static str = "send-text";
    type Output = bool;
}

/// A payment, by a bank that is down for a while.
#[derive(Clone, Serialize, Deserialize)]
struct Pay;

impl Task for Pay {
    const NAME: &'static str = "pay";
    type Output = u32;
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    let broker = Broker::from_env().await?;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let consumer =
        Consumer::builder(&broker)
            .concurrency(1)
            .retry(RetryPolicy::fixed(SECOND / 10).max_attempts(3))
            .rate_limit::<SendText>(RateLimit::per_second(10).burst(5))
            .handler_fn(|_: SendText, _| async { Ok(true) })
            .circuit_breaker::<Pay>(CircuitBreaker::after(2).open_for(SECOND))
            .handler_fn(move |_: Pay, ctx| {
                let call = counted.fetch_add(1, Relaxed) + 1;
                println!("call {call} of the bank");
                async move {
                    if call <= 3 { Err(TaskError::retry("the bank is down")) } else { Ok(ctx.attempt()) }
                }
            })
            .start()
            .await?;
    let producer = Producer::builder(&broker).build().await?;
    let started = Instant::now();

    let texts = producer.enqueue_all(vec![SendText; 25]).await;
    let payments = producer.enqueue_all(vec![Pay; 10]).await;
    for text in texts {
        text?.output().await?;
    }
    println!("25 texts in {:?}", started.elapsed());
    assert!(started.elapsed() >= 2 * SECOND, "five at once, then ten a second");

    // Two calls open the breaker, the third is a probe and fails, the fourth closes it. Nothing else has failed: each
    // payment has its attempts.
    let mut attempts = Vec::new();
    for payment in payments {
        attempts.push(payment?.output().await?);
    }
    println!("10 payments in {:?}, in attempts {attempts:?}", started.elapsed());
    assert_eq!((calls.load(Relaxed), attempts.iter().sum::<u32>()), (13, 13));

    consumer.shutdown().await;
    broker.close().await;
    Ok(())
}
