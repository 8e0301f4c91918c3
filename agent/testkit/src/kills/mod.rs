//! Runs oom-maker and reads what it tells.

pub mod report;

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use crate::root;

use report::{Cgroup, Done, Line, Process, Role};

/// What oom-maker is made of: files and folders, from the root.
const SOURCES: [&str; 4] = [
    "agent/examples/oom-maker",
    "agent/src/cgroups/hierarchy.rs",
    "agent/src/selftest/scratch.rs",
    "agent/testkit/src/kills/report.rs",
];
const BUILD: &str = "run `cargo build --package oom-watcher --example oom-maker` first, or all of `cargo test`";

/// What one run of oom-maker did.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its processes.
    pub processes: Vec<Process>,
    /// Its cgroups.
    pub cgroups: Vec<Cgroup>,
    /// The sum.
    pub done: Done,
}

impl Made {
    /// Its only process of that role.
    pub fn only(&self, role: Role) -> &Process {
        let mut found = self.processes.iter().filter(|process| process.role == role);
        let process = found.next().unwrap_or_else(|| panic!("no {role:?} in {self:?}"));
        assert_eq!(found.next(), None);
        process
    }

    /// Whether it had a process of that role.
    pub fn has(&self, role: Role) -> bool {
        self.processes.iter().any(|process| process.role == role)
    }

    /// The cgroup with that path.
    pub fn cgroup(&self, path: &str) -> &Cgroup {
        self.cgroups.iter().find(|cgroup| cgroup.path == path).unwrap_or_else(|| panic!("no {path} in {self:?}"))
    }
}

/// A run whose survivors and cgroups are still there. Dropping it ends them.
pub struct Held {
    /// What it did.
    pub made: Made,
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
pub fn make(arguments: &str) -> Made {
    make_if_possible(arguments).unwrap_or_else(|why| panic!("oom-maker {arguments}: {why}"))
}

/// The same where the kernel may not have what it needs: then says what.
pub fn make_if_possible(arguments: &str) -> Result<Made, String> {
    hold_if_possible(arguments).map(|held| held.made.clone())
}

/// Runs oom-maker and keeps survivors and cgroups until the result is dropped.
pub fn make_and_hold(arguments: &str) -> Held {
    hold_if_possible(arguments).unwrap_or_else(|why| panic!("oom-maker {arguments}: {why}"))
}

/// The same where the kernel may not have what it needs: then says what.
pub fn hold_if_possible(arguments: &str) -> Result<Held, String> {
    let program = find_program().unwrap_or_else(|why| panic!("{why}"));
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

/// oom-maker: the one that `OOM_MAKER_BIN` names. Else cargo builds examples beside the directory of the tests; but not
/// when it is asked for one test program only.
///
/// # Errors
/// It is missing, or older than its sources.
pub fn find_program() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("OOM_MAKER_BIN") {
        // Whoever names one knows how old it is.
        let program = PathBuf::from(named);
        let missing = || format!("{} is missing: OOM_MAKER_BIN names it", program.display());
        return if program.exists() { Ok(program) } else { Err(missing()) };
    }
    let this = std::env::current_exe().unwrap();
    let profile = this.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap();
    let program = profile.join("examples/oom-maker");
    let built = changed(&program).map_err(|error| format!("{}: {error}: {BUILD}", program.display()))?;
    // Where the tests were copied to another machine there are no sources.
    let is_newer = |source: &&&str| changed(&root().join(source)).is_ok_and(|changed| built < changed);
    match SOURCES.iter().find(is_newer) {
        None => Ok(program),
        Some(source) => Err(format!("{} is older than {source}: {BUILD}", program.display())),
    }
}

/// When a file was changed last, or a file in that folder.
fn changed(path: &Path) -> io::Result<SystemTime> {
    let metadata = fs::metadata(path)?;
    let mut last = metadata.modified()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            last = last.max(changed(&entry?.path())?);
        }
    }
    Ok(last)
}
