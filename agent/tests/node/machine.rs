//! What makes one node of this machine: a network and mounts of its own, with empty /run, /var/lib and /var/log.
//! Kernel, processes and cgroups are the machine's.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use oom_watcher_testkit::programs::{Programs, Server};
use oom_watcher_testkit::wait::eventually;

/// The address of the node, `status.hostIP` of its pods.
pub(crate) const ADDRESS: &str = "10.99.0.1";
/// The kubelet's part of each hierarchy.
const PODS: &str = "kubepods";

/// `$0` is busybox. Where pods find the API server is an address of the node too, so nothing has to route to it. The
/// kubelet wants three settings of the kernel and would make them for the whole machine: it is shown these values
/// instead.
///
/// The root that this process has becomes that of all mounts: in a chroot it is not, and runc places what it mounts by
/// their paths from there.
const PREPARE: &str = r#"set -e
[ . -ef / ] || { pivot_root . . && umount -l . && cd /; }
for empty in /var/lib /var/log /run; do mount -t tmpfs -o mode=755 tmpfs $empty; done
for value in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    shown=/run/${value%%=*}; mkdir -p ${shown%/*}; echo ${value#*=} >$shown; mount --bind $shown /proc/sys/${value%%=*}
done
mount -t bpf -o mode=700 bpf /sys/fs/bpf
[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing
mount --make-rshared /
$0 ip link set lo up
for address in 10.99.0.1 10.96.0.1; do $0 ip addr add $address/32 dev lo; done
echo 1 >/proc/sys/net/ipv4/ip_forward
: >/run/prepared
exec sleep infinity"#;

/// It, until it is dropped: then every process of it ends.
pub(crate) struct Machine {
    holder: Server,
    folder: tempfile::TempDir,
    programs: Programs,
}

impl Machine {
    /// Prepares it. `Err`: why that is impossible here.
    pub(crate) fn start(programs: Programs) -> Result<Self, String> {
        remove_cgroups();
        if let Some(used) = hierarchies().into_iter().map(|hierarchy| hierarchy.join(PODS)).find(|pods| pods.exists()) {
            return Err(format!("this machine is a Kubernetes node already: {} is there", used.display()));
        }
        let folder = tempfile::tempdir().unwrap();
        let busybox = programs.path("busybox").display().to_string();
        // Entering its own mounts has it begin at the root of all, in the folder that was the root before.
        let at_the_root = ["nsenter", "--mount=/proc/self/ns/mnt", "--wd=/", "sh", "-c", PREPARE, &busybox];
        let arguments: Vec<_> =
            ["--net", "--mount", "--propagation=private"].into_iter().chain(at_the_root).map(str::to_owned).collect();
        let holder = Server::start(Path::new("unshare"), &arguments, &folder.path().join("machine.log"));
        let machine = Self { holder, folder, programs };
        eventually("a machine for the node", || machine.path("/run/prepared").exists().then_some(()));
        Ok(machine)
    }

    /// Starts a program in it. Programs are found by their names.
    pub(crate) fn serve(&self, name: &str, command: &[&str]) -> Server {
        let arguments: Vec<_> = self.enter(command);
        Server::start(Path::new("nsenter"), &arguments, &self.folder.path().join(format!("{name}.log")))
    }

    /// Runs a command line in it, in the folder of the project, as the administrator of the cluster; and what came of
    /// it.
    fn run(&self, line: &str) -> Output {
        // Who enters other mounts is at their root.
        let line = format!("cd '{}/..' || exit\n{line}", env!("CARGO_MANIFEST_DIR"));
        Command::new("nsenter").args(self.enter(&["sh", "-c", &line])).output().unwrap()
    }

    /// The same if it succeeds: what it printed.
    pub(crate) fn try_text(&self, line: &str) -> Result<String, String> {
        let output = self.run(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
        }
    }

    /// The same of one that has to succeed.
    #[track_caller]
    pub(crate) fn text(&self, line: &str) -> String {
        self.try_text(line).unwrap_or_else(|said| panic!("{line}: {said}\n{}", self.logs()))
    }

    /// Runs what opens sockets, on a thread in this network.
    pub(crate) fn in_network<T: Send>(&self, open: impl FnOnce() -> T + Send) -> T {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let enter = move || {
            use std::os::fd::AsRawFd;
            // SAFETY: a number only. The thread ends, and with it that it is there.
            assert_eq!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            open()
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// A path of the node as one of this machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The ends of what its programs said.
    pub(crate) fn logs(&self) -> String {
        let mut logs: Vec<_> = fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        let end = |path: &PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<_> = text.lines().collect();
            format!("the end of {}:\n{}\n", path.display(), lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        logs.iter().map(end).collect()
    }

    fn enter(&self, command: &[&str]) -> Vec<String> {
        let holder = self.holder.id();
        let path = format!("PATH={}:{}", self.programs.folders(), std::env::var("PATH").unwrap());
        let kubeconfig = format!("KUBECONFIG={}", self.folder.path().join("admin.kubeconfig").display());
        // The root too: these tests may be in a chroot, and who enters other mounts is at the root of all.
        let entered = [("net", "ns/net"), ("mount", "ns/mnt"), ("root", "root"), ("wd", "root")]
            .map(|(what, file)| format!("--{what}=/proc/{holder}/{file}"));
        entered
            .into_iter()
            .chain(["env".to_owned(), path, kubeconfig])
            .chain(command.iter().map(|&part| part.to_owned()))
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What runs containers outlives who started it, and containers have mounts of their own: they are known by
        // their cgroups. The holder ends last, by which the others are known.
        let (holder, namespace) = (self.holder.id(), format!("/proc/{}/ns/mnt", self.holder.id()));
        eventually("end of all containers", || {
            for pid in processes_of_pods()
                .into_iter()
                .chain(processes_in(&namespace))
                .filter(|pid| *pid != holder.cast_signed())
            {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            remove_cgroups();
            hierarchies().iter().all(|hierarchy| !hierarchy.join(PODS).exists()).then_some(())
        });
    }
}

/// Each hierarchy of cgroups: with v2 the only one.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("cgroup.procs").exists());
    std::iter::once(root.to_owned()).filter(|root| root.join("cgroup.procs").exists()).chain(below).collect()
}

/// The directories of the kubelet's cgroups, the innermost first.
fn cgroups_of_pods() -> Vec<PathBuf> {
    fn add(path: PathBuf, all: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(&path) else { return };
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .for_each(|path| add(path, all));
        all.push(path);
    }
    let mut all = Vec::new();
    hierarchies().into_iter().for_each(|hierarchy| add(hierarchy.join(PODS), &mut all));
    all
}

fn processes_of_pods() -> Vec<i32> {
    let read = |cgroup: PathBuf| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    cgroups_of_pods()
        .into_iter()
        .flat_map(|cgroup| read(cgroup).lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The processes with that namespace of mounts.
fn processes_in(namespace: &str) -> Vec<i32> {
    let Ok(wanted) = fs::read_link(namespace) else { return Vec::new() };
    let is_in = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/ns/mnt"))
            .is_ok_and(|found| found.as_os_str().as_bytes() == wanted.as_os_str().as_bytes())
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(is_in).collect()
}

fn remove_cgroups() {
    for cgroup in cgroups_of_pods() {
        // Whose processes have not ended stays for now.
        let _ = fs::remove_dir(cgroup);
    }
}
