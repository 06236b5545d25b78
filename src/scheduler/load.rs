//! [`load`]: from the first delivery to the knowledge of all schedules.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::timeout;

use super::ledger::Event;
use super::ledger::Ledger;
use super::ledger::PATIENCE;
use crate::schedule::Command;
use crate::schedule::Entry;
use crate::schedule::Record;
use crate::transport::Delivery;

/// All that was in the ledger when it became ours.
pub(super) struct Loaded {
    /// The newest entry of each schedule.
    pub(super) entries: HashMap<Arc<str>, (Box<Entry>, Delivery)>,
    /// In their order.
    pub(super) commands: Vec<(Box<Command>, Delivery)>,
}

/// Waits until the ledger is ours, and reads it. `None` if it is lost again.
///
/// The first delivery tells that it is ours. A marker published then comes back behind all that was in it; before that
/// nothing may be fired, because a newer version of what has come may be still to come.
pub(super) async fn load(ledger: &mut Ledger) -> Option<Loaded> {
    let mut loaded = Loaded { entries: HashMap::new(), commands: Vec::new() };
    let mut event = ledger.next().await?;
    ledger.mark();
    loop {
        match event {
            Event::Marked => break,
            Event::Delivered(Record::Entry(entry), delivery) => loaded.keep_newest(entry, delivery),
            Event::Delivered(Record::Command(command), delivery) => loaded.commands.push((command, delivery)),
            Event::Roused | Event::Delivered(Record::Marker(_), _) | Event::Confirmed(_) => {}
        }
        let Ok(next) = timeout(PATIENCE, ledger.next()).await else {
            tracing::error!("the marker in the queue of the schedules does not come back: is it full?");
            return None;
        };
        event = next?;
    }
    Some(loaded)
}

impl Loaded {
    fn keep_newest(&mut self, entry: Box<Entry>, delivery: Delivery) {
        let name: Arc<str> = entry.definition.name.as_str().into();
        match self.entries.get(&name) {
            Some((known, _)) if !entry.is_newer_than(known) => delivery.ack(),
            _ => {
                if let Some((_, older)) = self.entries.insert(name, (entry, delivery)) {
                    older.ack();
                }
            }
        }
    }
}
