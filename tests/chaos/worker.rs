//! What runs in the other processes: this very binary again, with a [`Plan`] in its environment.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use tokio::runtime::Handle;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

use crate::child::parent;
use crate::child::say;
use crate::consumer;
use crate::history::Record;
use crate::history::What;
use crate::history::now;
use crate::load::Fate;
use crate::load::Load;
use crate::producer;
use crate::scheduler;

/// Where a process finds its [`Plan`], as JSON.
pub const PLAN: &str = "TASKHARE_CHAOS_PLAN";
/// What the parent writes to hear how much a process holds, before there is any load and at the end.
pub const HOLD: [&str; 2] = ["hold before", "hold after"];
/// `debug`, to have more in the log.
const LOG: &str = "TASKHARE_CHAOS_LOG";
/// Of all connections: a silent peer is given up after two.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Producer,
    Consumer,
    Scheduler,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::Scheduler => "scheduler",
        })
    }
}

/// What a process has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub role: Role,
    pub url: String,
    pub course: Course,
    /// Its place among those of its role, and how many there are: of the operations it does each so many-th.
    pub place: u32,
    pub of: u32,
    /// Where to read what a producer did in whose place this one is.
    pub history: PathBuf,
}

/// What all processes of a run have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Course {
    pub seed: u64,
    /// Tasks a second.
    pub rate: u32,
    /// When the load begins, since the Unix epoch, in whole milliseconds; for so long.
    pub starts: Duration,
    pub time: Duration,
    /// Tasks beyond the ordinary ones.
    pub fates: Vec<Fate>,
}

impl Course {
    pub fn load(&self) -> Load {
        Load::new(self.seed, self.rate, self.time).with(&self.fates, self.time)
    }

    pub fn ends(&self) -> Duration {
        self.starts + self.time
    }
}

/// Writes down what this process does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scribe {
    who: String,
}

impl Scribe {
    pub fn who(&self) -> &str {
        &self.who
    }

    pub fn write(&self, what: What) {
        say(&Record::now(&self.who, what).to_string());
    }
}

#[ignore = "run by the other tests, as a process"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    // Before anybody sets a clock.
    let _ = now();
    let Ok(plan) = std::env::var(PLAN) else { return };
    let plan: Plan = serde_json::from_str(&plan).unwrap();
    let level = if std::env::var(LOG).is_ok() { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
    // Ends the line that libtest has begun.
    say("");
    let scribe = Scribe { who: format!("{} {}", plan.role, std::process::id()) };
    let end = end(&scribe);
    let broker = Broker::builder().url(&plan.url).heartbeat(HEARTBEAT).app_name(&scribe.who);
    let broker = broker.connect().await.unwrap();
    match plan.role {
        Role::Producer => producer::run(&broker, &plan, &scribe, &end).await,
        Role::Consumer => consumer::run(&broker, &scribe, &end).await,
        Role::Scheduler => scheduler::run(&broker, &plan.course, &scribe, &end).await,
    }
    broker.close().await;
}

/// Cancelled when this process is to end: by SIGTERM, or because its parent says so or is gone.
fn end(scribe: &Scribe) -> CancellationToken {
    let (scribe, runtime) = (scribe.clone(), Handle::current());
    let end = parent(move |line| {
        if HOLD.contains(&line) {
            scribe.write(held(line == HOLD[0], &runtime));
        }
    });
    let (told, mut terminated) = (end.clone(), signal(SignalKind::terminate()).unwrap());
    tokio::spawn(async move {
        terminated.recv().await;
        told.cancel();
    });
    end
}

/// What this process holds.
pub fn held(before: bool, runtime: &Handle) -> What {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    What::Held {
        before,
        memory: pages.unwrap_or_default() * 4,
        tasks: runtime.metrics().num_alive_tasks() as u64,
        files: files as u64,
    }
}
