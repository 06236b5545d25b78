//! What exists against what is declared.

use crate::error::Error;
use crate::error::Result;
use crate::message::Value;
use crate::topology::Queue;

/// Whether `ours` may be declared where `theirs` exists.
pub(super) fn conflict(
    object: impl Fn() -> String,
    argument: &str,
    ours: Option<Value>,
    theirs: Option<Value>,
) -> Result<()> {
    if ours == theirs {
        return Ok(());
    }
    let (argument, ours, theirs) = (argument.to_owned(), plain(ours), plain(theirs));
    Err(Error::TopologyConflict { object: object(), argument, ours, theirs })
}

/// Compares the arguments of two queues of one name.
pub(super) fn queue_conflict(ours: &Queue, theirs: &Queue) -> Result<()> {
    let object = || format!("queue '{}'", ours.name);
    let (ours, theirs) = (ours.arguments(), theirs.arguments());
    for (argument, _) in ours.iter().chain(theirs.iter()) {
        conflict(object, argument, ours.get(argument).cloned(), theirs.get(argument).cloned())?;
    }
    Ok(())
}

/// As RabbitMQ writes it in its own complaints.
fn plain(value: Option<Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::Text(text)) => text,
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(other) => format!("{other:?}"),
    }
}
