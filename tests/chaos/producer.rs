//! A process that does its share of the operations of a load, each at its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Enqueue;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Result;
use taskhare::RetryPolicy;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::consumer::Chore;
use crate::history::Act;
use crate::history::Record;
use crate::history::What;
use crate::history::now;
use crate::load::ATTEMPTS;
use crate::load::BACKOFF;
use crate::load::Fate;
use crate::load::Load;
use crate::load::Operation;
use crate::load::QUEUES;
use crate::load::Then;
use crate::load::WARM_UP;
use crate::load::id;
use crate::worker::Plan;
use crate::worker::Scribe;
use crate::worker::held;

/// Shorter than some faults, so that some of what is enqueued is unknown.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries of what failed.
const PAUSE: Duration = Duration::from_millis(300);
/// How long after the end of the load it is given up: longer than any fault.
const PATIENCE: Duration = Duration::from_secs(90);
/// Of a task that overruns it.
const RUN_TIMEOUT: Duration = Duration::from_millis(500);

pub async fn run(broker: &Broker, plan: &Plan, scribe: &Scribe, end: &CancellationToken) {
    let producer = Producer::builder(broker).timeout(TIMEOUT).queue(QUEUES[0]).queue(QUEUES[1]).build().await;
    let producer = producer.unwrap();
    warm_up(&producer, plan).await;
    scribe.write(held(true, &Handle::current()));
    let load = plan.course.load();
    let hand = Arc::new(Hand {
        producer,
        scribe: scribe.clone(),
        seed: load.seed,
        starts: plan.course.starts,
        ends: plan.course.ends(),
        past: Past::read(plan),
    });
    let mut hands = JoinSet::new();
    for operation in share(&load, plan) {
        hands.spawn(hand.clone().carry_out(operation));
    }
    let done = async {
        while let Some(done) = hands.join_next().await {
            done.unwrap();
        }
        scribe.write(What::Loaded);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = done => {}
        () = end.cancelled() => {}
    }
}

/// Enough for each consumer to have some tasks that fail, and have to be published again.
async fn warm_up(producer: &Producer, plan: &Plan) {
    let number = WARM_UP + 100 * plan.place;
    for (number, queue) in (number..number + 60).zip(QUEUES.iter().cycle()) {
        let operation = Operation { queue, fate: Fate::Fails(1), ..Operation::plain(number, Duration::ZERO) };
        let chore = Chore { takes: Duration::from_millis(20), ..chore(&operation, 0) };
        let enqueue = asked(producer.enqueue(chore).id(id(plan.course.seed, number)), &operation);
        enqueue.delay(PAUSE).await.unwrap();
    }
    producer.cancel(id(plan.course.seed, number)).await.unwrap();
}

fn share(load: &Load, plan: &Plan) -> impl Iterator<Item = Operation> {
    let (place, of) = (plan.place, plan.of);
    load.operations.iter().copied().filter(move |operation| operation.number % of == place)
}

/// What the producer had done that was here before.
#[derive(Default)]
struct Past {
    /// When it was first tried.
    invoked: HashMap<(u32, Act), Duration>,
    confirmed: HashMap<(u32, Act), Duration>,
}

impl Past {
    fn read(plan: &Plan) -> Self {
        let mut past = Self::default();
        let text = std::fs::read_to_string(&plan.history).unwrap_or_default();
        for record in text.lines().filter_map(Record::parse) {
            match record.what {
                What::Invoked { task, act } => {
                    past.invoked.entry((task, act)).or_insert(record.at());
                }
                What::Confirmed { task, act } => {
                    past.confirmed.entry((task, act)).or_insert(record.at());
                }
                _ => {}
            }
        }
        past
    }
}

struct Hand {
    producer: Producer,
    scribe: Scribe,
    seed: u64,
    starts: Duration,
    ends: Duration,
    past: Past,
}

impl Hand {
    async fn carry_out(self: Arc<Self>, operation: Operation) {
        until(self.starts + operation.at).await;
        if !self.insist(&operation, Act::Enqueue).await {
            return;
        }
        let (after, act) = match operation.then {
            Then::Nothing => return,
            Then::Cancel(after) => (after, Act::Cancel),
            Then::Reschedule(after, _) => (after, Act::Reschedule),
        };
        tokio::time::sleep(after).await;
        self.insist(&operation, act).await;
    }

    /// Once. What it says of times counts from `first`.
    async fn attempt(&self, operation: &Operation, act: Act, first: SystemTime) -> Result<()> {
        let id = id(self.seed, operation.number);
        match (act, operation.then) {
            (Act::Enqueue, _) => {
                let enqueue = self.producer.enqueue(chore(operation, 0)).id(id);
                let mut enqueue = asked(enqueue, operation);
                if let Some(delay) = operation.delay {
                    enqueue = enqueue.at(first + delay);
                }
                if let Some(deadline) = operation.deadline {
                    enqueue = enqueue.deadline(first + deadline);
                }
                enqueue.await.map(drop)
            }
            (Act::Reschedule, Then::Reschedule(_, delay)) => {
                let again = self.producer.reschedule(id, chore(operation, 1));
                asked(again, operation).at(first + delay).await.map(drop)
            }
            _ => self.producer.cancel(id).await,
        }
    }

    /// When it was first tried, by this machine's time of day, whatever that is set to.
    fn first(&self, task: u32, act: Act) -> SystemTime {
        self.past.invoked.get(&(task, act)).map_or_else(SystemTime::now, |at| UNIX_EPOCH + *at)
    }

    /// Tries until it is confirmed, or cannot be any more; again with the same id, as one should. Whether it is confirmed.
    async fn insist(&self, operation: &Operation, act: Act) -> bool {
        let task = operation.number;
        if self.past.confirmed.contains_key(&(task, act)) {
            return true;
        }
        let mut first = None;
        loop {
            self.scribe.write(What::Invoked { task, act });
            let first = *first.get_or_insert_with(|| self.first(task, act));
            let Err(error) = self.attempt(operation, act, first).await else {
                self.scribe.write(What::Confirmed { task, act });
                return true;
            };
            let is_over = matches!(error, Error::DeadlinePassed { .. } | Error::Closed);
            let text = error.to_string();
            self.scribe.write(match is_unknown(&error) {
                true => What::Unknown { task, act, error: text },
                false => What::Refused { task, act, error: text },
            });
            if is_over || now() > self.ends + PATIENCE {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What is asked for each time.
fn asked<'a>(enqueue: Enqueue<'a, Chore>, operation: &Operation) -> Enqueue<'a, Chore> {
    let enqueue = enqueue
        .queue(operation.queue)
        .priority(operation.priority)
        .retry(RetryPolicy::fixed(BACKOFF).max_attempts(ATTEMPTS));
    match operation.fate {
        Fate::Overruns(_) => enqueue.run_timeout(RUN_TIMEOUT),
        _ => enqueue,
    }
}

/// Whether the broker may have it all the same.
fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Unconfirmed { .. } | Error::Append { .. } | Error::Closed)
}

fn chore(operation: &Operation, copy: u32) -> Chore {
    Chore { task: operation.number, copy, fate: operation.fate, takes: operation.takes }
}

async fn until(time: Duration) {
    tokio::time::sleep(time.saturating_sub(now())).await;
}
