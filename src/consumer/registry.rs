//! [`Registry`]: from a task's name to its handler. The only place where the types of tasks are erased.

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Span;

use crate::envelope;
use crate::error::BoxError;
use crate::error::Error;
use crate::error::Result;
use crate::handler::CancelReason;
use crate::handler::TaskContext;
use crate::handler::TaskError;
use crate::handler::TaskHandler;
use crate::retry::RetryPolicy;
use crate::task::Task;

/// The handlers of a consumer.
#[derive(Default)]
pub(super) struct Registry {
    handlers: HashMap<&'static str, Box<dyn Handler>>,
    queues: Vec<&'static str>,
    duplicate: Option<&'static str>,
}

impl Registry {
    pub(super) fn add<H: TaskHandler>(&mut self, handler: H) {
        let name = H::Task::NAME;
        if self.handlers.insert(name, Box::new(Typed(handler))).is_some() {
            self.duplicate = Some(name);
        }
        if !self.queues.contains(&H::Task::QUEUE) {
            self.queues.push(H::Task::QUEUE);
        }
    }

    /// That there is one handler for each name, and at least one.
    pub(super) fn check(&self) -> Result<()> {
        let reason = match self.duplicate {
            Some(name) => format!("there are two for tasks named {name:?}"),
            None if self.handlers.is_empty() => {
                "there is none; add one with `handler` or `handler_fn`".to_owned()
            }
            None => return Ok(()),
        };
        Err(Error::InvalidSetting { setting: "handler", reason })
    }

    /// The handler for tasks of that name, and the name again, for ever.
    pub(super) fn get(&self, name: &str) -> Option<(&'static str, &dyn Handler)> {
        self.handlers.get_key_value(name).map(|(name, handler)| (*name, &**handler))
    }

    /// The queues that the handled tasks go to by default.
    pub(super) fn queues(&self) -> &[&'static str] {
        &self.queues
    }
}

/// A handler of tasks of whatever type.
#[async_trait]
pub(super) trait Handler: Send + Sync {
    /// Decodes the payload, runs the attempt, encodes its output.
    async fn run(&self, payload: &[u8], ctx: &TaskContext) -> Result<Vec<u8>, RunError>;

    /// The policy of the handler, or else of its type of task.
    fn retry(&self) -> Option<RetryPolicy>;

    /// How long one attempt may take.
    fn timeout(&self) -> Option<Duration>;
}

/// Why there is no output.
pub(super) enum RunError {
    Undecodable(BoxError),
    Failed(TaskError),
    /// With what it said.
    Panicked(String),
    /// It was dropped at the end of the grace period, after it had been told to stop for this reason.
    Stopped(CancelReason),
}

struct Typed<H>(H);

#[async_trait]
impl<H: TaskHandler> Handler for Typed<H> {
    async fn run(&self, payload: &[u8], ctx: &TaskContext) -> Result<Vec<u8>, RunError> {
        let task = envelope::decode(payload).map_err(RunError::Undecodable)?;
        let output = self.0.handle(task, ctx).await.map_err(RunError::Failed)?;
        // The work is done; running it again would not make its output any more encodable.
        envelope::encode(&output).map_err(|error| RunError::Failed(TaskError::reject(error)))
    }

    fn retry(&self) -> Option<RetryPolicy> {
        self.0.retry().or_else(H::Task::retry)
    }

    fn timeout(&self) -> Option<Duration> {
        self.0.timeout()
    }
}

/// A closure as a handler.
pub(super) struct FnHandler<F, T> {
    function: F,
    task: PhantomData<fn() -> T>,
}

impl<F, T> FnHandler<F, T> {
    pub(super) fn new(function: F) -> Self {
        Self { function, task: PhantomData }
    }
}

#[async_trait]
impl<F, T, R> TaskHandler for FnHandler<F, T>
where
    T: Task,
    F: Fn(T, TaskContext) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T::Output, TaskError>> + Send + 'static,
{
    type Task = T;

    async fn handle(&self, task: T, ctx: &TaskContext) -> Result<T::Output, TaskError> {
        (self.function)(task, ctx.clone()).await
    }
}

/// A closure that blocks its thread, as a handler.
pub(super) struct BlockingHandler<F, T> {
    function: Arc<F>,
    task: PhantomData<fn() -> T>,
}

impl<F, T> BlockingHandler<F, T> {
    pub(super) fn new(function: F) -> Self {
        Self { function: Arc::new(function), task: PhantomData }
    }
}

#[async_trait]
impl<F, T> TaskHandler for BlockingHandler<F, T>
where
    T: Task,
    F: Fn(T, TaskContext) -> Result<T::Output, TaskError> + Send + Sync + 'static,
{
    type Task = T;

    async fn handle(&self, task: T, ctx: &TaskContext) -> Result<T::Output, TaskError> {
        let (function, ctx, span) = (self.function.clone(), ctx.clone(), Span::current());
        match tokio::task::spawn_blocking(move || span.in_scope(|| function(task, ctx))).await {
            Ok(result) => result,
            // A panic goes on to where every handler's panic is caught.
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(cancelled) => Err(TaskError::retry(cancelled)),
            },
        }
    }
}
