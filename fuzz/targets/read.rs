//! Any bytes, read as messages by all that reads messages: `./dev fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    taskhare::fuzzing::read(bytes);
});
