//! The house rules that no linter knows, and that generated files are what they were generated from.

#![expect(clippy::unwrap_used, reason = "a test that can't read the tree has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file, in lines.
const MAX_LINES: usize = 400;
/// Where each suite's wait for a condition stands, which pauses between two looks and has a deadline.
const WAITS: [&str; 3] = [
    "consumer/tests/integration/harness.rs",
    "operator/tests/reconcile/world.rs",
    "order-service/tests/integration/harness.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of the tree, tracked or about to be, by ending.
fn files(ending: &str) -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let found: Vec<(String, String)> = names
        .lines()
        .filter(|name| name.ends_with(ending))
        .filter_map(|name| Some((name.to_owned(), std::fs::read_to_string(root().join(name)).ok()?)))
        .collect();
    // The planted bugs are few and may be none; of the rest there are many, and none means that git was not asked well.
    assert!(ending == ".patch" || !found.is_empty(), "git lists no {ending} files");
    found
}

fn fail_if_any(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn every_rust_file_opens_by_saying_what_it_is() {
    let silent: Vec<_> =
        files(".rs").into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|f| f.0).collect();
    fail_if_any("these files do not open with a `//!` sentence", &silent);
}

#[test]
fn no_rust_file_is_longer_than_400_lines() {
    let long: Vec<_> = files(".rs")
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    fail_if_any("these files want to be split by noun", &long);
}

#[test]
fn no_test_waits_a_fixed_time() {
    let call = concat!("sleep", "(");
    let sleeping: Vec<_> = files(".rs")
        .into_iter()
        .filter(|(name, text)| name.contains("/tests/") && text.contains(call))
        .map(|(name, _)| name)
        .filter(|name| !WAITS.contains(&name.as_str()))
        .collect();
    fail_if_any("these tests wait a fixed time instead of for a condition", &sleeping);
}

#[test]
fn unsafe_code_stands_in_one_module_only() {
    let allowing: Vec<_> = files(".rs")
        .into_iter()
        .filter(|(name, text)| name != "e2e/tests/tidy.rs" && text.contains("(unsafe_code"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(allowing, ["operator/src/kafka/ffi.rs"]);
}

#[test]
fn the_chart_carries_the_generated_crd() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let same =
        read("crds/orderpipelines.yaml") == read("charts/order-pipeline-operator/crds/orderpipelines.yaml");
    assert!(same, "the chart's CRD is not the generated one: run `make crds`");
}

#[test]
fn every_link_in_a_document_leads_to_a_file() {
    let mut broken = Vec::new();
    for (name, text) in files(".md") {
        let folder = root().join(&name).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    fail_if_any("these links lead nowhere", &broken);
}

#[test]
fn the_architecture_names_every_folder() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let unnamed: Vec<_> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && name != "target" && !text.contains(&format!("`{name}/`")))
        .collect();
    fail_if_any("ARCHITECTURE.md does not say what these folders own", &unnamed);
}

/// Each opens by saying what bug it plants and which rules that breaks, and git can plant it: a patch that no longer applies would let the checker
/// go untested without a word.
#[test]
fn every_planted_bug_still_applies() {
    let mut stale = Vec::new();
    for (name, text) in files(".patch") {
        let check =
            Command::new("git").args(["apply", "--check", &name]).current_dir(root()).output().unwrap();
        let says = ["Plants: ", "Breaks: "]
            .iter()
            .zip(text.lines())
            .all(|(word, line)| line.strip_prefix(word).is_some_and(|rest| !rest.is_empty()));
        if !says || !check.status.success() {
            stale.push(format!("{name}: {}", String::from_utf8_lossy(&check.stderr)));
        }
    }
    fail_if_any(
        "these patches want `Plants: …` and `Breaks: …` as their first lines, or no longer apply",
        &stale,
    );
}
