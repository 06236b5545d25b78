//! [`Hook`]: tells the application of something, apart from the work.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many may wait for the application; it does not hear of more.
const MOST: usize = 1024;

/// What the application does with one.
pub(crate) type Call<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// Where something is told. Never waits.
pub(crate) struct Hook<T> {
    name: &'static str,
    sender: mpsc::Sender<T>,
}

/// The other end.
pub(crate) struct Listener<T> {
    name: &'static str,
    receiver: mpsc::Receiver<T>,
    call: Call<T>,
}

impl<T: fmt::Debug + Send + 'static> Hook<T> {
    /// `name` is what the application calls it.
    pub(crate) fn new(name: &'static str, call: Call<T>) -> (Self, Listener<T>) {
        let (sender, receiver) = mpsc::channel(MOST);
        (Self { name, sender }, Listener { name, receiver, call })
    }

    pub(crate) fn tell(&self, what: T) {
        if let Err(mpsc::error::TrySendError::Full(what)) = self.sender.try_send(what) {
            let name = self.name;
            tracing::warn!(missed = ?what, "`{name}` does not keep up: it is not told of this one");
        }
    }
}

impl<T: Send + 'static> Listener<T> {
    /// Calls the application for one after the other, until all hooks are gone; at most `grace` after `stop`. On
    /// a thread where it may block; if it never ends, it is not called again.
    pub(crate) async fn run(mut self, stop: CancellationToken, grace: Duration) {
        let name = self.name;
        let all = async {
            while let Some(what) = self.receiver.recv().await {
                let call = self.call.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || call(&what)).await {
                    tracing::error!(%error, "`{name}` panicked");
                }
            }
        };
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            () = all => {}
            () = too_late => tracing::warn!("`{name}` did not end within the grace period"),
        }
    }
}

impl<T> Clone for Hook<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, sender: self.sender.clone() }
    }
}

impl<T> fmt::Debug for Hook<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.name).finish()
    }
}
