//! A process that runs tasks and ticks, each as its payload says.

use std::time::Duration;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::history::End;
use crate::history::What;
use crate::load::Fate;
use crate::load::QUEUES;
use crate::load::WARM_UP;
use crate::worker::Scribe;
use crate::worker::held;

/// What a task may go on for once it is told to stop.
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// More than any task takes.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
const BEAT: Duration = Duration::from_secs(1);
/// What a task runs for before it kills its process, so that others run beside it.
const BEFORE_ABORT: Duration = Duration::from_millis(50);

/// One task of the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chore {
    pub task: u32,
    /// How often it was rescheduled before.
    pub copy: u32,
    pub fate: Fate,
    pub takes: Duration,
}

impl Task for Chore {
    const NAME: &'static str = "chore";
    type Output = ();
}

/// A tick of a schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tock;

impl Task for Tock {
    const NAME: &'static str = "tock";
    const QUEUE: &'static str = QUEUES[0];
    type Output = ();
}

pub async fn run(broker: &Broker, scribe: &Scribe, end: &CancellationToken) {
    let (chores, tocks) = (scribe.clone(), scribe.clone());
    let mut builder = Consumer::builder(broker)
        .handler_fn(move |chore, ctx| do_chore(chore, ctx, chores.clone()))
        .handler_fn(move |_: Tock, ctx| {
            tocks.write(ran(&ctx));
            async { Ok(()) }
        })
        .concurrency(8)
        .prefetch(16)
        .cancel_grace(CANCEL_GRACE)
        .shutdown_grace(SHUTDOWN_GRACE)
        .beat_every(BEAT);
    for queue in QUEUES {
        builder = builder.queue(queue);
    }
    let consumer = builder.start().await.unwrap();
    scribe.write(held(true, &Handle::current()));
    consumer.run_until(end.cancelled()).await;
}

async fn do_chore(chore: Chore, ctx: TaskContext, scribe: Scribe) -> Result<(), TaskError> {
    let Chore { task, copy, fate, takes } = chore;
    let attempt = ctx.attempt();
    if task >= WARM_UP {
        tokio::time::sleep(takes).await;
        return if attempt == 1 { Err(TaskError::retry("as its number says")) } else { Ok(()) };
    }
    scribe.write(What::Started { task, copy, attempt, again: ctx.is_redelivered() });
    let fault = |fault: &str| What::Began { fault: fault.to_owned(), whom: scribe.who().to_owned() };
    match fate {
        Fate::Kills => {
            scribe.write(fault("abort"));
            tokio::time::sleep(BEFORE_ABORT).await;
            std::process::abort();
        }
        Fate::Blocks => {
            scribe.write(fault("handler blocks"));
            std::thread::sleep(takes);
            scribe.write(What::Healed { fault: "handler blocks".to_owned(), whom: scribe.who().to_owned() });
        }
        Fate::Overruns(times) if attempt <= times => {
            ctx.cancelled().await;
            scribe.write(What::Overran { task, copy, attempt });
            std::future::pending::<()>().await;
        }
        Fate::Overruns(_) => {}
        _ => tokio::time::sleep(takes).await,
    }
    let end = end_of(fate, attempt);
    scribe.write(What::Finished { task, copy, attempt, end });
    match end {
        End::Succeeded => Ok(()),
        End::Failed => Err(TaskError::retry("as its payload says")),
        End::Rejected => Err(TaskError::reject("as its payload says")),
        End::Panicked => panic!("as its payload says"),
    }
}

/// How an attempt ends that comes to its end.
fn end_of(fate: Fate, attempt: u32) -> End {
    match fate {
        Fate::Fails(times) if attempt <= times => End::Failed,
        Fate::Panics(times) if attempt <= times => End::Panicked,
        Fate::FailsAlways => End::Failed,
        Fate::IsRejected => End::Rejected,
        _ => End::Succeeded,
    }
}

fn ran(ctx: &TaskContext) -> What {
    let tick = ctx.tick().expect("it is one of a schedule");
    What::Ran {
        schedule: tick.schedule().to_owned(),
        sequence: tick.sequence(),
        planned: tick.planned_at().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64,
        id: ctx.id().to_string(),
        again: ctx.is_redelivered(),
    }
}
