//! Ring "kernel": what the agent may do, before the probe is attached and after, and what it says where it may not. The
//! release binary, as in `kernel.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use oom_watcher::privileges::capabilities::{CAP_BPF, CAP_PERFMON, CAP_SYS_RESOURCE, Capabilities, NEEDED, Set};
use oom_watcher::privileges::locked_memory;
use oom_watcher_testkit::agent::{Agent, NODE, program};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::kills::{Made, make};
use oom_watcher_testkit::needs::{Lack, needs, real_kills};
use oom_watcher_testkit::restricted::{Restricted, USER};
use oom_watcher_testkit::wait::eventually;

const NO_CAPABILITY: &str = "0000000000000000";
const WATCH: &[&str] = &["--listen", "127.0.0.1:0"];
const CHECK: &[&str] = &["check", "--listen", "127.0.0.1:0"];

/// What /proc tells of each thread of a process: its capabilities, its user, and whether it may get new privileges.
fn threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One that ends meanwhile is none.
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let is_asked = |(name, _): &(&str, &str)| name.starts_with("Cap") || ["Name", "NoNewPrivs", "Uid"].contains(name);
    let fields = |status: String| {
        let fields = status.lines().filter_map(|line| line.split_once(":\t")).filter(is_asked);
        fields.map(|(name, value)| (name.into(), value.into())).collect()
    };
    statuses.map(fields).collect()
}

/// No thread of it has capabilities or can get some; `bounding` is what is left in the bounding set.
#[track_caller]
fn assert_powerless(agent: &Agent, bounding: &str) {
    let threads = threads(agent.pid());
    assert!(threads.len() > 1, "beside the agent's own thread there is that of the metrics");
    for thread in threads {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"].map(|name| thread[name].as_str());
        assert_eq!(sets, [NO_CAPABILITY, NO_CAPABILITY, NO_CAPABILITY, NO_CAPABILITY, bounding], "{thread:?}");
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
    }
}

/// A kill is recorded and counted, and making that so starts no thread with capabilities.
#[track_caller]
fn assert_sees_kills(agent: &Agent, collector: &Collector) {
    let made = make("one");
    let root = root(&made);
    assert_eq!(collector.await_records(1, |path| path.starts_with(&root)).len(), 1);
    let seen = eventually("the kill on /metrics", || {
        Some(agent.get("/metrics")).filter(|text| text.contains("\noom_kills_total{"))
    });
    assert!(seen.contains(&format!("oom_watcher_probe_attached{{node=\"{NODE}\"}} 1\n")), "{seen}");
}

fn root(made: &Made) -> String {
    format!("/{}/", made.cgroups.first().unwrap().path.split('/').nth(1).unwrap())
}

/// The agent's line about its capabilities.
fn given_up(agent: &Agent) -> serde_json::Value {
    let log = agent.log();
    let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.find(|line| line["message"] == "all capabilities are given up").unwrap_or_else(|| panic!("{log}"))
}

/// A child that does not outlive the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it to its end. Gives the exit code, standard output, and the last line of standard error.
fn end_of(mut command: Command, arguments: &[&str]) -> (Option<i32>, String, String) {
    command
        .env_clear()
        .env("NODE_NAME", NODE)
        .env("OOM_WATCHER_PIN_DIR", "none")
        .env("OOM_WATCHER_STATE_DIR", "none")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().unwrap());
    let code = eventually("end of the agent", || child.0.try_wait().unwrap()).code();
    let (mut out, mut err) = (String::new(), String::new());
    child.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (code, out, err.lines().last().unwrap_or_default().to_owned())
}

/// The agent does not start so, and says all of this; `check` fails too, with these lines.
#[track_caller]
fn check_refused(start: impl Fn() -> (Command, Option<tempfile::TempDir>), says: &str, lines: &str) {
    let (command, _folder) = start();
    let (code, _, message) = end_of(command, WATCH);
    assert_eq!(code, Some(3), "{message}");
    assert!(message.starts_with("oom-watcher: attaching the probe: ") && message.ends_with(says), "{message}");
    let (command, _folder) = start();
    let (code, out, _) = end_of(command, CHECK);
    assert_eq!(code, Some(3), "{out}");
    let unaligned =
        out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n");
    assert!(unaligned.contains(lines), "{out}");
}

#[test]
fn after_the_start_no_thread_of_root_has_a_capability_and_kills_are_seen() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let mut agent = Agent::start_with(None, &collector.environment(), &[]);
    assert_powerless(&agent, NO_CAPABILITY);
    let used = if locked_memory::is_charged(oom_watcher::host::kernel::running()) {
        "CAP_BPF,CAP_PERFMON,CAP_SYS_RESOURCE"
    } else {
        "CAP_BPF,CAP_PERFMON"
    };
    assert_eq!(given_up(&agent)["used"], used);
    assert_sees_kills(&agent, &collector);
    assert_powerless(&agent, NO_CAPABILITY);
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
}

#[test]
fn two_capabilities_suffice_for_root() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let mut agent =
        Agent::start_with(Some(Restricted { file: None, ..Restricted::user(0) }), &collector.environment(), &[]);
    // Without CAP_SETPCAP the bounding set stays; under no_new_privs it gives nothing.
    assert_powerless(&agent, &Set::of(&NEEDED).to_string());
    assert_sees_kills(&agent, &collector);
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
}

#[test]
fn a_user_with_file_capabilities_sees_kills_under_no_new_privs() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let mut agent = Agent::start_with(Some(Restricted::user(USER)), &collector.environment(), &[]);
    assert_eq!(threads(agent.pid())[0]["Uid"], [USER; 4].map(|user| user.to_string()).join("\t"));
    assert_powerless(&agent, &Set::of(&NEEDED).to_string());
    let line = given_up(&agent);
    assert_eq!((&line["permitted"], &line["used"]), (&"000000c000000000".into(), &"CAP_BPF,CAP_PERFMON".into()));
    assert_sees_kills(&agent, &collector);
    assert_powerless(&agent, &Set::of(&NEEDED).to_string());
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
}

#[test]
fn an_agent_of_another_user_is_refused_with_the_process_id_of_the_first() {
    let _alone = needs!(real_kills());
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let state = folder.path().join("state").display().to_string();
    let first = Agent::start_with(Some(Restricted::user(USER)), &[], &["--state-dir", &state]);
    // What is that user's, root may not open without CAP_DAC_OVERRIDE.
    let (command, _folder) = Restricted { file: None, ..Restricted::user(0) }.command(&program());
    let (code, _, message) = end_of(command, &[WATCH, &["--state-dir", &state]].concat());
    assert!(
        message.contains(&format!("another oom-watcher runs on this node, process {}: ", first.pid())),
        "{message}"
    );
    assert_eq!(code, Some(3));
}

#[test]
fn check_passes_for_a_user_with_file_capabilities() {
    let _alone = needs!(real_kills());
    let (command, _folder) = Restricted::user(USER).command(&program());
    let (code, out, _) = end_of(command, CHECK);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(&format!("pass      CAP_BPF, CAP_PERFMON of user {USER}\n")), "{out}");
}

#[test]
fn a_capability_that_the_container_was_not_given_is_named_with_the_remedy() {
    let _alone = needs!(real_kills());
    for (added, missing) in [
        (CAP_BPF, "CAP_PERFMON is missing: tracing programs are refused"),
        (CAP_PERFMON, "CAP_BPF is missing: no maps can be made"),
    ] {
        let remedy = "add BPF and PERFMON to the container's securityContext.capabilities";
        for user in [0, USER] {
            let file = (user != 0).then(|| Set::of(&NEEDED));
            let start = || {
                let (command, folder) =
                    Restricted { added: Set::of(&[added]), file, ..Restricted::user(user) }.command(&program());
                (command, Some(folder))
            };
            check_refused(
                start,
                &format!("Operation not permitted (os error 1): {missing}: {remedy}"),
                &format!("capabilities FAIL {missing}\n-> {remedy}\n"),
            );
        }
    }
}

#[test]
fn a_binary_without_file_capabilities_is_told_how_to_give_it_some() {
    let _alone = needs!(real_kills());
    let missing = "CAP_BPF is missing: no maps can be made, CAP_PERFMON is missing: tracing programs are refused";
    let remedy = "`setcap cap_bpf,cap_perfmon+p` the binary, or run it as root";
    let start = || {
        let (command, folder) = Restricted { file: None, ..Restricted::user(USER) }.command(&program());
        (command, Some(folder))
    };
    check_refused(start, &format!("{missing}: {remedy}"), &format!("capabilities FAIL {missing}\n-> {remedy}\n"));
}

#[test]
fn capabilities_that_no_new_privs_keeps_from_the_binary_are_told() {
    let _alone = needs!(real_kills());
    let start = || {
        let (mut command, folder) = Restricted::user(USER).command(&program());
        // SAFETY: one system call, after those that restrict it: the bounding set has them, its starter has not.
        unsafe { command.pre_exec(|| Capabilities::default().apply()) };
        (command, Some(folder))
    };
    let remedy = "add BPF and PERFMON to the container's securityContext.capabilities: the binary has them, but under \
        no_new_privs who starts it must have them too";
    check_refused(start, remedy, &format!("\n-> {remedy}\n"));
}

#[test]
fn a_small_limit_of_locked_memory_is_a_matter_of_kernels_before_5_11() {
    let _alone = needs!(real_kills());
    // What kernels give by themselves.
    let small = Restricted { memlock: Some(64 << 10), ..Restricted::user(USER) };
    if locked_memory::is_charged(oom_watcher::host::kernel::running()) {
        let start = || {
            let (command, folder) = small.command(&program());
            (command, Some(folder))
        };
        let remedy = "raise it (ulimit -l unlimited), or add CAP_SYS_RESOURCE";
        check_refused(
            start,
            remedy,
            "memlock FAIL 64 KiB may be locked, and this kernel charges 4096 KiB of maps to that\n-> raise it (ulimit",
        );
    } else {
        assert_eq!(Agent::start_with(Some(small), &[], &[]).stop(), Some(0));
    }
    let resource = [CAP_BPF, CAP_PERFMON, CAP_SYS_RESOURCE];
    let may_raise = Restricted { added: Set::of(&resource), file: Some(Set::of(&resource)), ..small };
    // Nobody can give what he has not.
    if Capabilities::of_this_thread().unwrap().permitted.has(CAP_SYS_RESOURCE) {
        assert_eq!(Agent::start_with(Some(may_raise), &[], &[]).stop(), Some(0));
    }
}

/// Lets bpf(2) fail with EPERM, as the filters of container runtimes do.
fn refuse_bpf() -> io::Result<()> {
    const fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let mut filter = [
        // The number of the system call comes first in `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_bpf as u32, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_seccomp_filter_that_refuses_bpf_is_told_apart_from_missing_capabilities() {
    let _alone = needs!(real_kills());
    let start = || {
        let (mut command, folder) = Restricted::user(USER).command(&program());
        // SAFETY: one system call.
        unsafe { command.pre_exec(refuse_bpf) };
        (command, Some(folder))
    };
    let remedy = "update the container runtime (CRI-O 1.31 allows it), or set seccompProfile to one that allows bpf";
    check_refused(
        start,
        remedy,
        &format!(
            "capabilities FAIL a seccomp filter refuses bpf(2), as CRI-O's and Podman's own did for long\n-> {remedy}\n"
        ),
    );
}

#[test]
fn a_user_namespace_of_its_own_is_told_apart_from_missing_capabilities() {
    let _alone = needs!(real_kills());
    // In it root is root.
    let unshare = || {
        // SAFETY: numbers only.
        let done = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
        if done == 0 { fs::write("/proc/self/uid_map", "0 0 1") } else { Err(io::Error::last_os_error()) }
    };
    let command = || {
        let mut command = Command::new(program());
        // SAFETY: nothing but system calls.
        unsafe { command.pre_exec(unshare) };
        command
    };
    // No package would change it: a system setting forbids it, or the tests run in a chroot.
    let refused = |error: io::Error| Lack::Inapplicable(format!("no user namespace can be made: {error}"));
    needs!(command().arg("--version").output().map_err(refused));
    check_refused(
        || (command(), None),
        "run it in the node's (in a pod hostUsers: true, which is the default)",
        "capabilities FAIL its capabilities count in its own user namespace only\n-> run it in the node's (in a pod",
    );
}
