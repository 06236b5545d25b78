//! [`Error`] and [`Result`].

use std::time::Duration;

use crate::outcome::DeadReason;

/// What everything in this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an [`Error`], kept for its chain.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong. Each variant is something a caller could do something different about.
///
/// Messages never contain passwords; causes are in [`source`](std::error::Error::source), not in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that a broker cannot carry.
    #[error("invalid {what} {name:?}: {reason}")]
    InvalidName {
        /// What it was to be the name of: "queue", "namespace", …
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A broker URL that cannot be used. The URL is not repeated: it may hold a password.
    #[error("invalid broker URL: {reason}")]
    InvalidUrl {
        /// What is wrong with it.
        reason: String,
    },

    /// A setting outside its range.
    #[error("invalid {setting}: {reason}")]
    InvalidSetting {
        /// The builder method.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// A [`Cadence`](crate::Cadence) that plans nothing, or that nobody can read.
    #[error("invalid cadence {cadence:?}: {reason}")]
    InvalidCadence {
        /// The cadence as text, shortened.
        cadence: String,
        /// What is wrong with it.
        reason: String,
    },

    /// No broker of the list could be reached.
    #[error("cannot connect to {hosts}")]
    Connect {
        /// The addresses tried, without credentials.
        hosts: String,
        /// The last failure.
        #[source]
        source: BoxError,
    },

    /// The broker ended the login: wrong user name or password, most likely.
    #[error("{host} refused the login of user {user:?}: wrong user name or password, or no access from here")]
    Login {
        /// The broker's address.
        host: String,
        /// The user name.
        user: String,
    },

    /// The virtual host is missing, or this user has no access to it.
    #[error("cannot open virtual host {vhost:?} on {host}: {reason}")]
    VirtualHost {
        /// The broker's address.
        host: String,
        /// The virtual host.
        vhost: String,
        /// What the broker said.
        reason: String,
    },

    /// The broker is older than the oldest version taskhare works with.
    #[error("{host} runs {product} {version}; taskhare needs RabbitMQ 3.10 or newer")]
    UnsupportedBroker {
        /// The broker's address.
        host: String,
        /// What it calls itself.
        product: String,
        /// Its version.
        version: String,
    },

    /// The broker does not allow this user to do something.
    #[error("no permission to {action}: {reason}")]
    AccessRefused {
        /// What was tried.
        action: String,
        /// What the broker said.
        reason: String,
    },

    /// An exchange or queue exists with other arguments, which the broker never changes under a name. Choose another
    /// namespace or the same arguments, or drain and delete the old one.
    #[error("{object} exists with {argument} = {theirs}, and {ours} was asked for")]
    TopologyConflict {
        /// `queue 'x'` or `exchange 'x'`.
        object: String,
        /// The argument that differs.
        argument: String,
        /// What this process declares.
        ours: String,
        /// What the broker has.
        theirs: String,
    },

    /// An exchange or queue could not be declared for another reason.
    #[error("cannot declare {object}: {reason}")]
    Declare {
        /// `queue 'x'`, `exchange 'x'` or `binding …`.
        object: String,
        /// What the broker said.
        reason: String,
    },

    /// The broker knows this kind of queue, and has it switched off: it was upgraded from an older one, and a feature flag
    /// was never enabled. Without streams there are no consumers. An administrator enables it, for good and without a
    /// restart.
    #[error(
        "cannot declare {object}: the feature flag {feature} of the broker is disabled; `rabbitmqctl enable_feature_flag {feature}` enables it"
    )]
    FeatureDisabled {
        /// `queue 'x' in vhost 'y'`.
        object: String,
        /// `stream_queue` or `quorum_queue`.
        feature: String,
    },

    /// A queue could not be consumed.
    #[error("cannot consume queue {queue:?}: {reason}")]
    Consume {
        /// The queue on the broker.
        queue: String,
        /// What the broker said.
        reason: String,
    },

    /// A payload that cannot be written as MessagePack.
    #[error("cannot encode task {task:?}")]
    Encode {
        /// The task's name.
        task: String,
        /// Why not.
        #[source]
        source: BoxError,
    },

    /// A payload over the limit.
    #[error(
        "task {task:?} has {size} bytes, and the limit is {limit}; store large data elsewhere and pass its address"
    )]
    TooLarge {
        /// The task's name.
        task: String,
        /// Its encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The task reached no queue: nothing by that name is declared.
    #[error("task {id} was not enqueued: no queue {queue:?}")]
    Unroutable {
        /// The task.
        id: String,
        /// The queue asked for.
        queue: String,
    },

    /// The queue is full, or lost the majority of its nodes: RabbitMQ says the same of both. The task is not there.
    #[error("task {id} was not enqueued: queue {queue:?} refused it: {reason}")]
    Rejected {
        /// The task.
        id: String,
        /// The queue.
        queue: String,
        /// Why.
        reason: String,
    },

    /// It is not known whether the broker has the task: no confirm came in time. A broker under a memory or disk alarm
    /// and a queue without a majority look like this. Enqueue again **with the same id**, and at worst it runs twice.
    #[error("task {id} may or may not be enqueued: queue {queue:?} gave no confirm within {waited:?}{}", last(last_loss.as_deref()))]
    Unconfirmed {
        /// The task.
        id: String,
        /// The queue.
        queue: String,
        /// How long we waited.
        waited: Duration,
        /// The last loss of a connection meanwhile.
        last_loss: Option<String>,
    },

    /// The task was not enqueued: there was no connection, or no room among unconfirmed tasks, in time.
    #[error("task {id} was not enqueued: no broker within {waited:?}{}", last(last_loss.as_deref()))]
    Unavailable {
        /// The task.
        id: String,
        /// How long we waited.
        waited: Duration,
        /// Why there is no connection.
        last_loss: Option<String>,
    },

    /// Another task with this unique key waits or runs.
    #[error("not enqueued: task {of} has the unique key {key:?}")]
    Duplicate {
        /// The key.
        key: String,
        /// The task that has it.
        of: String,
    },

    /// A stream did not take a message: a cancellation, say, or a claim.
    #[error("cannot append to stream {stream:?}")]
    Append {
        /// The stream on the broker.
        stream: String,
        /// Why not.
        #[source]
        source: BoxError,
    },

    /// The queue of the schedules did not take what was to become of one, or gave no confirm in time: then it may be there,
    /// and be done once a scheduler runs.
    #[error("cannot {action}")]
    Schedule {
        /// What was to be done.
        action: String,
        /// Why not.
        #[source]
        source: BoxError,
    },

    /// No answer came from a scheduler. None runs, or it could not answer in time. A change is kept on the broker, and made
    /// as soon as one runs; a question is forgotten.
    #[error(
        "no scheduler has answered within {waited:?}; a change is kept, and made when one runs: is a Scheduler started?"
    )]
    NoScheduler {
        /// How long we waited.
        waited: Duration,
    },

    /// The active scheduler knows no schedule of this name.
    #[error("no schedule {name:?}")]
    NoSchedule {
        /// The name.
        name: String,
    },

    /// The active scheduler did not do what it was told to.
    #[error("the scheduler refused to {action}: {reason}")]
    Refused {
        /// What it was told to do.
        action: String,
        /// Why it did not.
        reason: String,
    },

    /// An output, or the payload of a dead letter, that is not of the expected type.
    #[error("cannot decode what task {task:?} has for an output or payload")]
    Decode {
        /// The task's name.
        task: String,
        /// Why not.
        #[source]
        source: BoxError,
    },

    /// There will be no output: the task is in the dead letters.
    #[error("task {id} is dead ({reason}): {error}")]
    Failed {
        /// The task.
        id: String,
        /// Why.
        reason: DeadReason,
        /// Its last error.
        error: String,
    },

    /// There will be no output: the task was cancelled.
    #[error("task {id} was cancelled: {reason}")]
    Cancelled {
        /// The task.
        id: String,
        /// What it was doing.
        reason: String,
    },

    /// The task has succeeded, and its output is over the limit of what a message may carry.
    #[error(
        "task {id} has succeeded, but its output has {size} bytes, and the limit is {limit}; store large data elsewhere and return its address"
    )]
    OutputTooLarge {
        /// The task.
        id: String,
        /// The encoded size of its output, in bytes.
        size: usize,
        /// The limit of its consumer ([`max_payload`](crate::BrokerBuilder::max_payload)), in bytes.
        limit: usize,
    },

    /// The task was not enqueued: its deadline has passed, or is not after the time when it is due.
    #[error("task {id} was not enqueued: its deadline is {late:?} before the time when it could start")]
    DeadlinePassed {
        /// The task.
        id: String,
        /// How long before.
        late: Duration,
    },

    /// There is no such dead letter, or somebody else looks at it just now.
    #[error("no dead letter of task {id} in queue {queue:?}")]
    NoDeadLetter {
        /// The task.
        id: String,
        /// The queue on the broker.
        queue: String,
    },

    /// A dead letter that is not a task: it cannot be run, so it cannot be requeued. It can be discarded.
    #[error("not a task, so it can only be discarded: {reason}")]
    NotATask {
        /// Why it is none.
        reason: String,
    },

    /// A dead letter of another type of task than the one asked for.
    #[error("this is task {found:?}, and {asked:?} was asked for")]
    WrongTask {
        /// The name of the type asked for.
        asked: String,
        /// The letter's name.
        found: String,
    },

    /// No output was asked for when the task was enqueued.
    #[error("task {id} was enqueued without asking for its output")]
    NoOutput {
        /// The task.
        id: String,
    },

    /// This broker handle keeps no history: see [`without_events`](crate::BrokerBuilder::without_events).
    #[error("there is no history: this broker handle was built with `without_events`")]
    NoHistory,

    /// The broker handle was closed. What was being enqueued may be enqueued or not.
    #[error("the broker handle is closed")]
    Closed,

    /// The management API did not do what it was asked: there is no such thing (404), say, or the node is about to
    /// start or to stop (500 and above).
    #[error("{host} answered {status} to {request}: {reason}")]
    Management {
        /// The node's address.
        host: String,
        /// The method and the path.
        request: String,
        /// The status of HTTP.
        status: u16,
        /// What it said, shortened, or what is wrong with its answer.
        reason: String,
    },

    /// RabbitMQ 4.0 and later cannot mirror classic queues. Quorum queues, the default, are replicated by themselves:
    /// [`Replication::Quorum`](crate::Replication::Quorum), in another namespace than that of the classic ones.
    #[error(
        "{host} cannot mirror classic queues: RabbitMQ 4 has no mirroring any more; use quorum queues, which are replicated by \
         themselves (Replication::Quorum, the default)"
    )]
    NoMirroring {
        /// The node's address.
        host: String,
    },

    /// The broker did not answer in time.
    #[error("the broker did not answer within {waited:?}: {action}")]
    Timeout {
        /// What was asked.
        action: String,
        /// How long we waited.
        waited: Duration,
    },
}

fn last(last_loss: Option<&str>) -> String {
    last_loss.map(|why| format!(" (last connection: {why})")).unwrap_or_default()
}

impl Error {
    /// Whether the same call may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Rejected { .. }
                | Self::Unconfirmed { .. }
                | Self::Unavailable { .. }
                | Self::Append { .. }
                | Self::Schedule { .. }
                | Self::NoScheduler { .. }
                | Self::Timeout { .. }
                | Self::Management { status: 500.., .. }
        )
    }
}
