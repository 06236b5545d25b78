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
use jiff::tz::Offset;
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
    fn next_shown(&self, mut time: Timestamp) -> Option<Timestamp> {
        let mut offset = self.zone.to_offset(time);
        let mut local = offset.to_datetime(time);
        loop {
            let next = offset.to_timestamp(self.next_local(local)?).ok()?;
            let Some(change) = self.change(time, next) else { return Some(next) };
            (time, offset) = change;
            local = offset.to_datetime(time).checked_sub(1.second()).ok()?;
        }
    }

    /// The next instant at which the clock shows for the first time, or skips, a time that matches.
    fn next_first_shown(&self, mut time: Timestamp) -> Option<Timestamp> {
        let local = self.next_local(self.latest_shown(time)?)?;
        let mut offset = self.zone.to_offset(time);
        loop {
            let next = offset.to_timestamp(local).ok()?;
            let Some(change) = self.change(time, next) else { return Some(next) };
            (time, offset) = change;
            if offset.to_datetime(time) >= local {
                return Some(time);
            }
        }
    }

    /// The latest local time that the clock has shown until `time`. While it repeats an hour, that is ahead of it.
    fn latest_shown(&self, time: Timestamp) -> Option<DateTime> {
        let shown = |time| self.zone.to_offset(time).to_datetime(time);
        let before = self.zone.preceding(time.checked_add(1.second()).ok()?).next();
        let before = before.and_then(|change| change.timestamp().checked_sub(1.second()).ok());
        Some(before.map_or(shown(time), |before| shown(time).max(shown(before))))
    }

    /// The first time after `after` and until `until` at which the clock is set, and its offset from then on.
    ///
    /// Only instants are looked up. What the library says of a local time is wrong where a zone's listed changes end and
    /// its rule begins (Nuuk in October 2023: a repeated hour that was none).
    fn change(&self, after: Timestamp, until: Timestamp) -> Option<(Timestamp, Offset)> {
        let change = self.zone.following(after).next()?;
        (change.timestamp() <= until).then(|| (change.timestamp(), change.offset()))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Unit;

    use super::*;

    const PLACES: [&str; 10] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        // Half an hour.
        "Australia/Lord_Howe",
        // At midnight.
        "America/Sao_Paulo",
        "Asia/Beirut",
        "Africa/Cairo",
        // At 23:00, so that the gap ends on the next day.
        "America/Nuuk",
        // A day that was not.
        "Pacific/Apia",
        // Every Ramadan.
        "Africa/Casablanca",
    ];

    const PATTERNS: [&str; 14] = [
        "0 0 * * *",
        "30 2 * * *",
        "30 23 * * *",
        "0 2,14 * * *",
        "*/15 2 * * *",
        "5-50/15 0-3,22-23 * * *",
        "0 */2 * * *",
        "0 * * * *",
        "*/15 * * * *",
        "30 * * * *",
        "55 23 L * *",
        "0 0 * * SUN",
        "0 2 29-31 * *",
        "15 1 * 3,10 SUNL",
    ];

    fn pattern(expression: &str, zone: &str) -> Pattern {
        Pattern::parse(expression, Some(zone)).unwrap()
    }

    fn since_epoch(time: Timestamp) -> Duration {
        Duration::from_secs(u64::try_from(time.as_second()).unwrap())
    }

    fn utc(text: &str) -> Duration {
        since_epoch(text.parse().unwrap())
    }

    fn ticks(pattern: &Pattern, after: Duration) -> impl Iterator<Item = Duration> {
        std::iter::successors(pattern.after(after), move |last| {
            let next = pattern.after(*last);
            assert!(next.is_none_or(|next| next > *last), "{next:?} is not after {last:?}: {pattern:?}");
            next
        })
    }

    /// The local time, and how far it is from UTC.
    fn local(zone: &TimeZone, time: Duration) -> String {
        let time = Timestamp::from_second(i64::try_from(time.as_secs()).unwrap()).unwrap();
        time.to_zoned(zone.clone()).strftime("%m-%dT%H:%M%:z").to_string()
    }

    #[test]
    fn a_local_time_that_is_skipped_or_repeated_is_planned_as_documented() {
        let table: &[(&str, &str, &str, &[&str])] = &[
            (
                "Europe/Berlin",
                "30 2 * * *",
                "2026-03-28T00:00:00Z",
                &["03-28T02:30+01:00", "03-29T03:00+02:00", "03-30T02:30+02:00"],
            ),
            (
                "Europe/Berlin",
                "30 2 * * *",
                "2026-10-24T00:00:00Z",
                &["10-24T02:30+02:00", "10-25T02:30+02:00", "10-26T02:30+01:00"],
            ),
            (
                "Europe/Berlin",
                "0 2,3 * * *",
                "2026-03-28T03:00:00Z",
                &["03-29T03:00+02:00", "03-30T02:00+02:00"],
            ),
            (
                "Europe/Berlin",
                "*/30 2,3 * * *",
                "2026-03-28T03:00:00Z",
                &["03-29T03:00+02:00", "03-29T03:30+02:00", "03-30T02:00+02:00"],
            ),
            (
                "Europe/Berlin",
                "*/15 2 * * *",
                "2026-10-24T12:00:00Z",
                &[
                    "10-25T02:00+02:00",
                    "10-25T02:15+02:00",
                    "10-25T02:30+02:00",
                    "10-25T02:45+02:00",
                    "10-26T02:00+01:00",
                ],
            ),
            (
                "Europe/Berlin",
                "0 */2 * * *",
                "2026-03-28T22:00:00Z",
                &["03-29T00:00+01:00", "03-29T03:00+02:00", "03-29T04:00+02:00"],
            ),
            (
                "Europe/Berlin",
                "0 */2 * * *",
                "2026-10-24T21:00:00Z",
                &["10-25T00:00+02:00", "10-25T02:00+02:00", "10-25T04:00+01:00"],
            ),
            (
                "Europe/Berlin",
                "30 * * * *",
                "2026-03-29T00:00:00Z",
                &["03-29T01:30+01:00", "03-29T03:30+02:00"],
            ),
            (
                "Europe/Berlin",
                "30 * * * *",
                "2026-10-24T23:00:00Z",
                &["10-25T01:30+02:00", "10-25T02:30+02:00", "10-25T02:30+01:00", "10-25T03:30+01:00"],
            ),
            (
                "Europe/Berlin",
                "*/20 * * * *",
                "2026-10-25T00:30:00Z",
                &[
                    "10-25T02:40+02:00",
                    "10-25T02:00+01:00",
                    "10-25T02:20+01:00",
                    "10-25T02:40+01:00",
                    "10-25T03:00+01:00",
                ],
            ),
            // Asked in the repeated hour: what was due in the first one has passed.
            ("Europe/Berlin", "30 2 * * *", "2026-10-25T01:10:00Z", &["10-26T02:30+01:00"]),
            (
                "America/New_York",
                "30 2 * * *",
                "2026-03-07T12:00:00Z",
                &["03-08T03:00-04:00", "03-09T02:30-04:00"],
            ),
            (
                "America/New_York",
                "30 1 * * *",
                "2026-10-31T12:00:00Z",
                &["11-01T01:30-04:00", "11-02T01:30-05:00"],
            ),
            (
                "Australia/Lord_Howe",
                "15 2 * * *",
                "2026-10-03T00:00:00Z",
                &["10-04T02:30+11:00", "10-05T02:15+11:00"],
            ),
            (
                "Australia/Lord_Howe",
                "45 1 * * *",
                "2026-04-04T12:00:00Z",
                &["04-05T01:45+11:00", "04-06T01:45+10:30"],
            ),
            (
                "Australia/Lord_Howe",
                "*/15 * * * *",
                "2026-10-03T15:05:00Z",
                &["10-04T01:45+10:30", "10-04T02:30+11:00", "10-04T02:45+11:00"],
            ),
            (
                "America/Sao_Paulo",
                "0 0 * * *",
                "2018-11-03T12:00:00Z",
                &["11-04T01:00-02:00", "11-05T00:00-02:00"],
            ),
            (
                "America/Sao_Paulo",
                "30 23 * * *",
                "2018-02-17T12:00:00Z",
                &["02-17T23:30-02:00", "02-18T23:30-03:00"],
            ),
            (
                "Asia/Beirut",
                "0 0 * * SUN",
                "2026-03-28T12:00:00Z",
                &["03-29T01:00+03:00", "04-05T00:00+03:00"],
            ),
            (
                "Africa/Cairo",
                "0 0 * * *",
                "2026-04-23T12:00:00Z",
                &["04-24T01:00+03:00", "04-25T00:00+03:00"],
            ),
            // The gap ends on the next day, which is no Saturday.
            (
                "America/Nuuk",
                "30 23 * * SAT",
                "2026-03-28T12:00:00Z",
                &["03-29T00:00-01:00", "04-04T23:30-01:00"],
            ),
            (
                "Pacific/Apia",
                "0 12 * * *",
                "2011-12-29T12:00:00Z",
                &["12-29T12:00-10:00", "12-31T00:00+14:00", "12-31T12:00+14:00"],
            ),
            (
                "Pacific/Apia",
                "0 0 30 * *",
                "2011-12-01T12:00:00Z",
                &["12-31T00:00+14:00", "01-30T00:00+14:00"],
            ),
            (
                "Pacific/Apia",
                "0 0 * * *",
                "2011-12-28T12:00:00Z",
                &["12-29T00:00-10:00", "12-31T00:00+14:00", "01-01T00:00+14:00"],
            ),
            (
                "Pacific/Apia",
                "0 * * * *",
                "2011-12-30T08:30:00Z",
                &["12-29T23:00-10:00", "12-31T00:00+14:00"],
            ),
            (
                "Africa/Casablanca",
                "30 2 * * *",
                "2026-02-14T12:00:00Z",
                &["02-15T02:30+01:00", "02-16T02:30+00:00"],
            ),
            (
                "Africa/Casablanca",
                "30 2 * * *",
                "2026-03-21T12:00:00Z",
                &["03-22T03:00+01:00", "03-23T02:30+01:00"],
            ),
        ];
        for (zone, expression, from, expected) in table {
            let pattern = pattern(expression, zone);
            let seen: Vec<_> = ticks(&pattern, utc(from)).take(expected.len()).collect();
            let seen: Vec<_> = seen.into_iter().map(|time| local(&pattern.zone, time)).collect();
            assert_eq!(seen, *expected, "{expression} in {zone} from {from}");
        }
    }

    /// What one sees who looks at a clock every five minutes: when, the time that it shows, and all times that it shows
    /// or has skipped since the last look, and had never shown before.
    fn watch(zone: &TimeZone, from: Timestamp, until: Timestamp) -> Vec<(Duration, DateTime, Vec<DateTime>)> {
        let shown = |time: Timestamp| zone.to_offset(time).to_datetime(time);
        let (mut time, mut latest) = (from, shown(from));
        let mut looks = Vec::new();
        while time < until {
            time += 5.minutes();
            let mut new = Vec::new();
            while latest < shown(time) {
                latest += 5.minutes();
                new.push(latest);
            }
            looks.push((since_epoch(time), shown(time), new));
        }
        looks
    }

    #[test]
    fn around_each_change_of_each_zone_the_ticks_are_those_of_a_watched_clock() {
        let start: Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
        let end: Timestamp = "2038-01-01T00:00:00Z".parse().unwrap();
        let mut changes = 0;
        for zone in PLACES {
            let patterns = PATTERNS.map(|expression| (expression, pattern(expression, zone)));
            let clock = &patterns[0].1.zone;
            for change in clock.following(start).take_while(|change| change.timestamp() < end) {
                let around = |hours: i64| (change.timestamp() + hours.hours()).round(Unit::Minute).unwrap();
                let (from, until) = (around(-3), around(3));
                let looks = watch(clock, from, until);
                for (expression, pattern) in &patterns {
                    let matches = |local: &DateTime| pattern.cron.is_time_matching(local).unwrap();
                    let is_due = |shown, new: &[DateTime]| {
                        if pattern.is_hourly { matches(shown) } else { new.iter().any(matches) }
                    };
                    let due = looks.iter().filter(|(_, shown, new)| is_due(shown, new));
                    let planned = ticks(pattern, since_epoch(from));
                    let planned = planned.take_while(|time| *time <= since_epoch(until));
                    let (due, planned): (Vec<_>, Vec<_>) =
                        (due.map(|look| look.0).collect(), planned.collect());
                    assert_eq!(planned, due, "{expression} in {zone} from {from}");
                }
                changes += 1;
            }
        }
        assert!(changes > 400, "{changes}");
    }

    #[test]
    fn each_day_of_each_year_has_one_daily_tick() {
        for zone in PLACES {
            let (daily, yearly) = (pattern("30 2 * * *", zone), pattern("@yearly", zone));
            let new_years: Vec<_> = ticks(&yearly, utc("1999-12-30T00:00:00Z")).take(39).collect();
            let mut planned = ticks(&daily, new_years[0]).peekable();
            for (year, end) in (2000..=2037).zip(&new_years[1..]) {
                let count = std::iter::from_fn(|| planned.next_if(|time| time < end)).count();
                let days = if jiff::civil::date(year, 1, 1).in_leap_year() { 366 } else { 365 };
                assert_eq!(count, days, "{zone} {year}");
            }
        }
    }

    #[test]
    fn a_quarter_of_an_hour_passes_between_two_ticks_of_every_quarter() {
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "America/Nuuk", "Africa/Casablanca"] {
            let pattern = pattern("*/15 * * * *", zone);
            let quarter = Duration::from_secs(15 * 60);
            let start = utc("2026-01-01T00:00:00Z");
            for (number, time) in (1..=365 * 96).zip(ticks(&pattern, start)) {
                assert_eq!(time, start + number * quarter, "{zone}");
            }
        }
    }

    #[test]
    fn the_next_tick_does_not_depend_on_when_one_asks() {
        let (start, end) = (utc("2000-01-01T00:00:00Z"), utc("2038-01-01T00:00:00Z"));
        // Not a multiple of anything, so that it meets every hour and every minute.
        let stride = Duration::from_millis(67 * 24 * 3_600_000 + 5 * 3_600_000 + 47 * 60_000 + 123);
        for zone in PLACES {
            for expression in PATTERNS {
                let pattern = pattern(expression, zone);
                let mut time = start;
                while time < end {
                    let next = pattern.after(time).unwrap();
                    assert!(next > time);
                    assert_eq!(pattern.after(next - Duration::from_millis(1)), Some(next));
                    assert_eq!(pattern.after(time + (next - time) / 2), Some(next), "{expression} in {zone}");
                    time += stride;
                }
            }
        }
    }

    #[test]
    fn expressions_mean_what_the_documentation_says() {
        let from = "2026-11-22T10:00:30Z"; // a Sunday
        let table: &[(&str, &[&str])] = &[
            ("0 9 * * MON-FRI", &["2026-11-23T09:00:00Z", "2026-11-24T09:00:00Z"]),
            ("0 9 * * mon,WED", &["2026-11-23T09:00:00Z", "2026-11-25T09:00:00Z"]),
            ("*/15 * * * *", &["2026-11-22T10:15:00Z", "2026-11-22T10:30:00Z"]),
            ("0-30/10 * * * *", &["2026-11-22T10:10:00Z", "2026-11-22T10:20:00Z", "2026-11-22T10:30:00Z"]),
            ("*/20 * * * * *", &["2026-11-22T10:00:40Z", "2026-11-22T10:01:00Z"]),
            ("30 0 9 * * MON", &["2026-11-23T09:00:30Z", "2026-11-30T09:00:30Z"]),
            ("0 0 L * *", &["2026-11-30T00:00:00Z", "2026-12-31T00:00:00Z", "2027-01-31T00:00:00Z"]),
            ("0 0 LW * *", &["2026-11-30T00:00:00Z", "2026-12-31T00:00:00Z", "2027-01-29T00:00:00Z"]),
            ("0 0 1W * *", &["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"]),
            ("0 0 15W AUG *", &["2027-08-16T00:00:00Z"]),
            ("0 0 * * FRI#2", &["2026-12-11T00:00:00Z", "2027-01-08T00:00:00Z"]),
            ("0 0 * * FRIL", &["2026-11-27T00:00:00Z", "2026-12-25T00:00:00Z", "2027-01-29T00:00:00Z"]),
            ("0 0 * * 5L", &["2026-11-27T00:00:00Z", "2026-12-25T00:00:00Z"]),
            ("0 0 * * 0", &["2026-11-29T00:00:00Z"]),
            ("0 0 * * 7", &["2026-11-29T00:00:00Z"]),
            ("0 0 13 * FRI", &["2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z"]),
            ("0 0 13 * +FRI", &["2027-08-13T00:00:00Z"]),
            ("0 0 ? * MON", &["2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"]),
            ("0 0 29 2 *", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
            ("@hourly", &["2026-11-22T11:00:00Z", "2026-11-22T12:00:00Z"]),
            ("@daily", &["2026-11-23T00:00:00Z"]),
            ("@weekly", &["2026-11-29T00:00:00Z"]),
            ("@monthly", &["2026-12-01T00:00:00Z"]),
            ("@yearly", &["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        ];
        for (expression, expected) in table {
            let pattern = pattern(expression, UTC);
            let seen: Vec<_> = ticks(&pattern, utc(from)).take(expected.len()).collect();
            assert_eq!(seen, expected.iter().map(|text| utc(text)).collect::<Vec<_>>(), "{expression}");
        }
    }

    #[test]
    fn a_leap_day_is_found_across_a_century_without_one() {
        let pattern = pattern("0 0 29 2 *", "Europe/Berlin");
        assert_eq!(pattern.after(utc("2097-01-01T00:00:00Z")), Some(utc("2104-02-28T23:00:00Z")));
    }

    #[test]
    fn the_compiled_zones_are_the_same_everywhere() {
        let names: BTreeSet<_> = ZONES.available().map(|name| name.to_string()).collect();
        assert!(names.len() > 500, "{}", names.len());
        assert!(names.contains("Europe/Berlin"));
    }
}
