//! G12 and G13: at the end every queue holds what it ought to, and nothing has grown.

use std::collections::BTreeMap;

use super::Case;
use super::Verdict;
use super::Wrong;
use crate::history::Record;
use crate::history::What;

impl Verdict {
    pub(super) fn judge_leftovers(&mut self, case: &Case<'_>) {
        for record in &case.records {
            if let What::Left { queue, messages, nominal } = &record.what
                && messages != nominal
            {
                let (queue, messages, nominal) = (queue.clone(), *messages, *nominal);
                self.find(Wrong::Left { queue, messages, nominal }, &[record]);
            }
        }
        self.judge_counts(case);
        self.judge_processes(case);
    }

    fn judge_counts(&mut self, case: &Case<'_>) {
        let counted = |is_before: bool| {
            let is_it =
                |it: &&&Record| matches!(it.what, What::Counted { before, .. } if before == is_before);
            case.records.iter().rev().find(is_it).copied()
        };
        let (Some(before), Some(after)) = (counted(true), counted(false)) else { return };
        let names = ["connections", "channels", "consumers", "queues"];
        let bounds = case.scope.bounds;
        let bounds = [bounds.connections, bounds.channels, bounds.consumers, bounds.queues];
        let (then, now) = (counts(before), counts(after));
        for (((what, bound), was), is) in names.into_iter().zip(bounds).zip(then).zip(now) {
            if was.abs_diff(is) > bound {
                self.find(Wrong::Counted { what, before: was, after: is }, &[before, after]);
            }
        }
    }

    /// Each process by what it had at first, one that took another one's place by what the largest in its role had.
    fn judge_processes(&mut self, case: &Case<'_>) {
        let mut before = BTreeMap::<&str, &Record>::new();
        let mut by_role = BTreeMap::<&str, [u64; 3]>::new();
        for record in &case.records {
            if let Some((true, held)) = held(record) {
                before.insert(&record.who, record);
                let most = by_role.entry(role(&record.who)).or_default();
                *most = std::array::from_fn(|it| most[it].max(held[it]));
            }
        }
        let bounds = case.scope.bounds;
        for record in &case.records {
            let Some((false, now)) = held(record) else { continue };
            let own = before.get(record.who.as_str());
            let then = own.and_then(|it| held(it)).map(|(_, held)| held);
            let Some(then) = then.or_else(|| by_role.get(role(&record.who)).copied()) else { continue };
            let names = ["KiB of memory", "tasks", "files"];
            let bounds = [bounds.memory, bounds.tasks, bounds.files];
            for (((what, bound), was), is) in names.into_iter().zip(bounds).zip(then).zip(now) {
                if is > was.saturating_add(bound) {
                    let proof: Vec<&Record> = own.into_iter().chain([record]).copied().collect();
                    let who = record.who.clone();
                    self.find(Wrong::Held { who, what, before: was, after: is }, &proof);
                }
            }
        }
    }
}

fn counts(record: &Record) -> [u64; 4] {
    match record.what {
        What::Counted { connections, channels, consumers, queues, .. } => {
            [connections, channels, consumers, queues]
        }
        _ => [0; 4],
    }
}

fn held(record: &Record) -> Option<(bool, [u64; 3])> {
    match record.what {
        What::Held { before, memory, tasks, files } => Some((before, [memory, tasks, files])),
        _ => None,
    }
}

/// `consumer` of `consumer 4711`.
fn role(who: &str) -> &str {
    who.split(' ').next().unwrap_or(who)
}
