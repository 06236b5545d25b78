//! [`Process`]: a producer or a consumer of its own.

use std::ffi::OsString;
use std::time::Duration;

use tokio::sync::watch;

use crate::account::Account;
use crate::child::Child;
use crate::worker;

/// A process that writes into the account what it does. Killed when dropped; ends by itself when we are gone.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// One of the roles in `worker`.
    pub fn start(role: &'static str, at_a_time: usize, url: &str, account: &watch::Sender<Account>) -> Self {
        Self::start_with(Vec::new(), role, at_a_time, url, account)
    }

    /// As [`start`](Self::start), of a role that has to know more.
    pub fn start_told(
        plan: &str,
        role: &'static str,
        at_a_time: usize,
        url: &str,
        account: &watch::Sender<Account>,
    ) -> Self {
        Self::start_with(vec![(worker::PLAN, plan.into())], role, at_a_time, url, account)
    }

    /// As [`start`](Self::start), with more in its environment.
    pub fn start_with(
        environment: Vec<(&'static str, OsString)>,
        role: &'static str,
        at_a_time: usize,
        url: &str,
        account: &watch::Sender<Account>,
    ) -> Self {
        let variables = [
            (worker::ROLE, role.into()),
            (worker::URL, url.into()),
            (worker::AT_A_TIME, at_a_time.to_string().into()),
        ];
        let variables = environment.into_iter().chain(variables);
        let (said, logged) = (account.clone(), account.clone());
        Self(Child::start(
            role,
            "worker::process",
            variables,
            move |line| said.send_modify(|account| account.enter(&line)),
            move |id, line| logged.send_modify(|account| account.log.push(format!("{role} {id}: {line}"))),
        ))
    }

    /// Kills it: SIGKILL. Afterwards all it said is in the account. Returns when that was, since the Unix epoch.
    pub async fn kill(self) -> Duration {
        self.0.kill().await
    }

    /// What the system calls it.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// It does nothing any more, and its connections stay open: SIGSTOP.
    pub async fn freeze(&self) {
        self.0.freeze().await;
    }

    /// It goes on where it was: SIGCONT.
    pub async fn thaw(&self) {
        self.0.thaw().await;
    }

    /// Asks it to shut down, and waits until it has ended well.
    pub async fn shut_down(self) {
        self.0.shut_down().await;
    }

    /// Whether it has ended, well or not.
    pub fn is_gone(&mut self) -> bool {
        self.0.end().is_some()
    }

    /// Whether it has ended, and then it must have ended well.
    pub fn has_ended(&mut self) -> bool {
        let end = self.0.end();
        assert!(end.is_none_or(|status| status.success()), "a process ended with {end:?}");
        end.is_some()
    }
}
