//! Makes OOM kills of many shapes in memory cgroups of its own, and tells on standard output what it did: one JSON
//! object per line (`told.rs`).
//!
//! It has one thread, so that it may fork; threads are made in the children only. If it is killed its children die with
//! it, but its cgroups stay.

mod modes;
mod names;
mod stage;

use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use oom_watcher_testkit::kills::report::{Done, End, Line, Role};

use crate::stage::Stage;

/// Makes OOM kills in memory cgroups of its own.
#[derive(Parser)]
struct Options {
    /// Where its cgroups are [default: /oom-watcher-test-PID]. Must not exist.
    #[arg(long, global = true)]
    root: Option<String>,
    /// The memory limit of a cgroup, in KiB.
    #[arg(long = "limit-kib", global = true, default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u64).range(512..=65536))]
    limit: u64,
    /// Chooses the random names.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Keep survivors and cgroups until standard input ends.
    #[arg(long, global = true)]
    hold: bool,
    #[command(subcommand)]
    mode: Mode,
}

/// The shapes.
#[derive(Subcommand)]
enum Mode {
    /// One process in one cgroup.
    One,
    /// One process in the cgroup with this path below the root.
    At { path: String },
    /// One process of so many threads, all of them allocating.
    Threads {
        #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
        threads: u32,
    },
    /// A parent that survives as the first process of a container, and its child that is killed.
    Tree,
    /// So many processes, each in its own cgroup or all in one, as fast as possible.
    Burst {
        #[arg(value_parser = clap::value_parser!(u32).range(1..=4000))]
        kills: u32,
        /// How the cgroups are named.
        #[arg(long, value_enum, default_value_t = Naming::Kubernetes)]
        names: Naming,
        /// How many processes live at once.
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
        concurrency: u32,
        /// All of them in one cgroup, which their limit is then for together.
        #[arg(long)]
        one_cgroup: bool,
    },
    /// Processes at their limit, killed by a signal from here: what their threads allocate while they die makes the
    /// kernel mark them. It is no OOM kill.
    Dying {
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
        threads: u32,
    },
    /// One limit above two cgroups: a big idle victim in one, a small trigger in the other.
    Foreign,
    /// The main thread is gone when a worker allocates.
    Leader,
    /// Two processes that share their memory: the one that is killed takes the other one along.
    Sibling,
    /// The first process of a pid namespace, that takes along so many others.
    Pid1 {
        #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
        siblings: u32,
    },
    /// So many processes that the kernel kills at once (`memory.oom.group`).
    Group {
        #[arg(value_parser = clap::value_parser!(u32).range(2..=64))]
        members: u32,
    },
    /// Two such groups, each of so many processes, at the same time.
    Groups {
        #[arg(value_parser = clap::value_parser!(u32).range(2..=32))]
        members: u32,
    },
    /// Victims two levels below the limit that is hit: with and without limits of their own that are not.
    Nested,
    /// The machine runs out of memory, and a process in a cgroup near its limit is killed. Only with
    /// OOM_WATCHER_GUEST=1.
    Global {
        /// The trigger is in the victim's cgroup, but what it takes is charged to another one.
        #[arg(long)]
        beside: bool,
    },
    /// A victim so many levels below the limit, which is that of the root.
    Deep {
        #[arg(value_parser = clap::value_parser!(u32).range(1..=60))]
        levels: u32,
        /// Bytes of each level's name.
        #[arg(long, default_value_t = 255, value_parser = clap::value_parser!(u32).range(8..=255))]
        name_bytes: u32,
        /// How the last levels are named.
        #[arg(long, value_enum, default_value_t = Naming::Plain)]
        names: Naming,
    },
}

/// How cgroups are named.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Naming {
    /// As kubelet and the container runtimes do, in all their ways.
    Kubernetes,
    /// After the mode.
    Plain,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let root = options.root.clone().unwrap_or_else(|| format!("/oom-watcher-test-{}", std::process::id()));
    let limit = options.limit << 10;
    let mut stage = Stage::new(&root, limit, options.seed, modes::root_limit(&options.mode, limit))?;
    let seconds = modes::perform(&mut stage, &options.mode)?;
    tell(&stage, seconds)?;
    if options.hold {
        io::copy(&mut io::stdin(), &mut io::sink())?;
    }
    Ok(())
}

fn tell(stage: &Stage, seconds: Option<f64>) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut line = |line: Line| -> Result<()> { Ok(writeln!(out, "{}", serde_json::to_string(&line)?)?) };
    let Some(seconds) = seconds else {
        return line(Line::Absent { why: "memory.oom.group needs cgroup v2".to_owned() });
    };
    let cgroups = stage.told()?;
    let killed = |of: &[Role]| {
        stage.processes.iter().filter(|p| of.contains(&p.role) && p.end == Some(End::Signal(libc::SIGKILL))).count()
            as u64
    };
    let siblings = killed(&[Role::Sibling]);
    let collateral = killed(&[Role::Collateral]) + siblings.saturating_sub(1);
    let killed = killed(&[Role::Victim, Role::Parent, Role::Trigger]) + siblings.min(1);
    let kernel_kills = cgroups.iter().map(|cgroup| cgroup.kernel_kills).sum();
    if stage.processes.iter().any(|process| matches!(process.end, Some(End::Code(code)) if code != 0)) {
        bail!("a process failed by itself: {:?}", stage.processes);
    }
    for process in &stage.processes {
        line(Line::Process(process.clone()))?;
    }
    for cgroup in cgroups {
        line(Line::Cgroup(cgroup))?;
    }
    line(Line::Done(Done { killed, collateral, kernel_kills, vmstat_kills: stage.vmstat_kills()?, seconds }))
}
