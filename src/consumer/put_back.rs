//! [`PutBack`]: deliveries on their way back into the delay wheel, or into their lane.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::sequel::Sequel;
use crate::transport::Delivery;

/// How long a shutdown waits for them; what is not confirmed then goes back to its lane.
const LIMIT: Duration = Duration::from_secs(5);

/// Puts deliveries back: into the wheel what came much too early, because its delay is longer than the wheel is, say,
/// or because a limit of its type keeps it from starting; into its lane what has waited for a slot for so long that the
/// broker would take it back. As many at a time as the prefetch allows, which grows while many are under way.
pub(super) struct PutBack {
    sequel: Arc<Sequel>,
    /// Each tells its lane when it is done.
    under_way: JoinSet<usize>,
    /// How many there are of each lane.
    count: [usize; 3],
}

impl PutBack {
    pub(super) fn new(sequel: Arc<Sequel>) -> Self {
        Self { sequel, under_way: JoinSet::new(), count: [0; 3] }
    }

    /// Puts one back, in the background: until it is due, or until another time, since the Unix epoch.
    pub(super) fn start(&mut self, lane: usize, delivery: Delivery, until: Option<Duration>) {
        let sequel = self.sequel.clone();
        self.count[lane] += 1;
        self.under_way.spawn(async move {
            sequel.put_back(delivery, until).await;
            lane
        });
    }

    /// How many of that lane are under way.
    pub(super) fn count(&mut self, lane: usize) -> usize {
        while let Some(done) = self.under_way.try_join_next() {
            // One that panicked would count on; nothing in it does.
            if let Ok(lane) = done {
                self.count[lane] -= 1;
            }
        }
        self.count[lane]
    }

    /// Waits for those under way.
    pub(super) async fn finish(&mut self) {
        let all = async { while self.under_way.join_next().await.is_some() {} };
        if tokio::time::timeout(LIMIT, all).await.is_err() {
            self.under_way.shutdown().await;
        }
    }
}
