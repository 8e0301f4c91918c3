//! The body of a log record: one sentence that a person understands without the attributes.
//!
//! What is not known is left out.

use crate::kill::{Incident, Kill, KubernetesOwner, LimitHit, Owner, Scope, Why};
use crate::record::series::short_id;
use crate::record::{attributes, levels};

/// Who was killed, why, how large it was, who triggered it and what became of its container.
pub(super) fn sentence(kill: &Kill, owner: &Owner, incident: &Incident) -> String {
    let parts = [
        Some(format!(
            "The OOM killer killed {}{}{}",
            process(&kill.victim.command, kill.victim.pid),
            of(kill, owner),
            because(incident)
        )),
        kill.victim.memory.resident().map(|resident| format!("the process itself held {}", size(resident))),
        triggered(kill, owner),
        aftermath(kill, owner),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn of(kill: &Kill, owner: &Owner) -> String {
    of_owner(owner, kill.cgroup_path.as_deref())
}

/// ` of container app in pod shop/web-1`
pub(super) fn of_owner(owner: &Owner, cgroup_path: Option<&str>) -> String {
    match owner {
        Owner::Kubernetes(owner) => of_pod(owner),
        Owner::Container { runtime, id } => {
            let runtime = runtime.map(|runtime| format!("{} ", runtime.as_str())).unwrap_or_default();
            format!(" of {runtime}container {}", short_id(id))
        }
        Owner::Unit { name } => format!(" of {}", printable(name)),
        Owner::Unknown { why } => match cgroup_path {
            Some(path) => format!(" in cgroup {}", printable(path)),
            None => format!(" of an unknown owner ({})", why.as_str()),
        },
    }
}

fn of_pod(owner: &KubernetesOwner) -> String {
    let named = owner.container().map(|container| container.name.as_str());
    let container = named.or(owner.container_id.as_deref().map(short_id));
    let pod = match &owner.pod {
        Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
        None => format!("the pod with uid {}", owner.pod_uid),
    };
    match container {
        Some(container) => format!(" of container {container} in {pod}"),
        None if owner.why_no_container == Some(Why::Removed) => format!(" in {pod}"),
        None => format!(" in {pod}, outside of its containers,"),
    }
}

/// ` because its container used 256.0 MiB of its limit of 256.0 MiB`
fn because(incident: &Incident) -> String {
    let Some(hit) = &incident.limit else {
        return match incident.scope {
            Scope::Node => " because the node ran out of memory".to_owned(),
            _ => "; whose limit was hit is not known".to_owned(),
        };
    };
    let whose = match incident.scope {
        Scope::Container => "its container".to_owned(),
        Scope::Pod => "its pod".to_owned(),
        Scope::Kubepods => format!("the pods of {} together", cgroup(hit)),
        Scope::Cgroup | Scope::Node => cgroup(hit),
        Scope::Unknown => "a cgroup above it".to_owned(),
    };
    match (hit.usage, hit.limit) {
        (Some(usage), Some(limit)) => format!(" because {whose} used {} of the limit of {}", size(usage), size(limit)),
        (None, Some(limit)) => format!(" because {whose} reached the limit of {}", size(limit)),
        (Some(usage), None) => format!(" because {whose} reached its limit with {}", size(usage)),
        (None, None) => format!(" because {whose} reached its limit"),
    }
}

fn cgroup(hit: &LimitHit) -> String {
    hit.cgroup_path.as_deref().map_or_else(|| "a cgroup".to_owned(), |path| format!("cgroup {}", printable(path)))
}

/// Absent if the victim triggered it itself.
fn triggered(kill: &Kill, owner: &Owner) -> Option<String> {
    if kill.trigger.pid == kill.victim.pid {
        return None;
    }
    let path = kill.trigger.cgroup_path.as_deref();
    let place = match (path, levels::container_id(owner)) {
        (Some(path), Some(id)) if path.contains(id) => "",
        (Some(_), Some(_)) => " outside of its container",
        (Some(path), None) if kill.cgroup_path.as_deref().is_some_and(|own| own != path) => " in another cgroup",
        _ => "",
    };
    Some(format!("an allocation by {}{place} triggered it", process(&kill.trigger.command, kill.trigger.pid)))
}

/// What became of the other processes, and of the container.
fn aftermath(kill: &Kill, owner: &Owner) -> Option<String> {
    if levels::whole_container(kill, owner) {
        return Some("all processes of its container were killed".to_owned());
    }
    let group = levels::group(kill).map(|level| match levels::path(kill, level) {
        Some(path) => format!("all processes of cgroup {} were killed", printable(&path)),
        None => "all processes of its cgroup were killed".to_owned(),
    });
    let container = match attributes::container_survived(kill, owner) {
        Some(true) => Some("its container keeps running".to_owned()),
        Some(false) => Some("its container ends with it".to_owned()),
        None => None,
    };
    let known: Vec<String> = group.into_iter().chain(container).collect();
    (!known.is_empty()).then(|| known.join("; "))
}

/// `python3 (pid 42)`
fn process(command: &str, pid: u32) -> String {
    if command.is_empty() {
        format!("the process with pid {pid}")
    } else {
        format!("{} (pid {pid})", printable(command))
    }
}

/// Any process may put line ends and escape sequences into its name; the sentence is one line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// With one decimal, in GiB from 1 GiB on, in KiB below 1 MiB, else in MiB.
fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    if kib < KIB {
        format!("{kib:.1} KiB")
    } else if kib < KIB * KIB {
        format!("{:.1} MiB", kib / KIB)
    } else {
        format!("{:.1} GiB", kib / KIB / KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::{Memory, Pod, Runtime};
    use crate::record::sample::{self, CONTAINER_ID, MIB, POD_UID, level};

    fn check(kill: &Kill, owner: &Owner, expected: &str) {
        assert_eq!(sentence(kill, owner, &sample::incident(kill, owner)), expected);
    }

    /// A process of a service of the host, whose limit was hit.
    fn service() -> (Kill, Owner) {
        let mut kill = sample::kill();
        kill.cgroups = vec![
            level("nginx.service", 64 * MIB, Some(64 * MIB)),
            level("system.slice", 900 * MIB, None),
            level("", 6000 * MIB, None),
        ];
        kill.cgroup_path = Some("/system.slice/nginx.service".to_owned());
        kill.trigger.cgroup_path = kill.cgroup_path.clone();
        (kill.victim.command, kill.victim.in_host_pid_namespace) = ("nginx".to_owned(), true);
        (kill, Owner::Unit { name: "nginx.service".to_owned() })
    }

    #[test]
    fn a_child_process_of_a_container() {
        let expected = "The OOM killer killed python3 (pid 4242) of container app in pod shop/web-1 because its \
            container used 256.0 MiB of the limit \
                        of 256.0 MiB; the process itself held 204.0 MiB; its container keeps running";
        check(&sample::kill(), &sample::container("app"), expected);
    }

    #[test]
    fn the_first_process_of_a_container() {
        let mut kill = sample::kill();
        kill.victim.namespace_pid = Some(1);
        let expected = "The OOM killer killed python3 (pid 4242) of container app in pod shop/web-1 because its \
            container used 256.0 MiB of the limit \
                        of 256.0 MiB; the process itself held 204.0 MiB; its container ends with it";
        check(&kill, &sample::container("app"), expected);
    }

    #[test]
    fn a_systemd_unit() {
        let (kill, owner) = service();
        let expected = "The OOM killer killed nginx (pid 4242) of nginx.service because cgroup \
            /system.slice/nginx.service used 64.0 MiB of the limit of 64.0 MiB; the process itself held 204.0 MiB";
        check(&kill, &owner, expected);
    }

    #[test]
    fn an_unknown_owner() {
        let kill = sample::without_names();
        let expected = "The OOM killer killed python3 (pid 4242) of an unknown owner (no_path) because a cgroup above \
            it used 256.0 MiB of the limit of 256.0 MiB; the process itself held 204.0 MiB";
        check(&kill, &Owner::Unknown { why: Why::NoPath }, expected);
        let (mut kill, _) = service();
        kill.cgroups.clear();
        kill.victim.memory = Memory::default();
        let expected = "The OOM killer killed nginx (pid 4242) in cgroup /system.slice/nginx.service; whose limit was \
            hit is not known";
        check(&kill, &Owner::Unknown { why: Why::Mount }, expected);
    }

    #[test]
    fn a_machine_that_ran_out() {
        let mut kill = sample::kill();
        sample::node_out_of_memory(&mut kill);
        kill.victim.memory = sample::memory(3 * 1024);
        let expected = "The OOM killer killed python3 (pid 4242) of container app in pod shop/web-1 because the node \
            ran out of memory; the process itself held 3.0 GiB; its container keeps running";
        check(&kill, &sample::container("app"), expected);
    }

    #[test]
    fn a_trigger_in_another_container() {
        let mut kill = sample::kill();
        (kill.trigger.pid, kill.trigger.command) = (99, "java".to_owned());
        let trigger =
            |kill: &Kill| sentence(kill, &sample::container("app"), &sample::incident(kill, &sample::container("app")));
        assert!(
            trigger(&kill).contains("; an allocation by java (pid 99) triggered it; "),
            "its own container: {}",
            trigger(&kill)
        );
        kill.trigger.cgroup_path = Some("/kubepods.slice/cri-containerd-0.scope".to_owned());
        assert!(
            trigger(&kill).contains("; an allocation by java (pid 99) outside of its container triggered it; "),
            "{}",
            trigger(&kill)
        );
        kill.trigger.cgroup_path = None;
        assert!(
            trigger(&kill).contains("; an allocation by java (pid 99) triggered it; "),
            "not known: {}",
            trigger(&kill)
        );
        let (mut kill, owner) = service();
        (kill.trigger.pid, kill.trigger.cgroup_path) = (99, Some("/user.slice".to_owned()));
        assert!(
            sentence(&kill, &owner, &sample::incident(&kill, &owner))
                .ends_with("(pid 99) in another cgroup triggered it")
        );
    }

    #[test]
    fn a_group_kill() {
        let mut kill = sample::kill();
        kill.cgroups[0].oom_group = Some(true);
        let expected = "The OOM killer killed python3 (pid 4242) of container app in pod shop/web-1 because its \
            container used 256.0 MiB of the limit \
                        of 256.0 MiB; the process itself held 204.0 MiB; all processes of its container were killed";
        check(&kill, &sample::container("app"), expected);
        kill.victim.namespace_pid = Some(1);
        check(&kill, &sample::container("app"), expected);
        let mut kill = sample::kill();
        kill.cgroups.insert(0, level("worker", 256 * MIB, Some(256 * MIB)));
        (kill.cgroups[0].oom_group, kill.cgroup_path) = (Some(true), Some("/c/worker".to_owned()));
        let text = sentence(&kill, &sample::container("app"), &sample::incident(&kill, &sample::container("app")));
        assert!(
            text.ends_with("; all processes of cgroup /c/worker were killed; its container keeps running"),
            "{text}"
        );
        let (mut kill, owner) = service();
        kill.cgroups[0].oom_group = Some(true);
        let text = sentence(&kill, &owner, &sample::incident(&kill, &owner));
        assert!(text.ends_with("; all processes of cgroup /system.slice/nginx.service were killed"), "{text}");
    }

    #[test]
    fn the_limit_of_a_pod_of_all_pods_or_of_another_cgroup() {
        let because = |full: usize| {
            let mut kill = sample::kill();
            kill.cgroups[0].usage = Some(MIB);
            kill.cgroups[full].usage = kill.cgroups[full].limit;
            because(&sample::incident(&kill, &sample::container("app")))
        };
        assert_eq!(because(1), " because its pod used 1.0 GiB of the limit of 1.0 GiB");
        assert_eq!(
            because(3),
            " because the pods of cgroup /kubepods.slice together used 13.7 GiB of the limit of 13.7 GiB"
        );
    }

    #[test]
    fn owners_without_names_are_told_by_their_ids() {
        let pod_level = KubernetesOwner { container_id: None, ..sample::kubernetes() };
        let pod = Some(Box::new(Pod { container: None, ..sample::pod("app") }));
        let rows = [
            (
                Owner::Kubernetes(sample::kubernetes()),
                format!(" of container 5c1b9a3b1f0d in the pod with uid {POD_UID}"),
            ),
            (
                Owner::Kubernetes(KubernetesOwner { pod: pod.clone(), ..sample::kubernetes() }),
                " of container 5c1b9a3b1f0d in pod shop/web-1".to_owned(),
            ),
            (
                Owner::Kubernetes(KubernetesOwner { pod, ..pod_level }),
                " in pod shop/web-1, outside of its containers,".to_owned(),
            ),
            (
                Owner::Container { runtime: Some(Runtime::Docker), id: CONTAINER_ID.to_owned() },
                " of docker container 5c1b9a3b1f0d".to_owned(),
            ),
        ];
        for (owner, expected) in rows {
            assert_eq!(of(&sample::kill(), &owner), expected);
        }
    }

    #[test]
    fn a_process_cannot_break_the_line() {
        let mut kill = sample::kill();
        kill.victim.command = "a\nb\u{1b}[31mé \"c".to_owned();
        let text = sentence(&kill, &sample::container("app"), &sample::incident(&kill, &sample::container("app")));
        assert!(text.starts_with("The OOM killer killed a\u{fffd}b\u{fffd}[31mé \"c (pid 4242) of"), "{text}");
        kill.victim.command.clear();
        assert!(
            sentence(&kill, &sample::container("app"), &sample::incident(&kill, &sample::container("app")))
                .contains("killed the process with pid 4242")
        );
    }

    #[test]
    fn sizes_have_one_decimal() {
        let rows = [
            (0, "0.0 KiB"),
            (4096, "4.0 KiB"),
            (MIB, "1.0 MiB"),
            (256 * MIB + MIB / 2, "256.5 MiB"),
            (1024 * MIB, "1.0 GiB"),
            (1536 * MIB, "1.5 GiB"),
        ];
        for (bytes, expected) in rows {
            assert_eq!(size(bytes), expected);
        }
    }
}
