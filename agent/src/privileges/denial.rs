//! Why the kernel denies the probe to this process, and what to do about it: which capability is missing where it could
//! have come from, or what stands in the way although all are there.
//!
//! Looked at ([`Standing::of_this_thread`]) where the kernel said no, and before by `check`; judged without I/O.

use std::fmt;
use std::fs;
use std::io;
use std::ptr;

use super::capabilities::{CAP_BPF, CAP_PERFMON, CAP_SYS_RESOURCE, NEEDED, Set};
use super::locked_memory;
use crate::host::kernel::{self, Version};

/// What the kernel goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The effective user.
    pub user: u32,
    /// The capabilities it may have in effect.
    pub permitted: Set,
    /// Beyond what no program can get.
    pub bounding: Set,
    /// Those that the file of this program permits. Absent if it has none: then they come from who starts it.
    pub file: Option<Set>,
    /// Whether no program may gain what its starter has not.
    pub no_new_privileges: bool,
    /// Whether it is in a user namespace of its own, where its capabilities do not count for the probe.
    pub other_user_namespace: bool,
    /// Whether a seccomp filter refuses bpf(2).
    pub filtered: bool,
    /// What a security module calls it: an AppArmor profile or an SELinux context. Absent if there is none, or it is
    /// not confined.
    pub label: Option<String>,
    /// The limit of locked memory, bytes. Absent if unlimited.
    pub memlock: Option<u64>,
    /// The kernel's version. Absent if it cannot be read.
    pub kernel: Option<Version>,
}

impl Standing {
    /// That of the calling thread. bpf(2) is tried as it stands: capabilities have to be in effect before.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn of_this_thread() -> io::Result<Self> {
        let (status, read) =
            (fs::read_to_string("/proc/thread-self/status")?, |path: &str| fs::read_to_string(path).ok());
        let standing = Self::from_status(&status);
        Ok(Self {
            file: file_capabilities(),
            other_user_namespace: read("/proc/self/uid_map").is_some_and(|map| !is_initial(&map)),
            filtered: standing.filtered && is_refused(),
            label: read("/proc/thread-self/attr/current").and_then(|label| confinement(&label)),
            memlock: locked_memory::limit(),
            kernel: kernel::running(),
            ..standing
        })
    }

    /// What /proc/PID/status tells: proc_pid_status(5). `filtered` says for now that there is a filter.
    fn from_status(status: &str) -> Self {
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next_back())
        };
        let set =
            |name: &str| Set(field(name).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default());
        // Real, effective, saved and file system's user.
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok());
        Self {
            user: user.unwrap_or_default(),
            permitted: set("CapPrm"),
            bounding: set("CapBnd"),
            no_new_privileges: field("NoNewPrivs") == Some("1"),
            filtered: field("Seccomp") == Some("2"),
            ..Self::default()
        }
    }

    /// The capabilities that are needed and not there, each with what it costs. Absent if all are there.
    pub fn missing(&self) -> Option<Missing> {
        let capabilities: Vec<u32> = NEEDED.into_iter().filter(|&bit| !self.permitted.allows(bit)).collect();
        let missing = Set::of(&capabilities);
        let lacks = |set: Set| missing.0 & !set.0 != 0;
        let place = if lacks(self.bounding) {
            Place::Container
        } else if self.user == 0 {
            Place::Starter
        } else if self.file.is_none_or(lacks) {
            Place::File
        } else if self.no_new_privileges {
            Place::Gained
        } else {
            Place::Mount
        };
        (!capabilities.is_empty()).then_some(Missing {
            capabilities,
            place,
            is_root: self.user == 0,
            has_file: self.file.is_some_and(|file| !lacks(file)),
        })
    }

    /// Whether the kernel charges maps to the limit of locked memory, which does not suffice for a ring buffer of so
    /// many bytes and cannot be raised.
    pub fn lacks_memory(&self, ring_bytes: u32) -> bool {
        let is_short = self.memlock.is_some_and(|limit| limit < locked_memory::needed(ring_bytes));
        locked_memory::is_charged(self.kernel) && is_short && !self.permitted.has(CAP_SYS_RESOURCE)
    }

    /// Why it was denied to attach the probe with a ring buffer of so many bytes.
    pub fn denial(&self, ring_bytes: u32) -> Denial {
        if let Some(missing) = self.missing() {
            return Denial::Missing(missing);
        }
        match &self.label {
            _ if self.other_user_namespace => Denial::UserNamespace,
            _ if self.filtered => Denial::Filter,
            _ if self.lacks_memory(ring_bytes) => Denial::LockedMemory,
            // An SELinux context has colons, an AppArmor profile has not.
            Some(label) if label.contains(':') => Denial::SeLinux(label.clone()),
            Some(label) => Denial::AppArmor(label.clone()),
            None => Denial::Unknown,
        }
    }
}

/// Where a missing capability could have come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is not in the bounding set, which nobody gets over.
    Container,
    /// Root has what its starter left it.
    Starter,
    /// The program's file does not permit it.
    File,
    /// The file does, but who started it did not have it, and no new privileges are given.
    Gained,
    /// The file does, but not where it is.
    Mount,
}

/// Capabilities that are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    capabilities: Vec<u32>,
    place: Place,
    is_root: bool,
    has_file: bool,
}

impl Missing {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.place {
            Place::Container if self.is_root || self.has_file => {
                "add BPF and PERFMON to the container's securityContext.capabilities"
            }
            Place::Container => {
                "add BPF and PERFMON to the container's securityContext.capabilities, and `setcap \
                 cap_bpf,cap_perfmon+p` the binary, or run it as root"
            }
            Place::Starter => "start it with CAP_BPF and CAP_PERFMON: something before it gave them up",
            Place::File => "`setcap cap_bpf,cap_perfmon+p` the binary, or run it as root",
            Place::Gained => {
                "add BPF and PERFMON to the container's securityContext.capabilities: the binary has them, but under \
                 no_new_privs who starts it must have them too"
            }
            Place::Mount => {
                "put the binary on a file system that is not mounted nosuid: what its file permits is ignored there"
            }
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |bit: u32, text: &'static str| self.capabilities.contains(&bit).then_some(text);
        let costs = [
            of(CAP_BPF, "CAP_BPF is missing: no maps can be made"),
            of(CAP_PERFMON, "CAP_PERFMON is missing: tracing programs are refused"),
        ];
        f.write_str(&costs.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Why the kernel said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Capabilities are missing.
    Missing(Missing),
    /// They count for its own user namespace only.
    UserNamespace,
    /// The container runtime's seccomp filter refuses bpf(2).
    Filter,
    /// Maps are charged to a limit that is too small.
    LockedMemory,
    /// The SELinux context may not use bpf(2).
    SeLinux(String),
    /// The AppArmor profile may not.
    AppArmor(String),
    /// None of these.
    Unknown,
}

impl Denial {
    /// What the kernel goes by.
    pub fn problem(&self) -> String {
        match self {
            Self::Missing(missing) => missing.to_string(),
            Self::UserNamespace => "its capabilities count in its own user namespace only".to_owned(),
            Self::Filter => "a seccomp filter refuses bpf(2), as CRI-O's and Podman's own did for long".to_owned(),
            Self::LockedMemory => "kernels before 5.11 charge eBPF maps to the limit of locked memory".to_owned(),
            Self::SeLinux(label) => format!("SELinux confines it as {label}, which may refuse it"),
            Self::AppArmor(label) => format!("AppArmor confines it as {label}, which may refuse it"),
            Self::Unknown => "it has the capabilities".to_owned(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing(missing) => missing.remedy(),
            Self::UserNamespace => "run it in the node's (in a pod hostUsers: true, which is the default)",
            Self::Filter => {
                "update the container runtime (CRI-O 1.31 allows it), or set seccompProfile to one that allows bpf"
            }
            Self::LockedMemory => "raise it (ulimit -l unlimited), or add CAP_SYS_RESOURCE",
            Self::SeLinux(_) => "set seLinuxOptions.type to spc_t, or to a type that may use bpf",
            Self::AppArmor(_) => "set an appArmorProfile that allows the capabilities bpf and perfmon",
            Self::Unknown => "the kernel's log (dmesg) may say what else refuses it",
        }
    }
}

/// Whether bpf(2) is not even looked at: the kernel knows no such command, and says so to who may use bpf(2).
fn is_refused() -> bool {
    // SAFETY: the command does not exist, and nothing is read where the size is 0.
    let result = unsafe { libc::syscall(libc::SYS_bpf, libc::c_int::MAX, ptr::null::<u8>(), 0) };
    result == -1 && io::Error::last_os_error().kind() == io::ErrorKind::PermissionDenied
}

/// What the file of this program permits: `struct vfs_cap_data` of include/uapi/linux/capability.h.
fn file_capabilities() -> Option<Set> {
    let mut value = [0_u8; 32];
    // SAFETY: the texts end with 0, and the value is as long as said.
    let length = unsafe {
        libc::getxattr(
            c"/proc/self/exe".as_ptr(),
            c"security.capability".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    permitted_by_file(value.get(..usize::try_from(length).ok()?)?)
}

fn permitted_by_file(value: &[u8]) -> Option<Set> {
    // Version and flags, then permitted and inheritable of each 32 bits.
    let word = |at: usize| Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?));
    Some(Set(u64::from(word(12)?) << 32 | u64::from(word(4)?)))
}

/// Whether a map of user ids is that of the first user namespace: all ids, each as itself.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What confines, of the text of /proc/PID/attr/current.
fn confinement(label: &str) -> Option<String> {
    let label = label.trim_end_matches(['\0', '\n']);
    let is_free = label.is_empty()
        || label == "unconfined"
        || label.ends_with("(complain)")
        || label.contains(":unconfined_t:")
        || label.contains(":spc_t:");
    (!is_free).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileges::capabilities::CAP_SYS_ADMIN;

    const RING: u32 = 1 << 20;

    /// A container as it should be: a user with file capabilities.
    fn good() -> Standing {
        let needed = Set::of(&NEEDED);
        Standing {
            user: 65532,
            permitted: needed,
            bounding: needed,
            file: Some(needed),
            no_new_privileges: true,
            memlock: Some(64 << 10),
            kernel: Some((6, 1)),
            ..Standing::default()
        }
    }

    #[track_caller]
    fn check(expected: &str, change: impl FnOnce(&mut Standing)) {
        let mut standing = good();
        change(&mut standing);
        let denial = standing.denial(RING);
        let says = format!("{}: {}", denial.problem(), denial.remedy());
        assert!(says.contains(expected), "{says}");
    }

    #[test]
    fn a_missing_capability_is_named_with_what_it_costs_and_where_it_could_come_from() {
        let bpf = Set::of(&[CAP_BPF]);
        assert_eq!(good().missing(), None);
        check(
            "CAP_PERFMON is missing: tracing programs are refused: add BPF and PERFMON to the container's \
             securityContext.capabilities",
            |standing| {
                (standing.permitted, standing.bounding) = (bpf, bpf);
            },
        );
        check("CAP_BPF is missing: no maps can be made, CAP_PERFMON is missing", |standing| {
            (standing.permitted, standing.user) = (Set(0), 0)
        });
        check("something before it gave them up", |standing| (standing.permitted, standing.user) = (Set(0), 0));
        check("and `setcap cap_bpf,cap_perfmon+p` the binary", |standing| {
            (standing.permitted, standing.bounding, standing.file) = (Set(0), Set(0), None);
        });
        check(": `setcap cap_bpf,cap_perfmon+p` the binary, or run it as root", |standing| {
            (standing.permitted, standing.file) = (Set(0), None)
        });
        check(": `setcap cap_bpf,cap_perfmon+p` the binary", |standing| {
            (standing.permitted, standing.file) = (bpf, Some(bpf))
        });
        check("under no_new_privs who starts it must have them too", |standing| standing.permitted = Set(0));
        check("nosuid", |standing| (standing.permitted, standing.no_new_privileges) = (Set(0), false));
    }

    #[test]
    fn what_stands_in_the_way_of_a_process_with_all_capabilities_is_named() {
        check("the kernel's log", |_| ());
        check("hostUsers: true", |standing| standing.other_user_namespace = true);
        check("seccomp", |standing| standing.filtered = true);
        check("ulimit -l unlimited", |standing| standing.kernel = Some((5, 10)));
        check("the kernel's log", |standing| (standing.kernel, standing.memlock) = (Some((5, 10)), Some(4 << 20)));
        check("the kernel's log", |standing| {
            (standing.kernel, standing.permitted) = (Some((5, 10)), Set::of(&[CAP_SYS_ADMIN, CAP_SYS_RESOURCE]));
        });
        check("confines it as system_u:system_r:container_t:s0, which may refuse it: set seLinuxOptions", |standing| {
            standing.label = Some("system_u:system_r:container_t:s0".into());
        });
        check("confines it as docker-default (enforce), which may refuse it: set an appArmorProfile", |standing| {
            standing.label = Some("docker-default (enforce)".into())
        });
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let status = "Name:\tx\nUid:\t0\t65532\t0\t0\n\
            CapPrm:\t000000c000000000\nCapEff:\t0\nCapBnd:\t000001ffffffffff\n\
            NoNewPrivs:\t1\nSeccomp:\t2\n";
        let standing = Standing::from_status(status);
        assert_eq!(
            (standing.user, standing.permitted, standing.bounding),
            (65532, Set::of(&NEEDED), Set(0x1ff_ffff_ffff))
        );
        assert!(standing.no_new_privileges && standing.filtered);

        assert!(is_initial("         0          0 4294967295\n") && !is_initial("0 100000 65536\n"));
        let file = [1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!((permitted_by_file(&file), permitted_by_file(&file[..12])), (Some(Set::of(&NEEDED)), None));
        for (label, expected) in [
            ("unconfined\n", None),
            ("cri-containerd.apparmor.d (enforce)\n", Some("cri-containerd.apparmor.d (enforce)")),
            ("docker-default (complain)\n", None),
            ("system_u:system_r:spc_t:s0\0", None),
            ("system_u:system_r:container_t:s0:c1,c2\0", Some("system_u:system_r:container_t:s0:c1,c2")),
        ] {
            assert_eq!(confinement(label).as_deref(), expected, "{label}");
        }
    }
}
