//! Nodes that are not as they should be: a port that is taken, no privilege, no type information, no name; and `check`,
//! which says so beforehand.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

use crate::program::{Agent, Ended, command, end_of, get, has_probe, may_attach, run, without_privilege};
use oom_watcher_testkit::machine::bpf_file_system;
use oom_watcher_testkit::needs::needs;

const ANY_PORT: &[&str] = &["--listen", "127.0.0.1:0"];

/// The line of `check` that is called `name`, and what follows it as far as it belongs to it.
fn finding(check: &Ended, name: &str) -> String {
    let mut lines = check.out.lines().skip_while(|line| !line.starts_with(&format!("{name} ")));
    let first = lines.next().unwrap_or_else(|| panic!("no {name} in {}", check.out));
    let rest = lines.take_while(|line| line.starts_with(' ')).map(str::trim_start);
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_taken_port_is_told_before_anything_is_attached() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // Without privilege, so that attaching would fail with another message.
    let ended = end_of(without_privilege(command(&[("NODE_NAME", "node-a")], &["--listen", &address]))).unwrap();
    let says = format!(
        "oom-watcher: serving /metrics on {address}: Address already in use (os error 98): \
         stop what listens there (another oom-watcher?), or set another METRICS_PORT or --listen\n"
    );
    assert_eq!((ended.code, ended.err), (Some(1), says));

    // `check` asks who it is: one that hangs up.
    let stranger = std::thread::spawn(move || drop(taken.accept().unwrap()));
    let check = run(&[("NODE_NAME", "node-a")], &["check", "--listen", &address]);
    stranger.join().unwrap();
    let says = format!(
        "port          FAIL      {address}: Address already in use (os error 98)\n-> stop what listens there (another \
         oom-watcher?), or set another METRICS_PORT or --listen"
    );
    assert_eq!((check.code, finding(&check, "port")), (Some(3), says));
}

#[test]
fn an_address_of_another_machine_is_told() {
    let ended = run(&[("NODE_NAME", "node-a")], &["--listen", "192.0.2.1:8080"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.ends_with("set --listen to an address of this machine\n"), "{}", ended.err);
}

#[test]
fn without_privilege_the_capabilities_are_named() {
    needs!(has_probe());
    for endpoint in [&[][..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]] {
        let ended = end_of(without_privilege(command(endpoint, ANY_PORT))).unwrap();
        assert_eq!(ended.code, Some(3), "{ended:?}");
        let says = ended.err.lines().last().unwrap_or_default();
        let expected = "CAP_BPF is missing: no maps can be made, CAP_PERFMON is missing: tracing programs are refused: \
                        add BPF and PERFMON to the container's securityContext.capabilities";
        assert!(says.starts_with("oom-watcher: attaching the probe: ") && says.ends_with(expected), "{ended:?}");
    }

    let check = end_of(without_privilege(command(&[], &[&["check"], ANY_PORT].concat()))).unwrap();
    let says = "capabilities  FAIL      CAP_BPF is missing: no maps can be made, CAP_PERFMON is missing: tracing \
        programs are refused\n\
                -> add BPF and PERFMON to the container's securityContext.capabilities";
    assert_eq!((check.code, finding(&check, "capabilities").as_str()), (Some(3), says));
    let attach = finding(&check, "attach");
    assert!(attach.starts_with("attach        FAIL ") && attach.ends_with("\n-> see capabilities"), "{attach}");
    assert!(!attach.contains("CAP_BPF"), "{attach}");
    assert_eq!(check.out.matches("securityContext").count(), 1, "{}", check.out);
    let verdict = "verdict       FAIL      the agent cannot run here: see capabilities";
    assert_eq!(check.out.lines().last(), Some(verdict));
}

fn no_mount(error: io::Error) -> String {
    format!("no file system can be mounted: {error}")
}

/// Puts something over a place of the file system that only this program sees.
fn with_mount(
    mut command: Command,
    source: &'static CStr,
    target: &'static CStr,
    kind: &'static CStr,
    flags: libc::c_ulong,
) -> Command {
    let mount = move || {
        let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: all texts are constants; these system calls may be made between fork and exec.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            done(libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()))?;
            done(libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null()))
        }
    };
    // SAFETY: nothing but system calls.
    unsafe { command.pre_exec(mount) };
    command
}

#[test]
fn without_type_information_its_path_and_the_remedy_are_named() {
    needs!(has_probe());
    type Change = fn(Command) -> Command;
    let missing = |command: Command| with_mount(command, c"none", c"/sys/kernel/btf", c"tmpfs", 0);
    let empty = |command: Command| with_mount(command, c"/dev/null", c"/sys/kernel/btf/vmlinux", c"", libc::MS_BIND);
    let cases: [(Change, &str, &str); 2] = [
        (
            missing,
            "reading the kernel's type information at /sys/kernel/btf/vmlinux: No such file or directory (os error 2)",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount /sys in a container",
        ),
        (
            empty,
            "understanding /sys/kernel/btf/vmlinux: truncated BTF",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or a newer oom-watcher for a newer kernel",
        ),
    ];
    for (change, problem, remedy) in cases {
        let ended = needs!(end_of(change(command(&[("NODE_NAME", "node-a")], ANY_PORT))).map_err(no_mount));
        assert_eq!(
            (ended.code, ended.err.lines().last()),
            (Some(3), Some(format!("oom-watcher: attaching the probe: {problem}: {remedy}").as_str()))
        );
        let check = end_of(change(command(&[("NODE_NAME", "node-a")], &[&["check"], ANY_PORT].concat()))).unwrap();
        assert_eq!(
            (check.code, finding(&check, "types")),
            (Some(3), format!("types         FAIL      {problem}\n-> {remedy}"))
        );
        assert_eq!(finding(&check, "attach"), "attach        FAIL      the probe cannot be attached\n-> see types");
    }
}

#[test]
fn a_tracepoint_that_the_kernel_lacks_is_named() {
    needs!(has_probe());
    // A constant, because it is mounted between fork and exec.
    const CHANGED: &CStr = c"/tmp/oom-watcher-test-btf";
    let path = CHANGED.to_str().unwrap();
    let types = fs::read("/sys/kernel/btf/vmlinux").map_err(|error| format!("no type information: {error}"));
    let mut types = needs!(types);
    let name = b"\0btf_trace_mark_victim\0";
    let at = types.windows(name.len()).position(|window| window == name).unwrap();
    types[at + 1] = b'x';
    fs::write(path, types).unwrap();
    let change = |command: Command| with_mount(command, CHANGED, c"/sys/kernel/btf/vmlinux", c"", libc::MS_BIND);
    let ended = end_of(change(command(&[("NODE_NAME", "node-a")], ANY_PORT)));
    let check = end_of(change(command(&[("NODE_NAME", "node-a")], &[&["check"], ANY_PORT].concat())));
    fs::remove_file(path).unwrap();
    let (ended, check) = (needs!(ended.map_err(no_mount)), check.unwrap());
    let says = "oom-watcher: attaching the probe: the kernel has no tracepoint mark_victim: use a kernel built with \
        CONFIG_TRACEPOINTS=y";
    assert_eq!((ended.code, ended.err.lines().last()), (Some(3), Some(says)));
    let says = "types         FAIL      the kernel has no tracepoint mark_victim\n\
        -> use a kernel built with CONFIG_TRACEPOINTS=y";
    assert_eq!((check.code, finding(&check, "types").as_str()), (Some(3), says));
}

#[test]
fn check_passes_where_the_agent_works() {
    needs!(may_attach());
    let check = run(&[("NODE_NAME", "node-a")], &[&["check"], ANY_PORT].concat());
    assert_eq!(check.code, Some(0), "{check:?}");
    let attach = "attach        pass      loaded, attached to signal_generate and mark_victim, detached";
    assert!(
        finding(&check, "attach") == attach || finding(&check, "attach").starts_with("attach        degraded "),
        "{}",
        check.out
    );
}

#[test]
fn check_says_that_another_agent_has_state_and_spool() {
    needs!(may_attach());
    let (state, spool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (state, spool) = (state.path().to_str().unwrap(), spool.path().to_str().unwrap());
    let environment = [("OOM_WATCHER_SPOOL_DIR", spool), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")];
    let (mut agent, address) = Agent::ready(&environment, &["--state-dir", state]);
    let environment = [&[("NODE_NAME", "node-a")], &environment[..]].concat();
    let check =
        |listen: &str| run(&environment, &["check", "--state-dir", state, "--pin-dir", "none", "--listen", listen]);
    // Of that agent itself, which serves this port.
    let own = check(&address.to_string());
    assert_eq!(own.code, Some(0), "{own:?}");
    assert!(finding(&own, "state").ends_with(&format!(", in use by process {}", agent.pid())), "{own:?}");
    // Before another one.
    let other = check("127.0.0.1:0");
    for name in ["state", "spool"] {
        let says = format!(
            "{name:<13} FAIL      another oom-watcher runs on this node, process {}\n\
             -> stop it, or give one of them another --pin-dir and --state-dir",
            agent.pid()
        );
        assert_eq!(finding(&other, name), says);
    }
    assert_eq!((other.code, agent.stop()), (Some(3), Some(0)));
}

#[test]
fn check_as_json_has_what_the_table_has() {
    needs!(may_attach());
    let check = |json: &[&'static str]| {
        let ended = run(&[("NODE_NAME", "node-a")], &[&["check", "--pin-dir", "none"], ANY_PORT, json].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    let (table, json) = (check(&[]), check(&["--json"]));
    assert_eq!(json.lines().count(), 1, "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let last = table.lines().last().unwrap();
    let verdict = (json["verdict"].as_str().unwrap(), json["summary"].as_str().unwrap());
    assert_eq!(last, format!("verdict       {:<9} {}", verdict.0, verdict.1));
    let of_table: Vec<_> = table.lines().filter(|line| !line.starts_with(' ')).map(|line| line[..13].trim()).collect();
    let findings = json["findings"].as_array().unwrap();
    let of_json: Vec<_> = findings.iter().map(|finding| finding["name"].as_str().unwrap()).chain(["verdict"]).collect();
    assert_eq!(of_json, of_table);
    // No endpoint is set, which is said once.
    assert_eq!(table.matches("OTEL_EXPORTER_OTLP_ENDPOINT").count(), 1, "{table}");
}

#[test]
fn check_passes_beside_an_agent_that_runs_already() {
    needs!(may_attach());
    let (mut agent, address) = Agent::ready(&[], &[]);
    let check = run(&[("NODE_NAME", "node-a")], &["check", "--listen", &address.to_string()]);
    let says = format!("port          pass      {address} is served by an oom-watcher that runs already");
    assert_eq!((check.code, finding(&check, "port")), (Some(0), says));
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn check_tells_what_outlives_the_agent_and_leaves_nothing() {
    needs!(may_attach());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let check = |pins: &str, state: &str| {
        let check =
            run(&[("NODE_NAME", "node-a")], &[&["check", "--pin-dir", pins, "--state-dir", state], ANY_PORT].concat());
        assert_eq!(check.code, Some(0), "{check:?}");
        [finding(&check, "pins"), finding(&check, "state")]
    };
    let [pins, state] = check(&path("pins"), &path("state"));
    let says = format!(
        "pins          degraded  kills while no agent runs are not seen: {} is not on a BPF file system\n\
         -> mount one (mount -t bpf bpf /sys/fs/bpf)",
        path("pins")
    );
    assert_eq!((pins, state.as_str()), (says, "state         pass      can be saved; none is there yet"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::create_dir(path("state")).unwrap();
    fs::write(path("state/state.json"), "{}").unwrap();
    let [pins, state] = check("none", &path("state"));
    assert!(pins.starts_with("pins          pass      none are wanted"), "{pins}");
    assert!(
        state.starts_with("state         degraded  counts begin at 0: state.json: missing field")
            && state.ends_with("\n-> the next agent sets it aside"),
        "{state}"
    );
    assert_eq!(fs::read_to_string(path("state/state.json")).unwrap(), "{}", "it is not set aside");
}

#[test]
fn a_start_that_fails_leaves_no_folder_for_pins() {
    needs!(may_attach());
    let pins = needs!(bpf_file_system()).join(format!("oom-watcher-test-{}", std::process::id()));
    let start = |pins: &Path| {
        let ended = end_of(without_privilege(command(
            &[("NODE_NAME", "node-a")],
            &[&["--pin-dir", pins.to_str().unwrap()], ANY_PORT].concat(),
        )))
        .unwrap();
        assert_eq!(ended.code, Some(3), "{ended:?}");
    };
    start(&pins);
    assert!(!pins.exists());
    // One that was there stays: who made it may have given it to the agent's user.
    fs::create_dir(&pins).unwrap();
    start(&pins);
    fs::remove_dir(&pins).unwrap();
}

#[test]
fn a_node_without_name_is_called_after_the_host_with_a_warning() {
    needs!(may_attach());
    let (mut agent, address) = Agent::ready(&[("NODE_NAME", "")], &[]);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim_end();
    let problem = format!(
        "empty: the node is called {host} after the host's name, which in a pod is the pod's. Set it from spec.nodeName"
    );
    assert!(
        agent
            .warnings()
            .iter()
            .any(|line| (&line["setting"], &line["problem"]) == (&"NODE_NAME".into(), &problem.as_str().into())),
        "{problem}"
    );
    assert!(get(address, "/metrics").1.contains(&format!("oom_kills_per_node_total{{node=\"{host}\"}}")));
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_second_agent_on_another_port_works_beside_the_first() {
    needs!(may_attach());
    let (mut first, one) = Agent::ready(&[], &[]);
    let (mut second, other) = Agent::ready(&[], &[]);
    assert_ne!(one, other);
    for address in [one, other] {
        assert!(get(address, "/metrics").1.contains("oom_watcher_probe_attached{node=\"node-a\"} 1\n"));
        assert_eq!(get(address, "/readyz"), ("HTTP/1.0 200 OK".to_owned(), "ready\n".to_owned()));
    }
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
}
