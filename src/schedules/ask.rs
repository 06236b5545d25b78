//! [`Desk`]: where answers to commands come in.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::timeout;

use super::tell::tell;
use crate::broker::Broker;
use crate::broker::Part;
use crate::error::Error;
use crate::error::Result;
use crate::inbox::Inbox;
use crate::inbox::Waiting;
use crate::message::Message;
use crate::schedule::Answer;
use crate::schedule::Command;
use crate::schedule::Entry;
use crate::schedule::What;

/// The answers that a handle waits for.
#[derive(Default)]
pub(super) struct Desk {
    inbox: OnceCell<Inbox<Asker>>,
}

/// Who waits for an answer, and what has come of it.
struct Asker {
    /// By name: of two answers that came in part, what is newer counts.
    entries: BTreeMap<String, Entry>,
    sender: oneshot::Sender<Verdict>,
}

/// How an answer ends.
#[derive(Debug, PartialEq)]
enum Verdict {
    Done(Vec<Entry>),
    Missing,
    Refused(String),
}

impl Desk {
    /// Tells the active scheduler, and waits for its answer: the schedules that were asked for, by name.
    pub(super) async fn ask(&self, broker: &Broker, what: What, limit: Duration) -> Result<Vec<Entry>> {
        let started = Instant::now();
        let left = || limit.saturating_sub(started.elapsed());
        let (action, name) = (what.to_string(), what.name().unwrap_or_default().to_owned());
        let open = || Inbox::open(broker, "schedules", receive);
        let ready = async {
            broker.declare(Part::Schedules).await?;
            self.inbox.get_or_try_init(open).await
        };
        let inbox = match timeout(left(), ready).await {
            Ok(inbox) => inbox?,
            Err(_) => return Err(Error::Timeout { action, waited: limit }),
        };
        let mut command = Command::new(what, broker.clock().now());
        command.reply_to = Some(inbox.key().to_string());
        let (sender, verdict) = oneshot::channel();
        let _place = inbox.wait(command.id, Asker { entries: BTreeMap::new(), sender });
        tell(broker, command, left()).await?;
        match timeout(left(), verdict).await {
            Ok(Ok(Verdict::Done(entries))) => Ok(entries),
            Ok(Ok(Verdict::Missing)) => Err(Error::NoSchedule { name }),
            Ok(Ok(Verdict::Refused(reason))) => Err(Error::Refused { action, reason }),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::NoScheduler { waited: limit }),
        }
    }
}

impl Asker {
    /// Takes one of the schedules that were asked for.
    fn take(&mut self, entry: Entry) {
        let older = self.entries.get(&entry.definition.name);
        if older.is_none_or(|older| older.state.version <= entry.state.version) {
            self.entries.insert(entry.definition.name.clone(), entry);
        }
    }
}

fn receive(message: Message, waiting: &mut Waiting<Asker>) {
    let Some((id, answer)) = Answer::open(message) else { return };
    let verdict = match answer {
        Answer::Entry(entry) => {
            if let Some(asker) = waiting.get_mut(&id) {
                asker.take(*entry);
            }
            return;
        }
        Answer::Done => None,
        Answer::Missing => Some(Verdict::Missing),
        Answer::Refused(reason) => Some(Verdict::Refused(reason)),
    };
    if let Some(Asker { entries, sender }) = waiting.remove(&id) {
        // Whoever asked may have given up in this instant.
        let _ = sender.send(verdict.unwrap_or_else(|| Verdict::Done(entries.into_values().collect())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Definition;
    use crate::schedule::Schedule;
    use crate::schedule::State;
    use crate::task::Task;
    use crate::task::TaskId;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Report;

    impl Task for Report {
        const NAME: &'static str = "report";
        type Output = ();
    }

    fn entry(name: &str, version: u64) -> Entry {
        let schedule = Schedule::new(name, Duration::from_secs(60), Report);
        let definition = Definition::check(schedule, 1000).unwrap();
        let state = State { version, ..State::new(TaskId::from_u128(7), &definition, NOW) };
        Entry { definition, state }
    }

    fn verdict(answers: impl IntoIterator<Item = Answer>) -> Option<Verdict> {
        let id = TaskId::new();
        let (sender, mut verdict) = oneshot::channel();
        let mut waiting = Waiting::from([(id, Asker { entries: BTreeMap::new(), sender })]);
        for answer in answers {
            receive(answer.seal(id, NOW), &mut waiting);
        }
        verdict.try_recv().ok()
    }

    #[test]
    fn an_answer_ends_with_its_last_message() {
        let listed = |name, version| Answer::Entry(Box::new(entry(name, version)));
        let names = |verdict| match verdict {
            Some(Verdict::Done(entries)) => {
                let name = |entry: Entry| (entry.definition.name, entry.state.version);
                Some(entries.into_iter().map(name).collect::<Vec<_>>())
            }
            _ => None,
        };
        assert_eq!(names(verdict([Answer::Done])), Some(vec![]));
        assert_eq!(names(verdict([listed("a", 1)])), None);
        // A scheduler that died while it answered, and its successor.
        let twice = [listed("b", 1), listed("a", 2), listed("a", 1), listed("b", 3), Answer::Done];
        let (a, b) = (("a".to_owned(), 2), ("b".to_owned(), 3));
        assert_eq!(names(verdict(twice)), Some(vec![a, b]));
        assert_eq!(verdict([Answer::Missing]), Some(Verdict::Missing));
        let refused = Answer::Refused("no".to_owned());
        assert_eq!(verdict([refused]), Some(Verdict::Refused("no".to_owned())));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_dropped() {
        let mut waiting = Waiting::new();
        for answer in [Answer::Entry(Box::new(entry("a", 1))), Answer::Done, Answer::Missing] {
            receive(answer.seal(TaskId::new(), NOW), &mut waiting);
        }
        receive(Message::default(), &mut waiting);
        assert!(waiting.is_empty());
    }
}
