//! [`WallClock`]: the time of day of processes that a test starts.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::testing::error::Error;
use crate::testing::error::Result;

/// Where the library is, if it is nowhere below.
const LIBRARY: &str = "TASKHARE_TEST_FAKETIME";
/// Below these it is in `faketime`, or in the `faketime` of one of their folders, as Debian's multiarch has it.
const PLACES: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// The one that is safe for programs of several threads.
const FILE: &str = "libfaketimeMT.so.1";

/// A wall clock that jumps when a test says so, for processes that the test starts: see [`environment`](Self::environment).
///
/// Only `SystemTime` is changed, at once, in all processes that share the clock; what measures durations, and sleeps,
/// goes on as ever. So does an administrator, or NTP, set a clock. It drifts if it is set a little further again and
/// again.
///
/// It takes [libfaketime](https://github.com/wolfcw/libfaketime): looked for in `/usr/lib`, `/usr/lib64`,
/// `/usr/local/lib` and where `TASKHARE_TEST_FAKETIME` says.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// One that is right.
    ///
    /// # Errors
    ///
    /// If there is no libfaketime; it says what to install.
    pub fn new() -> Result<Self> {
        let named = std::env::var_os(LIBRARY).filter(|value| !value.is_empty()).map(PathBuf::from);
        let Some(library) = named.or_else(|| PLACES.iter().find_map(|place| library_in(Path::new(place))))
        else {
            return Err(Error::new(format!(
                "no libfaketime to set clocks with: install it (Debian and Ubuntu: `apt-get install libfaketime`), or \
                 set {LIBRARY} to the path of its {FILE}"
            )));
        };
        let name = format!("taskhare-clock-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let clock = Self { library, file: std::env::temp_dir().join(name) };
        clock.set(Offset { seconds: Duration::ZERO, is_behind: false })?;
        Ok(clock)
    }

    /// What makes this the clock of a process: for `Command::envs`.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            // Otherwise a step is seen ten seconds later.
            ("FAKETIME_NO_CACHE", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// From now on, ahead of the true time by this.
    ///
    /// # Errors
    ///
    /// If its file cannot be written.
    pub fn ahead(&self, by: Duration) -> Result<()> {
        self.set(Offset { seconds: by, is_behind: false })
    }

    /// From now on, behind the true time by this.
    ///
    /// # Errors
    ///
    /// If its file cannot be written.
    pub fn behind(&self, by: Duration) -> Result<()> {
        self.set(Offset { seconds: by, is_behind: true })
    }

    fn set(&self, offset: Offset) -> Result<()> {
        // At once, for whoever reads meanwhile.
        let new = self.file.with_extension("new");
        std::fs::write(&new, offset.to_string())
            .and_then(|()| std::fs::rename(&new, &self.file))
            .map_err(Error::because(format!("cannot write to {}", self.file.display())))
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        // It is in a directory for what is temporary.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// As libfaketime reads it.
#[derive(Clone, Copy)]
struct Offset {
    seconds: Duration,
    is_behind: bool,
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_behind { '-' } else { '+' };
        writeln!(f, "{sign}{}.{:09}", self.seconds.as_secs(), self.seconds.subsec_nanos())
    }
}

fn library_in(place: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
    let candidates = std::iter::once(place.to_owned()).chain(folders);
    candidates.map(|folder| folder.join("faketime").join(FILE)).find(|file| file.is_file())
}
