//! The layering drawn in ARCHITECTURE.md, as a test.
//!
//! It reads text, not syntax: a path built by a macro and an edge through `super::` of the same folder are not seen.
//! The unit tests at the end of a file do not count.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Bottom to top. A module may name only modules in layers below its own, or in its own folder.
const LAYERS: &[&[&str]] = &[
    &["outcome"],
    &["error", "hook", "lock", "instance", "url"],
    &["tls"],
    &["management", "name", "message", "clock", "lane", "retry"],
    &["cadence"],
    &["task", "failures"],
    &["tick", "progress"],
    &["topology", "handler", "envelope", "reply"],
    &["schedule", "event", "telemetry"],
    &["watch", "stats"],
    &["transport"],
    &["transport::in_process", "transport::amqp"],
    &["route", "log"],
    &["control", "unique", "journal"],
    &["broker"],
    &["inbox"],
    &["dead", "schedules"],
    &["events"],
    &["producer", "consumer", "scheduler"],
    &["testing", "fuzzing"],
    &["lib"],
];

/// The implementations of the transport, and the only modules that may name them.
const BEHIND_THE_SEAM: &[&str] = &["transport::in_process", "transport::amqp"];
const MAY_REACH_BEHIND: &[&str] = &["lib", "testing", "broker", "transport"];

/// A dependency, and the only module that may name it.
const CONFINED: &[(&str, &str)] = &[
    ("amqprs::", "transport::amqp"),
    ("croner::", "cadence::cron"),
    ("csv::", "stats::export"),
    ("governor::", "consumer::limits"),
    ("jiff::", "cadence"),
    ("metrics::", "telemetry::meter"),
    ("opentelemetry::", "telemetry::trace"),
    ("rmp_serde::", "envelope"),
    ("rustls_native_certs::", "tls"),
    ("sketches_ddsketch::", "stats::durations"),
    ("tokio_rustls::", "tls"),
    ("ureq::", "management"),
];

const MAX_LINES: usize = 500;

#[test]
fn modules_point_downward() {
    let mut wrong = BTreeSet::new();
    for (module, code) in sources() {
        let from = layer(&module);
        for target in references(&module, &code) {
            let is_same_folder = head(&module) == head(&target);
            if !is_same_folder && from <= layer(&target) {
                wrong.insert(format!("{module} names {target}, which is not below it"));
            }
            let is_behind = BEHIND_THE_SEAM.iter().any(|name| is_inside(&target, name));
            if is_behind && !MAY_REACH_BEHIND.contains(&head(&module)) {
                wrong.insert(format!("{module} reaches past the seam to {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn transports_do_not_name_each_other() {
    for (module, code) in sources() {
        let Some(own) = BEHIND_THE_SEAM.iter().find(|name| is_inside(&module, name)) else { continue };
        for target in references(&module, &code) {
            let other = BEHIND_THE_SEAM.iter().find(|name| *name != own && is_inside(&target, name));
            assert!(other.is_none(), "{module} names {target}");
        }
    }
}

#[test]
fn dependencies_stay_where_they_belong() {
    for (module, code) in sources() {
        for (name, home) in CONFINED {
            let is_at_home = is_inside(&module, home);
            assert!(
                is_at_home || !without_comments(&code).contains(name),
                "{module} names {name}; only {home} may"
            );
        }
    }
}

#[test]
fn files_stay_short() {
    for (module, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= MAX_LINES, "{module} has {lines} lines, and {MAX_LINES} are allowed");
    }
}

/// Every module's path and its text, up to its unit tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let parts = relative.iter().map(|part| part.to_str().unwrap());
            let module: Vec<&str> = parts.filter(|part| *part != "mod").collect();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            found.push((module.join("::"), code.to_owned()));
        }
    }
    found
}

/// Every module named by a `crate::` path. The spellings that would hide an edge are not allowed.
fn references(module: &str, code: &str) -> Vec<String> {
    let code = without_comments(code);
    assert!(!code.contains("crate::{"), "{module}: one `use crate::module` a line, so that every edge shows");
    assert!(!code.contains("super::super"), "{module}: write `crate::`, so that every edge shows");
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let path = rest.split(|c| !is_path(c)).next().unwrap();
        let names_a_module = path.starts_with(char::is_lowercase);
        assert!(names_a_module, "{module}: name the module, not the facade: crate::{path}");
        let modules = path.split("::").take_while(|part| part.starts_with(char::is_lowercase));
        found.push(modules.collect::<Vec<_>>().join("::"));
    }
    found
}

fn without_comments(code: &str) -> String {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn head(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn is_inside(module: &str, folder: &str) -> bool {
    module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// How high a module is: the height of the longest name in [`LAYERS`] that it is inside.
fn layer(module: &str) -> usize {
    let heights =
        LAYERS.iter().enumerate().flat_map(|(height, names)| names.iter().map(move |name| (name, height)));
    let inside = heights.filter(|(name, _)| is_inside(module, name));
    let longest = inside.max_by_key(|(name, _)| name.len());
    longest.unwrap_or_else(|| panic!("{module} has no layer; give it one in LAYERS")).1
}

/// Names that users search and alert for.
#[test]
fn each_field_of_a_log_line_or_span_is_documented() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry/mod.rs")).unwrap();
    let table = text.split("//! | field | what it is |").nth(1).unwrap().split("//!\n").next().unwrap();
    let cells = table.lines().filter_map(|line| line.split('|').nth(1));
    let documented: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let mut found = BTreeSet::new();
    for (module, code) in sources() {
        for field in fields(&without_comments(&code)) {
            // Those are OpenTelemetry's.
            let is_known = documented.contains(&*field) || field.starts_with("otel.");
            assert!(
                is_known,
                "{module} logs the field {field}, which src/telemetry/mod.rs does not document"
            );
            found.insert(field);
        }
    }
    let unused: Vec<_> = documented.iter().filter(|name| !found.contains(**name)).collect();
    assert!(unused.is_empty(), "documented, and never logged: {unused:?}");
}

/// The names of all fields that are given to a macro of `tracing`, or to `record`.
fn fields(code: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for macro_name in ["debug!(", "info!(", "warn!(", "error!(", "debug_span!(", "info_span!("] {
        for call in code.split(&format!("tracing::{macro_name}")).skip(1) {
            let mut depth = 0;
            let mut in_text = false;
            let end = call.find(|c| {
                match c {
                    '"' => in_text = !in_text,
                    '(' if !in_text => depth += 1,
                    ')' if !in_text => depth -= 1,
                    _ => {}
                }
                depth < 0
            });
            for argument in call[..end.unwrap()].split(',').map(str::trim) {
                let is_setting = argument.starts_with("target:") || argument.starts_with("parent:");
                let name = argument.split('=').next().unwrap().trim().trim_start_matches(['%', '?']);
                let is_name = |name: &str| {
                    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c))
                };
                if !is_setting && is_name(name) {
                    fields.push(name.to_owned());
                }
            }
        }
    }
    fields
}

/// A row names its tests in code, as `binary module::test`, and faults of the chaos suite in italics.
#[test]
fn every_promise_names_the_test_that_proves_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let table = readme.split("| When… |").nth(1).unwrap().split("\n\n").next().unwrap();
    let promised = rows(table).map(|row| proofs_in(root, row)).sum::<usize>();
    assert!(promised > 70, "only {promised} tests are named");
    let faults = fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let tables = faults.split("| When… |").skip(1).map(|table| table.split("\n\n").next().unwrap());
    let proved = tables.flat_map(rows).map(|row| proofs_in(root, row)).sum::<usize>();
    assert!(proved > 70, "only {proved} tests are named");
}

fn rows(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(2).filter(|row| row.starts_with('|'))
}

/// How many proofs the last cell names, all of which there must be.
fn proofs_in(root: &Path, row: &str) -> usize {
    let (mut binary, mut proofs) = (String::new(), 0);
    let proof = row.trim_end().trim_end_matches('|').rsplit('|').next().unwrap();
    for name in proof.split('`').skip(1).step_by(2) {
        let path = name.rsplit_once(' ').map_or(name, |(test, path)| {
            binary = test.to_owned();
            path
        });
        // A test in one file has no modules.
        let (module, test) = path.split_once("::").unwrap_or(("", path));
        let file = root.join("tests").join(&binary).join(module).with_extension("rs");
        let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{name}: no {}", file.display()));
        assert!(text.contains(&format!("fn {test}")), "{name}: no such test in {}", file.display());
        proofs += 1;
    }
    let harms = fs::read_to_string(root.join("tests/chaos/harm.rs")).unwrap();
    for fault in proof.split('*').skip(1).step_by(2) {
        assert!(harms.contains(&format!("\"{fault}\"")), "the chaos suite has no fault {fault:?}");
        proofs += 1;
    }
    let is_said = proof.contains("the same") || proof.contains("not tested");
    assert!(proofs > 0 || is_said, "no test is named in: {row}");
    proofs
}
