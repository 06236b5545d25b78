//! [`Link`]: a connection that is made anew for ever. One for publishing, one for consuming: a broker under an alarm
//! stops reading from connections that publish, and acks must still arrive.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::error::Result;
use crate::lock::Lock;
use crate::name::Name;
use crate::telemetry;
use crate::topology::Target;
use crate::topology::Topology;
use crate::transport::Outage;
use crate::transport::Pulse;
use crate::transport::amqp::declare::DeclareError;
use crate::transport::amqp::declare::declare;
use crate::transport::amqp::options::Options;
use crate::transport::amqp::session::Session;

/// The role of the connection whose losses are told (C19).
pub(super) const CONSUMES: &str = "consume";

/// What all connections of one broker handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    /// Everything declared so far.
    topology: Lock<Topology>,
    /// Publishing and consuming end.
    pub(super) closing: CancellationToken,
    /// Connections end.
    pub(super) closed: CancellationToken,
    /// Tasks that send what was settled.
    pub(super) settling: TaskTracker,
    last_loss: Lock<Option<String>>,
    pub(super) pulse: Pulse,
    /// The options' endpoints, as indices, in the order in which this process tries them. A random one: so a fleet spreads
    /// over the nodes, and when one is lost, what was there spreads over the others.
    order: Vec<usize>,
    /// Index into that order: where the last connection succeeded, or the one after the last failure.
    endpoint: AtomicUsize,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        let mut order: Vec<usize> = (0..options.endpoints.len()).collect();
        fastrand::shuffle(&mut order);
        Self {
            options,
            order,
            topology: Lock::default(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            settling: TaskTracker::new(),
            last_loss: Lock::default(),
            pulse: Pulse::default(),
            endpoint: AtomicUsize::new(0),
        }
    }

    /// Gives up `session`, and connects to another node, if there is one: this one lacks what is needed.
    pub(super) fn go_elsewhere(&self, session: &Session) {
        self.endpoint.fetch_add(1, Ordering::Relaxed);
        session.health().fail("this node has no copy of a stream: trying another one");
    }

    pub(super) fn last_loss(&self) -> Option<String> {
        self.last_loss.lock().clone()
    }

    pub(super) fn topology(&self) -> Topology {
        self.topology.lock().clone()
    }

    /// To be declared again on every new connection.
    pub(super) fn remember(&self, topology: &Topology) {
        self.topology.lock().merge(topology);
    }

    /// Not to be declared again.
    pub(super) fn forget(&self, queue: &Name) {
        let mut topology = self.topology.lock();
        topology.queues.retain(|known| known.name != *queue);
        topology.bindings.retain(|binding| binding.to != Target::Queue(queue.clone()));
    }

    fn lost(&self, why: String) {
        *self.last_loss.lock() = Some(why);
    }

    /// What the connection for that role is called on the broker.
    fn name(&self, role: &str) -> String {
        format!("{} {role} {}", self.options.app, self.options.instance)
    }

    async fn connect(&self, role: &str) -> Result<Session> {
        let index = self.endpoint.load(Ordering::Relaxed);
        let endpoint = &self.options.endpoints[self.order[index % self.order.len()]];
        let opened = Session::open(endpoint, &self.options, &self.name(role)).await;
        match &opened {
            Ok(_) => {
                tracing::info!(broker.address = %endpoint, broker.vhost = endpoint.vhost, broker.role = role, "connected");
            }
            Err(_) => self.endpoint.store(index.wrapping_add(1), Ordering::Relaxed),
        }
        opened
    }
}

/// A connection for one purpose, opened when it is first needed.
pub(super) struct Link {
    role: &'static str,
    shared: Arc<Shared>,
    current: watch::Sender<Current>,
    started: AtomicBool,
}

#[derive(Clone)]
enum Current {
    Down,
    Up(Arc<Session>),
    Closed,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(role: &'static str, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            role,
            shared,
            current: watch::Sender::new(Current::Down),
            started: AtomicBool::new(false),
        })
    }

    /// Connects now, trying each broker once, and stays connected from then on.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<()> {
        let mut failure = None;
        for _ in &self.shared.options.endpoints {
            match self.shared.connect(self.role).await {
                Ok(session) => {
                    self.start(Some(session));
                    return Ok(());
                }
                Err(error) => failure = Some(more_telling(failure, error)),
            }
        }
        Err(failure.map_or(Error::Closed, |error| name_all(error, &self.shared.options)))
    }

    /// What it is called on the broker.
    pub(super) fn name(&self) -> String {
        self.shared.name(self.role)
    }

    /// Whether it was ever needed.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The live session, as soon as there is one; `None` once everything is closed.
    pub(super) async fn session(self: &Arc<Self>) -> Option<Arc<Session>> {
        self.start(None);
        let mut current = self.current.subscribe();
        loop {
            match &*current.borrow_and_update() {
                Current::Up(session) if !session.health().is_lost() => return Some(session.clone()),
                Current::Closed => return None,
                Current::Up(_) | Current::Down => {}
            }
            current.changed().await.ok()?;
        }
    }

    /// Returns once the connection is closed for good.
    pub(super) async fn finished(&self) {
        if self.is_started() {
            let mut current = self.current.subscribe();
            let _ = current.wait_for(|current| matches!(current, Current::Closed)).await;
        }
    }

    fn start(self: &Arc<Self>, session: Option<Session>) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let link = self.clone();
        tokio::spawn(async move { link.supervise(session).await });
    }

    async fn supervise(&self, mut session: Option<Session>) {
        let closed = &self.shared.closed;
        let (mut failures, mut loss) = (0, None::<(Instant, String)>);
        while !closed.is_cancelled() {
            let next = match session.take() {
                Some(session) => Some(session),
                None => closed.run_until_cancelled(self.reconnect(failures)).await,
            };
            let Some(live) = next.map(Arc::new) else { break };
            self.current.send_replace(Current::Up(live.clone()));
            if let Some((since, why)) = loss.take().filter(|_| self.role == CONSUMES) {
                self.shared.pulse.reconnected(Outage { reason: why.into(), time: since.elapsed() });
            }
            tokio::select! {
                () = live.health().lost() => {}
                () = closed.cancelled() => live.close().await,
            }
            // A lost connection is dropped, not closed: closing one whose reader has died leaks its socket.
            self.current.send_replace(Current::Down);
            if !closed.is_cancelled() {
                let why = live.health().why();
                tracing::warn!(broker.role = self.role, reason = why, "connection lost");
                telemetry::connection_lost(self.role);
                self.shared.lost(why.clone());
                loss = Some((Instant::now(), why));
            }
            // What dies at once may die at once again: a message that cannot be decoded, a user without permissions.
            failures = if live.age() > self.shared.options.longest_backoff { 0 } else { failures + 1 };
        }
        self.current.send_replace(Current::Closed);
    }

    async fn reconnect(&self, failures: u32) -> Session {
        let mut tries = failures.saturating_sub(1);
        loop {
            tokio::time::sleep(self.shared.options.backoff(tries, fastrand::f64())).await;
            tries = tries.saturating_add(1);
            let why = match self.shared.connect(self.role).await {
                Ok(session) => match declare(&session, &self.shared.topology()).await {
                    Ok(()) => return session,
                    // Somebody deleted and declared something otherwise meanwhile. The rest still works.
                    Err(DeclareError::Refused(error)) => {
                        tracing::error!(broker.role = self.role, %error, "cannot declare everything again");
                        return session;
                    }
                    Err(DeclareError::Lost(why)) => why,
                },
                Err(error) => with_cause(&error),
            };
            tracing::warn!(broker.role = self.role, tries, reason = why, "cannot connect");
            self.shared.lost(why);
        }
    }
}

/// Of several brokers' failures, the one that can be acted on.
fn more_telling(before: Option<Error>, now: Error) -> Error {
    match before {
        Some(before) if matches!(now, Error::Connect { .. }) => before,
        _ => now,
    }
}

/// Where none could be reached, all are named.
fn name_all(error: Error, options: &Options) -> Error {
    match error {
        Error::Connect { source, .. } => {
            let hosts: Vec<String> = options.endpoints.iter().map(ToString::to_string).collect();
            Error::Connect { hosts: hosts.join(", "), source }
        }
        other => other,
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
