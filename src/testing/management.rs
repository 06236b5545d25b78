//! [`Management`]: RabbitMQ's management API, as far as tests need it.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::management;
use crate::management::Ask;
use crate::management::Connection;
use crate::management::Method;
use crate::management::Queue;
use crate::management::Totals;
use crate::management::all;
use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::url::encoded;

/// How long it may take to answer once the broker is ready; milliseconds, mostly.
const START_LIMIT: Duration = Duration::from_secs(30);

/// RabbitMQ's management API for tests: JSON in, JSON out, plus the calls that tests make often. Cheap to clone.
///
/// Paths start behind `/api`; what stands for a name in them must be percent-encoded (the virtual host `/` is `%2F`).
/// A request takes at most 30 s. Every answer but a 2xx is an error.
///
/// Much of what RabbitMQ tells here are samples: up to 2 s old on a broker that the harness started, 5 s and more on
/// others. So poll for what you expect. What is exact says so.
#[derive(Clone, Debug)]
pub struct Management {
    client: management::Management,
    place: String,
}

impl Management {
    /// For the API at `place`, such as `http://127.0.0.1:15672`.
    ///
    /// # Errors
    ///
    /// If it is not such a URL.
    pub fn new(place: &str, user: &str, password: &str) -> Result<Self> {
        let login = format!("://{}:{}@", encoded(user), encoded(password));
        let builder = management::Management::builder(&place.replacen("://", &login, 1));
        let client = builder.timeout(Duration::from_secs(30)).build();
        let client = client.map_err(Error::because("not the URL of a management API"))?;
        Ok(Self { client, place: place.to_owned() })
    }

    /// Where it is: its URL without user and password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The client that applications use, of the same API.
    pub fn client(&self) -> &management::Management {
        &self.client
    }

    /// `GET`.
    ///
    /// # Errors
    ///
    /// If there is no answer, or one that is not a 2xx.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, None).await
    }

    /// `PUT`: creates or changes.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.request(Method::PUT, path, Some(body)).await
    }

    /// `POST`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request(Method::POST, path, Some(body)).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get): also if there is nothing to delete.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.request(Method::DELETE, path, None).await
    }

    /// The broker's version, such as `3.10.8`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn version(&self) -> Result<String> {
        let overview = self.get("/overview").await?;
        Ok(overview["rabbitmq_version"].as_str().unwrap_or_default().to_owned())
    }

    /// The connections to `vhost`. A new one may take a moment to appear, a lost one to disappear.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn connections(&self, vhost: &str) -> Result<Vec<Connection>> {
        self.client.connections_of(vhost).await.map_err(Error::because(format!("no connections of {vhost}")))
    }

    /// Closes every connection to `vhost` the way an operator does: the client is told `CONNECTION_FORCED`. Returns how
    /// many there were.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). A connection that is gone already is none.
    pub async fn close_connections(&self, vhost: &str) -> Result<usize> {
        let mut closed = 0;
        for connection in self.connections(vhost).await? {
            let close = self.client.close_connection(&connection.name, "closed by a test");
            closed += usize::from(close.await.map_err(Error::because("cannot close a connection"))?);
        }
        Ok(closed)
    }

    /// The queues of `vhost`. All but the consumers is asked of the queues themselves: exact, except that the messages
    /// of a quorum queue may be half a second old on a broker that the harness started, 5 s on others.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn queues(&self, vhost: &str) -> Result<Vec<Queue>> {
        let sampled = self.client.queues(vhost).await;
        let sampled = sampled.map_err(Error::because(format!("no queues of {vhost}")))?;
        let path = format!("/queues/{}?disable_stats=true&enable_queue_totals=true", encoded(vhost));
        let exact = self.get(&path).await?;
        let totals = |name: &str| all(&exact).find(|row| row["name"] == name).map(Totals::read);
        let queue = |queue: Queue| Some(Queue { totals: totals(&queue.name)?, ..queue });
        Ok(sampled.into_iter().filter_map(queue).collect())
    }

    /// Deletes `queue` with all it holds.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get): also if there is no such queue.
    pub async fn delete_queue(&self, vhost: &str, queue: &str) -> Result<()> {
        self.delete(&queue_path(vhost, queue)).await.map(drop)
    }

    /// Removes what waits in `queue`; what a consumer has stays.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get): also if there is no such queue.
    pub async fn purge(&self, vhost: &str, queue: &str) -> Result<()> {
        self.delete(&format!("{}/contents", queue_path(vhost, queue))).await.map(drop)
    }

    /// Waits until it answers: it may take a moment longer than the broker to start.
    pub(super) async fn answers(&self) -> Result<()> {
        let started = tokio::time::Instant::now();
        while let Err(error) = self.version().await {
            if started.elapsed() > START_LIMIT {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Makes a virtual host that nobody else has, in which `user` may do all, and returns its name.
    pub(super) async fn fresh_vhost(&self, user: &str) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Other processes may use the same broker.
        let vhost = format!("test/{:x}.{:08x}.{count}", std::process::id(), fastrand::u32(..));
        self.put(&format!("/vhosts/{}", encoded(&vhost)), &json!({})).await?;
        self.permit(user, ".*", ".*", ".*", &vhost).await?;
        Ok(vhost)
    }

    /// What `user` may do in `vhost`.
    pub(super) async fn permit(
        &self,
        user: &str,
        configure: &str,
        write: &str,
        read: &str,
        vhost: &str,
    ) -> Result<()> {
        let permissions = json!({ "configure": configure, "write": write, "read": read });
        let path = format!("/permissions/{}/{}", encoded(vhost), encoded(user));
        self.put(&path, &permissions).await.map(drop)
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let ask = Ask { body: body.cloned(), ..Ask::new(method, path) };
        self.client.ask(&ask).await.map_err(|error| Error::because(error.to_string())(error))
    }
}

fn queue_path(vhost: &str, queue: &str) -> String {
    format!("/queues/{}/{}", encoded(vhost), encoded(queue))
}
