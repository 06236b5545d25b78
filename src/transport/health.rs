//! [`Health`]: how a transport and its broker get on.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

/// How a transport and its broker get on (C19). Each is the latest word; what came between two looks is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How often the connection over which queues are consumed (not streams) was lost and made anew.
    pub reconnects: u64,
    /// The last of those times.
    pub outage: Option<Outage>,
    /// The broker confirms nothing of what is published over one of the connections, and has not for this long at least,
    /// though it is connected.
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
pub(crate) struct Pulse {
    health: watch::Sender<Health>,
    /// Over how many connections the broker confirms nothing.
    stalls: AtomicUsize,
}

/// The broker confirms nothing over one connection, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stalled<'a>(&'a Pulse);

impl Pulse {
    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The connection is back.
    pub(crate) fn reconnected(&self, outage: Outage) {
        self.health.send_modify(|health| {
            health.reconnects += 1;
            health.outage = Some(outage);
        });
    }

    /// The broker confirms nothing over one more connection, and has not for so long.
    pub(crate) fn stalled(&self, time: Duration) -> Stalled<'_> {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.health.send_modify(|health| health.stalled = Some(time));
        Stalled(self)
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        if self.0.stalls.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.health.send_modify(|health| health.stalled = None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_stalled_until_all_its_connections_go_on() {
        let pulse = Pulse::default();
        let health = pulse.watch();
        let second = Duration::from_secs(1);
        let (one, other) = (pulse.stalled(second), pulse.stalled(second));
        drop(one);
        assert_eq!(health.borrow().stalled, Some(second));
        drop(other);
        assert_eq!(health.borrow().stalled, None);
    }
}
