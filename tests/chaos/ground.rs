//! [`Ground`]: what a run stands on: one broker, or three that are a cluster.

use taskhare::testing::Management;
use taskhare::testing::TestBroker;
use taskhare::testing::TestCluster;
use taskhare::testing::vhost_of;

use crate::history::What;

/// A broker to do harm to. Runs on it come one after the other, each on a virtual host of its own.
#[derive(Debug)]
pub enum Ground {
    Node(TestBroker),
    Cluster(TestCluster),
}

impl Ground {
    pub fn management(&self) -> &Management {
        match self {
            Self::Node(node) => node.management(),
            Self::Cluster(cluster) => cluster.management(),
        }
    }

    pub fn node(&self) -> &TestBroker {
        match self {
            Self::Node(node) => node,
            Self::Cluster(_) => panic!("this is for a single node"),
        }
    }

    pub fn cluster(&self) -> &TestCluster {
        match self {
            Self::Cluster(cluster) => cluster,
            Self::Node(_) => panic!("this is for a cluster"),
        }
    }

    /// A new virtual host, and its URL, or the URLs of all nodes with commas between them.
    pub async fn fresh_vhost(&self) -> (String, String) {
        match self {
            Self::Node(node) => {
                let url = node.fresh_vhost().await.unwrap();
                (vhost_of(&url).unwrap(), url)
            }
            Self::Cluster(cluster) => {
                let vhost = cluster.fresh_vhost().await.unwrap();
                let urls = cluster.urls(&vhost);
                (vhost, urls)
            }
        }
    }

    /// What nobody needs any more, so that later runs have the broker for themselves.
    pub async fn remove_vhost(&self, vhost: &str) {
        let name: String = vhost.bytes().map(|byte| format!("%{byte:02X}")).collect();
        // It goes with the broker in any case.
        let _ = self.management().delete(&format!("/vhosts/{name}")).await;
    }

    /// What the broker counts. Samples, some of them: up to 2 s old.
    pub async fn counted(&self, vhost: &str, before: bool) -> What {
        let connections = self.management().connections(vhost).await.unwrap_or_default();
        let queues = self.management().queues(vhost).await.unwrap_or_default();
        // 3.10 goes on counting those who read a stream when their connection has died.
        let consuming = queues.iter().filter(|queue| queue.kind != "stream");
        What::Counted {
            before,
            connections: connections.len() as u64,
            channels: connections.iter().map(|connection| connection.channels).sum(),
            consumers: consuming.map(|queue| queue.consumers).sum(),
            queues: queues.len() as u64,
        }
    }
}
