//! A broker inside this process.
