//! [`TestBroker`]: a real RabbitMQ to test with.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::sync::OnceCell;

use crate::testing::address::Address;
#[cfg(feature = "testcontainers")]
use crate::testing::container::Container;
use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::testing::management::Management;
use crate::testing::node::Node;
use crate::testing::origin::Origin;
use crate::testing::origin::ThisMachine;
use crate::url::encoded;

/// How long the management API may take to answer once the broker is ready; milliseconds, mostly.
const MANAGEMENT_LIMIT: Duration = Duration::from_secs(30);

/// A real RabbitMQ: [`shared`](Self::shared) by all tests of a process, or [started](Self::start) for one that breaks
/// it.
///
/// The [module's documentation](crate::testing) says where it comes from. One that the harness started listens on the
/// loopback only and never outlives the process, whatever ends that.
///
/// Dropping a broker kills it and removes its data; that blocks for some milliseconds.
#[derive(Debug)]
pub struct TestBroker {
    address: Address,
    management: Management,
    body: Body,
    vhosts: AtomicU32,
}

/// What we have of the broker.
#[derive(Debug)]
enum Body {
    /// Its URL.
    Given,
    Node(Arc<Node>),
    #[cfg(feature = "testcontainers")]
    Container(Box<Container>),
}

impl TestBroker {
    /// The broker of this process: found or started by the first call, the same for all. Tests that share it keep
    /// apart by [`fresh_vhost`](Self::fresh_vhost).
    ///
    /// # Errors
    ///
    /// If there is none and none can be started; it says what to install. The same error for all calls.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Result<TestBroker>> = OnceCell::const_new();
        let open = async || Self::open(Origin::shared(&ThisMachine)?, "").await;
        SHARED.get_or_init(open).await.as_ref().map_err(Clone::clone)
    }

    /// A broker of its own, for a test that does it harm. Takes some seconds.
    ///
    /// # Errors
    ///
    /// If none can be started; a broker given by `TASKHARE_TEST_URL` does not count.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// As [`start`](Self::start), with lines added to its `rabbitmq.conf`: `consumer_timeout = 5000`, say.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(conf: &str) -> Result<Self> {
        Self::open(Origin::private(&ThisMachine)?, conf).await
    }

    async fn open(origin: Origin, conf: &str) -> Result<Self> {
        let (address, base, body) = match origin {
            Origin::Given { url, management } => {
                let address = Address::parse(&url)?;
                let base = match management {
                    Some(base) => base,
                    None => format!("http://{}:{}", address.host, u32::from(address.port) + 10_000),
                };
                (address, base, Body::Given)
            }
            Origin::Installed(install) => {
                let conf = conf.to_owned();
                let node = blocking(move || Node::start(&install, &conf)).await?;
                let address = Address::guest("127.0.0.1", node.amqp_port);
                let base = format!("http://127.0.0.1:{}", node.management_port);
                (address, base, Body::Node(Arc::new(node)))
            }
            #[cfg(feature = "testcontainers")]
            Origin::Docker { image, tag } => {
                let container = Container::start(&image, &tag, conf).await?;
                let address = Address::guest(&container.host, container.amqp_port);
                let base = format!("http://{}:{}", container.host, container.management_port);
                (address, base, Body::Container(Box::new(container)))
            }
        };
        let management = Management::new(&base, &address.user, &address.password)?;
        let broker = Self { address, management, body, vhosts: AtomicU32::new(0) };
        broker.management_answers().await?;
        Ok(broker)
    }

    async fn management_answers(&self) -> Result<()> {
        let started = tokio::time::Instant::now();
        while let Err(error) = self.management.version().await {
            if started.elapsed() > MANAGEMENT_LIMIT {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Its AMQP URL, of its default virtual host.
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Its management API.
    pub fn management(&self) -> &Management {
        &self.management
    }

    /// Makes a virtual host that nobody else has and returns its AMQP URL. The name holds a `/`, percent-encoded in the
    /// URL; [`vhost_of`](crate::testing::vhost_of) tells it.
    ///
    /// # Errors
    ///
    /// If the management API refuses.
    pub async fn fresh_vhost(&self) -> Result<String> {
        let count = self.vhosts.fetch_add(1, Ordering::Relaxed);
        // Other processes may use the same broker.
        let vhost = format!("test/{:x}.{:08x}.{count}", std::process::id(), fastrand::u32(..));
        self.management.put(&format!("/vhosts/{}", encoded(&vhost)), &json!({})).await?;
        self.permit(&self.address.user, ".*", ".*", ".*", &vhost).await?;
        Ok(Address { vhost, ..self.address.clone() }.url())
    }

    /// Removes the virtual host of `url` with all it holds. Of use on a broker that outlives the tests.
    ///
    /// # Errors
    ///
    /// If the management API refuses, or there is no such virtual host.
    pub async fn remove_vhost(&self, url: &str) -> Result<()> {
        let vhost = Address::parse(url)?.vhost;
        self.management.delete(&format!("/vhosts/{}", encoded(&vhost))).await.map(drop)
    }

    /// Makes or changes a user, who may do in `vhost` what the three regular expressions allow, and returns the AMQP
    /// URL with which that user gets there.
    ///
    /// # Errors
    ///
    /// If the management API refuses.
    pub async fn add_user(
        &self,
        name: &str,
        password: &str,
        configure: &str,
        write: &str,
        read: &str,
        vhost: &str,
    ) -> Result<String> {
        let user = json!({ "password": password, "tags": "" });
        self.management.put(&format!("/users/{}", encoded(name)), &user).await?;
        self.permit(name, configure, write, read, vhost).await?;
        let (user, password, vhost) = (name.to_owned(), password.to_owned(), vhost.to_owned());
        Ok(Address { user, password, vhost, ..self.address.clone() }.url())
    }

    async fn permit(&self, user: &str, configure: &str, write: &str, read: &str, vhost: &str) -> Result<()> {
        let permissions = json!({ "configure": configure, "write": write, "read": read });
        let path = format!("/permissions/{}/{}", encoded(vhost), encoded(user));
        self.management.put(&path, &permissions).await.map(drop)
    }

    /// Ends it at once: kill -9.
    ///
    /// # Errors
    ///
    /// If the harness did not start it.
    pub async fn kill(&self) -> Result<()> {
        match &self.body {
            Body::Given => Err(not_ours("kill")),
            Body::Node(node) => ask(node, "kill").await,
            #[cfg(feature = "testcontainers")]
            Body::Container(container) => container.kill().await,
        }
    }

    /// Ends it as an operator does: it closes its connections and queues first. After 30 s it is killed.
    ///
    /// # Errors
    ///
    /// If the harness did not start it.
    pub async fn stop(&self) -> Result<()> {
        match &self.body {
            Body::Given => Err(not_ours("stop")),
            Body::Node(node) => ask(node, "stop").await,
            #[cfg(feature = "testcontainers")]
            Body::Container(container) => container.stop().await,
        }
    }

    /// After [`kill`](Self::kill) or [`stop`](Self::stop): starts it on the same data and ports, and waits until it is
    /// ready. Takes some seconds.
    ///
    /// # Errors
    ///
    /// If the harness did not start it, or it does not start.
    pub async fn start_again(&self) -> Result<()> {
        match &self.body {
            Body::Given => return Err(not_ours("start")),
            Body::Node(node) => {
                let node = node.clone();
                blocking(move || node.start_again()).await?;
            }
            #[cfg(feature = "testcontainers")]
            Body::Container(container) => container.start_again().await?,
        }
        self.management_answers().await
    }

    /// Lets it hang: SIGSTOP. Its ports still accept connections, and nothing answers.
    ///
    /// # Errors
    ///
    /// If the harness did not start it.
    pub async fn freeze(&self) -> Result<()> {
        match &self.body {
            Body::Given => Err(not_ours("freeze")),
            Body::Node(node) => ask(node, "freeze").await,
            #[cfg(feature = "testcontainers")]
            Body::Container(container) => container.freeze().await,
        }
    }

    /// Ends [`freeze`](Self::freeze): SIGCONT.
    ///
    /// # Errors
    ///
    /// If the harness did not start it.
    pub async fn thaw(&self) -> Result<()> {
        match &self.body {
            Body::Given => Err(not_ours("thaw")),
            Body::Node(node) => ask(node, "thaw").await,
            #[cfg(feature = "testcontainers")]
            Body::Container(container) => container.thaw().await,
        }
    }

    /// Raises (`true`) or ends (`false`) its memory alarm: while it lasts it reads nothing from connections that have
    /// published.
    ///
    /// # Errors
    ///
    /// If the harness did not start it, or it does not run.
    pub async fn set_memory_alarm(&self, on: bool) -> Result<()> {
        // 0.4 is what the node's configuration says.
        self.rabbitmqctl(["set_vm_memory_high_watermark", if on { "0" } else { "0.4" }]).await.map(drop)
    }

    /// Raises (`true`) or ends (`false`) its disk alarm, whose effect is that of
    /// [the memory alarm](Self::set_memory_alarm).
    ///
    /// # Errors
    ///
    /// If the harness did not start it, or it does not run.
    pub async fn set_disk_alarm(&self, on: bool) -> Result<()> {
        // More than any disk has; and RabbitMQ's default.
        self.rabbitmqctl(["set_disk_free_limit", if on { "1000000GB" } else { "50MB" }]).await.map(drop)
    }

    /// Runs `rabbitmqctl` and returns what it prints. Takes a second.
    ///
    /// # Errors
    ///
    /// If the harness did not start it, or `rabbitmqctl` fails.
    pub async fn rabbitmqctl<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        match &self.body {
            Body::Given => Err(not_ours("run rabbitmqctl on")),
            Body::Node(node) => {
                let node = node.clone();
                blocking(move || node.rabbitmqctl(&args)).await
            }
            #[cfg(feature = "testcontainers")]
            Body::Container(container) => container.rabbitmqctl(&args).await,
        }
    }
}

fn not_ours(verb: &str) -> Error {
    Error::new(format!("cannot {verb} a broker that others run; TestBroker::start() gives one of your own"))
}

async fn ask(node: &Arc<Node>, verb: &'static str) -> Result<()> {
    let node = node.clone();
    blocking(move || node.ask(verb)).await.map(drop)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::because("the runtime shut down")(error)),
    }
}
