//! [`Lock`]: a mutex without the question of what to do once somebody has panicked with it.

use std::sync::Mutex;
use std::sync::MutexGuard;

/// Held across no await, and while nothing panics.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nothing panics while holding this lock")
    }
}
