//! [`Hook`]: tells the application of its dead letters, apart from the tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::dead::DeadLetter;

/// How many letters may wait for the application; it does not hear of more.
const MOST: usize = 1024;

/// What the application does with a letter.
pub(super) type OnDeadLetter = Arc<dyn Fn(&DeadLetter) + Send + Sync>;

/// Where dead letters are told. Never waits.
#[derive(Clone, Debug)]
pub(super) struct Hook(mpsc::Sender<DeadLetter>);

/// The other end.
pub(super) struct Listener {
    letters: mpsc::Receiver<DeadLetter>,
    call: OnDeadLetter,
}

impl Hook {
    pub(super) fn new(call: OnDeadLetter) -> (Self, Listener) {
        let (sender, letters) = mpsc::channel(MOST);
        (Self(sender), Listener { letters, call })
    }

    pub(super) fn tell(&self, letter: DeadLetter) {
        if let Err(mpsc::error::TrySendError::Full(letter)) = self.0.try_send(letter) {
            tracing::warn!(
                task.id = letter.id().map(display),
                "`on_dead_letter` does not keep up: it is not told of this one"
            );
        }
    }
}

impl Listener {
    /// Calls the application for one letter after the other, until all hooks are gone; at most `grace` after `stop`. On
    /// a thread where it may block; if it never ends, it is not called again.
    pub(super) async fn run(mut self, stop: CancellationToken, grace: Duration) {
        let all = async {
            while let Some(letter) = self.letters.recv().await {
                let call = self.call.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || call(&letter)).await {
                    tracing::error!(%error, "`on_dead_letter` panicked");
                }
            }
        };
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            () = all => {}
            () = too_late => tracing::warn!("`on_dead_letter` did not end within the grace period"),
        }
    }
}
