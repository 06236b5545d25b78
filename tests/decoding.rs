//! What comes from the broker may be anything: `fuzz/seeds` and what becomes of it when it is changed a little, read by
//! all that reads messages (`src/fuzzing`). `./dev fuzz` goes on where this ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::fuzzing;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Start;
use taskhare::transport::Subscribe;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// How many changed messages are read.
const CHANGES: u64 = 100_000;
/// Change it, and others are.
const SEED: u64 = 0x7a5c;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

/// Each with the name of its file, in the order of these.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path());
    let seed =
        |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap());
    let mut seeds: Vec<_> = files.map(seed).collect();
    seeds.sort();
    seeds
}

#[test]
fn every_reader_finds_something_of_its_own_among_the_seeds() {
    let found: BTreeSet<_> = seeds().iter().flat_map(|(_, seed)| fuzzing::read(seed)).collect();
    assert_eq!(found, fuzzing::readers().collect());
}

#[test]
fn seeds_are_messages_as_they_were() {
    for (name, seed) in seeds() {
        let message = fuzzing::from_bytes(&seed);
        let again = fuzzing::from_bytes(&fuzzing::to_bytes(&message));
        assert_eq!(format!("{message:?}"), format!("{again:?}"), "{name}");
    }
}

#[test]
fn no_message_that_was_changed_makes_a_reader_panic() {
    let seeds: Vec<Vec<u8>> = seeds().into_iter().map(|(_, seed)| seed).collect();
    for change in 0..CHANGES {
        let mut random = fastrand::Rng::with_seed(SEED ^ change << 16);
        let changed = changed(&seeds, &mut random);
        if panic::catch_unwind(|| fuzzing::read(&changed)).is_err() {
            let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("panic-{change}"));
            fs::write(&path, &changed).unwrap();
            panic!("change {change} of seed {SEED:#x}; the message is in {}", path.display());
        }
    }
}

/// One of the seeds, changed in one to eight places.
fn changed(seeds: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    const NUMBERS: [u64; 7] = [0, 1, 0x7f, 0xffff, u32::MAX as u64, i64::MAX as u64, u64::MAX];
    let mut bytes = random.choice(seeds).unwrap().clone();
    for _ in 0..random.usize(1..=8) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            // A number, or a length that announces more than there is.
            2 => {
                let number = random.choice(NUMBERS).unwrap();
                let length = *random.choice([1, 2, 4, 8].iter()).unwrap();
                let end = (at + length).min(bytes.len());
                let written = if random.bool() { number.to_le_bytes() } else { number.to_be_bytes() };
                bytes.splice(at..end, written[..length].iter().copied());
            }
            // A part of another one.
            3 => {
                let other = random.choice(seeds).unwrap();
                let from = random.usize(0..=other.len());
                let to = random.usize(from..=other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            // A part of itself, again or no more.
            4 => {
                let end = random.usize(at..=bytes.len());
                let part = bytes[at..end].to_vec();
                let with = if random.bool() { [&part[..], &part].concat() } else { Vec::new() };
                bytes.splice(at..end, with);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if random.bool() { *byte ^ 1 << random.u8(0..8) } else { random.u8(..) };
                }
            }
        }
    }
    bytes.truncate(65_536);
    bytes
}

/// A message with that body only.
fn payload(body: Vec<u8>) -> Vec<u8> {
    fuzzing::to_bytes(&Message { body, ..Message::default() })
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Tree {
    Leaf,
    Node(Vec<Self>),
}

impl Task for Tree {
    const NAME: &'static str = "tree";
    type Output = ();
}

#[tokio::test(start_paused = true)]
async fn a_payload_nested_as_deeply_as_you_like_is_a_dead_letter() {
    // {"Node": [{"Node": [...]}]}, and lists in lists of which nobody has asked.
    let levels = [b"\x81\xa4Node\x91".as_slice(), b"\x91"];
    for level in levels {
        let body = [level.repeat(900_000 / level.len()), vec![0xc0]].concat();
        let (broker, lane) = (Broker::in_process(), Name::new("queue", "taskhare.default.normal").unwrap());
        let producer = Producer::builder(&broker).build().await.unwrap();
        producer.enqueue(Tree::Leaf).await.unwrap();
        let mut all = broker.transport().subscribe(Subscribe::new(lane.clone(), 1, "test")).await.unwrap();
        let mut delivery = all.next().await.unwrap();
        let mut message = std::mem::take(&mut delivery.message);
        delivery.ack();
        all.close().await;
        message.body = body;
        let exchange = Name::new("exchange", "taskhare.tasks").unwrap();
        let key = Name::new("key", "default.normal").unwrap();
        let publish = taskhare::transport::Publish { exchange, key, mandatory: true, message };
        broker.transport().publish(&publish, SECOND).await.unwrap();
        let consumer =
            Consumer::builder(&broker).handler_fn(|_: Tree, _| async { Ok(()) }).start().await.unwrap();
        while broker.dead("default").await.unwrap() == 0 {
            tokio::time::sleep(SECOND).await;
        }
        let letter = broker.dead_letters("default").unwrap().list(1).await.unwrap().remove(0);
        assert_eq!(letter.reason(), taskhare::DeadReason::Undecodable);
        assert!(letter.error().unwrap().contains("nested more than 128 deep"), "{:?}", letter.error());
        consumer.shutdown().await;
    }
}

/// In a thread with as small a stack as tokio's have, to begin with.
#[test]
fn what_is_nested_or_announces_more_than_there_is_is_refused() {
    let bodies = [
        vec![0x91; 65_000],
        [0xdd, 0xff, 0xff, 0xff, 0xff].repeat(10_000),
        b"\x81\xa4Node\x91".repeat(8_000),
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3],
        vec![0xdb, 0xff, 0xff, 0xff, 0xff, b'a'],
        vec![0xc6, 0xff, 0xff, 0xff, 0xff, 0],
        vec![0xc9, 0xff, 0xff, 0xff, 0xff, 0],
        vec![0xa2, 0xff, 0xfe],
        vec![0xc1],
        Vec::new(),
    ];
    let read = move || {
        for body in bodies {
            assert_eq!(fuzzing::read(&payload(body.clone())), [""; 0], "{:x?}", &body[..body.len().min(16)]);
        }
    };
    thread::Builder::new().stack_size(1024 * 1024).spawn(read).unwrap().join().unwrap();
}

/// Writes `fuzz/seeds` anew, except for what was found by others (`found-…`).
#[tokio::test(start_paused = true)]
#[ignore = "when the wire format changes: cargo test --features full,testing --test decoding -- --ignored"]
async fn write_the_seeds() {
    let write = |name: String, message: &Message| {
        fs::create_dir_all(directory()).unwrap();
        fs::write(directory().join(name), fuzzing::to_bytes(message)).unwrap();
    };
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let failing = |_: Tree, ctx: taskhare::TaskContext| async move {
        ctx.progress(1, Some(2), "half of it");
        match ctx.attempt() {
            1 => Err(std::io::Error::other("the disk is full").into()),
            _ => Err(TaskError::reject("no such image")),
        }
    };
    let consumer = Consumer::builder(&broker).handler_fn(failing).queue("failing").start().await.unwrap();
    let tree = || Tree::Node(vec![Tree::Leaf, Tree::Node(vec![])]);
    producer.enqueue(tree()).queue("failing").await.unwrap();
    while broker.dead("failing").await.unwrap() == 0 {
        tokio::time::sleep(SECOND).await;
    }
    consumer.shutdown().await;
    producer.enqueue(tree()).queue("late").deadline_in(SECOND).await.unwrap();
    while broker.dead("late").await.unwrap() == 0 {
        tokio::time::sleep(SECOND).await;
    }
    producer.enqueue(tree()).await.unwrap();
    let task =
        producer.enqueue(tree()).priority(Priority::Urgent).deadline_in(HOUR).unique("key").max_attempts(3);
    let task = task.run_timeout(SECOND).retry(RetryPolicy::exponential(SECOND).within(HOUR)).delay(SECOND);
    let task = task.await.unwrap();
    producer.cancel(task.id()).await.unwrap();
    producer.reschedule(task.id(), tree()).queue("failing").await.unwrap();
    let cron = Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin");
    let scheduler = Scheduler::builder(&broker)
        .schedule(Schedule::new("often", 60 * SECOND, tree()).overlap(taskhare::Overlap::Skip).jitter(SECOND))
        .schedule(Schedule::new("daily", cron, tree()).misfire(taskhare::Misfire::CatchUp(HOUR)))
        .start()
        .await
        .unwrap();
    tokio::time::sleep(90 * SECOND).await;
    scheduler.shutdown().await;
    let schedules = broker.schedules().within(SECOND);
    let _ = (schedules.pause("often").await, schedules.trigger("daily").await, schedules.list().await);
    let _ = (schedules.remove("daily").await, schedules.resume("often").await);
    producer.schedule("once", Cadence::at(std::time::SystemTime::now()), tree()).await.unwrap();

    for (queue, start) in [
        ("default.normal", None),
        ("default.urgent", None),
        ("failing.normal", None),
        ("failing.dead", None),
        ("late.dead", None),
        ("schedules", None),
        ("history", Some(Start::First)),
        ("control", Some(Start::First)),
        ("unique", Some(Start::First)),
    ] {
        let name = Name::new("queue", format!("taskhare.{queue}")).unwrap();
        let subscribe = Subscribe { start, ..Subscribe::new(name, 1000, "test") };
        let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
        let mut held = Vec::new();
        while let Ok(Some(delivery)) = tokio::time::timeout(SECOND, subscription.next()).await {
            held.push(delivery);
            if held.len() <= 12 {
                write(format!("{queue}-{:02}", held.len()), &held[held.len() - 1].message);
            }
        }
        subscription.close().await;
    }
    let answer = |kind: &'static str| Message {
        kind: Some(kind.into()),
        correlation_id: Some(TaskId::new().to_string()),
        ..Message::default()
    };
    write("answer-done".to_owned(), &answer("taskhare.schedule.done"));
    write("answer-missing".to_owned(), &answer("taskhare.schedule.missing"));
    let mut output = answer("taskhare.output");
    output.body = b"\xa6output".to_vec();
    write("output-succeeded".to_owned(), &output);
    output.body.clear();
    output.headers.insert("taskhare-reason", "rejected");
    output.headers.insert("taskhare-error", "no such image");
    write("output-dead".to_owned(), &output);
    let text = |text: &str| Message { body: text.as_bytes().to_vec(), ..Message::default() };
    write("text-cron".to_owned(), &text("cron 0 9 * * MON-FRI in Europe/Berlin"));
    for number in 0..2 {
        let policy = [
            "fixed wait=1000ms attempts=5",
            "exponential base=1000ms cap=3600000ms attempts=5 within=90000ms",
        ][number];
        write(format!("text-policy-{number}"), &text(policy));
    }
}
