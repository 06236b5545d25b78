//! How deeply a payload is nested, told without reading it. Pure.
//!
//! Whoever decodes calls himself for each list or map in another, and a stack that overflows ends the process. The
//! decoder's own limit does not count all of them (an enum in an enum), and 1,024 of what it counts is too much for a
//! thread of tokio. So this looks first.

use crate::error::BoxError;

/// How deeply lists and maps may be nested: as deep as in `serde_json`.
const DEEPEST: usize = 128;

/// That nothing in the first value of `bytes` is nested more deeply. What is no MessagePack is not: its decoder says so no
/// later than where this stops.
pub(super) fn check(bytes: &[u8]) -> Result<(), BoxError> {
    if is_too_deep(bytes) {
        return Err(format!("lists and maps are nested more than {DEEPEST} deep").into());
    }
    Ok(())
}

fn is_too_deep(bytes: &[u8]) -> bool {
    has_enough(bytes) && walk(bytes).unwrap_or(false)
}

/// Whether there are enough bytes that may begin a list or map. Almost no payload has, and to count them is quick.
fn has_enough(bytes: &[u8]) -> bool {
    bytes.len() > DEEPEST
        && bytes.iter().filter(|byte| matches!(byte, 0x80..=0x9f | 0xdc..=0xdf)).count() > DEEPEST
}

/// `None`: it ends too early.
fn walk(mut bytes: &[u8]) -> Option<bool> {
    // For each list or map that is open, how many values of it are to come.
    let mut open: Vec<u64> = Vec::with_capacity(DEEPEST + 1);
    loop {
        let marker = *bytes.split_off_first()?;
        let values = match marker {
            0x80..=0x8f => 2 * u64::from(marker & 0x0f),
            0x90..=0x9f => u64::from(marker & 0x0f),
            0xdc | 0xdd => length(&mut bytes, marker - 0xdb)?,
            0xde | 0xdf => 2 * length(&mut bytes, marker - 0xdd)?,
            _ => {
                let rest = rest(marker, &mut bytes)?;
                bytes.split_off(..usize::try_from(rest).ok()?)?;
                0
            }
        };
        if values > 0 {
            open.push(values);
            if open.len() > DEEPEST {
                return Some(true);
            }
            continue;
        }
        // A value has ended, and with it perhaps those that it is the last one of.
        loop {
            let Some(left) = open.last_mut() else { return Some(false) };
            *left -= 1;
            if *left > 0 {
                break;
            }
            open.pop();
        }
    }
}

/// How many bytes of a value follow its marker, and its length, which is taken off.
fn rest(marker: u8, bytes: &mut &[u8]) -> Option<u64> {
    Some(match marker {
        0xa0..=0xbf => u64::from(marker & 0x1f),
        0xc4..=0xc6 => length(bytes, marker - 0xc4)?,
        // Beside the type.
        0xc7..=0xc9 => length(bytes, marker - 0xc7)? + 1,
        0xca => 4,
        0xcb => 8,
        0xcc..=0xcf => 1 << (marker - 0xcc),
        0xd0..=0xd3 => 1 << (marker - 0xd0),
        0xd4..=0xd8 => (1 << (marker - 0xd4)) + 1,
        0xd9..=0xdb => length(bytes, marker - 0xd9)?,
        _ => 0,
    })
}

/// A length of 1, 2 or 4 bytes: two to that power.
fn length(bytes: &mut &[u8], power: u8) -> Option<u64> {
    let taken = bytes.split_off(..1 << power)?;
    Some(taken.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All kinds of values that nest nothing, each of the first length that needs its kind.
    fn flat() -> Vec<u8> {
        let mut bytes = Vec::new();
        let sized = |marker: &[u8], length: usize| [marker, &vec![0x91; length]].concat();
        for value in [
            sized(&[0x05], 0),
            sized(&[0xe0], 0),
            sized(&[0xa3], 3),
            sized(&[0xc0], 0),
            sized(&[0xc4, 2], 2),
            sized(&[0xc5, 1, 0], 256),
            sized(&[0xc6, 0, 1, 0, 0], 65_536),
            sized(&[0xc7, 2, 7], 2),
            sized(&[0xc8, 1, 0, 7], 256),
            sized(&[0xc9, 0, 1, 0, 0, 7], 65_536),
            sized(&[0xca], 4),
            sized(&[0xcb], 8),
            sized(&[0xcc], 1),
            sized(&[0xcd], 2),
            sized(&[0xce], 4),
            sized(&[0xcf], 8),
            sized(&[0xd0], 1),
            sized(&[0xd1], 2),
            sized(&[0xd2], 4),
            sized(&[0xd3], 8),
            sized(&[0xd4, 7], 1),
            sized(&[0xd5, 7], 2),
            sized(&[0xd6, 7], 4),
            sized(&[0xd7, 7], 8),
            sized(&[0xd8, 7], 16),
            sized(&[0xd9, 2], 2),
            sized(&[0xda, 1, 0], 256),
            sized(&[0xdb, 0, 1, 0, 0], 65_536),
            sized(&[0x90], 0),
            sized(&[0x80], 0),
        ] {
            // Five of each, in a list.
            bytes.push(0x95);
            bytes.extend(value.repeat(5));
        }
        [&[0x9f][..], &bytes[..], &[0x9f][..], &[0xc0; 15]].concat()
    }

    fn nested(marker: &[u8], times: usize) -> Vec<u8> {
        [marker.repeat(times), vec![0xc0]].concat()
    }

    #[test]
    fn what_is_nested_too_deeply_is_found_behind_anything() {
        let kinds: [&[u8]; 6] = [
            b"\x91",
            b"\x81\xa1k",
            b"\xdc\0\x01",
            b"\xdd\0\0\0\x01",
            b"\xde\0\x01\xc0",
            b"\xdf\0\0\0\x01\xc3",
        ];
        for kind in kinds {
            for (times, expected) in [(DEEPEST, false), (DEEPEST + 1, true), (1_000_000, true)] {
                assert_eq!(is_too_deep(&nested(kind, times)), expected, "{kind:x?} {times}");
            }
            // 31 values: 30 that are flat, and this one.
            let mut behind = vec![0xdc, 0, 31];
            let flat = flat();
            behind.extend(&flat[1..flat.len() - 16]);
            behind.extend(nested(kind, DEEPEST));
            assert_eq!(walk(&behind), Some(true), "{kind:x?}");
        }
    }

    #[test]
    fn what_is_flat_or_ends_too_early_is_not() {
        let many = [&[0xdd, 0, 1, 0, 0][..], &[0x91, 0x01].repeat(65_536)].concat();
        for bytes in [vec![], flat(), many.clone(), vec![0xc1; 500], [0x9f; 100].to_vec(), vec![0xdd; 10_000]]
        {
            assert!(!is_too_deep(&bytes) || walk(&bytes) == Some(true));
        }
        assert_eq!((walk(&many), walk(&many[..1000])), (Some(false), None));
        // Only the first value counts: nobody reads what is behind it.
        assert!(!is_too_deep(&[&[0xc0][..], &nested(b"\x91", 1000)].concat()));
    }
}
