//! Runs oom-maker and reads what it tells.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use crate::support::told::{Cgroup, Done, Line, Process, Role};

/// What oom-maker is made of.
const SOURCES: [&str; 11] = [
    "src/selftest/scratch.rs",
    "src/cgroups/hierarchy.rs",
    "tests/support/modes/cgroups.rs",
    "tests/support/modes/machine.rs",
    "tests/support/modes/mod.rs",
    "tests/support/modes/namespaces.rs",
    "tests/support/modes/processes.rs",
    "tests/support/names.rs",
    "tests/support/oom_maker.rs",
    "tests/support/stage.rs",
    "tests/support/told.rs",
];
const BUILD: &str = "run `cargo build --example oom-maker` first, or all of `cargo test`";

/// What one run of oom-maker did.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// Its processes.
    pub(crate) processes: Vec<Process>,
    /// Its cgroups.
    pub(crate) cgroups: Vec<Cgroup>,
    /// The sum.
    pub(crate) done: Done,
}

impl Made {
    /// Its only process of that role.
    pub(crate) fn only(&self, role: Role) -> &Process {
        let mut found = self.processes.iter().filter(|process| process.role == role);
        let process = found.next().unwrap_or_else(|| panic!("no {role:?} in {self:?}"));
        assert_eq!(found.next(), None);
        process
    }

    /// Whether it had a process of that role.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.processes.iter().any(|process| process.role == role)
    }

    /// The cgroup with that path.
    pub(crate) fn cgroup(&self, path: &str) -> &Cgroup {
        self.cgroups.iter().find(|cgroup| cgroup.path == path).unwrap_or_else(|| panic!("no {path} in {self:?}"))
    }
}

/// A run whose survivors and cgroups are still there. Dropping it ends them.
pub(crate) struct Held {
    /// What it did.
    pub(crate) made: Made,
    child: Child,
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "oom-maker ended with {status}");
    }
}

/// Runs oom-maker with these arguments, separated by spaces.
pub(crate) fn make(arguments: &str) -> Made {
    make_if_possible(arguments).unwrap_or_else(|why| panic!("oom-maker {arguments}: {why}"))
}

/// The same where the kernel may not have what it needs: then says what.
pub(crate) fn make_if_possible(arguments: &str) -> Result<Made, String> {
    hold_if_possible(arguments).map(|held| held.made.clone())
}

/// Runs oom-maker and keeps survivors and cgroups until the result is dropped.
pub(crate) fn make_and_hold(arguments: &str) -> Held {
    hold_if_possible(arguments).unwrap_or_else(|why| panic!("oom-maker {arguments}: {why}"))
}

/// The same where the kernel may not have what it needs: then says what.
pub(crate) fn hold_if_possible(arguments: &str) -> Result<Held, String> {
    let program = program();
    let mut command = Command::new(&program);
    command
        .arg("--hold")
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
    let (mut processes, mut cgroups) = (Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            Line::Process(process) => processes.push(process),
            Line::Cgroup(cgroup) => cgroups.push(cgroup),
            Line::Done(done) => return Ok(Held { made: Made { processes, cgroups, done }, child }),
            Line::Absent { why } => {
                drop(child.stdin.take());
                child.wait().unwrap();
                return Err(why);
            }
        }
    }
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    panic!("oom-maker {arguments} ended with {}: {message}", child.wait().unwrap());
}

/// The one that `OOM_MAKER_BIN` names. Else cargo builds examples beside the directory of the tests; but not when it is
/// asked for one test program only.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("OOM_MAKER_BIN") {
        // Whoever names one knows how old it is.
        return PathBuf::from(named);
    }
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/oom-maker");
    let built = modified(&program).unwrap_or_else(|| panic!("{} is missing: {BUILD}", program.display()));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in SOURCES {
        // Where the tests were copied to another machine there are no sources.
        assert!(
            modified(&sources.join(source)).is_none_or(|changed| changed <= built),
            "oom-maker is older than {source}: {BUILD}"
        );
    }
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}
