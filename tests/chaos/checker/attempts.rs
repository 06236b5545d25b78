//! G2 and G10: each attempt is started once, or again for a recorded cause; in turn, and not too often.

use super::Case;
use super::Cause;
use super::Verdict;
use super::Wrong;
use super::cause::causes;
use super::life::Life;
use crate::history::Record;
use crate::load::ATTEMPTS;
use crate::load::CRASHES;
use crate::load::Fate;

impl Verdict {
    pub(super) fn judge_attempts(&mut self, life: &Life<'_>, case: &Case<'_>) {
        let task = life.operation.number;
        for ((copy, attempt), runs) in life.attempts() {
            let first = runs[0].started;
            if life.publishes(copy).next().is_none() {
                self.find(Wrong::Invented { task }, &[first]);
                continue;
            }
            if attempt == 0 || attempt > ATTEMPTS {
                self.find(Wrong::Beyond { task, attempt }, &[first]);
                continue;
            }
            let is_in_turn =
                attempt == 1 || life.causing(copy, attempt).iter().any(|it| it.started.at <= first.at);
            if !is_in_turn {
                self.find(Wrong::Skipped { task, attempt }, &[first]);
            }
            if let Some(run) = runs.get(CRASHES as usize).filter(|_| life.operation.fate == Fate::Kills) {
                // It is a dead letter by now, whatever the causes of its repeats.
                self.find(Wrong::Condemned { task, starts: runs.len() }, &[run.started]);
            }
            for (run, cause) in causes(life, &runs, &case.faults) {
                match cause {
                    Some(cause) => *self.repeated.entry(cause).or_default() += 1,
                    None => {
                        self.unexplained += 1;
                        let others = runs.iter().filter(|it| it.started.at < run.started.at);
                        let ended = others.flat_map(|it| [Some(it.started), it.ended.map(|(end, _)| end)]);
                        let proof: Vec<&Record> = ended.flatten().chain([run.started]).collect();
                        self.find(Wrong::Unexplained { task, copy, attempt }, &proof);
                    }
                }
            }
        }
        // Whether the older one might still start is another judge's question.
        if life.runs(0, 1).next().is_some() && life.runs(1, 1).next().is_some() {
            *self.repeated.entry(Cause::Rescheduled).or_default() += 1;
        }
    }
}
