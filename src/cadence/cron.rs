//! [`Pattern`]: a cron expression in its time zone.
//!
//! The library reads the expression and finds the next local time that matches. Which instant that is, is decided here:
//! the library's own rules drop the ticks of a skipped time whose gap ends on the next day (23:30 in Nuuk) or that is
//! one of several (`0 2,14 * * *`).

use std::sync::LazyLock;
use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::CronParser;
use croner::parser::Year;
use jiff::Timestamp;
use jiff::ToSpan;
use jiff::civil::DateTime;
use jiff::tz::AmbiguousOffset;
use jiff::tz::TimeZone;
use jiff::tz::TimeZoneDatabase;

use super::UTC;

/// The longest expression, in bytes.
const LONGEST: usize = 255;

/// Compiled in: a slim container has none, and processes with different ones would plan different ticks.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A cron expression in its time zone. It matches whole seconds.
#[derive(Debug)]
pub(crate) struct Pattern {
    cron: Cron,
    zone: TimeZone,
    /// Whether all hours match, so that ticks follow elapsed time.
    is_hourly: bool,
}

impl Pattern {
    /// Reads an expression, or says what is wrong with it.
    pub(super) fn parse(expression: &str, zone: Option<&str>) -> Result<Self, String> {
        let cron = read(expression)?;
        let name = zone.unwrap_or(UTC);
        let Ok(zone) = ZONES.get(name) else {
            return Err(format!("no time zone {name:?}; names are like Europe/Berlin"));
        };
        let is_hourly = (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or(false));
        let pattern = Self { cron, zone, is_hourly };
        // The calendar repeats: what has no day from then on never has one.
        let always = pattern.next_local(DateTime::constant(2000, 1, 1, 0, 0, 0, 0));
        if always.is_some() { Ok(pattern) } else { Err("no day matches it, ever".to_owned()) }
    }

    /// The first planned time after `time`, both since the Unix epoch.
    pub(super) fn after(&self, time: Duration) -> Option<Duration> {
        let time = Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok()?;
        let next = if self.is_hourly { self.next_shown(time) } else { self.next_first_shown(time) };
        u64::try_from(next?.as_second()).ok().map(Duration::from_secs)
    }

    /// The next instant at which the clock shows a time that matches.
    fn next_shown(&self, time: Timestamp) -> Option<Timestamp> {
        let (mut time, mut offset) = (time, self.zone.to_offset(time));
        let mut local = offset.to_datetime(time);
        loop {
            let next = offset.to_timestamp(self.next_local(local)?).ok()?;
            let change = self.zone.following(time).next();
            let Some(change) = change.filter(|change| change.timestamp() <= next) else { return Some(next) };
            (time, offset) = (change.timestamp(), change.offset());
            local = offset.to_datetime(time).checked_sub(1.second()).ok()?;
        }
    }

    /// The next instant at which the clock shows for the first time, or skips, a time that matches.
    fn next_first_shown(&self, time: Timestamp) -> Option<Timestamp> {
        self.first_shown(self.next_local(self.latest_shown(time)?)?)
    }

    /// The latest local time that the clock has shown until `time`. While it repeats an hour, that is an hour ahead.
    fn latest_shown(&self, time: Timestamp) -> Option<DateTime> {
        let shown = |time| self.zone.to_offset(time).to_datetime(time);
        let second = 1.second();
        let Some(change) = self.zone.preceding(time.checked_add(second).ok()?).next() else {
            return Some(shown(time));
        };
        let before = change.timestamp().checked_sub(second).ok()?;
        Some(shown(time).max(shown(before)))
    }

    /// The instant at which the clock first shows `local`; if it skips it, the end of the gap.
    fn first_shown(&self, local: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(local).ok()
            }
            AmbiguousOffset::Gap { after, .. } => {
                let before_gap = after.to_timestamp(local).ok()?;
                self.zone.following(before_gap).next().map(|change| change.timestamp())
            }
        }
    }

    /// The next local time after `local` that matches. The library gives up in the year 5000.
    fn next_local(&self, local: DateTime) -> Option<DateTime> {
        self.cron.find_next_occurrence(&local, false).ok()
    }
}

/// One field of an expression.
struct Field {
    name: &'static str,
    range: (u32, u32),
    words: &'static [&'static str],
}

const fn field(name: &'static str, range: (u32, u32), words: &'static [&'static str]) -> Field {
    Field { name, range, words }
}

const FIELDS: [Field; 6] = [
    field("second", (0, 59), &[]),
    field("minute", (0, 59), &[]),
    field("hour", (0, 23), &[]),
    field("day of the month", (1, 31), &["L", "W", "LW"]),
    field(
        "month",
        (1, 12),
        &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    ),
    field("day of the week", (0, 7), &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]),
];

/// Reads an expression. The library alone would take a month's name for an hour, and `*/90` for every hour.
fn read(expression: &str) -> Result<Cron, String> {
    if expression.len() > LONGEST {
        return Err(format!("it has {} bytes, and at most {LONGEST} are taken", expression.len()));
    }
    if expression.starts_with('@') {
        return library(expression)
            .map_err(|_| "known are @hourly, @daily, @weekly, @monthly, @yearly, @annually".to_owned());
    }
    let texts: Vec<&str> = expression.split_whitespace().collect();
    let seconds = match texts.len() {
        5 => 1,
        6 => 0,
        count => {
            let wanted =
                "minute, hour, day of the month, month, day of the week; with 6, the second is first";
            return Err(format!("it has {count} fields, and 5 or 6 are needed: {wanted}"));
        }
    };
    let fields = || (seconds..).zip(&texts).map(|(position, text)| (position, &FIELDS[position], *text));
    // To read it takes the library some microseconds, most of them for the years. Ten thousand are read at a takeover.
    if fields().all(|(_, field, text)| check(field, text).is_ok())
        && let Ok(cron) = library(expression)
    {
        return Ok(cron);
    }
    // Which of them is wrong?
    for (position, field, text) in fields() {
        let mut alone = ["*"; 6];
        alone[position] = text;
        let checked = check(field, text).and_then(|()| library(&alone.join(" ")));
        checked.map_err(|reason| {
            let (first, last) = field.range;
            format!("{} {text:?} ({first} to {last}): {reason}", field.name)
        })?;
    }
    library(expression)
}

fn library(expression: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().year(Year::Disallowed).build();
    parser.parse(expression).map_err(|error| match error {
        CronError::ComponentError(reason) | CronError::IllegalCharacters(reason) => reason,
        other => other.to_string(),
    })
}

/// What the library lets through.
fn check(field: &Field, text: &str) -> Result<(), String> {
    let text = text.to_ascii_uppercase();
    for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        // `FRIL` is the last Friday, and so is `5L`.
        let is_last_of = field.name == "day of the week" && (word == "L" || word.len() == 4);
        let name = if is_last_of && word.len() == 4 { word.trim_end_matches('L') } else { word };
        if !(field.words.contains(&name) || is_last_of && name == "L") {
            return Err(format!("{word:?} has no meaning here"));
        }
    }
    for item in text.split(',') {
        let step = item.split_once('/').and_then(|(_, step)| step.parse::<u32>().ok());
        let size = field.range.1 + 1 - field.range.0;
        if item.is_empty() {
            return Err("nothing is between two commas, or at an end of the list".to_owned());
        } else if step.is_some_and(|step| step > size) {
            return Err(format!("a step is at most {size}"));
        }
    }
    Ok(())
}
