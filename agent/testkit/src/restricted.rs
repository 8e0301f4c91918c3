//! Starts the agent as container runtimes do: as some user, with few capabilities, those that its file permits, and
//! without new privileges.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use oom_watcher::privileges::capabilities::{Capabilities, NEEDED, Set};
use tempfile::TempDir;

/// Names a user as whom all agents are started: the tests of real kills then show that it suffices.
const AS_USER: &str = "OOM_WATCHER_AS_USER";
/// What distroless images call `nonroot`.
pub const USER: u32 = 65532;

/// How a container runtime starts a program.
#[derive(Clone, Copy, Debug)]
pub struct Restricted {
    /// As whom.
    pub user: u32,
    /// `capabilities.add` of the container, everything else dropped: permitted and bounding set when the program is
    /// started.
    pub added: Set,
    /// What `setcap …+p` gave to the program's file. Absent: no file capabilities.
    pub file: Option<Set>,
    /// The limit of locked memory, bytes. Absent: none, if that can be had here; kernels from 5.11 on do not mind.
    pub memlock: Option<libc::rlim_t>,
}

impl Restricted {
    /// As the agent is meant to run.
    pub fn user(user: u32) -> Self {
        Self { user, added: Set::of(&NEEDED), file: Some(Set::of(&NEEDED)), memlock: None }
    }

    /// That of the environment, if it has one.
    pub(crate) fn of_environment() -> Option<Self> {
        let user = std::env::var(AS_USER).ok()?;
        Some(Self::user(user.parse().unwrap_or_else(|_| panic!("{AS_USER} is no user id: {user}"))))
    }

    /// Starts a copy of the program, which is removed with the folder.
    pub fn command(self, program: &Path) -> (Command, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.path().join("oom-watcher");
        fs::copy(program, &copy).unwrap();
        chown(&copy, Some(self.user), Some(self.user)).unwrap();
        if let Some(file) = self.file {
            set_file_capabilities(&copy, file);
        }
        let mut command = Command::new(copy);
        // SAFETY: nothing but system calls.
        unsafe { command.pre_exec(move || self.restrict()) };
        (command, folder)
    }

    /// In the child, before the program is started. What runc does, in its order.
    fn restrict(self) -> io::Result<()> {
        for bit in (0..64).filter(|&bit| !self.added.has(bit)) {
            // Beyond the last capability of this kernel it fails.
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) };
        }
        let done = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        let limit = self.memlock.unwrap_or(libc::RLIM_INFINITY);
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        let (user, none) = (self.user, std::ptr::null::<libc::gid_t>());
        // SAFETY: numbers, a limit that outlives the call, and an empty list.
        unsafe {
            let limited = done(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit).into());
            self.memlock.map_or(Ok(()), |_| limited)?;
            done(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
            done(libc::syscall(libc::SYS_setgroups, 0, none))?;
            done(libc::syscall(libc::SYS_setresgid, user, user, user))?;
            done(libc::syscall(libc::SYS_setresuid, user, user, user))?;
        }
        Capabilities { effective: self.added, permitted: self.added, inheritable: Set::default() }.apply()?;
        // SAFETY: numbers only.
        done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
    }
}

/// `setcap …+p`: `struct vfs_cap_data` of include/uapi/linux/capability.h, version 2, in the order of bytes that it has
/// on every machine.
fn set_file_capabilities(file: &Path, permitted: Set) {
    const VERSION: u32 = 0x0200_0000;
    let words = [VERSION, permitted.0 as u32, 0, (permitted.0 >> 32) as u32, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    // SAFETY: the texts end with 0, and the value is as long as said.
    let done = unsafe {
        libc::setxattr(path.as_ptr(), c"security.capability".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    assert_eq!(done, 0, "setting the capabilities of {}: {}", file.display(), io::Error::last_os_error());
}
