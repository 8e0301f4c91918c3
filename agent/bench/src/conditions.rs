//! What a measurement needs of the machine: all of it is checked before anything is measured, and what is missing is
//! reported at once, with what to do about it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::try_within;
use oom_watcher_testkit::{agent, kills, needs};

use crate::programs;

/// The kernel frees the programs of an agent that has ended within this.
const FREED_WITHIN: Duration = Duration::from_secs(2);

/// What one command needs beside what all do.
#[derive(Default)]
pub(crate) struct Conditions<'a> {
    /// The programs of others that take part.
    pub(crate) servers: Servers,
    /// Where the results go.
    pub(crate) outputs: Vec<&'a Path>,
    /// Files that are open at once, in this process or in a server.
    pub(crate) open_files: u64,
}

/// Real servers that take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Servers {
    /// None.
    #[default]
    None,
    /// Those of the ring "cluster".
    Cluster,
    /// Those and the back ends of the ring "stack".
    Stack,
}

impl Conditions<'_> {
    /// All that is missing, and what to do about it. Nothing: it can be measured.
    pub(crate) fn problems(&self) -> Vec<String> {
        // Of an agent that has just ended, the kernel frees the programs a moment later.
        let alone = try_within(FREED_WITHIN, alone);
        let mut found = vec![kills(), probe_inside(), alone, self.servers(), self.open_files()];
        found.push(kills::find_program().map(drop));
        found.extend(self.outputs.iter().map(|file| writable(file)));
        found.into_iter().filter_map(Result::err).collect()
    }

    fn servers(&self) -> Result<(), String> {
        let (found, get) = match self.servers {
            Servers::None => return Ok(()),
            Servers::Cluster => (Programs::find(), "agent/tests/servers/get"),
            Servers::Stack => (Programs::find_stack(), "agent/tests/servers/get --stack"),
        };
        found.map(drop).map_err(|why| format!("{why}: run `{get}`, or leave out the parts that need them (ONLY=…)"))
    }

    /// Allows this process and its children as many as it may have.
    fn open_files(&self) -> Result<(), String> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: it outlives the call.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        let (needed, most) = (self.open_files, limit.rlim_max);
        if most < needed {
            return Err(format!(
                "{needed} open files are needed and {most} allowed: raise the limit (`ulimit -Hn {needed}`), or ask \
                 for fewer nodes"
            ));
        }
        limit.rlim_cur = most;
        // SAFETY: it outlives the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        Ok(())
    }
}

/// Real kills can be made.
fn kills() -> Result<(), String> {
    let remedy = "run it as root, where memory cgroups can be made";
    needs::cgroups().map_err(|why| format!("no real kills can be made: {why}: {remedy}"))
}

/// The agent that is measured has its probe.
fn probe_inside() -> Result<(), String> {
    let program = agent::find_program()?;
    let output = Command::new(&program).arg("--version").output();
    let output = output.map_err(|error| format!("starting {}: {error}: `make build` builds it", program.display()))?;
    if String::from_utf8_lossy(&output.stdout).contains("(probe none)") {
        return Err(format!("{} has no eBPF probe inside: `make build` builds one that has", program.display()));
    }
    Ok(())
}

/// No other agent's probe is attached: its programs would be counted for those that are measured, and slow kills down.
fn alone() -> Result<(), String> {
    let held = programs::held();
    if held.is_empty() {
        return Ok(());
    }
    let names = held.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let holders = held.values().flatten().map(String::as_str).collect::<BTreeSet<_>>();
    let holders = holders.into_iter().collect::<Vec<_>>().join(", ");
    Err(if holders.is_empty() {
        format!(
            "another oom-watcher is attached on this machine (programs {names}), and no process here has them open: \
             stop the one in another container, or remove what it left pinned (`oom-watcher detach`)"
        )
    } else {
        format!("another oom-watcher is attached on this machine (programs {names}): stop process {holders}")
    })
}

/// The file can be written. Nothing in it changes.
fn writable(file: &Path) -> Result<(), String> {
    let opened = File::options().create(true).append(true).open(file);
    opened.map(drop).map_err(|error| format!("{} cannot be written: {error}: name another file", file.display()))
}

#[cfg(test)]
mod tests {
    use super::Conditions;
    use std::path::Path;

    #[test]
    fn all_that_is_missing_is_reported_at_once_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let [good, bad] = ["good.json", "no/such/folder.json"].map(|name| folder.path().join(name));
        let outputs: Vec<&Path> = vec![&good, &bad];
        let problems = Conditions { outputs, open_files: u64::MAX, ..Conditions::default() }.problems();
        let has = |words: &str| problems.iter().any(|problem| problem.contains(words));
        assert!(has("no/such/folder.json cannot be written: No such file or directory"), "{problems:?}");
        assert!(has("open files are needed") && has("ulimit -Hn"), "{problems:?}");
        assert!(!has("good.json"), "{problems:?}");
    }
}
