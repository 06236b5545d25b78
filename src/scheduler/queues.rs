//! [`Queues`]: the queues that ticks go to.
//!
//! A tick reaches two queues, so the broker does not tell when one of them is missing. So they are declared before the
//! first tick, and again now and then: what somebody deleted is back within [`PERIOD`].

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::Broker;
use crate::lock::Lock;
use crate::route::Route;
use crate::topology::QueueName;

/// How long after a tick its queue is declared again.
const PERIOD: Duration = Duration::from_secs(60);
/// How long that may take. What cannot be declared is most often there, with other arguments.
const LIMIT: Duration = Duration::from_secs(5);
/// How many are declared at a time.
const AT_ONCE: usize = 8;

/// The queues that ticks go to.
pub(super) struct Queues {
    broker: Broker,
    routes: HashMap<QueueName, Route>,
    used: Arc<Used>,
    _keeper: AbortOnDropHandle<()>,
}

/// Those that had a tick since they were last declared.
#[derive(Default)]
struct Used {
    queues: Lock<HashSet<QueueName>>,
    any: Notify,
}

impl Queues {
    pub(super) fn new(broker: &Broker) -> Self {
        let used = Arc::<Used>::default();
        let keeper = AbortOnDropHandle::new(tokio::spawn(keep(broker.clone(), used.clone())));
        Self { broker: broker.clone(), routes: HashMap::new(), used, _keeper: keeper }
    }

    /// Sees to it that all of them are there.
    pub(super) async fn add_all(&mut self, queues: impl IntoIterator<Item = QueueName>) {
        let broker = &self.broker;
        let declared = stream::iter(queues).map(|queue| async move {
            declare(broker, &queue).await;
            queue
        });
        let declared: Vec<QueueName> = declared.buffer_unordered(AT_ONCE).collect().await;
        for queue in declared {
            self.routes.insert(queue.clone(), self.broker.route(queue));
        }
    }

    /// Sees to it that `queue` is there.
    pub(super) async fn add(&mut self, queue: &QueueName) {
        if !self.routes.contains_key(queue) {
            self.add_all([queue.clone()]).await;
        }
    }

    /// The way into `queue`, for a tick.
    pub(super) fn route(&mut self, queue: &QueueName) -> &Route {
        let is_new = {
            let mut used = self.used.queues.lock();
            !used.contains(queue) && used.insert(queue.clone())
        };
        if is_new {
            self.used.any.notify_one();
        }
        let broker = &self.broker;
        self.routes.entry(queue.clone()).or_insert_with(|| broker.route(queue.clone()))
    }
}

async fn keep(broker: Broker, used: Arc<Used>) {
    loop {
        used.any.notified().await;
        sleep(PERIOD).await;
        let queues = std::mem::take(&mut *used.queues.lock());
        for queue in queues {
            declare(&broker, &queue).await;
        }
    }
}

async fn declare(broker: &Broker, queue: &QueueName) {
    match timeout(LIMIT, broker.declare_again(queue)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%queue, %error, "the queue of a schedule cannot be declared"),
        Err(_) => tracing::error!(%queue, "the queue of a schedule cannot be declared: no answer"),
    }
}
