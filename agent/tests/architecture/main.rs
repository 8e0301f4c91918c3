//! The layers of `lib.rs`, and what only one place may do, kept by reading the source. What is compiled for tests alone
//! is free of these rules.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod scanner;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use scanner::{paths, scan};

/// Groups of modules: each may import from those above it, never from its own.
const LAYERS: &[&[&str]] = &[
    &["kill"],
    &["stats"],
    &["host"],
    &["attribution", "reconcile", "record"],
    &["cgroups"],
    &["privileges"],
    &["state"],
    &["export"],
    &["kubernetes"],
    &["source"],
    &["config"],
    &["diagnostics"],
    &["preflight", "run"],
    &["selftest"],
];

/// The stages of the data path, which do not know each other: `run` joins them.
const STAGES: &[&str] = &["attribution", "export", "source"];

/// Crates that only these files, or the files of these folders, may name.
const CRATES: &[(&str, &str)] =
    &[("aya", "source/probe/"), ("kube", "kubernetes/"), ("tonic", "export/otlp/"), ("serde_yaml", "config/")];

/// The functions of `std::env` that ask for or change variables. `current_exe` and the constants are no configuration.
const VARIABLES: &[&str] = &["var", "var_os", "vars", "vars_os", "set_var", "remove_var"];
/// The only file that asks for variables.
const ENVIRONMENT: &str = "config/environment.rs";

/// Modules without clock, files, network, processes and tasks: what they need is an argument.
const PURE: &[&str] = &["kill", "reconcile", "record", "attribution"];
/// What they may not name.
const IMPURE: &[&[&str]] = &[
    &["SystemTime", "now"],
    &["Instant", "now"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["tokio"],
];

const PANICS: &[&str] = &["panic", "todo", "unimplemented", "unreachable"];
const PANICKING_METHODS: &[&str] = &["unwrap", "expect", "unwrap_err", "expect_err"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All files of the agent with their texts, named from its root.
fn files() -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((
                    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    found.sort();
    found
}

/// The module that a file is: `record/mod.rs` is `record`, `lib.rs` and `main.rs` are nothing.
fn module(file: &str) -> Vec<&str> {
    let mut words: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    words.pop_if(|last| matches!(*last, "mod" | "lib" | "main"));
    words
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|group| group.contains(&module))
}

/// Everything that a file does against the rules, as `line: what`.
fn complaints(file: &str, text: &str) -> Vec<String> {
    let source = scan(text);
    let (own, mut found) = (module(file), Vec::new());
    if !text.starts_with("//! ") {
        found.push("1: does not open with what it is".to_owned());
    }
    for path in paths(&source.tokens) {
        let mut complain = |what: &str| found.push(format!("{}: {} {what}", path.line, path.words.join("::")));
        let words: Vec<&str> = path.words.iter().map(String::as_str).collect();
        if let (Some(from), Some(to)) = (own.first().and_then(|own| layer(own)), imported(&own, &words).and_then(layer))
            && imported(&own, &words) != own.first().copied()
            && to >= from
        {
            complain("is not above");
        }
        if let (Some(from), Some(to)) = (own.first(), imported(&own, &words))
            && STAGES.contains(from)
            && STAGES.contains(&to)
            && *from != to
        {
            complain("is another stage");
        }
        for (name, place) in CRATES {
            if words.first() == Some(name) && !file.starts_with(place) {
                complain(&format!("is for {place} only"));
            }
        }
        if file != ENVIRONMENT && VARIABLES.iter().any(|function| path.has(&["env", function])) {
            complain(&format!("is for {ENVIRONMENT} only"));
        }
        if own.first().is_some_and(|own| PURE.contains(own)) && IMPURE.iter().any(|impure| path.has(impure)) {
            complain("is not pure");
        }
    }
    for window in source.tokens.windows(3) {
        let [before, word, after] = window else { continue };
        let is_method = before.text == "." && after.text == "(";
        if is_method && PANICKING_METHODS.contains(&word.text.as_str())
            || after.text == "!" && PANICS.contains(&word.text.as_str())
        {
            found.push(format!("{}: {} panics", word.line, word.text));
        }
        if is_method && word.text == "elapsed" && own.first().is_some_and(|own| PURE.contains(own)) {
            found.push(format!("{}: elapsed is not pure", word.line));
        }
    }
    found
}

/// The module of the agent's root that a path in module `own` leads into, if it says so: by `crate` or by `super`.
fn imported<'a>(own: &[&'a str], words: &[&'a str]) -> Option<&'a str> {
    if words.first() == Some(&"crate") {
        return words.get(1).copied();
    }
    let up = words.iter().take_while(|word| **word == "super").count();
    if up == 0 {
        return None;
    }
    own[..own.len().saturating_sub(up)].first().or_else(|| words.get(up)).copied()
}

/// The file that a path in `file` leads into: the longest beginning of it that is a module with a file of its own.
/// `None` where that is its own file or no file of ours; `mod.rs` stands for its folder's names, which its own files
/// may use.
fn target<'a>(file: &str, words: &[&str], modules: &'a BTreeMap<Vec<&str>, &str>) -> Option<&'a str> {
    let own = module(file);
    let up = words.iter().take_while(|word| **word == "super").count();
    let absolute: Vec<&str> = match words.first() {
        Some(&"crate") => words[1..].to_vec(),
        Some(&"self") => [&own, &words[1..]].concat(),
        Some(&"super") => [&own[..own.len().saturating_sub(up)], &words[up..]].concat(),
        // A module that this file declares.
        Some(first) if modules.contains_key(&[&own[..], &[first]].concat()) => [&own[..], words].concat(),
        _ => return None,
    };
    let found = (1..=absolute.len()).rev().find_map(|length| modules.get(&absolute[..length]))?;
    (*found != file).then_some(*found)
}

/// Files that import each other, directly or over others: each circle as its files.
fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let modules: BTreeMap<Vec<&str>, &str> = files.iter().map(|(file, _)| (module(file), *file)).collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, text) in files {
        let ways = paths(&scan(text).tokens);
        let targets = ways
            .iter()
            .filter_map(|path| target(file, &path.words.iter().map(String::as_str).collect::<Vec<_>>(), &modules));
        // A module's own file speaks for the files below it: the way up to it is no import.
        imports.entry(file).or_default().extend(targets.filter(|to| !module(file).starts_with(&module(to))));
    }
    let mut found = Vec::new();
    for (from, _) in files {
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![*from]);
        while let Some(file) = waiting.pop() {
            waiting.extend(imports.get(file).into_iter().flatten().filter(|to| seen.insert(**to)));
        }
        if seen.contains(from) {
            found.push((from.to_string(), seen));
        }
    }
    let in_one = |a: &(String, BTreeSet<&str>), b: &(String, BTreeSet<&str>)| a.1.contains(b.0.as_str());
    let mut circles: Vec<Vec<String>> = found
        .iter()
        .map(|a| {
            let members = found.iter().filter(|b| in_one(a, b) && b.1.contains(a.0.as_str()));
            members.map(|member| member.0.clone()).collect()
        })
        .collect();
    circles.dedup();
    circles
}

/// `pub mod` of `lib.rs`, in groups between empty lines.
fn declared(lib: &str) -> Vec<Vec<&str>> {
    let groups = lib
        .split("\n\n")
        .map(|group| group.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect());
    groups.filter(|group: &Vec<_>| !group.is_empty()).collect()
}

#[test]
fn every_file_keeps_to_its_layer_and_to_what_it_may_do() {
    let files = files();
    let (mut crossings, mut wrong) = (0, Vec::new());
    // Modules with files of their own that only tests have.
    let tests: Vec<String> = files
        .iter()
        .flat_map(|(file, text)| {
            let parent = module(file).join("/");
            scan(text)
                .test_modules
                .into_iter()
                .map(move |name| format!("{parent}/{name}.rs").trim_start_matches('/').to_owned())
        })
        .collect();
    for test in &tests {
        assert!(files.iter().any(|(file, _)| file == test), "{test} is declared for tests but is not there");
    }
    for (file, text) in files.iter().filter(|(file, _)| !tests.contains(file)) {
        let own = module(file);
        crossings += paths(&scan(text).tokens)
            .iter()
            .filter(|path| path.words.first().is_some_and(|word| word == "crate"))
            .count();
        wrong.extend(complaints(file, text).into_iter().map(|complaint| format!("src/{file}:{complaint}")));
        assert!(own.is_empty() || layer(own[0]).is_some(), "src/{file} is in no layer");
    }
    assert!(wrong.is_empty(), "{} breaches:\n{}", wrong.len(), wrong.join("\n"));
    // What is not read cannot be wrong.
    assert!(files.len() > 40 && crossings > 100, "only {crossings} imports in {} files were seen", files.len());
}

#[test]
fn no_two_files_import_each_other() {
    let own = files();
    let own: Vec<(&str, &str)> = own.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
    assert_eq!(circles(&own), [[""; 0]; 0]);

    let check = |files: &[(&str, &str)], expected: &[&[&str]]| assert_eq!(circles(files), expected, "{files:?}");
    let pair = [("a/b.rs", "use super::c::C;"), ("a/c.rs", "fn f() { crate::a::b::g() }")];
    check(&pair, &[&["a/b.rs", "a/c.rs"]]);
    check(&pair[..1], &[]);
    check(
        &[("a.rs", "use crate::b;"), ("b/mod.rs", "mod c;\nuse c::C;"), ("b/c.rs", "use super::D;\nuse crate::a;")],
        &[&["a.rs", "b/mod.rs", "b/c.rs"]],
    );
    check(&[("b/mod.rs", "mod c;\nuse c::C;"), ("b/c.rs", "use super::D;\nuse crate::b::E;")], &[]);
    check(&[("a.rs", "#[cfg(test)]\nuse crate::b;"), ("b.rs", "use crate::a;")], &[]);
}

#[test]
fn lib_rs_declares_and_describes_the_layers() {
    let lib = fs::read_to_string(root().join("lib.rs")).unwrap();
    assert_eq!(declared(&lib), LAYERS);
    for module in LAYERS.iter().copied().flatten() {
        assert!(lib.contains(&format!("//! | [`{module}`] | ")), "the table of lib.rs lacks {module}");
    }
}

#[test]
fn each_breach_is_found() {
    let check = |file: &str, code: &str, expected: &[&str]| {
        assert_eq!(complaints(file, &format!("//! It.\n{code}")), expected, "{file}: {code}")
    };
    check("record/series.rs", "use crate::run::Agent;", &["2: crate::run::Agent is not above"]);
    check(
        "record/series.rs",
        "use crate::{kill::Kill, export::{otlp, queue}};",
        &["2: crate::export::otlp is not above", "2: crate::export::queue is not above"],
    );
    check(
        "source/event.rs",
        "\n\nfn f() { crate::attribution::attribute() }",
        &["4: crate::attribution::attribute is another stage"],
    );
    check(
        "export/otlp/mod.rs",
        "use super::super::source;",
        &["2: super::super::source is not above", "2: super::super::source is another stage"],
    );
    check("config/mod.rs", "use super::run;", &["2: super::run is not above"]);
    check("kill.rs", "use crate::stats;", &["2: crate::stats is not above"]);
    check("run.rs", "type T = Vec<crate::preflight::Seen>;", &["2: crate::preflight::Seen is not above"]);
    check("preflight.rs", "use crate::selftest as test;", &["2: crate::selftest is not above"]);
    check("source/layout.rs", "use aya::Ebpf;", &["2: aya::Ebpf is for source/probe/ only"]);
    check("export/prometheus.rs", "fn f(code: tonic::Code) {}", &["2: tonic::Code is for export/otlp/ only"]);
    check("main.rs", "use {serde_yaml::from_str, std::io};", &["2: serde_yaml::from_str is for config/ only"]);
    check("run.rs", "let a = std::env::var(\"A\");", &["2: std::env::var is for config/environment.rs only"]);
    check(
        "config/host.rs",
        "use std::{env::{self, vars_os}, io};",
        &["2: std::env::vars_os is for config/environment.rs only"],
    );
    check(
        "run.rs",
        "use std::env;\nfn f() { env::remove_var(\"A\") }",
        &["3: env::remove_var is for config/environment.rs only"],
    );
    check("kill.rs", "fn f() { std::time::SystemTime::now(); }", &["2: std::time::SystemTime::now is not pure"]);
    check("record/span.rs", "use std::fs;", &["2: std::fs is not pure"]);
    check(
        "attribution/container.rs",
        "use std::{net::IpAddr, fs::File};",
        &["2: std::net::IpAddr is not pure", "2: std::fs::File is not pure"],
    );
    check(
        "record/span.rs",
        "fn f(t: Instant) { t.elapsed(); tokio::time::Instant::now(); }",
        &["2: tokio::time::Instant::now is not pure", "2: elapsed is not pure"],
    );
    check(
        "main.rs",
        "fn f() { g().unwrap(); h()\n.expect(\"x\"); panic!(\"no\") }",
        &["2: unwrap panics", "3: expect panics", "3: panic panics"],
    );
    check("main.rs", "fn f() { todo!() }", &["2: todo panics"]);
    check(
        "run.rs",
        "#[cfg(test)]\nmod tests { use crate::selftest; }\nuse crate::selftest;",
        &["4: crate::selftest is not above"],
    );
    assert_eq!(complaints("run.rs", "use std::io;\n"), ["1: does not open with what it is"]);
}

#[test]
fn what_only_looks_like_a_breach_is_none() {
    let check =
        |file: &str, code: &str| assert_eq!(complaints(file, &format!("//! It.\n{code}")), [""; 0], "{file}: {code}");
    check("record/series.rs", "// use crate::run;\n/* a /* crate::run */ panic!() */ use crate::kill::Kill;");
    check(
        "record/series.rs",
        "/// [`run`](crate::run)\nconst A: &str = \"crate::run \\\" .unwrap() \"; const B: &str = r#\"crate::run\" \
         \"#;",
    );
    check(
        "record/series.rs",
        "fn f<'a>(c: char) -> &'a str { match c { '\"' => \"a\", '\\'' => \"b\", _ => \"crate::run\" } }",
    );
    check("record/series.rs", "use crate::record::schema; use super::incident; use super::super::kill;");
    check(
        "record/series.rs",
        "#[cfg(test)]\n#[expect(lint, reason = \"x\")]\nfn f(a: [u8; 2]) -> u8 { std::fs::read(\"\").unwrap(); { 1 } \
         }\nfn g() {}",
    );
    check("record/series.rs", "fn f() { unwrap_or(1); a.unwrap_or_default(); fs::f(); time.now(); }");
    check("source/probe/load.rs", "use aya::Ebpf;");
    check("selftest/mod.rs", "use opentelemetry_proto::tonic::logs::v1::LogRecord; let exe = std::env::current_exe();");
    check("config/environment.rs", "fn f() { std::env::var_os(\"A\"); }");
    check("export/settings.rs", "const A: &str = std::env::consts::ARCH; fn f() { SystemTime::now(); }");
    check("kill.rs", "#[expect(clippy::panic, reason = \"\")] fn f() {}");
}

#[test]
fn modules_with_files_that_only_tests_have_are_known() {
    let source =
        scan("mod a;\n#[cfg(test)]\npub(crate) mod sample;\n#[cfg(test)]\nmod tests {\n mod inner;\n}\nmod b;");
    assert_eq!(source.test_modules, ["sample"]);
    let left: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(left, ["mod", "a", ";", "mod", "b", ";"]);
    assert_eq!(source.tokens[3].line, 8, "lines are counted through what is left out");
}
