//! RabbitMQ's management API (feature `management`): [`Management`], and what it lists.
//!
//! ```text
//!   Management ── Http ── Endpoint, Endpoint, …   one after the other, until one answers
//!        │          └──── answer (pure)           status and body to JSON, or to what to do about it
//!        ├─ rows (pure)                           JSON to what it lists
//!        └─ mirrors (pure)                        what has RabbitMQ 3.x mirror classic queues
//! ```

mod answer;
mod endpoint;
mod http;
mod mirrors;
mod rows;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
#[cfg(feature = "tls")]
use ureq::tls::TlsConfig;

use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::url::encoded;

use endpoint::Endpoint;
use http::Http;

pub(crate) use http::Ask;
pub use rows::Connection;
pub use rows::Queue;
pub use rows::Totals;
#[cfg(feature = "testing")]
pub(crate) use rows::all;
pub(crate) use ureq::http::Method;

/// A client of RabbitMQ's management API. Cheap to clone.
///
/// ```
/// # fn example() -> taskhare::Result<()> {
/// use taskhare::management::Management;
///
/// let management = Management::new("http://operator:secret@rabbit-1:15672,http://operator:secret@rabbit-2:15672")?;
/// # Ok(()) }
/// ```
///
/// The plugin `rabbitmq_management` must be enabled on each of these nodes. The user needs a tag: `management` shows it
/// its own connections and lets it close them, `monitoring` shows all, and only an `administrator` closes those of other
/// users. So it is the user of the consumers with the tag `management`, or an administrator.
///
/// What is said of queues and connections is up to 5 s old (RabbitMQ's `collect_statistics_interval`).
///
/// # Limits
///
/// A request takes at most [`timeout`](ManagementBuilder::timeout) on each node, and its answer at most
/// [`largest_answer`](ManagementBuilder::largest_answer). Four run at a time, each in a thread of tokio's blocking pool;
/// a request that is no longer waited for ends by its timeout. A redirect is not followed, and no proxy asked.
///
/// # Errors
///
/// Of each request: [`Error::Connect`] where no node could be reached (is the plugin enabled?), [`Error::Login`] for a
/// wrong password, [`Error::AccessRefused`] where the user lacks a tag, [`Error::Timeout`], and [`Error::Management`] for
/// any other answer than yes. A node that cannot be reached, is too slow or answers 500 and above is not the end: the
/// next one is asked.
#[derive(Clone, Debug)]
pub struct Management {
    http: Arc<Http>,
}

/// Settings of a [`Management`].
#[must_use = "a builder does nothing until `build`"]
#[derive(Clone)]
pub struct ManagementBuilder {
    urls: String,
    timeout: Duration,
    largest_answer: u64,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// Without the URLs, which may hold passwords.
impl fmt::Debug for ManagementBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagementBuilder")
            .field("timeout", &self.timeout)
            .field("largest_answer", &self.largest_answer)
            .finish_non_exhaustive()
    }
}

impl ManagementBuilder {
    /// How long a request may take on one node, with its wait for a turn. Defaults to 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long an answer may be, in bytes. Defaults to 32 MiB: some 50,000 connections.
    pub fn largest_answer(mut self, bytes: u64) -> Self {
        self.largest_answer = bytes;
        self
    }

    /// How TLS proves who is who, for `https://` in the URLs; with another it is [`Error::InvalidSetting`]. Defaults to
    /// [`Tls::new`]: what this system trusts.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The client. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`], and [`Error::InvalidSetting`] for a limit of zero and TLS settings that cannot be used.
    pub fn build(self) -> Result<Management> {
        let zero = |setting| Error::InvalidSetting { setting, reason: "it must be over zero".to_owned() };
        if self.timeout.is_zero() {
            return Err(zero("timeout"));
        }
        if self.largest_answer == 0 {
            return Err(zero("largest_answer"));
        }
        let endpoints = Endpoint::parse(&self.urls)?;
        let settings = ureq::Agent::config_builder();
        #[cfg(feature = "tls")]
        let settings = settings.tls_config(self.tls_config(&endpoints)?);
        let http = Http::new(endpoints, settings, self.timeout, self.largest_answer);
        Ok(Management { http: Arc::new(http) })
    }

    #[cfg(feature = "tls")]
    fn tls_config(&self, endpoints: &[Endpoint]) -> Result<TlsConfig> {
        let is_tls = endpoints.iter().any(|endpoint| endpoint.is_tls);
        match &self.tls {
            Some(_) if endpoints.iter().any(|endpoint| !endpoint.is_tls) => {
                let reason = "a URL begins with http://, so it would not be used: write https://".to_owned();
                Err(Error::InvalidSetting { setting: "tls", reason })
            }
            None if !is_tls => Ok(TlsConfig::default()),
            tls => tls::config(&tls.clone().unwrap_or_default()),
        }
    }
}

impl Management {
    /// For the API at `http://user:password@host:port`, where what is left out is `guest`, `guest`, `localhost` and 15672.
    /// `https://`, with the port 15671, is TLS, which needs the feature `tls`.
    /// Several URLs, separated by commas, are several nodes of one cluster. Special characters are percent-encoded. What
    /// the broker has for its `management.path_prefix` stands at the end.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`].
    pub fn new(urls: &str) -> Result<Self> {
        Self::builder(urls).build()
    }

    /// One with other settings than the defaults; `urls` as for [`new`](Self::new).
    pub fn builder(urls: &str) -> ManagementBuilder {
        ManagementBuilder {
            urls: urls.to_owned(),
            timeout: Duration::from_secs(10),
            largest_answer: 32 * 1024 * 1024,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// All connections that the user may see, of all virtual hosts. A new one may take a moment to appear, a lost one to
    /// disappear.
    ///
    /// # Errors
    ///
    /// See [`Management`].
    pub async fn connections(&self) -> Result<Vec<Connection>> {
        self.list("/connections", Connection::COLUMNS).await.map(|rows| Connection::read_all(&rows))
    }

    /// The connections to `vhost`; otherwise as [`connections`](Self::connections).
    ///
    /// # Errors
    ///
    /// See [`Management`].
    pub async fn connections_of(&self, vhost: &str) -> Result<Vec<Connection>> {
        let path = format!("/vhosts/{}/connections", encoded(vhost));
        self.list(&path, Connection::COLUMNS).await.map(|rows| Connection::read_all(&rows))
    }

    /// Closes the connection of that [`name`](Connection::name); its client is told `CONNECTION_FORCED`. `reason` is for
    /// the client and the broker's log: 200 bytes of ASCII of it count. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// See [`Management`].
    pub async fn close_connection(&self, name: &str, reason: &str) -> Result<bool> {
        let mut close = Ask::new(Method::DELETE, format!("/connections/{}", encoded(name)));
        close.reason = Some(reason.to_owned());
        match self.ask(&close).await {
            Ok(_) => Ok(true),
            Err(Error::Management { status: 404, .. }) => Ok(false),
            // What RabbitMQ up to 4.3 answers to who is no administrator if there is none.
            Err(Error::Management { status: 500, .. }) if !self.lists(name).await? => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Closes the connections of a consumer: those whose clients call themselves one of `connections`, as a
    /// [`Heartbeat`](crate::Heartbeat::connections) tells. Returns how many there were: 0 perhaps only because the broker
    /// does not list them yet.
    ///
    /// All that the consumer has not acknowledged goes back to its queues at once, and counts as having come back without
    /// an end (see [`crash_limit`](crate::ConsumerBuilder::crash_limit)), not as an attempt. What it runs, it runs on, and
    /// whatever comes of that changes nothing any more; but other consumers run the same tasks meanwhile.
    ///
    /// **The consumer connects again**, within a second or so, with the same name. Another consumer with room has got the
    /// tasks by then; where there was none, they come to the same one again. There they start beside what hangs, or wait
    /// behind it if that has all slots, together with whatever else its prefetch allows: until its process ends, or at half
    /// of the consumer timeout. So what hangs for good needs its process to end.
    ///
    /// # Errors
    ///
    /// See [`Management`].
    pub async fn close_consumer(&self, connections: &[String], reason: &str) -> Result<usize> {
        if connections.is_empty() {
            return Ok(0);
        }
        let mut closed = 0;
        for connection in self.connections().await? {
            if connections.contains(&connection.user_provided_name) {
                closed += usize::from(self.close_connection(&connection.name, reason).await?);
            }
        }
        Ok(closed)
    }

    /// The queues of `vhost`.
    ///
    /// # Errors
    ///
    /// See [`Management`].
    pub async fn queues(&self, vhost: &str) -> Result<Vec<Queue>> {
        let path = format!("/queues/{}", encoded(vhost));
        self.list(&path, Queue::COLUMNS).await.map(|rows| Queue::read_all(&rows))
    }

    /// Has RabbitMQ 3.x mirror the classic queues of `namespace` ([`Replication::Classic`](crate::Replication::Classic)), those
    /// that there are and those to come: `copies` of each (at least 2), each on another node, as far as there are nodes. It
    /// is for clusters that cannot use quorum queues, the default, which promise more. Asking again changes the number.
    ///
    /// It sets a policy, `{namespace}.mirrors`, with the priority 0, for lanes and dead letters. Of several policies that match
    /// a queue only the one with the highest priority counts: where an operator has one, he adds to that one what
    /// `rabbitmqctl list_policies` shows of this. Another one ends with `rabbitmqctl clear_policy`. The user needs the tag
    /// `policymaker` or `administrator`, and access to the virtual host.
    ///
    /// # What mirrors do not promise
    ///
    /// While a node is lost, a mirror that has all messages takes over: no confirmed task is lost. But:
    ///
    /// - a cluster that was split (a partition) may lose confirmed tasks when it is whole again: the side that gives way
    ///   throws away what it alone has, confirmed or not;
    /// - while no mirror has all, because one was just added or its node is just back, a lane whose node is lost does not
    ///   work until that node is back; so that what it alone has is not lost (`ha-promote-on-failure: when-synced`);
    /// - a mirror that joins is sent all that waits (`ha-sync-mode: automatic`), and meanwhile the queue does nothing else;
    /// - nothing counts how often a task came back, and nothing is dead-lettered at least once: that is so with all
    ///   classic queues.
    ///
    /// # Errors
    ///
    /// [`Error::NoMirroring`] from RabbitMQ 4, which cannot; [`Error::InvalidSetting`]; otherwise see [`Management`].
    pub async fn mirror_classic_queues(&self, vhost: &str, namespace: &str, copies: u8) -> Result<()> {
        let path = format!("/policies/{}/{}", encoded(vhost), encoded(&mirrors::name(namespace)));
        let policy = Ask { body: Some(mirrors::policy(namespace, copies)?), ..Ask::new(Method::PUT, path) };
        self.ask(&policy).await.map(drop).map_err(mirrors::refusal)
    }

    /// One request.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Value> {
        self.http.ask(ask).await
    }

    async fn lists(&self, name: &str) -> Result<bool> {
        Ok(self.connections().await?.iter().any(|connection| connection.name == name))
    }

    async fn list(&self, path: &str, columns: &str) -> Result<Value> {
        self.ask(&Ask::new(Method::GET, format!("{path}?columns={columns}"))).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use std::io::BufRead;
    use std::io::BufReader;
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    /// Answers one request after the other with these, and tells what it was asked. Returns its address.
    fn serve(answers: &[(u16, &str)]) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, requests) = mpsc::channel();
        let text = |(status, body): &(u16, &str)| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status} X\r\nlocation: /\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        let answers: Vec<String> = answers.iter().map(text).collect();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let _ = asked.send(head.join("\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        (address, requests)
    }

    fn client(place: &str) -> Management {
        let urls = place.split(',').map(|place| format!("http://u:secret@{place}"));
        Management::new(&urls.collect::<Vec<_>>().join(",")).unwrap()
    }

    fn is_open(text: &str) -> bool {
        text.contains("secret") || text.contains("dTpzZWNyZXQ")
    }

    #[tokio::test]
    async fn an_answer_that_is_none_says_what_to_do_and_keeps_the_secret() {
        let table = [
            (401, r#"{"error":"not_authorized","reason":"Login failed"}"#, "password"),
            (401, "", "password"),
            (401, r#"{"error":"not_authorised","reason":"Not management user"}"#, "tag `management`"),
            (403, r#"{"reason":"no"}"#, "`administrator`"),
            (404, "<html>", "rabbitmq-plugins enable rabbitmq_management"),
            (
                404,
                r#"{"error":"Object Not Found","reason":"Not Found"}"#,
                "404 to GET /api/connections: Not Found",
            ),
            (301, "", "leads elsewhere"),
            (503, "busy", "503 to GET /api/connections: busy"),
            (200, "<html>", "no JSON"),
        ];
        for (status, body, expected) in table {
            let (place, _requests) = serve(&[(status, body)]);
            let client = client(&place);
            let error = client.connections().await.unwrap_err();
            assert!(error.to_string().contains(expected), "{status} {body}: {error}");
            assert!(!is_open(&format!("{error:?} {client:?}")), "{error:?}");
            assert_eq!(error.is_transient(), status == 503, "{error:?}");
        }
    }

    #[tokio::test]
    async fn where_nobody_listens_the_plugin_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = client(&format!("{free},{free}")).connections().await.unwrap_err();
        let Error::Connect { hosts, source } = &error else { panic!("{error:?}") };
        assert_eq!(*hosts, format!("{free}, {free}"));
        assert!(source.to_string().contains("rabbitmq_management"), "{source}");
        assert!(!is_open(&format!("{error:?}")));
    }

    #[tokio::test]
    async fn the_next_node_is_asked_and_remembered() {
        let (failing, failed) = serve(&[(500, "")]);
        let (other, asked) = serve(&[(200, "[]"), (200, "[]")]);
        let client = client(&format!("{failing},{other}"));
        for _ in 0..2 {
            assert_eq!(client.connections().await.unwrap(), []);
        }
        assert_eq!((failed.iter().count(), asked.iter().count()), (1, 2));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://u:secret@{}", silent.local_addr().unwrap());
        let client = Management::builder(&url).timeout(Duration::from_millis(100)).build().unwrap();
        let error = client.connections().await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }) && !is_open(&format!("{error:?}")), "{error:?}");
    }

    #[tokio::test]
    async fn an_answer_over_the_limit_is_not_read() {
        let (place, _requests) = serve(&[(200, "[1,2,3]")]);
        let client = Management::builder(&format!("http://{place}")).largest_answer(6).build().unwrap();
        let error = client.connections().await.unwrap_err().to_string();
        assert!(error.contains("longer than 6 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_is_closed_with_what_can_be_said_of_the_reason() {
        let (place, requests) = serve(&[(204, "")]);
        let reason = format!("übérfällig\r\nX: {}", "x".repeat(300));
        assert!(client(&place).close_connection("a -> b", &reason).await.unwrap());
        let head = requests.recv().unwrap();
        assert!(head.starts_with("DELETE /api/connections/a%20-%3E%20b HTTP/1.1"), "{head}");
        let said = head.lines().find_map(|line| line.strip_prefix("x-reason: ")).unwrap();
        assert!(said.starts_with("?b?rf?llig??X: xxx") && said.len() == 200, "{said}");
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_none() {
        let listed = r#"[{"name":"a","client_properties":{}}]"#;
        let (place, _requests) = serve(&[(404, r#"{"reason":"Not Found"}"#), (500, ""), (200, "[]")]);
        let client = client(&place);
        assert!(!client.close_connection("a", "").await.unwrap());
        assert!(!client.close_connection("a", "").await.unwrap());
        let (place, _requests) = serve(&[(500, ""), (200, listed)]);
        let client = self::client(&place);
        let error = client.close_connection("a", "").await.unwrap_err();
        assert!(matches!(error, Error::Management { status: 500, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn of_all_connections_those_of_the_consumer_are_closed() {
        let row =
            |name, of| format!(r#"{{"name":"{name}","user_provided_name":"{of}","client_properties":{{}}}}"#);
        let rows =
            format!("[{},{},{}]", row("1", "app consume h:1"), row("2", "app consume h:11"), row("3", ""));
        let (place, requests) = serve(&[(200, &rows), (204, "")]);
        let client = client(&place);
        assert_eq!(client.close_consumer(&[], "").await.unwrap(), 0);
        assert_eq!(client.close_consumer(&["app consume h:1".to_owned()], "overdue").await.unwrap(), 1);
        let asked: Vec<String> = requests.iter().collect();
        assert!(asked[1].starts_with("DELETE /api/connections/1 ") && asked.len() == 2, "{asked:?}");
    }
}
