//! Several cgroups: many at once, a limit above the victim's cgroup, and groups that die as a whole.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::{Result, bail};

use super::{LEVEL, await_ready, exceed, fill, idle, ready, root_limit};
use crate::stage::Stage;
use crate::{Mode, Naming, names};
use oom_watcher_testkit::kills::report::Role;

pub(super) fn burst(stage: &mut Stage, kills: u32, number: u32, naming: Naming, concurrency: u32) -> Result<Instant> {
    let limit = stage.limit;
    let mut cgroups = Vec::new();
    for index in 0..u64::from(number) {
        let (path, container) = match naming {
            Naming::Kubernetes => names::kubernetes(stage.seed, index),
            Naming::Plain => (format!("burst-{index}"), None),
        };
        cgroups.push(stage.make(&path, Some(limit), container)?);
    }
    let begin = Instant::now();
    for (started, cgroup) in cgroups.into_iter().cycle().take(kills as usize).enumerate() {
        if started >= concurrency as usize {
            stage.wait_any()?;
        }
        stage.start(Role::Victim, cgroup, || exceed(limit))?;
    }
    for _ in 0..kills.min(concurrency) {
        stage.wait_any()?;
    }
    Ok(begin)
}

pub(super) fn foreign(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    stage.make("foreign", Some(limit), None)?;
    let (big, small) = (stage.make("foreign/victim", None, None)?, stage.make("foreign/trigger", None, None)?);
    let begin = Instant::now();
    let (reader, writer) = io::pipe()?;
    let victim = stage.start(Role::Victim, big, move || {
        fill(limit / 4 * 3)?;
        ready(writer)?;
        idle()
    })?;
    await_ready(reader, 1)?;
    let trigger = stage.start(Role::Trigger, small, || fill(limit / 2))?;
    stage.wait(victim)?;
    stage.wait(trigger)?;
    Ok(begin)
}

/// The limit of `a` is hit by a process in `a/b/c`: once with no limit below `a`, once with larger ones.
pub(super) fn nested(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit + 3 * LEVEL;
    let mut victims = Vec::new();
    for (name, larger) in [("bare", None), ("limited", Some(limit * 2))] {
        stage.make(&format!("{name}/a"), Some(limit), None)?;
        stage.make(&format!("{name}/a/b"), larger.map(|larger| larger * 2), None)?;
        victims.push(stage.make(&format!("{name}/a/b/c"), larger, None)?);
    }
    let begin = Instant::now();
    for cgroup in victims {
        let pid = stage.start(Role::Victim, cgroup, || exceed(limit))?;
        stage.wait(pid)?;
    }
    Ok(begin)
}

pub(super) fn deep(stage: &mut Stage, levels: u32, name_bytes: u32, naming: Naming) -> Result<Instant> {
    let limit = root_limit(&Mode::Deep { levels, name_bytes, names: naming }, stage.limit).unwrap_or(stage.limit);
    let (end, container) = match naming {
        Naming::Kubernetes => names::kubernetes(stage.seed, 0),
        Naming::Plain => ("victim".to_owned(), None),
    };
    let end: Vec<&str> = end.split('/').filter(|name| !name.is_empty()).collect();
    let Some(above) = (levels as usize).checked_sub(end.len()) else {
        bail!("{} levels at least for these names", end.len())
    };
    let long = (0..above).map(|level| format!("{:x<width$}", format!("level-{level}-"), width = name_bytes as usize));
    let path: Vec<String> = long.chain(end.iter().map(|name| (*name).to_owned())).collect();
    let cgroup = stage.make(&path.join("/"), None, container)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || exceed(limit))?;
    stage.wait(pid)?;
    Ok(begin)
}

pub(super) fn group(stage: &mut Stage, members: u32) -> Result<Option<Instant>> {
    let limit = stage.limit;
    let cgroup = stage.make("group", Some(limit), None)?;
    if !stage.cgroup(cgroup)?.set_oom_group()? {
        return Ok(None);
    }
    let begin = Instant::now();
    let (reader, writer) = io::pipe()?;
    for _ in 1..members {
        let writer = writer.try_clone()?;
        stage.start(Role::Victim, cgroup, move || {
            ready(writer)?;
            idle()
        })?;
    }
    drop(writer);
    await_ready(reader, members - 1)?;
    stage.start(Role::Victim, cgroup, || exceed(limit))?;
    for _ in 0..members {
        stage.wait_any()?;
    }
    Ok(Some(begin))
}

/// Two groups of so many that exceed their limits at the same time.
pub(super) fn groups(stage: &mut Stage, members: u32) -> Result<Option<Instant>> {
    let limit = stage.limit;
    let cgroups = [stage.make("first", Some(limit), None)?, stage.make("second", Some(limit), None)?];
    for cgroup in cgroups {
        if !stage.cgroup(cgroup)?.set_oom_group()? {
            return Ok(None);
        }
    }
    let begin = Instant::now();
    let ((reader, writer), (go, mut go_writer)) = (io::pipe()?, io::pipe()?);
    for member in 0..members {
        for cgroup in cgroups {
            let (writer, go) = (writer.try_clone()?, go.try_clone()?);
            stage.start(Role::Victim, cgroup, move || {
                ready(writer)?;
                if member > 0 {
                    return idle();
                }
                await_ready(go, 1)?;
                exceed(limit)
            })?;
        }
    }
    drop(writer);
    await_ready(reader, 2 * members)?;
    go_writer.write_all(b"..")?;
    for _ in 0..2 * members {
        stage.wait_any()?;
    }
    Ok(Some(begin))
}
