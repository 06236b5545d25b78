//! [`Node`]: a `rabbitmq-server` of our own, with its `epmd`, in a temporary directory on free ports of the loopback.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use crate::lock::Lock;
use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::testing::ports;

/// How long a node may take to start; 3 to 5 s on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);
/// Statistics younger than the usual 5 s, and a watermark that a test can rely on.
pub(super) const CONF: &str = "\
collect_statistics_interval = 500
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.10 = 1
vm_memory_high_watermark.relative = 0.4
";
/// What runs beside the node and outlives us for as long as it takes to clean up.
const SCRIPT: &str = include_str!("node.sh");

/// Where RabbitMQ is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Install {
    /// The unpacked system that holds it, if it is not this one.
    pub(super) root: Option<PathBuf>,
    /// The directory of `rabbitmq-server` and `rabbitmqctl`, as seen inside the root.
    pub(super) bin: PathBuf,
}

/// What nodes that are to find each other have in common.
#[derive(Clone, Debug)]
pub(super) struct Neighborhood {
    epmd_port: u16,
    cookie: String,
}

impl Neighborhood {
    pub(super) fn new() -> Result<Self> {
        let [epmd_port] = ports::free()?;
        Ok(Self { epmd_port, cookie: format!("{:032x}", fastrand::u128(..)) })
    }
}

/// A node and its watchdog: see `node.sh`. All calls block. Dropping it kills the node and removes its directory.
#[derive(Debug)]
pub(super) struct Node {
    install: Install,
    dir: PathBuf,
    environment: BTreeMap<&'static str, OsString>,
    epmd_port: u16,
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    watchdog: Lock<Watchdog>,
}

impl Node {
    /// Starts one and waits until it is ready. `conf` is added to its `rabbitmq.conf`.
    pub(super) fn start(install: &Install, conf: &str) -> Result<Self> {
        with_free_ports(|| {
            let node = Self::prepare(install, &Neighborhood::new()?, "taskhare@localhost", conf)?;
            node.start_epmd()?;
            node.start_again()?;
            Ok(node)
        })
    }

    /// One that does not run yet, and is to be called `name`.
    pub(super) fn prepare(
        install: &Install,
        neighborhood: &Neighborhood,
        name: &str,
        conf: &str,
    ) -> Result<Self> {
        let [amqp_port, management_port, distribution_port] = ports::free()?;
        let Neighborhood { epmd_port, cookie } = neighborhood;
        let own = format!("taskhare-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let dir = std::env::temp_dir().join(own);
        let conf = format!(
            "listeners.tcp.default = 127.0.0.1:{amqp_port}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management_port}\n\
             {CONF}\
             {conf}\n"
        );
        write_files(&dir, &conf, cookie)
            .map_err(Error::because(format!("cannot write to {}", dir.display())))?;
        let environment = environment(install, &dir, name, *epmd_port, distribution_port);
        let watchdog = Watchdog::start(install, &dir, &environment)
            .map_err(Error::because("cannot start the shell that watches the broker"))?;
        let watchdog = Lock::new(watchdog);
        Ok(Self {
            install: install.clone(),
            dir,
            environment,
            epmd_port: *epmd_port,
            amqp_port,
            management_port,
            watchdog,
        })
    }

    /// By which the nodes of its neighborhood find each other: only one of them starts it.
    pub(super) fn start_epmd(&self) -> Result<()> {
        self.ask("epmd")?;
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.epmd_port)).is_err() {
            if started.elapsed() > START_LIMIT / 4 {
                return Err(Error::new(format!("epmd did not start: {}", self.tail("epmd.log"))));
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Starts it on the data and the ports it had. Does nothing to one that runs.
    pub(super) fn start_again(&self) -> Result<()> {
        if !self.ask("pid")?.is_empty() {
            return Ok(());
        }
        self.ask("start")?;
        let started = Instant::now();
        loop {
            if std::fs::read_to_string(self.dir.join("out.log"))
                .is_ok_and(|log| log.contains("completed with"))
            {
                return Ok(());
            }
            let ended = self.ask("pid")?.is_empty();
            if ended || started.elapsed() > START_LIMIT {
                let what = if ended { "ended while it started" } else { "is not ready" };
                let seconds = started.elapsed().as_secs();
                return Err(Error::new(format!(
                    "rabbitmq-server {what} after {seconds} s: {}",
                    self.tail("out.log")
                )));
            }
            sleep(POLL);
        }
    }

    /// One verb of `node.sh`; returns the pid of the node, or nothing.
    pub(super) fn ask(&self, verb: &str) -> Result<String> {
        let mut watchdog = self.watchdog.lock();
        watchdog.ask(verb).map_err(Error::because(format!("cannot {verb} the broker: its watchdog is gone")))
    }

    pub(super) fn rabbitmqctl(&self, args: &[String]) -> Result<String> {
        let what = format!("rabbitmqctl {}", args.join(" "));
        let output = script("ctl", &self.install, &self.dir, &self.environment)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(Error::because(format!("cannot run {what}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(format!("{what}: {}: {}", output.status, said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn tail(&self, log: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// A shell that holds the node, and the pipe that keeps both alive.
#[derive(Debug)]
struct Watchdog {
    child: Child,
    verbs: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    fn start(
        install: &Install,
        dir: &Path,
        environment: &BTreeMap<&'static str, OsString>,
    ) -> io::Result<Self> {
        let mut child = script("watch", install, dir, environment)
            // Out of reach of a Ctrl-C at the terminal: it has to clean up after us.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let verbs = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout was piped"));
        Ok(Self { child, verbs, answers })
    }

    fn ask(&mut self, verb: &str) -> io::Result<String> {
        let verbs = self.verbs.as_mut().expect("taken by drop only");
        writeln!(verbs, "{verb}")?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim().to_owned()),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.verbs.take());
        // Milliseconds: it only kills. Whatever went wrong, there is nobody left to tell.
        let _ = self.child.wait();
    }
}

/// For a start that fails if somebody takes a port between our look and its start: then with others.
pub(super) fn with_free_ports<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..2 {
        match start() {
            Err(error) if is_taken_port(&error) => tracing::debug!(%error, "trying other ports"),
            outcome => return outcome,
        }
    }
    start()
}

/// For the calls of a node, from async code.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::because("the runtime shut down")(error)),
    }
}

fn is_taken_port(error: &Error) -> bool {
    let said = error.to_string();
    ["eaddrinuse", "already_used", "already in use"].iter().any(|reason| said.contains(reason))
}

fn script(
    mode: &str,
    install: &Install,
    dir: &Path,
    environment: &BTreeMap<&'static str, OsString>,
) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "node.sh", mode]).arg(dir);
    command.arg(install.root.as_deref().map_or(OsStr::new(""), Path::as_os_str)).arg(&install.bin);
    command.env_clear().envs(environment).current_dir("/");
    command
}

fn environment(
    install: &Install,
    dir: &Path,
    name: &str,
    epmd_port: u16,
    distribution_port: u16,
) -> BTreeMap<&'static str, OsString> {
    let system = OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let path = std::env::var_os("PATH").filter(|_| install.root.is_none()).unwrap_or(system);
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    // On a machine of few cores the schedulers must not spin; and quorum queues report their length more often.
    let small = "+sbwt none +sbwtdcpu none +sbwtdio none -rabbit quorum_tick_interval 500";
    // Otherwise what a queue dead-letters while the target is not up yet, after a restart, waits for three minutes.
    let patient = "-rabbit dead_letter_worker_publisher_confirm_timeout 5000";
    BTreeMap::from([
        ("PATH", path),
        ("HOME", dir.into()),
        ("LANG", "C.UTF-8".into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", epmd_port.to_string().into()),
        ("RABBITMQ_NODENAME", name.into()),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string().into()),
        ("RABBITMQ_BASE", dir.into()),
        ("RABBITMQ_MNESIA_BASE", dir.join("mnesia").into()),
        ("RABBITMQ_LOG_BASE", dir.join("log").into()),
        ("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf").into()),
        ("RABBITMQ_CONF_ENV_FILE", dir.join("rabbitmq-env.conf").into()),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins").into()),
        ("RABBITMQ_PID_FILE", dir.join("pid").into()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("{loopback} {small} {patient}").into()),
        // Makes the start script exec Erlang instead of waiting for it: one process, whose pid we know.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
    ])
}

fn write_files(dir: &Path, conf: &str, cookie: &str) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    std::fs::write(dir.join("rabbitmq.conf"), conf)?;
    std::fs::write(dir.join("enabled_plugins"), "[rabbitmq_auth_mechanism_ssl,rabbitmq_management].\n")?;
    // Erlang refuses a cookie that others may read.
    let path = dir.join(".erlang.cookie");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(cookie.as_bytes())
}
