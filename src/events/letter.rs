//! A dead letter as the event that it is.

use std::borrow::Cow;

use crate::dead::DeadLetter;
use crate::envelope;
use crate::event::TaskEvent;
use crate::message::Message;
use crate::topology::Names;
use crate::topology::QueueName;

/// What a message says that went to the dead letters, or found no queue; `None` if it was not a task's.
pub(super) fn event(message: Message, names: &Names) -> Option<TaskEvent> {
    let letter = match envelope::buried_from(&message.headers) {
        Some(queue) => {
            let queue = QueueName::new(queue).ok()?;
            DeadLetter::read(message, &queue)
        }
        None => {
            let last = envelope::last_queue(&message.headers)?;
            match names.queue_of(last) {
                Some(queue) => DeadLetter::read(message, &queue),
                None if names.is_on_its_way(last) => DeadLetter::read_undeliverable(message),
                None => return None,
            }
        }
    };
    Some(TaskEvent {
        id: letter.id().filter(|_| letter.is_task())?,
        name: Cow::Owned(letter.name().to_owned()),
        queue: letter.queue().into(),
        lane: None,
        attempt: letter.attempt(),
        at: letter.dead_at()?,
        by: "".into(),
        change: letter.change(),
    })
}
