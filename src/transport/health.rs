//! [`Health`]: how a transport and its broker get on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How a transport and its broker get on (C19). Each is the latest word; what came between two looks is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How often the connection over which queues are consumed (not streams) was lost and made anew.
    pub reconnects: u64,
    /// The last of those times.
    pub outage: Option<Outage>,
    /// The broker confirms nothing of what is published, and has not for this long at least, though it is connected.
    pub stalled: Option<Duration>,
}

/// A time without a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Why the connection was lost.
    pub reason: Arc<str>,
    /// How long it was gone.
    pub time: Duration,
}

/// Where a transport tells how it is.
#[derive(Debug, Default)]
pub(crate) struct Pulse(watch::Sender<Health>);

impl Pulse {
    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }

    /// The connection is back.
    pub(crate) fn reconnected(&self, outage: Outage) {
        self.0.send_modify(|health| {
            health.reconnects += 1;
            health.outage = Some(outage);
        });
    }

    /// Whether the broker confirms nothing, and has not for so long.
    pub(crate) fn stalls(&self, stalled: Option<Duration>) {
        self.0.send_if_modified(|health| std::mem::replace(&mut health.stalled, stalled) != stalled);
    }
}
