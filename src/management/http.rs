//! [`Http`]: requests to one of several nodes. The HTTP client blocks, so they run beside the runtime, few at a time.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use ureq::config::ConfigBuilder;
use ureq::http::HeaderValue;
use ureq::http::Method;
use ureq::http::Request;
use ureq::typestate::AgentScope;

use crate::error::Error;
use crate::error::Result;
use crate::management::answer;
use crate::management::endpoint::Endpoint;

/// How many requests run at a time; more wait their turn. Each takes a thread while it lasts.
const MOST_REQUESTS: usize = 4;
/// How long a reason to close a connection may be: AMQP carries 255 bytes, some of them the broker's own.
const LONGEST_REASON: usize = 200;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Behind `/api`, with a slash; names in it are percent-encoded.
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    /// Why, for the broker's log and the client that it is about.
    pub(crate) reason: Option<String>,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, reason: None }
    }
}

/// Without the body, which may hold a password, and the query.
impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} /api{}", self.method, self.path.split('?').next().unwrap_or_default())
    }
}

/// Requests to whichever node answers.
pub(super) struct Http {
    agent: ureq::Agent,
    endpoints: Vec<Endpoint>,
    /// Index of the one that answered last, or the one after the last that did not.
    current: AtomicUsize,
    turns: Arc<Semaphore>,
    timeout: Duration,
    largest_answer: u64,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(
        endpoints: Vec<Endpoint>,
        settings: ConfigBuilder<AgentScope>,
        timeout: Duration,
        largest_answer: u64,
    ) -> Self {
        let agent = settings
            .http_status_as_error(false)
            // Another address might not be the broker's, and the password is for that alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(timeout))
            .build()
            .into();
        let turns = Arc::new(Semaphore::new(MOST_REQUESTS));
        Self { agent, endpoints, current: AtomicUsize::new(0), turns, timeout, largest_answer }
    }

    /// Asks one node after the other, beginning with the one that answered last.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Value> {
        let mut failure = None;
        for _ in &self.endpoints {
            let index = self.current.load(Ordering::Relaxed);
            let endpoint = &self.endpoints[index % self.endpoints.len()];
            match self.ask_one(endpoint, ask).await {
                Err(error) if error.is_transient() => {
                    self.current.store(index.wrapping_add(1), Ordering::Relaxed);
                    failure = Some(more_telling(failure, error));
                    // It may have been done.
                    if !ask.method.is_idempotent() {
                        break;
                    }
                }
                answer => return answer,
            }
        }
        Err(failure.map_or(Error::Closed, |error| self.name_all(error)))
    }

    async fn ask_one(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Value> {
        let (agent, limit) = (self.agent.clone(), self.largest_answer);
        let request = request(endpoint, ask);
        let exchange = async {
            let turn = self.turns.clone().acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                exchange(&agent, request?, limit)
            })
            .await
        };
        // The agent keeps the same limit; this one counts the wait for a turn and for a thread as well.
        let (status, body) = match timeout(self.timeout, exchange).await {
            Ok(Ok(Ok(answer))) => answer,
            Err(_) | Ok(Ok(Err(ureq::Error::Timeout(_)))) => {
                return Err(Error::Timeout { action: format!("{ask} on {endpoint}"), waited: self.timeout });
            }
            Ok(Ok(Err(error))) => return Err(unreachable(endpoint, error)),
            // The runtime ends.
            Ok(Err(_)) => return Err(Error::Closed),
        };
        match body {
            Some(body) => answer::read(endpoint, &ask.to_string(), status, &body),
            None => Err(Error::Management {
                host: endpoint.to_string(),
                request: ask.to_string(),
                status,
                reason: format!("the answer is longer than {limit} bytes"),
            }),
        }
    }

    /// Where none could be reached, all are named.
    fn name_all(&self, error: Error) -> Error {
        match error {
            Error::Connect { source, .. } => {
                let hosts: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
                Error::Connect { hosts: hosts.join(", "), source }
            }
            other => other,
        }
    }
}

fn request(endpoint: &Endpoint, ask: &Ask) -> Result<Request<String>, ureq::Error> {
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(endpoint.url(&ask.path))
        .header("authorization", endpoint.authorization.clone())
        .header("content-type", "application/json");
    if let Some(reason) = ask.reason.as_deref().and_then(header) {
        request = request.header("x-reason", reason);
    }
    Ok(request.body(ask.body.as_ref().map(Value::to_string).unwrap_or_default())?)
}

/// What HTTP and AMQP can carry of it.
fn header(reason: &str) -> Option<HeaderValue> {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let text: String = reason.chars().map(plain).take(LONGEST_REASON).collect();
    HeaderValue::try_from(text).ok()
}

/// Blocks. Without a body if that is too long.
fn exchange(
    agent: &ureq::Agent,
    request: Request<String>,
    limit: u64,
) -> Result<(u16, Option<Vec<u8>>), ureq::Error> {
    let mut answer = agent.run(request)?;
    let body = match answer.body_mut().with_config().limit(limit).read_to_vec() {
        Err(ureq::Error::BodyExceedsLimit(_)) => None,
        read => Some(read?),
    };
    Ok((answer.status().as_u16(), body))
}

fn unreachable(endpoint: &Endpoint, error: ureq::Error) -> Error {
    let source = match error {
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => format!(
            "{error}; the management plugin listens at 15672 where it is enabled (rabbitmq-plugins enable \
             rabbitmq_management)"
        )
        .into(),
        error => error.into(),
    };
    Error::Connect { hosts: endpoint.to_string(), source }
}

/// Of several nodes' failures, the one that can be acted on.
fn more_telling(before: Option<Error>, now: Error) -> Error {
    match before {
        Some(before) if matches!(now, Error::Connect { .. }) => before,
        _ => now,
    }
}
