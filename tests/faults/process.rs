//! [`Process`]: a producer or a consumer of its own.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncRead;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::account::Account;
use crate::ticks::now;
use crate::worker;

/// How long a process may take to end once it has nothing to do; it ends itself before.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A process that writes into the account what it does. Killed when dropped; ends by itself when we are gone.
#[derive(Debug)]
pub struct Process {
    role: &'static str,
    child: Child,
    readers: [JoinHandle<()>; 2],
}

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
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::process", "--ignored", "--nocapture"])
            .env(worker::ROLE, role)
            .env(worker::URL, url)
            .env(worker::AT_A_TIME, at_a_time.to_string())
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let id = child.id().unwrap_or_default();
        let readers = [
            each_line(out, account.clone(), |account, line| account.enter(&line)),
            each_line(err, account.clone(), move |account, line| {
                account.log.push(format!("{role} {id}: {line}"));
            }),
        ];
        Self { role, child, readers }
    }

    /// Kills it: SIGKILL. Afterwards all it said is in the account. Returns when that was, since the Unix epoch.
    pub async fn kill(mut self) -> Duration {
        self.child.start_kill().unwrap();
        let killed = now();
        self.child.wait().await.unwrap();
        self.read().await;
        killed
    }

    /// What the system calls it.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it is not waited for yet")
    }

    /// It does nothing any more, and its connections stay open: SIGSTOP.
    pub async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    /// It goes on where it was: SIGCONT.
    pub async fn thaw(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.id().to_string()).status().await.unwrap();
        assert!(sent.success(), "kill {signal} ended with {sent}");
    }

    /// Asks it to shut down, and waits until it has ended well.
    pub async fn shut_down(mut self) {
        drop(self.child.stdin.take());
        let ended = timeout(END_LIMIT, self.child.wait()).await.expect("it ends itself").unwrap();
        assert!(ended.success(), "the {} ended with {ended}", self.role);
        self.read().await;
    }

    /// Whether it has ended, well or not.
    pub fn is_gone(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Whether it has ended, and then it must have ended well.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().unwrap();
        if let Some(status) = ended {
            assert!(status.success(), "the {} ended with {status}", self.role);
        }
        ended.is_some()
    }

    async fn read(self) {
        for reader in self.readers {
            reader.await.unwrap();
        }
    }
}

fn each_line(
    stream: impl AsyncRead + Send + Unpin + 'static,
    account: watch::Sender<Account>,
    enter: impl Fn(&mut Account, String) + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            account.send_modify(|account| enter(account, line));
        }
    })
}
