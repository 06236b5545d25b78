//! [`Durations`]: how long something has taken, of many, in little room.

use std::fmt;
use std::time::Duration;

use sketches_ddsketch::Config;
use sketches_ddsketch::DDSketch;

/// How long something has taken, of any number of tasks: a [DDSketch](https://arxiv.org/abs/1908.10693). Times are
/// in whole microseconds.
///
/// Its quantiles are within 1% of the true ones. Two of them merge into what one would be that had seen all, without a
/// further error. It takes 1 to 16 KB; 6 KB for times from a millisecond to a quarter of an hour.
#[derive(Clone)]
pub struct Durations(DDSketch);

impl Durations {
    /// How far a quantile may be from the true one, as a part of it.
    pub const ERROR: f64 = 0.01;

    /// Enough for times from a microsecond to millennia: none is ever put together with others to save room.
    const MOST_BINS: u32 = 2048;

    /// In microseconds. What is shorter than the shortest time that events can tell is zero.
    const SHORTEST: f64 = 0.5;

    pub(super) fn add(&mut self, time: Duration) {
        self.0.add(time.as_micros() as f64);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        // Fails only between sketches of different settings, and all of ours have the same.
        let _ = self.0.merge(&other.0);
    }

    /// Of how many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count() as u64
    }

    /// The shortest; `None` of none.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        self.0.min().map(from_micros)
    }

    /// The longest; `None` of none.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        self.0.max().map(from_micros)
    }

    /// The mean; `None` of none.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        self.0.sum().map(|sum| from_micros(sum / self.0.count() as f64))
    }

    /// The time that this part of them did not exceed: 0.5 asks for the median, 0.99 for the 99th percentile. `None` of
    /// none, and if `part` is not between 0 and 1.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let micros = self.0.quantile(part).ok()??;
        // The middle of a bin may be beyond all that is in it.
        Some(from_micros(micros.clamp(self.0.min()?, self.0.max()?)))
    }
}

fn from_micros(micros: f64) -> Duration {
    Duration::from_micros(micros.round() as u64)
}

impl Default for Durations {
    fn default() -> Self {
        Self(DDSketch::new(Config::new(Self::ERROR, Self::MOST_BINS, Self::SHORTEST)))
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("max", &self.max())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_error() {
        let mut random = fastrand::Rng::with_seed(7);
        // From a microsecond to years, evenly by magnitude.
        let mut times: Vec<u64> = (0..10_000).map(|_| 10f64.powf(random.f64() * 14.0) as u64).collect();
        let mut durations = Durations::default();
        for time in &times {
            durations.add(Duration::from_micros(*time));
        }
        times.sort_unstable();
        for part in [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999] {
            let truth = times[(part * (times.len() - 1) as f64) as usize] as f64;
            let told = durations.quantile(part).unwrap().as_micros() as f64;
            // Half a microsecond is rounding.
            assert!(
                (told - truth).abs() <= truth * Durations::ERROR + 0.5,
                "{part}: {told}, in truth {truth}"
            );
        }
        assert_eq!(durations.quantile(0.0), durations.min());
        assert_eq!(durations.max(), Some(Duration::from_micros(times[times.len() - 1])));
        assert_eq!(durations.count(), 10_000);
    }

    #[test]
    fn of_one_all_figures_are_the_same() {
        for micros in [0, 1, 2, 1_500_000, u64::from(u32::MAX) * 1_000_000] {
            let time = Duration::from_micros(micros);
            let mut durations = Durations::default();
            durations.add(time);
            let figures =
                [durations.min(), durations.mean(), durations.quantile(0.5), durations.quantile(0.99)];
            assert_eq!(figures, [Some(time); 4]);
            assert_eq!(durations.max(), Some(time));
        }
    }

    #[test]
    fn of_none_there_are_no_figures() {
        let none = Durations::default();
        assert_eq!([none.min(), none.max(), none.mean(), none.quantile(0.5)], [None; 4]);
        assert_eq!(none.count(), 0);
    }

    #[test]
    fn what_is_no_part_has_no_quantile() {
        let mut durations = Durations::default();
        durations.add(Duration::from_secs(1));
        for part in [-0.1, 1.1, f64::NAN] {
            assert_eq!(durations.quantile(part), None);
        }
    }
}
