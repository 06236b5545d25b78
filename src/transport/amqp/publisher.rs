//! [`Publisher`]: publishes until it is known what became of it, or until the caller's time is up.

use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio::time::timeout_at;

use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Pulse;
use crate::transport::amqp::confirms::Confirms;
use crate::transport::amqp::confirms::NotSent;
use crate::transport::amqp::confirms::Outcome;
use crate::transport::amqp::connection::Link;
use crate::transport::amqp::connection::Shared;
use crate::transport::amqp::properties;
use crate::transport::amqp::refusal;
use crate::transport::amqp::stall::Stall;

/// How often the broker may close the channel over a publish before it is the publish's fault for good.
const MOST_REFUSALS: u32 = 3;

/// How often a queue may reject a publish before it is full for good. A quorum queue that another process declares just
/// now, or that elects a leader because the node of the last one died, says the same; it works after some milliseconds, or
/// after seconds on a busy machine. 7.7 seconds in all.
const MOST_REJECTIONS: u32 = 18;

/// The pause after the first rejection; it doubles.
const REJECTED: Duration = Duration::from_millis(10);
/// The longest pause after a rejection.
const LONGEST_REJECTED: Duration = Duration::from_millis(640);

/// How long to wait for the client's queue when the socket is stuck. The loss of the connection follows soon.
const STUCK: Duration = Duration::from_millis(20);

/// No publish waits longer, whatever it was told.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How often to look whose time is up: a publish waits at most so much longer than it was told to.
const EXPIRY: Duration = Duration::from_millis(20);

/// One for all publishes of a broker handle.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// Permits to wait for a confirm, held by the callers.
    window: Semaphore,
    channel: watch::Sender<Current>,
    started: Once,
}

/// What is known of a publish that goes on.
#[derive(Clone, Copy, Debug, Default)]
struct SoFar {
    /// It was sent, and the last copy was not rejected.
    is_sent: bool,
    /// A queue rejected the last copy.
    is_rejected: bool,
    /// The connection or channel went before a copy's fate was known: it may be on the broker, whatever becomes of the
    /// next one.
    is_in_doubt: bool,
}

/// Why a publish does not go on.
enum Ended {
    For(PublishError),
    OutOfTime,
}

impl From<PublishError> for Ended {
    fn from(error: PublishError) -> Self {
        Self::For(error)
    }
}

impl From<Elapsed> for Ended {
    fn from(_: Elapsed) -> Self {
        Self::OutOfTime
    }
}

async fn pause(pause: Duration, deadline: Instant) -> Result<(), Ended> {
    Ok(timeout_at(deadline, sleep(pause)).await?)
}

#[derive(Clone)]
enum Current {
    Down,
    Live(Arc<Confirms>),
    Closed,
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>) -> Self {
        Self {
            window: Semaphore::new(shared.options.confirm_window),
            shared,
            link,
            channel: watch::Sender::new(Current::Down),
            started: Once::new(),
        }
    }

    pub(super) async fn publish(&self, publish: &Publish, limit: Duration) -> Result<(), PublishError> {
        properties::check(&publish.message).map_err(PublishError::Refused)?;
        self.start();
        let (begun, mut so_far) = (Instant::now(), SoFar::default());
        match self.until_known(publish, begun + limit.min(LONGEST), &mut so_far).await {
            Ok(()) => return Ok(()),
            Err(Ended::For(PublishError::Closed)) => return Err(PublishError::Closed),
            Err(Ended::For(error)) if !so_far.is_in_doubt => return Err(error),
            // Out of time, or refused after a copy whose fate is not known.
            Err(Ended::For(_) | Ended::OutOfTime) => {}
        }
        let (waited, last_loss) = (begun.elapsed(), self.shared.last_loss());
        Err(if so_far.is_in_doubt || so_far.is_sent {
            PublishError::Unconfirmed { waited, last_loss }
        } else if so_far.is_rejected {
            PublishError::Rejected
        } else {
            PublishError::Unavailable { waited, last_loss }
        })
    }

    /// Sets no timer unless it has to wait for something else than the confirm, whose deadline the keeper watches.
    async fn until_known(
        &self,
        publish: &Publish,
        deadline: Instant,
        so_far: &mut SoFar,
    ) -> Result<(), Ended> {
        // Held until the outcome is known or the caller gives up.
        let mut permit = self.permit(deadline).await?;
        let (mut refusals, mut rejections) = (0, 0);
        loop {
            let channel = match self.live() {
                Some(channel) => channel,
                None => timeout_at(deadline, self.live_channel()).await??,
            };
            let outcome = match channel.send(publish, deadline) {
                Ok(outcome) => outcome,
                Err(NotSent::Dead) => {
                    channel.abandon();
                    continue;
                }
                Err(NotSent::Stuck) => {
                    pause(STUCK, deadline).await?;
                    continue;
                }
            };
            *so_far = SoFar { is_sent: true, is_rejected: false, ..*so_far };
            match outcome.await.unwrap_or(Outcome::Lost) {
                Outcome::Acked => return Ok(()),
                Outcome::Expired => return Err(Ended::OutOfTime),
                Outcome::Nacked => {
                    rejections += 1;
                    if rejections == MOST_REJECTIONS {
                        return Err(Ended::For(PublishError::Rejected));
                    }
                    *so_far = SoFar { is_sent: false, is_rejected: true, ..*so_far };
                    drop(permit);
                    let doubled = REJECTED.saturating_mul(2_u32.saturating_pow(rejections - 1));
                    pause(doubled.min(LONGEST_REJECTED), deadline).await?;
                    permit = self.permit(deadline).await?;
                }
                Outcome::Returned => return Err(Ended::For(PublishError::Unroutable)),
                Outcome::Lost => so_far.is_in_doubt = true,
                Outcome::Closed(closed) => {
                    let (exchange, size) = (publish.exchange.as_str(), publish.message.body.len());
                    let is_to_blame = refusal::blames(&closed, exchange, size);
                    so_far.is_in_doubt |= !is_to_blame;
                    refusals += u32::from(is_to_blame);
                    if refusals == MOST_REFUSALS {
                        return Err(Ended::For(refusal::publish(closed)));
                    }
                }
            }
        }
    }

    async fn permit(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Ended> {
        match self.window.try_acquire() {
            Ok(permit) => Ok(permit),
            Err(_) => {
                let permit = timeout_at(deadline, self.window.acquire()).await?;
                permit.map_err(|_| Ended::For(PublishError::Closed))
            }
        }
    }

    /// The channel, if there is one that lives.
    fn live(&self) -> Option<Arc<Confirms>> {
        match &*self.channel.borrow() {
            Current::Live(channel) if !channel.is_dead() => Some(channel.clone()),
            Current::Live(_) | Current::Down | Current::Closed => None,
        }
    }

    async fn live_channel(&self) -> Result<Arc<Confirms>, PublishError> {
        let mut current = self.channel.subscribe();
        loop {
            match &*current.borrow_and_update() {
                Current::Live(channel) if !channel.is_dead() => return Ok(channel.clone()),
                Current::Closed => return Err(PublishError::Closed),
                Current::Live(_) | Current::Down => {}
            }
            current.changed().await.map_err(|_| PublishError::Closed)?;
        }
    }

    /// Everyone who waits, and everyone who comes, hears that it is over. Returns the channel, to be closed.
    pub(super) fn close(&self) -> Option<Arc<Confirms>> {
        self.window.close();
        let Current::Live(channel) = self.channel.send_replace(Current::Closed) else { return None };
        channel.abandon();
        Some(channel)
    }

    /// Whether anything was ever published.
    pub(super) fn is_started(&self) -> bool {
        self.started.is_completed()
    }

    fn start(&self) {
        self.started.call_once(|| {
            let keeper = Keeper {
                shared: self.shared.clone(),
                link: self.link.clone(),
                channel: self.channel.clone(),
            };
            tokio::spawn(async move {
                keeper.shared.closing.clone().run_until_cancelled(keeper.keep()).await;
            });
        });
    }
}

/// Tells publishes when their time is up, and `pulse` when the broker confirms none: one timer for all of them.
async fn expire_until_dead(channel: &Confirms, pulse: &Pulse) {
    let (mut stall, mut stalled) = (Stall::new(Instant::now()), None);
    while timeout(EXPIRY, channel.dead()).await.is_err() {
        match (channel.expire(&mut stall, Instant::now()), &stalled) {
            (true, None) => stalled = Some(pulse.stalled(Stall::AFTER)),
            (false, Some(_)) => stalled = None,
            _ => {}
        }
    }
}

/// Sees to it that there is a channel.
struct Keeper {
    shared: Arc<Shared>,
    link: Arc<Link>,
    channel: watch::Sender<Current>,
}

impl Keeper {
    async fn keep(&self) {
        let mut failures = 0;
        while let Some(session) = self.link.session().await {
            let opened = tokio::time::Instant::now();
            if let Ok(channel) = Confirms::open(&session).await {
                let channel = Arc::new(channel);
                self.put(Current::Live(channel.clone()));
                expire_until_dead(&channel, &self.shared.pulse).await;
            }
            self.put(Current::Down);
            // Channels that die at once: somebody publishes what the broker refuses. Others should not suffer for it,
            // so the pauses stay short.
            failures = if opened.elapsed() > Duration::from_secs(1) { 0 } else { failures + 1 };
            if failures > 1 && !session.health().is_lost() {
                sleep(self.shared.options.backoff(0, fastrand::f64()).min(Duration::from_millis(100))).await;
            }
        }
    }

    fn put(&self, next: Current) {
        self.channel.send_if_modified(|current| {
            let is_open = !matches!(current, Current::Closed);
            if is_open {
                *current = next;
            }
            is_open
        });
    }
}
