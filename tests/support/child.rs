//! [`Child`]: this very test binary again, as a process of its own; and what that process needs of its parent.
//! Included by `#[path]`.

use std::ffi::OsString;
use std::io::BufRead;
use std::io::Write;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncRead;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a process may take to end once it has nothing to do; it ends itself before.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Whoever takes longer to shut down than this hangs.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(40);

/// A process that says in lines what it does. Killed when dropped; ends by itself when we are gone.
#[derive(Debug)]
pub(crate) struct Child {
    role: String,
    id: u32,
    process: tokio::process::Child,
    readers: [JoinHandle<()>; 2],
}

impl Child {
    /// Runs the ignored test `test` of this binary with these variables. `said` gets each line of its standard output,
    /// `logged` of its standard error, with its id.
    pub(crate) fn start(
        role: &str,
        test: &str,
        variables: impl IntoIterator<Item = (&'static str, OsString)>,
        said: impl Fn(String) + Send + 'static,
        logged: impl Fn(u32, String) + Send + 'static,
    ) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (out, err) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let id = process.id().unwrap_or_default();
        let readers = [each_line(out, said), each_line(err, move |line| logged(id, line))];
        Self { role: role.to_owned(), id, process, readers }
    }

    /// What the system calls it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Kills it: SIGKILL. Afterwards all it said was heard. Returns when that was, since the Unix epoch.
    pub(crate) async fn kill(mut self) -> Duration {
        // One that has ended by itself cannot be killed.
        let _ = self.process.start_kill();
        let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.process.wait().await.unwrap();
        self.read().await;
        killed
    }

    /// It does nothing any more, and its connections stay open: SIGSTOP.
    pub(crate) async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    /// It goes on where it was: SIGCONT.
    pub(crate) async fn thaw(&self) {
        self.signal("-CONT").await;
    }

    /// Asks it to end, as an operator does, and waits until it has ended well: SIGTERM.
    pub(crate) async fn terminate(self) {
        self.signal("-TERM").await;
        self.ended_well().await;
    }

    async fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.id().to_string()).status().await.unwrap();
        assert!(sent.success(), "kill {signal} ended with {sent}");
    }

    /// Writes a line to its standard input. Whoever is about to end need not hear it.
    pub(crate) async fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.process.stdin {
            let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
        }
    }

    /// Asks it to shut down, and waits until it has ended well.
    pub(crate) async fn shut_down(mut self) {
        drop(self.process.stdin.take());
        self.ended_well().await;
    }

    async fn ended_well(mut self) {
        let ended = timeout(END_LIMIT, self.process.wait()).await.expect("it ends itself").unwrap();
        assert!(ended.success(), "the {} ended with {ended}", self.role);
        self.read().await;
    }

    /// How it has ended, if it has.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    async fn read(self) {
        for reader in self.readers {
            reader.await.unwrap();
        }
    }
}

fn each_line(
    stream: impl AsyncRead + Send + Unpin + 'static,
    hear: impl Fn(String) + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            hear(line);
        }
    })
}

/// In the other process: one write for each line, so that a kill leaves whole lines.
pub(crate) fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// In the other process: cancelled when the parent has closed our standard input or is gone; and then nothing survives
/// for long. `hear` gets each line that the parent writes.
pub(crate) fn parent(hear: impl Fn(&str) + Send + 'static) -> CancellationToken {
    let gone = CancellationToken::new();
    let tell = gone.clone();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(|line| hear(&line));
        tell.cancel();
        std::thread::sleep(SHUTDOWN_LIMIT);
        eprintln!("still not shut down after {SHUTDOWN_LIMIT:?}");
        std::process::exit(2);
    });
    gone
}
