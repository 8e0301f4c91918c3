//! The capabilities of the calling thread: what it has, how it makes them effective, and how it gives them up for good.
//!
//! Kubernetes sets no ambient capabilities, so a container that is not root has them from the binary: `setcap
//! cap_bpf,cap_perfmon+p`. With `+p` they are permitted and not in effect until the program says so. With `+ep` the
//! kernel would refuse to start the binary where the container lacks one; with `+p` it starts, and can say what is
//! missing.
//!
//! capset(2) and prctl(2) act on the calling thread alone, and a thread begins with what the one that started it has:
//! [`privileged`](super::privileged).

use std::fmt;
use std::io;

// Bits of include/uapi/linux/capability.h.
/// Dropping from the bounding set needs it.
pub const CAP_SETPCAP: u32 = 8;
/// Stands in for [`CAP_BPF`] and [`CAP_PERFMON`].
pub const CAP_SYS_ADMIN: u32 = 21;
/// Raises the limit of locked memory, to which kernels before 5.11 charge maps.
pub const CAP_SYS_RESOURCE: u32 = 24;
/// Tracing programs are loaded with it.
pub const CAP_PERFMON: u32 = 38;
/// Maps are made and programs loaded with it.
pub const CAP_BPF: u32 = 39;

/// What the probe needs.
pub const NEEDED: [u32; 2] = [CAP_BPF, CAP_PERFMON];
/// What may be of use to it, in the order in which messages name them.
const USEFUL: [(u32, &str); 4] = [
    (CAP_BPF, "CAP_BPF"),
    (CAP_PERFMON, "CAP_PERFMON"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"),
];

/// More than any kernel has: the kernel's own sets are 64 bits wide.
const MAX_CAPABILITIES: u32 = 64;
/// `_LINUX_CAPABILITY_VERSION_3`: two elements of 32 bits per set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Bits 0 to 31 are the first element, bits 32 to 63 the second.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Element {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Capabilities, a bit each. Shown as /proc/PID/status has them: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// Of these bits.
    pub fn of(bits: &[u32]) -> Self {
        Self(bits.iter().fold(0, |set, bit| set | 1 << bit))
    }

    /// Whether it has this one.
    pub fn has(self, bit: u32) -> bool {
        self.0 & 1 << bit != 0
    }

    /// Whether it allows what this one does: `CAP_SYS_ADMIN` allows what `CAP_BPF` and `CAP_PERFMON` do
    /// (include/linux/capability.h).
    pub fn allows(self, bit: u32) -> bool {
        self.has(bit) || NEEDED.contains(&bit) && self.has(CAP_SYS_ADMIN)
    }

    /// Those of them that the probe has a use for: `CAP_SYS_ADMIN` only where it stands in, `CAP_SYS_RESOURCE` only
    /// where maps are charged to the limit of locked memory.
    fn useful(self, is_charged: bool) -> Self {
        let stands_in = NEEDED.iter().any(|&bit| !self.has(bit));
        let is_of_use = |bit| match bit {
            CAP_SYS_ADMIN => stands_in,
            CAP_SYS_RESOURCE => is_charged,
            _ => true,
        };
        let of_use = USEFUL.iter().map(|(bit, _)| *bit).filter(|&bit| self.has(bit) && is_of_use(bit));
        Self::of(&of_use.collect::<Vec<_>>())
    }

    /// The names of those that the probe has a use for.
    pub fn names(self) -> Vec<&'static str> {
        USEFUL.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name).collect()
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The sets of a thread that capset(2) can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What the kernel goes by.
    pub effective: Set,
    /// What may be made effective.
    pub permitted: Set,
    /// What a program started by it may get.
    pub inheritable: Set,
}

impl Capabilities {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// A seccomp filter refuses capget(2).
    pub fn of_this_thread() -> io::Result<Self> {
        let header = Header { version: VERSION, pid: 0 };
        let mut elements = [Element::default(); 2];
        // SAFETY: version 3 reads one header and writes two elements.
        done(unsafe { libc::syscall(libc::SYS_capget, &raw const header, elements.as_mut_ptr()) })?;
        let set = |of: fn(&Element) -> u32| Set(u64::from(of(&elements[1])) << 32 | u64::from(of(&elements[0])));
        Ok(Self {
            effective: set(|e| e.effective),
            permitted: set(|e| e.permitted),
            inheritable: set(|e| e.inheritable),
        })
    }

    /// Makes them those of the calling thread. Allocates nothing: it may be called between fork and exec.
    ///
    /// # Errors
    /// More is asked for than the thread has, or a seccomp filter refuses capset(2).
    pub fn apply(self) -> io::Result<()> {
        let header = Header { version: VERSION, pid: 0 };
        let half = |shift: u32| {
            let [effective, permitted, inheritable] =
                [self.effective, self.permitted, self.inheritable].map(|set| (set.0 >> shift) as u32);
            Element { effective, permitted, inheritable }
        };
        let elements = [half(0), half(32)];
        // SAFETY: version 3 reads one header and two elements.
        done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, elements.as_ptr()) })
    }
}

/// Makes those effective that the probe has a use for, as far as they are permitted, and gives them. What is missing is
/// told by who is refused for it. `is_charged`: whether this kernel charges maps to the limit of locked memory
/// ([`locked_memory`](super::locked_memory)).
///
/// # Errors
/// A seccomp filter refuses capget(2) or capset(2).
pub fn raise(is_charged: bool) -> io::Result<Set> {
    let own = Capabilities::of_this_thread()?;
    let useful = own.permitted.useful(is_charged);
    Capabilities { effective: Set(own.effective.0 | useful.0), ..own }.apply()?;
    Ok(useful)
}

/// Gives up every capability of the calling thread for good, so that no program that it starts gets one either. Gives
/// what stays in the bounding set: dropping from it needs `CAP_SETPCAP`, and without any capability and without new
/// privileges it has no effect.
///
/// # Errors
/// A seccomp filter refuses capget(2), capset(2) or prctl(2).
pub fn drop_all() -> io::Result<Set> {
    let own = Capabilities::of_this_thread()?;
    if own.permitted.has(CAP_SETPCAP) {
        Capabilities { effective: Set(own.effective.0 | 1 << CAP_SETPCAP), ..own }.apply()?;
        for bit in 0..MAX_CAPABILITIES {
            // Beyond the last capability that this kernel has it fails.
            // SAFETY: numbers only.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) } != 0 {
                break;
            }
        }
    }
    // SAFETY: numbers only.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // The ambient set keeps only what is permitted and inheritable.
    Capabilities::default().apply()?;
    Ok(bounding())
}

/// Beyond what no program that the calling thread starts can get.
fn bounding() -> Set {
    // SAFETY: numbers only. 0: not in the set; -1: no such capability.
    let is_in = |bit: &u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *bit, 0, 0, 0) } == 1;
    Set::of(&(0..MAX_CAPABILITIES).filter(is_in).collect::<Vec<_>>())
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn sys_admin_stands_in_for_what_is_missing_and_is_left_alone_otherwise() {
        let check = |set: &[u32], expected: &[&str]| assert_eq!(Set::of(set).useful(true).names(), expected, "{set:?}");
        check(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SETPCAP], &["CAP_BPF", "CAP_PERFMON"]);
        check(&[CAP_BPF, CAP_SYS_ADMIN], &["CAP_BPF", "CAP_SYS_ADMIN"]);
        check(&[CAP_SYS_ADMIN, CAP_SYS_RESOURCE], &["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]);
        check(&[CAP_SETPCAP], &[]);
        assert_eq!(Set::of(&[CAP_BPF, CAP_SYS_RESOURCE]).useful(false).names(), ["CAP_BPF"]);
        assert!(Set::of(&[CAP_SYS_ADMIN]).allows(CAP_BPF) && !Set::of(&[CAP_SYS_ADMIN]).allows(CAP_SYS_RESOURCE));
        assert_eq!(Set::of(&NEEDED).to_string(), "000000c000000000");
    }

    /// On a thread of its own: the other tests keep theirs.
    #[test]
    fn what_was_given_up_is_gone_for_good() {
        let (left, then, raised) = std::thread::spawn(|| {
            let before = Capabilities::of_this_thread().unwrap();
            let left = drop_all().unwrap();
            assert!(left == Set::default() || !before.permitted.has(CAP_SETPCAP), "{left} is left of {before:?}");
            (left, Capabilities::of_this_thread().unwrap(), raise(true).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((then, raised), (Capabilities::default(), Set::default()), "the bounding set is {left}");
    }

    #[test]
    fn no_more_can_be_had_than_is_permitted() {
        let applied = std::thread::spawn(|| {
            Capabilities::default().apply().unwrap();
            Capabilities { effective: Set::of(&[CAP_BPF]), ..Capabilities::default() }
                .apply()
                .map_err(|error| error.kind())
        });
        assert_eq!(applied.join().unwrap(), Err(io::ErrorKind::PermissionDenied));
    }
}
