//! Finds the cgroup path that says whose a process is in its `/proc/PID/cgroup`, for `oom-watcher owner`.
//!
//! A kill does not need it: the kernel names the victim's memory cgroup itself.

use super::container::owner;
use crate::kill::Owner;

/// The path in a `/proc/PID/cgroup` text that says whose the process is. Absent if no line has one.
///
/// With cgroup v1 and v2 side by side the lines disagree. Believed first is a line that names a pod: v1's with the
/// memory controller, then v2's (`0::`). Then one that names anybody: v2's, then v1's with the memory controller. Other
/// v1 lines count only where those name nobody.
///
/// v2 goes first because v1 gives the daemons of a node that is a Docker container the node's id. The price: a plain
/// Docker container that only v1 knows, with the runtime's service in its v2 line, looks the same and is taken for that
/// service.
pub fn memory_path(proc_cgroup: &str) -> Option<&str> {
    let of =
        |wanted: Hierarchy| lines(proc_cgroup).filter(move |(hierarchy, _)| *hierarchy == wanted).map(|(_, path)| path);
    let (memory, unified, other) = (of(Hierarchy::Memory), of(Hierarchy::Unified), of(Hierarchy::Other));

    let names_a_pod = |path: &&str| matches!(owner(Some(path), false), Owner::Kubernetes(_));
    let names_anybody = |path: &&str| !matches!(owner(Some(path), false), Owner::Unknown { .. });
    (memory.clone().chain(unified.clone()).find(names_a_pod))
        .or_else(|| unified.clone().chain(memory.clone()).find(names_anybody))
        .or_else(|| other.clone().find(names_a_pod).or_else(|| other.clone().find(names_anybody)))
        .or_else(|| memory.chain(unified).chain(other).next())
}

/// What a line is about.
#[derive(Clone, Copy, PartialEq)]
enum Hierarchy {
    /// v1, with the memory controller.
    Memory,
    /// v2.
    Unified,
    /// v1, without it.
    Other,
}

/// The lines `number:controllers:path` that have a path. The path itself may have colons.
fn lines(proc_cgroup: &str) -> impl Iterator<Item = (Hierarchy, &str)> + Clone {
    proc_cgroup.lines().filter_map(|line| {
        let mut fields = line.trim().splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let hierarchy = match (number, controllers) {
            ("0", "") => Hierarchy::Unified,
            _ if controllers.split(',').any(|controller| controller == "memory") => Hierarchy::Memory,
            _ => Hierarchy::Other,
        };
        (!path.is_empty()).then_some((hierarchy, path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "40c03570b6f4c30bc8d69923d37ee698f5cfcced92c7b7df1c47f6f7887378a9";
    const NODE: &str = "8afe480d66074930353da456a1344caca810fe31c1e31f6e08c95a66887235d6";
    const UID: &str = "c55ba69a-e39f-44af-925d-c4794fd57878";

    fn filled(text: &str) -> String {
        text.replace("ID64", ID).replace("NODE64", NODE).replace("UID36", UID)
    }

    #[test]
    fn the_line_of_a_proc_file_that_names_somebody_is_taken() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(memory_path(&filled(text)), expected.map(filled).as_deref(), "{text}")
        };
        check("", None);
        check("nonsense\n1:2", None);
        check("0::\n", None);
        check("0::/\n", Some("/"));
        check("0::/docker/ID64\n", Some("/docker/ID64"));
        check(
            "0::/a/kubepods-podUID36.slice:cri-containerd:ID64\r\n",
            Some("/a/kubepods-podUID36.slice:cri-containerd:ID64"),
        );
        check("5:cpu,memory:/docker/ID64\n1:name=systemd:/docker/NODE64\n", Some("/docker/ID64"));
        check("3:cpu:/docker/NODE64\n5:memory:/docker/ID64\n0::/\n", Some("/docker/ID64"));
        check("2:name=memory:/docker/NODE64\n5:memory:/docker/ID64\n", Some("/docker/ID64"));
        check(
            "5:memory:/kubepods/podUID36/ID64\n3:cpu:/docker/NODE64\n0::/system.slice/containerd.service\n",
            Some("/kubepods/podUID36/ID64"),
        );
        check("5:memory:/user.slice\n0::/user.slice/libpod-ID64.scope\n", Some("/user.slice/libpod-ID64.scope"));
        // The memory controller is off, or at the root.
        check("3:cpu:/\n2:pids:/kubepods/podUID36/ID64\n", Some("/kubepods/podUID36/ID64"));
        check("5:memory:/\n3:cpu:/\n1:name=systemd:/docker/ID64\n", Some("/docker/ID64"));
        check("5:memory:/\n3:cpu:/docker/short\n", Some("/"));
        // Where v1 and v2 name different owners outside of pods, v2.
        check("5:memory:/docker/NODE64\n0::/system.slice/kubelet.service\n", Some("/system.slice/kubelet.service"));
        check(
            "5:memory:/docker/NODE64\n0::/a/podUID36/ID64\n0::/system.slice/containerd.service\n",
            Some("/a/podUID36/ID64"),
        );
    }
}
