//! [`TestCluster`]: three real RabbitMQ nodes to test with.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::future::try_join_all;
use serde_json::Value;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::management::all;
use crate::testing::address::Address;
use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::testing::management::Management;
use crate::testing::node::Install;
use crate::testing::node::Neighborhood;
use crate::testing::node::Node;
use crate::testing::node::blocking;
use crate::testing::node::with_free_ports;
use crate::testing::origin::Origin;
use crate::testing::origin::ThisMachine;
use crate::url::encoded;

/// How many nodes a cluster has.
const SIZE: usize = 3;
/// How long nodes may take to find each other once they run; seconds, mostly.
const JOIN_LIMIT: Duration = Duration::from_secs(90);
/// How long a node that was frozen may take to find back by itself.
const THAW_LIMIT: Duration = Duration::from_secs(15);
/// How long queues may take to tell of themselves.
const EXACT_LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);

/// Nodes that notice within 8 s that another one does not answer: the default is a minute. Who is in the minority
/// pauses, unless the caller says otherwise: the last value of a key counts.
const CONF: &str = "net_ticktime = 8\ncluster_partition_handling = pause_minority\n";

/// A cluster of three RabbitMQ nodes, numbered from 0, for a test that breaks some of them.
///
/// ```no_run
/// # async fn example() -> taskhare::testing::Result<()> {
/// use taskhare::testing::TestCluster;
///
/// let cluster = TestCluster::start().await?;
/// let vhost = cluster.fresh_vhost().await?;
/// let urls = cluster.urls(&vhost); // what `Broker::connect` takes: one URL of each node
/// // … once queues are declared:
/// let leader = cluster.leader_of(&vhost, "taskhare.mail.normal").await?;
/// cluster.kill(leader).await?;
/// // … nothing may be lost
/// cluster.start_again(leader).await?; // it is back in the cluster
/// # Ok(()) }
/// ```
///
/// The nodes are processes on the loopback, each with ports of its own, from the same places as
/// [`TestBroker`](crate::testing::TestBroker), except that there is none in Docker. They take 10 to 20 s to start, some
/// 150 MB of memory each, and never outlive the process. Dropping a cluster kills all and removes their data.
///
/// A node in the minority pauses by default (`cluster_partition_handling`), and one that does not answer any more is
/// given up by the others after 6 to 10 s.
#[derive(Debug)]
pub struct TestCluster {
    members: Vec<Member>,
    /// How often one of them came up.
    joins: AtomicU32,
}

/// A node of a cluster.
#[derive(Debug)]
struct Member {
    /// What Erlang calls it.
    name: String,
    node: Arc<Node>,
    management: Management,
    /// Its number among those that came up, if we have left it running and in touch with the others; 0 if not.
    up_since: AtomicU32,
}

impl TestCluster {
    /// Starts one; that takes 10 to 20 s.
    ///
    /// # Errors
    ///
    /// If there is no RabbitMQ to start: it says what to install. A broker given by `TASKHARE_TEST_URL` and one in Docker
    /// do not count.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// As [`start`](Self::start), with lines added to each node's `rabbitmq.conf`:
    /// `cluster_partition_handling = autoheal`, say.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(conf: &str) -> Result<Self> {
        let Origin::Installed(install) = Origin::private(&ThisMachine)? else {
            return Err(Error::new(
                "a cluster is made of processes, and there is no RabbitMQ on this machine: install one (Debian and \
                 Ubuntu: `apt-get install rabbitmq-server`)",
            ));
        };
        let conf = conf.to_owned();
        let members = blocking(move || with_free_ports(|| start(&install, &conf))).await?;
        let cluster = Self { members, joins: AtomicU32::new(1) };
        cluster.is_whole().await?;
        Ok(cluster)
    }

    /// How many nodes it has: 3.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// What a node is called: in `rabbitmqctl`, and where the management API says where something is.
    pub fn name(&self, node: usize) -> &str {
        &self.members[node].name
    }

    /// Makes a virtual host that nobody else has and returns its name, which holds a `/`.
    ///
    /// # Errors
    ///
    /// If no node runs, or the management API refuses.
    pub async fn fresh_vhost(&self) -> Result<String> {
        self.management().fresh_vhost("guest").await
    }

    /// The AMQP URL of `vhost` on a node.
    pub fn url(&self, node: usize, vhost: &str) -> String {
        let address = Address::guest("127.0.0.1", self.members[node].node.amqp_port);
        Address { vhost: vhost.to_owned(), ..address }.url()
    }

    /// The AMQP URLs of `vhost` on all nodes, separated by commas, whether they run or not: for
    /// [`Broker::connect`](crate::Broker::connect).
    pub fn urls(&self, vhost: &str) -> String {
        let urls: Vec<String> = (0..self.size()).map(|node| self.url(node, vhost)).collect();
        urls.join(",")
    }

    /// The management API of the node that has been in touch with the others for longest; of node 0 where there is none.
    pub fn management(&self) -> &Management {
        let up = self.members.iter().filter(|member| member.is_up());
        let oldest = up.min_by_key(|member| member.up_since.load(Ordering::Relaxed));
        &oldest.unwrap_or(&self.members[0]).management
    }

    /// The management API of a node.
    pub fn management_of(&self, node: usize) -> &Management {
        &self.members[node].management
    }

    /// The node that leads a quorum queue or stream, or has a classic queue. Just after a failure it may still be the
    /// one that has failed: poll for what you expect.
    ///
    /// # Errors
    ///
    /// If there is no such queue, or it has no leader at the moment.
    pub async fn leader_of(&self, vhost: &str, queue: &str) -> Result<usize> {
        let row = self.queue(vhost, queue).await?;
        let name = row["leader"].as_str().or_else(|| row["node"].as_str()).unwrap_or_default();
        let found = self.members.iter().position(|member| member.name == name);
        found.ok_or_else(|| Error::new(format!("queue {queue:?} has no leader: {row}")))
    }

    /// The nodes that have a copy of a quorum queue or stream and are up, in order.
    ///
    /// # Errors
    ///
    /// If there is no such queue.
    pub async fn online_of(&self, vhost: &str, queue: &str) -> Result<Vec<usize>> {
        let row = self.queue(vhost, queue).await?;
        let names: Vec<&str> =
            row["online"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let is_online = |node: &usize| names.contains(&self.members[*node].name.as_str());
        Ok((0..self.size()).filter(is_online).collect())
    }

    /// What is known of a queue: of its copies what the queue itself says, unless it is on a node that hangs. The statistics
    /// of a leader that was cut off say for minutes what it saw then (4.3).
    async fn queue(&self, vhost: &str, queue: &str) -> Result<Value> {
        let management = self.management();
        let exact = format!("/queues/{}?disable_stats=true&enable_queue_totals=true", encoded(vhost));
        if let Ok(Ok(exact)) = timeout(EXACT_LIMIT, management.get(&exact)).await
            && let Some(row) = all(&exact).find(|row| row["name"] == queue && row["online"].is_array())
        {
            return Ok(row.clone());
        }
        management.get(&format!("/queues/{}/{}", encoded(vhost), encoded(queue))).await
    }

    /// Ends a node at once: kill -9.
    ///
    /// # Errors
    ///
    /// If what watches it is gone.
    pub async fn kill(&self, node: usize) -> Result<()> {
        self.leave(node, "kill").await
    }

    /// Ends a node as an operator does: it hands over what it leads, and closes its connections. After 30 s it is killed.
    ///
    /// # Errors
    ///
    /// If what watches it is gone.
    pub async fn stop(&self, node: usize) -> Result<()> {
        self.leave(node, "stop").await
    }

    /// Lets a node hang: SIGSTOP. Its ports still accept connections, and nothing answers; the others give it up within
    /// ten seconds.
    ///
    /// # Errors
    ///
    /// If what watches it is gone.
    pub async fn freeze(&self, node: usize) -> Result<()> {
        self.leave(node, "freeze").await
    }

    /// Ends [`freeze`](Self::freeze): SIGCONT. Waits until it is back in the cluster.
    ///
    /// One that was given up does not always find back: it and the others then each think that it was the other who left
    /// (seen on 3.10). Such a node is killed after 15 s and started again, which is what an operator has to do.
    ///
    /// # Errors
    ///
    /// If it does not come back.
    pub async fn thaw(&self, node: usize) -> Result<()> {
        self.members[node].ask("thaw").await?;
        self.is_back(node);
        if self.is_whole_within(THAW_LIMIT).await.is_ok() {
            return Ok(());
        }
        self.kill(node).await?;
        self.start_again(node).await
    }

    /// After [`kill`](Self::kill) or [`stop`](Self::stop): starts a node on the same data and ports, and waits until it is
    /// back in the cluster, which takes ten seconds.
    ///
    /// A node that was not the last to end waits for the others when it starts: after the end of all,
    /// [`start_all_again`](Self::start_all_again).
    ///
    /// # Errors
    ///
    /// If it does not start, or does not come back.
    pub async fn start_again(&self, node: usize) -> Result<()> {
        self.members[node].start_again().await?;
        self.join(node).await
    }

    /// Starts all nodes that do not run, at the same time, and waits until the cluster is whole.
    ///
    /// # Errors
    ///
    /// As [`start_again`](Self::start_again).
    pub async fn start_all_again(&self) -> Result<()> {
        let starts = self.members.iter().map(Member::start_again);
        try_join_all(starts).await?;
        (0..self.size()).filter(|node| !self.members[*node].is_up()).for_each(|node| self.is_back(node));
        self.is_whole().await
    }

    /// Cuts a node off from the two others, at once: the nodes do not speak to each other any more, while each still serves
    /// its clients as far as it can. With `pause_minority` that node closes its connections soon.
    ///
    /// # Errors
    ///
    /// If the node does not run.
    pub async fn cut(&self, node: usize) -> Result<()> {
        self.members[node].up_since.store(0, Ordering::Relaxed);
        // Without the right cookie no new connection between them is accepted, whoever asks for it.
        self.to_the_others(node, "erlang:set_cookie(N, cut), erlang:disconnect_node(N)").await
    }

    /// Ends [`cut`](Self::cut), and waits until the node is back in the cluster.
    ///
    /// # Errors
    ///
    /// If it does not come back.
    pub async fn heal(&self, node: usize) -> Result<()> {
        self.to_the_others(node, "erlang:set_cookie(N, erlang:get_cookie()), net_kernel:connect_node(N)")
            .await?;
        self.join(node).await
    }

    async fn to_the_others(&self, node: usize, what: &str) -> Result<()> {
        let own = &self.members[node].name;
        let others = self.members.iter().map(|member| &member.name).filter(|name| *name != own);
        let others: Vec<String> = others.map(|name| format!("'{name}'")).collect();
        let expression = format!("[begin {what} end || N <- [{}]].", others.join(", "));
        self.rabbitmqctl(node, ["-q", "eval", &expression]).await.map(drop)
    }

    /// Runs `rabbitmqctl` on a node and returns what it prints. Takes a second.
    ///
    /// # Errors
    ///
    /// If `rabbitmqctl` fails.
    pub async fn rabbitmqctl<A: Into<String>>(
        &self,
        node: usize,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        let node = self.members[node].node.clone();
        blocking(move || node.rabbitmqctl(&args)).await
    }

    async fn leave(&self, node: usize, verb: &'static str) -> Result<()> {
        self.members[node].up_since.store(0, Ordering::Relaxed);
        self.members[node].ask(verb).await
    }

    async fn join(&self, node: usize) -> Result<()> {
        self.is_back(node);
        self.is_whole().await
    }

    fn is_back(&self, node: usize) {
        let join = self.joins.fetch_add(1, Ordering::Relaxed) + 1;
        self.members[node].up_since.store(join, Ordering::Relaxed);
    }

    async fn is_whole(&self) -> Result<()> {
        self.is_whole_within(JOIN_LIMIT).await
    }

    /// Waits until all that are up agree that all of them run.
    async fn is_whole_within(&self, limit: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let up: Vec<&Member> = self.members.iter().filter(|member| member.is_up()).collect();
            let views = join_all(up.iter().map(|member| member.running())).await;
            let agree = |seen: &Vec<String>| up.iter().all(|member| seen.contains(&member.name));
            if views.iter().all(|view| view.as_ref().is_ok_and(agree)) {
                return Ok(());
            }
            if started.elapsed() > limit {
                let names: Vec<&str> = up.iter().map(|member| member.name.as_str()).collect();
                let what = format!("the cluster is not whole after {limit:?}: {names:?} see {views:?}");
                return Err(Error::new(what));
            }
            sleep(POLL).await;
        }
    }
}

impl Member {
    fn is_up(&self) -> bool {
        self.up_since.load(Ordering::Relaxed) != 0
    }

    async fn ask(&self, verb: &'static str) -> Result<()> {
        let node = self.node.clone();
        blocking(move || node.ask(verb)).await.map(drop)
    }

    async fn start_again(&self) -> Result<()> {
        let node = self.node.clone();
        blocking(move || node.start_again()).await
    }

    /// The names of the nodes that run, as this one sees it.
    async fn running(&self) -> Result<Vec<String>> {
        let nodes = self.management.get("/nodes?columns=name,running").await?;
        let running = nodes.as_array().into_iter().flatten().filter(|row| row["running"] == true);
        Ok(running.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
    }
}

/// The first node alone, and then the others, who join it: where all start at once, those of 3.10 wait for each other.
fn start(install: &Install, conf: &str) -> Result<Vec<Member>> {
    let neighborhood = Neighborhood::new()?;
    let prepared = |number: usize| {
        let name = format!("taskhare{number}@localhost");
        let peers = [0, number].map(|peer| {
            format!("cluster_formation.classic_config.nodes.{} = taskhare{peer}@localhost", peer + 1)
        });
        let formation = "cluster_formation.peer_discovery_backend = classic_config";
        let conf = format!("{formation}\n{}\n{CONF}{conf}", peers.join("\n"));
        let node = Node::prepare(install, &neighborhood, &name, &conf)?;
        let place = format!("http://127.0.0.1:{}", node.management_port);
        let management = Management::new(&place, "guest", "guest")?;
        Ok(Member { name, node: Arc::new(node), management, up_since: AtomicU32::new(1) })
    };
    let first = prepared(0)?;
    first.node.start_epmd()?;
    first.node.start_again()?;
    let others = (1..SIZE).map(prepared).collect::<Result<Vec<Member>>>()?;
    let starts = std::thread::scope(|scope| {
        let starts: Vec<_> = others.iter().map(|member| scope.spawn(|| member.node.start_again())).collect();
        starts
            .into_iter()
            .map(|start| start.join().expect("it returns its errors"))
            .collect::<Result<Vec<()>>>()
    });
    starts.map(|_| std::iter::once(first).chain(others).collect())
}
