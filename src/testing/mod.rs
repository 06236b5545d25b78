//! A real RabbitMQ for tests, with faults (feature `testing`; Unix).
//!
//! Most tests of handlers are better off in process. For those that are about the broker:
//!
//! ```no_run
//! # async fn example() -> taskhare::testing::Result<()> {
//! use taskhare::testing::TestBroker;
//!
//! let broker = TestBroker::shared().await?; // started once per test process, in 3 to 5 s
//! let url = broker.fresh_vhost().await?;    // a virtual host of this test's own
//! # Ok(()) }
//! ```
//!
//! # Where the broker comes from
//!
//! The first of these that there is:
//!
//! 1. The environment variable `TASKHARE_TEST_URL`: an `amqp://` URL of a broker that runs, whose user may make virtual
//!    hosts. Its management API is at `TASKHARE_TEST_MANAGEMENT`, by default `http://` on the same host at the port
//!    10000 above. Only for [`TestBroker::shared`].
//! 2. `TASKHARE_TEST_ROOT`: a directory with an unpacked system that holds RabbitMQ, to test with a version that this
//!    system does not have (`./dev root 4.0` makes one). Needs root on Linux.
//! 3. With the feature `testcontainers`, the variable `TASKHARE_TEST_IMAGE`: an image like `rabbitmq:3-management`,
//!    which Docker starts.
//! 4. A `rabbitmq-server` in `/usr/lib/rabbitmq/bin`, `$RABBITMQ_HOME/sbin` or on the `PATH`: a private node in a
//!    temporary directory, on free ports of the loopback. It needs no privileges, and touches no other broker.
//! 5. With the feature `testcontainers`, `rabbitmq:4-management` in Docker.
//!
//! Otherwise an error says what to install. What the harness starts ends with the process, even at kill -9.
//!
//! # Faults
//!
//! [`TestBroker::start`] gives a test a broker of its own to [kill](TestBroker::kill), [freeze](TestBroker::freeze) and
//! [alarm](TestBroker::set_memory_alarm). [`Proxy`] is a network that [fails](Fault) between a client and any broker.
//! [`Management`] does what an operator can do, such as [closing connections](Management::close_connections). A
//! [`WallClock`] jumps under the processes that a test starts.

mod address;
mod broker;
mod clock;
mod confirms;
#[cfg(feature = "testcontainers")]
mod container;
mod error;
mod management;
mod node;
mod origin;
mod ports;
mod proxy;

pub use address::vhost_of;
pub use broker::TestBroker;
pub use clock::WallClock;
pub use error::Error;
pub use error::Result;
pub use management::Management;
pub use proxy::Fault;
pub use proxy::Proxy;
