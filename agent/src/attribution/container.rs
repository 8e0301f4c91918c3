//! Reads the owner of a process out of its cgroup path. Pure, and total: every text has an owner, at worst an unknown
//! one.
//!
//! Absent: names, which no path has, and a choice between two pods in one path (a cluster inside a pod): the inner pod
//! is taken, unless who asks knows better.
//!
//! The rule. From the leaf up, the first segment with `pod` and a UUID or 32 hexadecimal digits is the pod. The
//! container's id is in the same segment after a `:`, or else in the segment right below it; what is deeper was made
//! inside of the container. Without a pod, a leaf that is a service, a mount or `init.scope` belongs to the host, and
//! everything else to the nearest segment that ends in an id. So the id of a node that is itself a container (kind,
//! minikube) is never taken for a pod's container.

use crate::kill::{KubernetesOwner, Owner, Qos, Runtime, Why};

/// Hexadecimal digits of a container's id.
const ID_LENGTH: usize = 64;

/// Cgroups in which a runtime without systemd makes those of its containers.
const RUNTIME_CGROUPS: [&str; 6] = ["actions_job", "docker", "ecs", "k8s.io", "kata_overhead", "libpod_parent"];

/// An owner, and what in the path decided it.
pub(super) struct Reading<'a> {
    pub(super) owner: Owner,
    /// The segment that names the pod.
    pub(super) pod: Option<&'a str>,
    /// The segment that names the container or makes it the host's, or that should have named a container. Absent if
    /// nothing looked like one.
    pub(super) decisive: Option<&'a str>,
}

/// The owner of a process in the cgroup at `path`. `path_cut`: the path lacks its beginning.
pub fn owner(path: Option<&str>, path_cut: bool) -> Owner {
    read(path, path_cut).owner
}

pub(super) fn read(path: Option<&str>, path_cut: bool) -> Reading<'_> {
    let Some(path) = path.map(undeleted).filter(|path| !path.is_empty()) else {
        return Reading::unknown(Why::NoPath, None);
    };
    if segments(path).next().is_none() {
        // `/..` is what a reader in a cgroup namespace sees of its parent: no root.
        let cut = path_cut || path.contains("..");
        return Reading::unknown(if cut { Why::PathCut } else { Why::RootCgroup }, None);
    }
    let reading = in_pod(path).unwrap_or_else(|| outside_pods(path));
    match reading.owner {
        // What was cut away may have been a pod.
        Owner::Unit { .. } | Owner::Unknown { .. } if path_cut => Reading::unknown(Why::PathCut, reading.decisive),
        _ => reading,
    }
}

/// The owner if a segment of `path` names a pod.
fn in_pod(path: &str) -> Option<Reading<'_>> {
    let mut below = None;
    let mut upwards = segments(path).rev();
    let (pod, uid, rest) = loop {
        let segment = upwards.next()?;
        if let Some((uid, rest)) = pod_uid(segment) {
            break (segment, uid, rest);
        }
        below = Some(segment);
    };
    // The kubelet puts a pod right below `kubepods`, or below a level of its class.
    let qos = qos(std::iter::once(pod).chain(upwards.take(2)));
    // systemd's form of a name, as a directory: `kubepods-pod<uid>.slice:cri-containerd:<id>`.
    let (candidate, decisive) = match rest.strip_prefix(':') {
        Some(tail) => (Some(tail), Some(pod)),
        None => (below, below),
    };
    let (runtime, container) = match candidate {
        None => (None, Err(Why::PodLevel)),
        Some(name) if is_monitor(name) => (runtime_of(name), Err(Why::ContainerMonitor)),
        Some(name) if name.ends_with(".mount") => (None, Err(Why::Mount)),
        Some(name) => match container_id(name) {
            Some((prefix, id)) => (runtime_of(prefix), Ok(id.to_owned())),
            None => (runtime_of(name), Err(Why::MalformedId)),
        },
    };
    let owner = Owner::Kubernetes(KubernetesOwner {
        pod_uid: uid.replace('_', "-"),
        qos,
        runtime,
        why_no_container: container.as_ref().err().copied(),
        container_id: container.ok(),
        pod: None,
    });
    Some(Reading { owner, pod: Some(pod), decisive })
}

/// The owner where no segment names a pod.
fn outside_pods(path: &str) -> Reading<'_> {
    if let Some(leaf) = segments(path).next_back().filter(|leaf| is_host_leaf(leaf)) {
        return Reading::unit(path, Some(leaf));
    }
    let mut below = None;
    let (mut like_a_container, mut like_a_pod) = (None, None);
    let mut upwards = segments(path).rev();
    while let Some(segment) = upwards.next() {
        if is_monitor(segment) {
            return Reading::unit(path, Some(segment));
        }
        if let Some((prefix, id)) = container_id(segment) {
            let (parent, grandparent) = (upwards.next(), upwards.next());
            let owner = Owner::Container { runtime: runtime(prefix, parent, grandparent), id: id.to_owned() };
            return Reading { owner, pod: None, decisive: Some(segment) };
        }
        if runtime_of(segment).is_some() && (segment.ends_with(".scope") || segment.contains(':')) {
            like_a_container = like_a_container.or(Some(segment));
        } else if RUNTIME_CGROUPS.contains(&segment) {
            like_a_container = like_a_container.or(below);
        }
        if tokens(segment).any(|token| token.starts_with("pod")) {
            like_a_pod = like_a_pod.or(Some(segment));
        }
        if tokens(segment).any(|token| token == "kubepods") {
            // Whatever has an id above all pods is the node.
            like_a_container = like_a_container.or(like_a_pod);
            break;
        }
        below = Some(segment);
    }
    match like_a_container {
        Some(segment) => Reading::unknown(Why::MalformedId, Some(segment)),
        None => Reading::unit(path, None),
    }
}

impl<'a> Reading<'a> {
    fn unknown(why: Why, decisive: Option<&'a str>) -> Self {
        Self { owner: Owner::Unknown { why }, pod: None, decisive }
    }

    /// The innermost service, or else scope, or else slice: a service's name stays the same, a scope's is often made up
    /// for one use.
    fn unit(path: &str, decisive: Option<&'a str>) -> Self {
        let innermost = |suffix| segments(path).rfind(|segment| segment.ends_with(suffix));
        let mount = segments(path).next_back().filter(|leaf| leaf.ends_with(".mount"));
        match mount.or_else(|| [".service", ".scope", ".slice"].into_iter().find_map(innermost)) {
            Some(unit) => Self { owner: Owner::Unit { name: unit.to_owned() }, pod: None, decisive },
            None => Self::unknown(Why::OtherCgroup, decisive),
        }
    }
}

/// `path` without the mark that `/proc` puts behind the path of a removed cgroup.
fn undeleted(path: &str) -> &str {
    let path = path.trim_end();
    path.strip_suffix(" (deleted)").unwrap_or(path).trim()
}

/// The names in `path`, from the root. `..` says that levels are missing and names nothing.
fn segments(path: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    path.split('/').filter(|segment| !matches!(*segment, "" | "." | ".."))
}

/// The words that a name is made of.
fn tokens(segment: &str) -> impl Iterator<Item = &str> {
    segment.split(|character: char| !character.is_ascii_alphanumeric())
}

/// A pod's uid as `segment` writes it, and what follows its name: nothing, or `:` and more.
fn pod_uid(segment: &str) -> Option<(&str, &str)> {
    segment.match_indices("pod").find_map(|(at, word)| {
        let (before, after) = (segment.get(..at)?, segment.get(at + word.len()..)?);
        let (uid, rest) = after.split_at_checked(uid_length(after.as_bytes())?)?;
        let rest = rest.strip_prefix(".slice").unwrap_or(rest);
        let starts_a_word = !before.ends_with(|character: char| character.is_alphanumeric());
        (starts_a_word && (rest.is_empty() || rest.starts_with(':'))).then_some((uid, rest))
    })
}

/// How long the uid at the start of `text` is: a UUID, with dashes or as systemd writes them; or 32 digits, a static
/// pod's.
fn uid_length(text: &[u8]) -> Option<usize> {
    let is_uuid = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
        _ => byte.is_ascii_hexdigit(),
    };
    if text.get(..36).is_some_and(|uuid| uuid.iter().enumerate().all(is_uuid)) {
        return Some(36);
    }
    text.get(..32).filter(|hash| hash.iter().all(u8::is_ascii_hexdigit)).map(<[u8]>::len)
}

/// The container's id that `segment` ends in, and what stands before it.
fn container_id(segment: &str) -> Option<(&str, &str)> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID_LENGTH)?)?;
    let bounded = prefix.is_empty() || prefix.ends_with(['-', '_', ':']);
    (bounded && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some((prefix, id))
}

/// conmon, which Podman and CRI-O start beside each container.
fn is_monitor(segment: &str) -> bool {
    tokens(segment).any(|token| token == "conmon")
}

/// Units that belong to the host even where a container is above them: then it is a node that runs systemd.
fn is_host_leaf(leaf: &str) -> bool {
    leaf.ends_with(".service") || leaf.ends_with(".mount") || leaf == "init.scope"
}

/// The runtime that `prefix`, or the cgroups above it, tell.
fn runtime(prefix: &str, parent: Option<&str>, grandparent: Option<&str>) -> Option<Runtime> {
    // ECS containers are Docker's as well, but it is ECS that starts and names them.
    if parent == Some("ecs")
        || grandparent == Some("ecs")
        || parent.is_some_and(|parent| parent.starts_with("ecstasks-"))
    {
        return Some(Runtime::Ecs);
    }
    runtime_of(prefix).or(match parent {
        Some("docker") => Some(Runtime::Docker),
        Some("k8s.io") => Some(Runtime::Containerd),
        Some("kata_overhead") => Some(Runtime::Kata),
        Some("libpod_parent") => Some(Runtime::Podman),
        _ => None,
    })
}

/// The runtime that a cgroup's name begins with.
fn runtime_of(name: &str) -> Option<Runtime> {
    tokens(name).find_map(|token| match token {
        "containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::CriO),
        "docker" => Some(Runtime::Docker),
        "libpod" => Some(Runtime::Podman),
        "kata" => Some(Runtime::Kata),
        _ => None,
    })
}

/// The class that the pod's segment and the levels above it tell, nearest first. Guaranteed pods have no level of their
/// own.
fn qos<'a>(levels: impl Iterator<Item = &'a str>) -> Option<Qos> {
    for level in levels {
        let has = |word| tokens(level).any(|token| token == word);
        if has("burstable") {
            return Some(Qos::Burstable);
        }
        if has("besteffort") {
            return Some(Qos::BestEffort);
        }
        if has("kubepods") {
            return Some(Qos::Guaranteed);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ID64`, `NODE64` and `UID36` stand for in the tables; `U_D36` is the uid as systemd writes it.
    const ID: &str = "40c03570b6f4c30bc8d69923d37ee698f5cfcced92c7b7df1c47f6f7887378a9";
    const NODE: &str = "8afe480d66074930353da456a1344caca810fe31c1e31f6e08c95a66887235d6";
    const UID: &str = "c55ba69a-e39f-44af-925d-c4794fd57878";

    fn filled(row: &str) -> String {
        row.replace("ID64", ID).replace("NODE64", NODE).replace("UID36", UID).replace("U_D36", &UID.replace('-', "_"))
    }

    /// The owner in one line, with `ID64`, `NODE64` and `UID36` for the constants.
    fn said(owner: &Owner) -> String {
        let text = match owner {
            Owner::Kubernetes(KubernetesOwner { pod_uid, qos, runtime, container_id, why_no_container, .. }) => {
                format!(
                    "pod {pod_uid} {} {} {}",
                    qos.map_or("-", Qos::as_str),
                    runtime.map_or("-", Runtime::as_str),
                    container_id.as_deref().or(why_no_container.map(Why::as_str)).unwrap_or("neither")
                )
            }
            Owner::Container { runtime, id } => format!("container {} {id}", runtime.map_or("-", Runtime::as_str)),
            Owner::Unit { name } => format!("unit {name}"),
            Owner::Unknown { why } => format!("unknown {}", why.as_str()),
        };
        text.replace(ID, "ID64").replace(NODE, "NODE64").replace(UID, "UID36")
    }

    fn check(path: &str, expected: &str) {
        let path = filled(path);
        assert_eq!(said(&owner(Some(&path), false)), expected, "{path}");
    }

    #[test]
    fn a_container_of_a_pod_is_right_below_it() {
        for (path, expected) in [
            // What kubelets and runtimes write.
            (
                "/kubepods.slice/kubepods-podU_D36.slice/cri-containerd-ID64.scope",
                "pod UID36 Guaranteed containerd ID64",
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D36.slice/docker-ID64.scope",
                "pod UID36 Burstable docker ID64",
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_D36.slice/crio-ID64.scope",
                "pod UID36 BestEffort cri-o ID64",
            ),
            ("/kubepods/podUID36/ID64", "pod UID36 Guaranteed - ID64"),
            ("/kubepods/burstable/podUID36/ID64", "pod UID36 Burstable - ID64"),
            ("/kubepods/besteffort/podUID36/crio-ID64", "pod UID36 BestEffort cri-o ID64"),
            ("/kubepods/podUID36/kata_ID64", "pod UID36 Guaranteed kata ID64"),
            ("/kubepods.slice/kubepods-podU_D36.slice:crio:ID64", "pod UID36 Guaranteed cri-o ID64"),
            (
                "/system.slice/containerd.service/kubepods-besteffort-podU_D36.slice:cri-containerd:ID64",
                "pod UID36 BestEffort containerd ID64",
            ),
            (
                "/kata_overhead/kubepods-burstable-podU_D36.slice:cri-containerd:ID64",
                "pod UID36 Burstable containerd ID64",
            ),
            // Other roots.
            (
                "/my_root.slice/my_root-kubepods.slice/my_root-kubepods-podU_D36.slice/crio-ID64.scope",
                "pod UID36 Guaranteed cri-o ID64",
            ),
            ("/custom/root/kubepods/besteffort/podUID36/ID64", "pod UID36 BestEffort - ID64"),
            // Seen from another cgroup namespace: no class can be told.
            ("/../../podUID36/ID64", "pod UID36 - - ID64"),
            ("../podUID36/cri-containerd-ID64.scope", "pod UID36 - containerd ID64"),
            // What is deeper was made inside.
            ("/kubepods.slice/kubepods-podU_D36.slice/crio-ID64.scope/container", "pod UID36 Guaranteed cri-o ID64"),
            ("/kubepods/burstable/podUID36/ID64/kube-proxy", "pod UID36 Burstable - ID64"),
            ("/kubepods/burstable/podUID36/ID64/docker/NODE64", "pod UID36 Burstable - ID64"),
            (
                "/kubepods/burstable/podUID36/ID64/system.slice/docker-NODE64.scope/init.scope",
                "pod UID36 Burstable - ID64",
            ),
            ("/kubepods/burstable/podUID36/ID64/libpod_parent/conmon", "pod UID36 Burstable - ID64"),
            ("/kubepods/burstable/podUID36/ID64/buildkit/k5q0z8", "pod UID36 Burstable - ID64"),
            (
                "/kubepods.slice/kubepods-podU_D36.slice/cri-containerd-ID64.scope/system.slice/foo.service",
                "pod UID36 Guaranteed containerd ID64",
            ),
            (
                "/kubepods.slice/kubepods-podU_D36.slice/cri-containerd-ID64.scope/system.slice/foo.mount",
                "pod UID36 Guaranteed containerd ID64",
            ),
            (
                "/kubepods.slice/kubepods-podU_D36.slice:cri-containerd:ID64/system.slice/foo.service",
                "pod UID36 Guaranteed containerd ID64",
            ),
            // Nodes that are containers.
            ("/docker/NODE64/kubelet/kubepods/burstable/podUID36/ID64", "pod UID36 Burstable - ID64"),
            ("/lxc.payload.node/kubepods/podUID36/ID64", "pod UID36 Guaranteed - ID64"),
            // A cluster inside of a pod: the inner pod, and its class.
            (
                "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/NODE64/kubepods/podUID36/ID64",
                "pod UID36 Guaranteed - ID64",
            ),
            (
                "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/NODE64/x/podUID36/ID64",
                "pod UID36 - - ID64",
            ),
            ("/kubepods/burstable/podUID36/ID64/system.slice/kubelet.service", "pod UID36 Burstable - ID64"),
            // What surrounds a path.
            (" /kubepods/podUID36/ID64/ \n", "pod UID36 Guaranteed - ID64"),
            ("//kubepods/./podUID36//ID64//", "pod UID36 Guaranteed - ID64"),
            ("/kubepods/podUID36/ID64 (deleted)\n", "pod UID36 Guaranteed - ID64"),
            ("kubepods/podUID36/ID64", "pod UID36 Guaranteed - ID64"),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn a_pod_without_a_container_says_why() {
        for (path, expected) in [
            ("/kubepods/burstable/podUID36", "pod UID36 Burstable - pod_level"),
            ("/kubepods.slice/kubepods-podU_D36.slice/ (deleted)", "pod UID36 Guaranteed - pod_level"),
            (
                "/kubepods.slice/kubepods-podU_D36.slice/crio-conmon-ID64.scope",
                "pod UID36 Guaranteed cri-o container_monitor",
            ),
            (
                "/kubepods.slice/kubepods-podU_D36.slice:crio-conmon:ID64",
                "pod UID36 Guaranteed cri-o container_monitor",
            ),
            (
                "/kubepods.slice/kubepods-podU_D36.slice/var-lib-docker-ID64-mounts-shm.mount",
                "pod UID36 Guaranteed - mount",
            ),
            (
                "/kubepods.slice/kubepods-podU_D36.slice/cri-containerd-abc.scope",
                "pod UID36 Guaranteed containerd malformed_id",
            ),
            (
                "/kubepods.slice/kubepods-podU_D36.slice:cri-containerd:abc",
                "pod UID36 Guaranteed containerd malformed_id",
            ),
            ("/kubepods.slice/kubepods-podU_D36.slice:", "pod UID36 Guaranteed - malformed_id"),
            ("/kubepods/podUID36/0ID64", "pod UID36 Guaranteed - malformed_id"),
            ("/kubepods/podUID36/xID64", "pod UID36 Guaranteed - malformed_id"),
            ("/kubepods/podUID36/ID640", "pod UID36 Guaranteed - malformed_id"),
            (&format!("/kubepods/podUID36/{}", ID.to_uppercase()), "pod UID36 Guaranteed - malformed_id"),
            // A malformed child hides a deeper id: that is somebody else's container.
            ("/kubepods/podUID36/abc/docker/ID64", "pod UID36 Guaranteed - malformed_id"),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn outside_of_pods_the_nearest_id_is_the_container() {
        for (path, expected) in [
            ("/docker/ID64", "container docker ID64"),
            ("/docker/NODE64/docker/ID64", "container docker ID64"),
            ("/docker/ID64/docker/buildkit/k5q0z8", "container docker ID64"),
            ("/docker/ID64/user.slice/user-0.slice/session-1.scope", "container docker ID64"),
            ("/system.slice/docker-ID64.scope/init", "container docker ID64"),
            ("/system.slice:docker:ID64", "container docker ID64"),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID64.scope/container",
                "container podman ID64",
            ),
            ("/machine.slice/machine-libpod_pod_NODE64.slice/libpod-ID64.scope/container", "container podman ID64"),
            ("/system.slice/web.service/libpod-payload-ID64", "container podman ID64"),
            ("/k8s.io/ID64", "container containerd ID64"),
            ("/system.slice/nerdctl-ID64.scope", "container containerd ID64"),
            ("/kata_overhead/ID64", "container kata ID64"),
            ("/ecs/f209da7f990b45b585488946f0eec404/ID64", "container ecs ID64"),
            ("/ecstasks.slice/ecstasks-f209da7f990b45b585488946f0eec404.slice/docker-ID64.scope", "container ecs ID64"),
            ("/actions_job/ID64", "container - ID64"),
            ("/ID64", "container - ID64"),
            ("/../crio-ID64.scope/container", "container cri-o ID64"),
            ("/kubepods/besteffort/pod123/docker-ID64.scope/system.slice", "container docker ID64"),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn the_hosts_own_processes_have_a_unit_or_nothing_to_name_them() {
        for (path, expected) in [
            ("/system.slice/sshd.service", "unit sshd.service"),
            ("/system.slice/systemd-udevd.service/udev", "unit systemd-udevd.service"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope", "unit user@1000.service"),
            ("/user.slice/user-1000.slice/session-3.scope", "unit session-3.scope"),
            ("/system.slice/system-serial\\x2dgetty.slice", "unit system-serial\\x2dgetty.slice"),
            ("/init.scope", "unit init.scope"),
            ("/podruntime/runtime", "unknown other_cgroup"),
            ("/lxc/mysql-primary-db", "unknown other_cgroup"),
            (" /lxc.monitor.first  (deleted)\n", "unknown other_cgroup"),
            ("/../foo//bar/", "unknown other_cgroup"),
            // A node's daemons, where the node is a container.
            ("/docker/NODE64/init.scope", "unit init.scope"),
            ("/docker/NODE64/kubelet.slice/kubelet.service", "unit kubelet.service"),
            (
                "/system.slice/docker-NODE64.scope/system.slice/var-lib-docker-ID64-mounts-shm.mount",
                "unit var-lib-docker-ID64-mounts-shm.mount",
            ),
            ("/docker/NODE64/kubelet.slice/kubelet-kubepods.slice", "unit kubelet-kubepods.slice"),
            // What watches over containers and groups them is none.
            ("/libpod_parent/conmon", "unknown other_cgroup"),
            ("/docker/NODE64/libpod_parent/conmon", "unknown other_cgroup"),
            ("/machine.slice/libpod-conmon-ID64.scope", "unit libpod-conmon-ID64.scope"),
            ("/system.slice/crio-conmon-ID64.scope", "unit crio-conmon-ID64.scope"),
            ("/machine.slice/machine-libpod_pod_ID64.slice", "unit machine-libpod_pod_ID64.slice"),
            ("/system.slice/ID64-2bd5e3f0.service", "unit ID64-2bd5e3f0.service"),
            (
                "/system.slice/run-ra2ddf9594bbf4a1986439b594f89eb0f.scope",
                "unit run-ra2ddf9594bbf4a1986439b594f89eb0f.scope",
            ),
            // `pod` and a uid, but not a pod's cgroup.
            ("/system.slice/var-lib-kubelet-pods-UID36-volumes.mount", "unit var-lib-kubelet-pods-UID36-volumes.mount"),
            ("/system.slice/check-podUID36.service", "unit check-podUID36.service"),
            ("/xpodUID36/foo", "unknown other_cgroup"),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn an_id_of_another_form_is_nobodys() {
        for path in [
            "/docker/shortid",
            "/docker/buildkit/k5q0z8",
            "/ecs/f209da7f990b45b585488946f0eec404/f209da7f990b45b585488946f0eec404-1234567890",
            "/system.slice/docker-abc123.scope",
            "/kubepods/besteffort/pod123",
            "/kubepods.slice/kubepods-pod123.slice/foo",
            // The id of the node would be wrong, not merely imprecise.
            "/docker/NODE64/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod123.slice/\
             cri-containerd-1234567890abcdef.scope",
            "/docker/NODE64/kubelet/kubepods/burstable/pod123/1234567890abcdef",
        ] {
            check(path, "unknown malformed_id");
        }
        for id in [ID.to_uppercase(), ID.replace('f', "g"), ID.repeat(2)] {
            check(&format!("/docker/{id}"), "unknown malformed_id");
        }
    }

    #[test]
    fn without_a_path_or_its_beginning_nobody_is_blamed() {
        let unknown = |why| Owner::Unknown { why };
        assert_eq!(owner(None, false), unknown(Why::NoPath));
        for (path, cut, why) in [
            ("", false, Why::NoPath),
            (" \n", false, Why::NoPath),
            ("/", false, Why::RootCgroup),
            ("//", false, Why::RootCgroup),
            ("/ (deleted)", false, Why::RootCgroup),
            ("/..", false, Why::PathCut),
            ("/../..", false, Why::PathCut),
            ("/", true, Why::PathCut),
            ("system.slice/foo.service", true, Why::PathCut),
            ("docker/short", true, Why::PathCut),
        ] {
            assert_eq!(owner(Some(path), cut), unknown(why), "{path:?}");
        }
    }

    #[test]
    fn a_path_without_its_beginning_still_names_its_container() {
        let in_pod = owner(Some(&filled("podUID36/ID64/a/b")), true);
        assert_eq!(said(&in_pod), "pod UID36 - - ID64");
        assert_eq!(said(&owner(Some(&filled("docker-ID64.scope/a/b")), true)), "container docker ID64");
    }
}
