//! [`Instance`]: what a process calls itself, towards people and other processes.

use std::fmt;
use std::sync::Arc;

/// `host:pid:xxxx`: the last part is random, because two containers may agree in the first two. One for each broker
/// handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance(Arc<str>);

impl Instance {
    pub(crate) fn new() -> Self {
        Self(format!("{}:{}:{:04x}", hostname(), std::process::id(), fastrand::u16(..)).into())
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0
    }

    /// Its machine.
    pub(crate) fn host(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// A part of this process.
    pub(crate) fn part(&self, number: u64) -> Arc<str> {
        format!("{self}/{number}").into()
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of this machine, at most 64 characters and without a colon; `localhost` if it has none.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    let name: String = name.unwrap_or_default().trim().chars().filter(|char| *char != ':').take(64).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
