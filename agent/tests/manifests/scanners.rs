//! Two programs that look for what is bad practice: checkov in the manifests and in the Dockerfile, hadolint in that.
//! What we do on purpose is in exceptions.yaml, with the reason, or for the Dockerfile in that.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::renders::{Renders, items, root, run, text};
use oom_watcher_testkit::needs::needs;

/// Of exceptions.yaml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    check: String,
    /// The end of the resource's name, as checkov writes it.
    of: String,
    /// The renders that have it.
    renders: Vec<String>,
    why: String,
}

/// It looks at nothing that is hidden, as temporary folders usually are.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("manifests-").tempdir().unwrap()
}

/// What checkov finds in the files of a folder: check, resource, and the file's name without its ending.
fn findings(renders: &Renders, framework: &str, folder: &Path) -> BTreeSet<(String, String, String)> {
    let mut command = renders.program("checkov");
    command
        .args([
            "--skip-download",
            "--soft-fail",
            "--compact",
            "--quiet",
            "--output",
            "json",
            "--framework",
            framework,
            "--directory",
        ])
        .arg(folder);
    // What it logs would be in the way of its report.
    let report: Value = serde_json::from_str(&run(command.env("LOG_LEVEL", "ERROR")).unwrap()).unwrap();
    assert!(
        report["summary"]["passed"].as_u64() > Some(0) && report["summary"]["parsing_errors"] == 0,
        "{}",
        report["summary"]
    );
    let of = |check: &Value| {
        let file = text(&check["file_path"]).trim_start_matches('/').trim_end_matches(".yaml").to_owned();
        (text(&check["check_id"]).to_owned(), text(&check["resource"]).to_owned(), file)
    };
    items(&report["results"]["failed_checks"]).iter().map(of).collect()
}

/// Everything found is on purpose, and everything that is on purpose is found: an exception that nothing needs would
/// hide the next mistake.
fn check(found: &BTreeSet<(String, String, String)>) {
    let exceptions: Vec<Exception> = serde_yaml::from_str(include_str!("exceptions.yaml")).unwrap();
    let mut needless = BTreeSet::new();
    let mut faults: Vec<_> = found.iter().collect();
    for Exception { check, of, renders, why } in &exceptions {
        assert!(why.ends_with('.'), "{check}: why?");
        for render in renders {
            let before = faults.len();
            faults.retain(|(id, resource, file)| !(id == check && resource.ends_with(of) && file == render));
            if faults.len() == before {
                needless.insert((check, of, render));
            }
        }
    }
    assert!(faults.is_empty(), "neither mended nor in exceptions.yaml: {faults:#?}");
    assert!(needless.is_empty(), "not found any more, remove them from exceptions.yaml: {needless:#?}");
}

#[test]
fn what_checkov_finds_in_the_manifests_is_on_purpose() {
    let renders = needs!(Renders::find());
    let folder = folder();
    for (name, objects) in renders.all() {
        let documents: Vec<_> = objects.0.iter().map(|object| serde_yaml::to_string(object).unwrap()).collect();
        fs::write(folder.path().join(format!("{name}.yaml")), documents.join("---\n")).unwrap();
    }
    check(&findings(renders, "kubernetes", folder.path()));
}

#[test]
fn nothing_is_found_in_the_dockerfile() {
    let dockerfile = root().join("Dockerfile.production");
    let renders = needs!(Renders::find());
    // What is on purpose says so there, to both.
    run(renders.program("hadolint").arg("--no-color").arg(&dockerfile)).unwrap();
    let folder = folder();
    fs::copy(&dockerfile, folder.path().join("Dockerfile")).unwrap();
    assert_eq!(findings(renders, "dockerfile", folder.path()), BTreeSet::new());
}
