//! [`Recorder`]: takes down what all processes of a run say, in one file.

use std::fs::File;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;

use crate::history::Record;
use crate::history::What;

/// Where the files go; the directory for temporary files by default.
const DIR: &str = "TASKHARE_CHAOS_DIR";
/// How often one looks whether something is so.
const LOOK: Duration = Duration::from_millis(25);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    history: PathBuf,
    log: PathBuf,
    taken: Mutex<Taken>,
    started: Instant,
}

#[derive(Debug)]
struct Taken {
    records: Vec<Record>,
    history: BufWriter<File>,
    log: BufWriter<File>,
    panics: Vec<String>,
}

impl Recorder {
    /// Of the run of that name and seed.
    pub fn new(name: &str, seed: u64) -> Self {
        let dir = std::env::var_os(DIR).map_or_else(std::env::temp_dir, PathBuf::from);
        std::fs::create_dir_all(&dir).unwrap();
        static RUNS: AtomicU32 = AtomicU32::new(1);
        let (name, run) = (name.replace(' ', "-"), RUNS.fetch_add(1, Ordering::Relaxed));
        let name = format!("taskhare-chaos-{name}-{seed}-{}.{run}", std::process::id());
        let [history, log] = ["jsonl", "log"].map(|end| dir.join(format!("{name}.{end}")));
        let open = |path: &Path| BufWriter::new(File::create(path).unwrap());
        let taken =
            Taken { records: Vec::new(), history: open(&history), log: open(&log), panics: Vec::new() };
        Self(Arc::new(Inner { history, log, taken: Mutex::new(taken), started: Instant::now() }))
    }

    /// Where all of it can be read.
    pub fn history(&self) -> &Path {
        &self.0.history
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap()
    }

    /// What the run itself does.
    pub fn note(&self, what: What) {
        self.enter(Record::now("run", what));
    }

    pub fn enter(&self, record: Record) {
        if matches!(record.what, What::Began { .. } | What::Healed { .. } | What::Leads { .. } | What::Loaded)
        {
            println!("{:6.2} s  {}: {:?}", self.0.started.elapsed().as_secs_f64(), record.who, record.what);
        }
        let mut taken = self.taken();
        writeln!(taken.history, "{record}").unwrap();
        taken.records.push(record);
    }

    /// A line that a process has said: one of libtest's, perhaps.
    pub fn said(&self, line: &str) {
        if let Some(record) = Record::parse(line) {
            self.enter(record);
        }
    }

    /// A line that a process has logged.
    pub fn logged(&self, who: &str, line: &str) {
        let mut taken = self.taken();
        writeln!(taken.log, "{who}: {line}").unwrap();
        // Handlers panic because they are to, and the client library instead of returning some errors, in tasks of its
        // own: that is caught, and counts as a lost connection.
        let is_meant = ["tests/chaos/consumer.rs", "/amqprs-"].iter().any(|place| line.contains(place));
        if line.contains("panicked at") && !is_meant {
            taken.panics.push(format!("{who}: {line}"));
        }
    }

    /// So that others can read the file up to here.
    pub fn flush(&self) {
        let mut taken = self.taken();
        taken.history.flush().unwrap();
        taken.log.flush().unwrap();
    }

    pub fn records(&self) -> Vec<Record> {
        self.taken().records.clone()
    }

    /// Panics of processes that nobody wanted.
    pub fn panics(&self) -> Vec<String> {
        self.taken().panics.clone()
    }

    /// Whether `check` holds of what was taken down so far.
    pub fn is(&self, check: impl Fn(&[Record]) -> bool) -> bool {
        check(&self.taken().records)
    }

    /// Waits until `check` holds, for so long at most; whether it does.
    pub async fn until(&self, patience: Duration, check: impl Fn(&[Record]) -> bool) -> bool {
        let started = Instant::now();
        while !self.is(&check) {
            if started.elapsed() > patience {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Notes that something is done to `whom` for as long as `course` takes.
    pub async fn during<T>(&self, fault: &str, whom: &str, course: impl Future<Output = T>) -> T {
        self.note(What::Began { fault: fault.to_owned(), whom: whom.to_owned() });
        let outcome = course.await;
        self.note(What::Healed { fault: fault.to_owned(), whom: whom.to_owned() });
        outcome
    }

    /// Nobody needs the files.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.0.history);
        let _ = std::fs::remove_file(&self.0.log);
    }
}
