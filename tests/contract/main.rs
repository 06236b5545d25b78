//! The contract of a transport (C1 to C19, see `src/transport/mod.rs`), run against every transport.
//!
//! A scenario is an `async fn` that is given a broker with nothing in it. It must hold on RabbitMQ from 3.10 to 4.3, so
//! it waits for what may take time there, with a limit, and asks for no more than the contract promises.
//! In-process scenarios run on a paused clock, where waiting takes no time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

/// Generates a test of each scenario for each transport.
macro_rules! on_every_transport {
    ($($scenario:ident),+ $(,)?) => {
        mod in_process {
            $(
                #[tokio::test(start_paused = true)]
                async fn $scenario() {
                    super::$scenario(&crate::support::in_process()).await;
                }
            )+
        }

        // Until the harness and the amqp transport are here: `any()` is never true.
        #[cfg(feature = "testing")]
        mod rabbitmq {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    super::$scenario(&crate::support::rabbitmq().await).await;
                }
            )+
        }
    };
}

mod cancellation;
mod close;
mod copies;
mod dead_letter;
mod declare;
mod delete;
mod deliver;
mod health;
mod hold;
mod prefetch;
mod publish;
mod purge;
mod settle;
mod stream;
mod support;
mod time_to_live;
