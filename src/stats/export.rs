//! Figures as JSON and as CSV, under the same names.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use csv::Writer;
use serde_json::Map;
use serde_json::Value;

use super::Stats;
use super::durations::Durations;
use super::figures::Figures;
use super::table::Dimension;
use super::table::Table;
use crate::outcome::DeadReason;

/// What is told of durations, beside their count.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

/// One figure: its group, if it is in one; its name; its value.
type Cell = (Option<&'static str>, &'static str, Value);

impl Stats {
    /// All figures as JSON.
    ///
    /// `total` has those of all tasks; `queue`, `task`, `lane` and `consumer` have an object of them for each name;
    /// `windows` is a list of the same for each window, with its `start`. Times of day are in seconds since the Unix
    /// epoch, durations in seconds, `null` if there are none. `missed` is [`missed`](Self::missed).
    ///
    /// A row has the counts of [`Figures`], `per_second`, `first` and `last`; `reasons`, by [`DeadReason`]; `wait`,
    /// `lateness`, `run` and `end_to_end`, each with `count`, `min`, `mean`, `p50`, `p90`, `p95`, `p99` and `max`; `attempts`
    /// with `tasks`, `mean` and `max`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut whole = object(&self.whole);
        whole.insert("window_seconds".into(), self.window.as_secs_f64().into());
        whole.insert("missed".into(), self.missed.into());
        let windows = self.windows().map(|window| {
            let mut object = object(window.table);
            object.insert("start".into(), since_epoch(window.start()));
            Value::Object(object)
        });
        whole.insert("windows".into(), windows.collect());
        Value::Object(whole).to_string()
    }

    /// All figures as CSV, with a line of names: one row for all tasks and one for each queue, type, lane and consumer,
    /// then the same for each window.
    ///
    /// `start` is when the window begins, in seconds since the Unix epoch, and empty of the rows for the whole time;
    /// `by` is `total`, `queue`, `task`, `lane` or `consumer`, `name` which one. The other columns are those of
    /// [`to_json`](Self::to_json), a group and its figure joined by `_`: `wait_p99`. What there is none of is empty.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut writer = Writer::from_writer(Vec::new());
        let names = cells(&Figures::default()).into_iter().map(|(group, name, _)| match group {
            Some(group) => format!("{group}_{name}"),
            None => name.to_owned(),
        });
        let head = ["start", "by", "name"].map(str::to_owned);
        let mut lines = vec![head.into_iter().chain(names).collect::<Vec<_>>()];
        records(&mut lines, None, &self.whole);
        for window in self.windows() {
            records(&mut lines, Some(window.start()), window.table);
        }
        for line in lines {
            writer.write_record(line).expect("lines of the same length, written to memory");
        }
        let bytes = writer.into_inner().expect("written to memory");
        String::from_utf8(bytes).expect("made of strings")
    }
}

fn object(table: &Table) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("total".into(), row(table.total()));
    for dimension in Dimension::ALL {
        let rows = table.by(dimension).map(|(name, figures)| (name.to_owned(), row(figures)));
        object.insert(dimension.as_str().into(), Value::Object(rows.collect()));
    }
    object
}

fn row(figures: &Figures) -> Value {
    let mut object = Map::new();
    for (group, name, value) in cells(figures) {
        match group {
            None => object.insert(name.into(), value),
            Some(group) => {
                let group = object.entry(group).or_insert_with(|| Value::Object(Map::new()));
                group.as_object_mut().and_then(|group| group.insert(name.into(), value))
            }
        };
    }
    Value::Object(object)
}

fn records(lines: &mut Vec<Vec<String>>, start: Option<SystemTime>, table: &Table) {
    let start = text(&start.map_or(Value::Null, since_epoch));
    let mut record = |by: &str, name: &str, figures: &Figures| {
        let head = [start.clone(), by.to_owned(), name.to_owned()];
        lines.push(
            head.into_iter().chain(cells(figures).into_iter().map(|(.., value)| text(&value))).collect(),
        );
    };
    record("total", "", table.total());
    for dimension in Dimension::ALL {
        for (name, figures) in table.by(dimension) {
            record(dimension.as_str(), name, figures);
        }
    }
}

/// All figures of a row, always the same ones in the same order.
fn cells(figures: &Figures) -> Vec<Cell> {
    let mut cells: Vec<Cell> =
        figures.counts().into_iter().map(|(name, count)| (None, name, count.into())).collect();
    cells.push((None, "per_second", figures.per_second().into()));
    cells.push((None, "first", figures.first().map_or(Value::Null, since_epoch)));
    cells.push((None, "last", figures.last().map_or(Value::Null, since_epoch)));
    for reason in DeadReason::ALL {
        cells.push((Some("reasons"), reason.as_str(), figures.reason(reason).into()));
    }
    for (group, durations) in [
        ("wait", &figures.wait),
        ("lateness", &figures.lateness),
        ("run", &figures.run),
        ("end_to_end", &figures.end_to_end),
    ] {
        span(&mut cells, group, durations);
    }
    let attempts = figures.attempts;
    cells.push((Some("attempts"), "tasks", attempts.tasks.into()));
    cells.push((Some("attempts"), "mean", attempts.mean().into()));
    cells.push((Some("attempts"), "max", attempts.max.into()));
    cells
}

fn span(cells: &mut Vec<Cell>, group: &'static str, durations: &Durations) {
    let mut seconds = |name, time: Option<Duration>| {
        cells.push((Some(group), name, time.map(|time| time.as_secs_f64()).into()));
    };
    seconds("min", durations.min());
    seconds("mean", durations.mean());
    for (name, part) in QUANTILES {
        seconds(name, durations.quantile(part));
    }
    seconds("max", durations.max());
    cells.push((Some(group), "count", durations.count().into()));
}

fn since_epoch(time: SystemTime) -> Value {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().into()
}

fn text(value: &Value) -> String {
    if value.is_null() { String::new() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::event::TaskChange;
    use crate::event::TaskEvent;
    use crate::lane::Lane;
    use crate::task::TaskId;

    /// One that succeeds in a second, at each of these seconds.
    fn of(queue: &'static str, seconds: &[u64]) -> Stats {
        let mut stats = Stats::builder().window(Duration::from_secs(10)).build().unwrap();
        for second in seconds {
            stats.record(&Event::Task(TaskEvent {
                id: TaskId::new(),
                name: "resize".into(),
                queue: queue.into(),
                lane: Some(Lane::Normal),
                attempt: 1,
                at: UNIX_EPOCH + Duration::from_secs(*second),
                by: "host:7:c0de/1".into(),
                change: TaskChange::Succeeded { ran: Duration::from_secs(1), total: Duration::from_secs(2) },
            }));
        }
        stats
    }

    #[test]
    fn json_has_each_row_under_its_name() {
        let stats = of("images", &[1, 11, 12]);
        let told: Value = serde_json::from_str(&stats.to_json()).unwrap();
        assert_eq!(told["total"]["succeeded"], 3);
        assert_eq!(told["queue"]["images"]["run"]["max"], 1.0);
        assert_eq!(told["consumer"]["host:7:c0de/1"]["attempts"]["mean"], 1.0);
        assert_eq!(told["total"]["reasons"]["rejected"], 0);
        assert_eq!(told["total"]["wait"]["p99"], Value::Null);
        assert_eq!(told["windows"][1]["start"], 10.0);
        assert_eq!(told["windows"][1]["lane"]["normal"]["succeeded"], 2);
    }

    #[test]
    fn csv_has_a_line_for_each_row_and_window() {
        let queue = "a, \"b\"";
        let text = of(queue, &[1]).to_csv();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let head = reader.headers().unwrap().clone();
        let column = |name: &str| head.iter().position(|other| other == name).unwrap();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let names: Vec<[&str; 3]> = rows.iter().map(|row| [&row[0], &row[1], &row[2]]).collect();
        let by = [
            ["total", ""],
            ["queue", queue],
            ["task", "resize"],
            ["lane", "normal"],
            ["consumer", "host:7:c0de/1"],
        ];
        let expected: Vec<[&str; 3]> =
            ["", "0.0"].into_iter().flat_map(|start| by.map(|[by, name]| [start, by, name])).collect();
        assert_eq!(names, expected);
        for row in rows {
            assert_eq!(
                [&row[column("succeeded")], &row[column("run_p99")], &row[column("wait_p50")]],
                ["1", "1.0", ""]
            );
        }
    }
}
