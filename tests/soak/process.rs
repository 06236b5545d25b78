//! [`Process`]: a worker of its own, and what it says of itself.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::worker;

/// How long one may take to end; the application waits for what it has enqueued.
const END_LIMIT: Duration = Duration::from_secs(120);

/// Killed when dropped; ends by itself when we are gone.
pub struct Process {
    child: Child,
    said: watch::Receiver<Said>,
    reader: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Said {
    sample: Vec<(String, f64)>,
    last_words: String,
}

impl Process {
    /// One of the roles in `worker`.
    pub fn start(role: &str, url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::process", "--ignored", "--nocapture"])
            .env(worker::ROLE, role)
            .env(worker::URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, said) = watch::channel(Said::default());
        let reader = tokio::spawn(async move {
            while let Some(line) = lines.next_line().await.unwrap() {
                tell.send_modify(|said| match line.split_once(' ') {
                    Some(("sample", values)) => said.sample = worker::read_sample(values),
                    Some(("end", words)) => said.last_words = words.to_owned(),
                    _ => {}
                });
            }
        });
        Self { child, said, reader }
    }

    /// What it said last.
    pub fn sample(&self) -> Vec<(String, f64)> {
        self.said.borrow().sample.clone()
    }

    /// Asks it to shut down, waits until it has ended well, and returns its last words.
    pub async fn shut_down(mut self) -> String {
        drop(self.child.stdin.take());
        let ended = timeout(END_LIMIT, self.child.wait()).await.expect("it ends itself").unwrap();
        assert!(ended.success(), "it ended with {ended}");
        self.reader.await.unwrap();
        self.said.borrow().last_words.clone()
    }
}
