//! What schedules cost: thousands of them declared, taken over, idle and busy. See `benches/README.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench")]

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::testing::TestBroker;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The first argument of the processes that run a scheduler.
const WORKER: &str = "--worker";
/// A schedule that shows when a scheduler fires.
const FAST: &str = "fast";
const FAST_PERIOD: Duration = Duration::from_millis(50);
/// For how long to count what busy schedules fire.
const WINDOW: Duration = Duration::from_secs(10);
/// How late what they fire may be to be counted.
const LATEST: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Note {
    text: String,
}

impl Task for Note {
    const NAME: &'static str = "note";
    type Output = ();
}

/// Of about 200 bytes.
fn note() -> Note {
    Note { text: "x".repeat(190) }
}

struct Settings {
    schedules: usize,
    rounds: usize,
    idle: u64,
    busy: Vec<usize>,
}

fn settings() -> Settings {
    let mut settings = Settings { schedules: 10_000, rounds: 5, idle: 60, busy: vec![2_000, 5_000] };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().unwrap().parse().unwrap();
        match argument.as_str() {
            "--schedules" => settings.schedules = number(),
            "--rounds" => settings.rounds = number(),
            "--idle" => settings.idle = number() as u64,
            "--busy" => settings.busy = vec![number()],
            _ => {}
        }
    }
    settings
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(WORKER) = arguments.get(1).map(String::as_str) {
        let [url, kind, count] = [2, 3, 4].map(|index| arguments[index].clone());
        return tokio::spawn(worker(url, kind, count.parse().unwrap())).await.unwrap();
    }
    // In a task, as a service would, and not on the thread that runs `main`.
    tokio::spawn(bench(settings())).await.unwrap();
}

async fn bench(settings: Settings) {
    let lab = TestBroker::shared().await.unwrap();
    println!("RabbitMQ {}, quorum queues", lab.management().version().await.unwrap());
    if settings.rounds > 0 {
        many(lab, settings.schedules, settings.rounds).await;
    }
    if settings.idle > 0 {
        idle(lab, settings.idle).await;
    }
    for count in settings.busy {
        busy(lab, "spread", count, 0).await;
    }
    busy(lab, "at-once", 2_000, 0).await;
    busy(lab, "spread", 500, 0).await;
    busy(lab, "spread", 500, settings.schedules).await;
}

// ---- the schedules ----

/// `count` schedules: none of which is due for an hour (`daily`), each once a second (`spread`), or all of them at
/// the full second (`at-once`).
fn schedules(kind: &str, count: usize) -> Vec<Schedule> {
    let now = SystemTime::now();
    let hour = now.duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600;
    let one = |index: usize| {
        let cadence = match kind {
            "daily" if index.is_multiple_of(2) => {
                let (minute, hour) = (index / 2 % 60, (hour as usize + 2 + index % 20) % 24);
                Cadence::cron(&format!("{minute} {hour} * * *"))
            }
            "daily" => Cadence::every(Duration::from_secs(3600)),
            "spread" => Cadence::every(Duration::from_secs(1)),
            _ => Cadence::cron("* * * * * *"),
        };
        let schedule = Schedule::new(&format!("{kind}-{index}"), cadence, note());
        let share = Duration::from_secs(1).mul_f64(index as f64 / count as f64);
        if kind == "spread" { schedule.starting_at(now + share) } else { schedule }
    };
    (0..count).map(one).collect()
}

/// How often a process looks whether its scheduler is active.
const LOOK: Duration = Duration::from_millis(5);

/// A process with a scheduler: declares, tells when it is active, and stops when its input ends.
async fn worker(url: String, kind: String, count: usize) {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let broker = Broker::connect(&url).await.unwrap();
    let started = Instant::now();
    let builder = Scheduler::builder(&broker);
    let scheduler = schedules(&kind, count).into_iter().fold(builder, taskhare::SchedulerBuilder::schedule);
    let scheduler = scheduler.start().await.unwrap();
    println!("declared {}", started.elapsed().as_secs_f64());
    while !scheduler.is_active() {
        sleep(LOOK).await;
    }
    println!("active {}", started.elapsed().as_secs_f64());
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    let _ = end.await;
    scheduler.shutdown().await;
    broker.close().await;
}

/// Such a process, from outside.
struct Worker {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn spawn(url: &str, kind: &str, count: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([WORKER, url, kind, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// One that has no schedules of its own, and is connected.
    async fn standby(url: &str) -> Self {
        let mut worker = Self::spawn(url, "daily", 0);
        worker.hears("declared").await;
        worker
    }

    /// Waits until it says that, and returns how many seconds after its start that was.
    async fn hears(&mut self, word: &str) -> f64 {
        let line = self.said.next_line().await.unwrap().expect("it lives");
        let (said, seconds) = line.split_once(' ').unwrap();
        assert_eq!(said, word);
        seconds.parse().unwrap()
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// It hands over first.
    async fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().await.unwrap();
    }
}

/// A tick whose task has started.
struct Started {
    is_fast: bool,
    planned: SystemTime,
    at: SystemTime,
}

async fn consume(broker: &Broker) -> (Consumer, mpsc::UnboundedReceiver<Started>) {
    let (tell, ticks) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(broker)
        .handler_fn(move |_: Note, ctx| {
            let at = SystemTime::now();
            let started = |tick: &taskhare::Tick| Started {
                is_fast: tick.schedule() == FAST,
                planned: tick.planned_at(),
                at,
            };
            // The other end is gone at the end.
            let _ = ctx.tick().map(|tick| tell.send(started(tick)));
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    (consumer, ticks)
}

/// When a task of the fast schedule started that was planned after `time`.
async fn tick_after(ticks: &mut mpsc::UnboundedReceiver<Started>, time: SystemTime) -> SystemTime {
    loop {
        let tick = ticks.recv().await.unwrap();
        if tick.is_fast && tick.planned > time {
            return tick.at;
        }
    }
}

// ---- what is measured ----

async fn many(lab: &TestBroker, count: usize, rounds: usize) {
    println!("\n{count} schedules, hourly and daily, payload 200 B        median       max");
    let (broker, vhost) = connect(lab).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let mut enqueued = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        for task in producer.enqueue_all((0..count).map(|_| note())).await {
            task.unwrap();
        }
        enqueued.push(begun.elapsed().as_secs_f64());
    }
    row("enqueue as many tasks, for comparison, s", enqueued);
    drop(broker);
    lab.remove_vhost(&vhost).await.unwrap();

    let (broker, url) = connect(lab).await;
    let (_consumer, mut ticks) = consume(&broker).await;
    let mut worker = Worker::spawn(&url, "daily", count);
    let begun = Instant::now();
    row("declare them all, s", vec![worker.hears("declared").await]);
    worker.hears("active").await;
    let list = broker.schedules().within(LONG);
    let mut listed = Vec::new();
    while list.list().await.unwrap().len() < count {}
    row("until all of them are listed, s", vec![begun.elapsed().as_secs_f64()]);
    for _ in 0..rounds {
        let begun = Instant::now();
        assert_eq!(list.list().await.unwrap().len(), count);
        listed.push(begun.elapsed().as_secs_f64());
    }
    row("list them, s", listed);
    let mut again = Worker::spawn(&url, "daily", count);
    row("declare them again, unchanged, s", vec![again.hears("declared").await]);
    let begun = Instant::now();
    list.list().await.unwrap();
    row("… and until they are seen to be unchanged, s", vec![begun.elapsed().as_secs_f64()]);
    again.kill().await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.schedule(FAST, FAST_PERIOD, note()).await.unwrap();
    tick_after(&mut ticks, SystemTime::now()).await;
    worker.stop().await;

    let (mut active, mut ticking, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = SystemTime::now();
        let mut worker = Worker::spawn(&url, "daily", 0);
        worker.hears("declared").await;
        active.push(worker.hears("active").await);
        ticking.push(since(begun, tick_after(&mut ticks, begun).await));
        sleep(Duration::from_secs(1)).await;
        used.push(cpu(worker.pid()));
        worker.stop().await;
    }
    row("start-up: from start() to active, s", active);
    row("start-up: from the start of the process to a tick, s", ticking);
    row("start-up: CPU of the process, s", used);

    let (mut active, mut ticking, mut used, mut memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut reigning = Worker::standby(&url).await;
    reigning.hears("active").await;
    for _ in 0..rounds {
        let mut next = Worker::standby(&url).await;
        tick_after(&mut ticks, SystemTime::now()).await;
        sleep(Duration::from_secs(1)).await;
        let before = (cpu(next.pid()), resident(next.pid()));
        let killed = SystemTime::now();
        reigning.kill().await;
        next.hears("active").await;
        active.push(since(killed, SystemTime::now()));
        ticking.push(since(killed, tick_after(&mut ticks, killed).await));
        sleep(Duration::from_secs(1)).await;
        used.push(cpu(next.pid()) - before.0);
        memory.push(resident(next.pid()) - before.1);
        reigning = next;
    }
    row("takeover: from kill -9 to active, s", active);
    row("takeover: from kill -9 to a tick, s", ticking);
    row("takeover: CPU of the process, s", used);
    row("takeover: memory of the process, MiB", memory);
    reigning.stop().await;
    broker.close().await;
    lab.remove_vhost(&url).await.unwrap();
}

async fn idle(lab: &TestBroker, seconds: u64) {
    let count = 1_000;
    let node = node(lab).await;
    let (broker, url) = connect(lab).await;
    let mut active = Worker::spawn(&url, "daily", count);
    active.hears("declared").await;
    active.hears("active").await;
    while broker.schedules().list().await.unwrap().len() < count {}
    broker.close().await;
    let standby = Worker::standby(&url).await;
    sleep(Duration::from_secs(6)).await;
    let all = async || {
        (cpu(active.pid()), cpu(standby.pid()), node.map(cpu).unwrap_or_default(), stored(lab, &url).await)
    };
    let (before, begun) = (all().await, Instant::now());
    sleep(Duration::from_secs(seconds)).await;
    let (after, minutes) = (all().await, begun.elapsed().as_secs_f64() / 60.0);
    active.stop().await;
    standby.stop().await;
    lab.remove_vhost(&url).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let (alone, begun) = (node.map(cpu).unwrap_or_default(), Instant::now());
    sleep(Duration::from_secs(10)).await;
    let alone = (node.map(cpu).unwrap_or_default() - alone) / begun.elapsed().as_secs_f64() * 60.0;
    println!("\n{count} schedules, hourly and daily, nothing due          a minute");
    let show = |what: &str, value: f64| println!("  {what:<52} {value:>9.1}");
    show("CPU of the active scheduler's process, ms", (after.0 - before.0) / minutes * 1e3);
    show("CPU of the process of one that stands by, ms", (after.1 - before.1) / minutes * 1e3);
    show("CPU of the broker, ms", (after.2 - before.2) / minutes * 1e3);
    show("CPU of the broker with nobody connected, ms", alone * 1e3);
    show("messages published to the ledger", (after.3 - before.3) / minutes);
}

/// `count` schedules, beside others of which none is due.
async fn busy(lab: &TestBroker, kind: &str, count: usize, beside: usize) {
    let node = node(lab).await;
    let (broker, url) = connect(lab).await;
    if beside > 0 {
        let mut others = Worker::spawn(&url, "daily", beside);
        others.hears("declared").await;
        others.hears("active").await;
        while broker.schedules().within(LONG).list().await.unwrap().len() < beside {}
        others.stop().await;
    }
    let (consumer, mut ticks) = consume(&broker).await;
    let mut worker = Worker::spawn(&url, kind, count);
    worker.hears("declared").await;
    worker.hears("active").await;
    while broker.schedules().within(LONG).list().await.unwrap().len() < count + beside {}
    sleep(Duration::from_secs(3)).await;
    let all = || [cpu(worker.pid()), cpu(std::process::id()), node.map(cpu).unwrap_or_default()];
    let (before, begun) = (all(), SystemTime::now());
    sleep(WINDOW).await;
    let (after, end) = (all(), SystemTime::now());
    sleep(LATEST).await;
    let (mut late, mut started) = (Vec::new(), 0);
    while let Ok(tick) = ticks.try_recv() {
        started += usize::from((begun..end).contains(&tick.at));
        if (begun..begun + WINDOW).contains(&tick.planned) {
            late.push(since(tick.planned, tick.at) * 1e3);
        }
    }
    late.sort_by(f64::total_cmp);
    let at =
        |part: f64| late.get(((late.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    println!("\n{count} schedules, each once a second, {kind}, beside {beside} of which none is due");
    println!("  fired of planned  {} of {}", late.len(), count * WINDOW.as_secs() as usize);
    println!("  started a second  {:.0}", started as f64 / since(begun, end));
    println!("  late, ms          p50 {:.1}  p99 {:.1}  max {:.1}", at(0.5), at(0.99), at(1.0));
    let each = |index: usize| (after[index] - before[index]) * 1e6 / started as f64;
    println!("  CPU a tick, µs    scheduler {:.0}  consumer {:.0}  broker {:.0}", each(0), each(1), each(2));
    worker.kill().await;
    consumer.shutdown().await;
    broker.close().await;
    lab.remove_vhost(&url).await.unwrap();
}

// ---- how it is measured ----

async fn connect(lab: &TestBroker) -> (Broker, String) {
    let url = lab.fresh_vhost().await.unwrap();
    (Broker::connect(&url).await.unwrap(), url)
}

fn since(begun: SystemTime, end: SystemTime) -> f64 {
    end.duration_since(begun).unwrap_or_default().as_secs_f64()
}

fn row(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    println!("  {what:<52} {:>9.3} {:>9.3}", values[values.len() / 2], values[values.len() - 1]);
}

/// The process of the broker, if it is on this machine.
async fn node(lab: &TestBroker) -> Option<u32> {
    let mut nodes = lab.management().get("/nodes").await.unwrap();
    // A node that has just started does not tell yet.
    while nodes[0]["os_pid"].is_null() {
        sleep(Duration::from_millis(100)).await;
        nodes = lab.management().get("/nodes").await.unwrap();
    }
    let pid = nodes[0]["os_pid"].as_str()?.parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("beam").then_some(pid)
}

/// How many messages were ever published to the ledger of that virtual host.
async fn stored(lab: &TestBroker, url: &str) -> f64 {
    let vhost = url.rsplit('/').next().unwrap();
    let queue = lab.management().get(&format!("/queues/{vhost}/taskhare.schedules")).await.unwrap();
    queue["message_stats"]["publish"].as_f64().unwrap_or_default()
}

/// What all threads of a process have used, in seconds. From Linux's scheduler; zero elsewhere.
fn cpu(pid: u32) -> f64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let used = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    used.sum::<u64>() as f64 / 1e9
}

/// What a process has in memory, in MiB. From Linux; zero elsewhere.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
