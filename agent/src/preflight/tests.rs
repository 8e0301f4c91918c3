//! Each fault of a node is found, alone, and has a remedy.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]
use std::time::Duration;

use super::*;
use crate::privileges::capabilities::{CAP_BPF, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, NEEDED, Set};
use crate::source::probe::pins::Kept;

fn good() -> Seen {
    let needed = Set::of(&NEEDED);
    Seen {
        object: true,
        kernel: "6.1.0-56-cloud-amd64".into(),
        standing: Some(Standing {
            permitted: needed,
            bounding: needed,
            memlock: Some(64 << 10),
            kernel: Some((6, 1)),
            ..Standing::default()
        }),
        ring_bytes: 1 << 20,
        types: Ok(Vec::new()),
        memory: Some(MemoryController::V2),
        lockdown: Some("[none] integrity confidentiality".into()),
        listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
        port: Port::Free,
        endpoints: vec![(Signal::Logs, "http://localhost:4317".into(), Ok(()))],
        attached: Ok(Names::FromKernel),
        programs: vec![loaded(None)],
        lasting: Lasting { pins: Some(Ok(Kept { sets: 0, holder: None })), state: Some(Ok(false)) },
        node: Ok(Node::All(Reason::Whole)),
        pod_logs: None,
        pods: Some(Ok(12)),
    }
}

fn loaded(refused: Option<&str>) -> Loaded {
    Loaded {
        name: "on_decision",
        verified_instructions: Some(96),
        time: Duration::from_micros(1260),
        refused: refused.map(str::to_owned),
    }
}

#[test]
fn programs_are_told_with_their_cost_or_why_they_are_not_attached() {
    assert_eq!(program(&loaded(None)), "on_decision 96 instructions, 1.3 ms");
    assert_eq!(program(&Loaded { verified_instructions: None, ..loaded(None) }), "on_decision 1.3 ms");
    assert_eq!(
        program(&loaded(Some("no such function"))),
        "on_decision not attached, the agent goes on without: no such function"
    );
}

/// Changes one thing, and the named finding alone must change to the verdict, with a remedy.
#[track_caller]
fn check(name: &str, expected: Verdict, change: impl FnOnce(&mut Seen)) {
    let mut seen = good();
    change(&mut seen);
    for finding in judge(&seen) {
        let verdict = if finding.name == name { expected } else { Verdict::Pass };
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(
            finding.verdict == Verdict::Pass || finding.remedy.is_some() || finding.name == "attach",
            "no remedy: {finding:?}"
        );
    }
}

#[test]
fn a_good_node_passes() {
    assert_eq!(verdict(&judge(&good())), Verdict::Pass);
}

#[test]
fn each_fault_is_found_and_has_a_remedy() {
    check("probe", Verdict::Fail, |seen| seen.object = false);
    let has = |bits: &[u32]| Standing { permitted: Set::of(bits), ..good().standing.unwrap() };
    check("kernel", Verdict::Degraded, |seen| seen.kernel = "4.19.0".into());
    check("kernel", Verdict::Degraded, |seen| seen.kernel = String::new());
    check("capabilities", Verdict::Degraded, |seen| seen.standing = None);
    check("capabilities", Verdict::Fail, |seen| seen.standing = Some(has(&[CAP_BPF])));
    check("capabilities", Verdict::Fail, |seen| seen.standing = Some(has(&[])));
    check("capabilities", Verdict::Pass, |seen| seen.standing = Some(has(&[CAP_SYS_ADMIN])));
    check("capabilities", Verdict::Fail, |seen| {
        seen.standing = Some(Standing { other_user_namespace: true, ..has(&NEEDED) })
    });
    check("capabilities", Verdict::Fail, |seen| seen.standing = Some(Standing { filtered: true, ..has(&NEEDED) }));
    check("memlock", Verdict::Fail, |seen| seen.standing = Some(Standing { kernel: Some((5, 10)), ..has(&NEEDED) }));
    check("memlock", Verdict::Pass, |seen| {
        seen.standing = Some(Standing { kernel: Some((5, 10)), ..has(&[CAP_SYS_ADMIN, CAP_SYS_RESOURCE]) })
    });
    check("types", Verdict::Fail, |seen| seen.types = Err("no such file".into()));
    check("types", Verdict::Fail, |seen| seen.types = Ok(vec!["mark_victim"]));
    check("cgroups", Verdict::Degraded, |seen| seen.memory = None);
    check("lockdown", Verdict::Degraded, |seen| seen.lockdown = Some("none integrity [confidentiality]".into()));
    check("port", Verdict::Pass, |seen| seen.port = Port::Ours);
    check("port", Verdict::Fail, |seen| seen.port = Port::Taken(io::ErrorKind::AddrInUse.into()));
    check("otlp logs", Verdict::Degraded, |seen| seen.endpoints[0].2 = Err("connection refused".into()));
    for names in [
        Names::FromFiles { cgroups: 300, all: true },
        Names::FromFiles { cgroups: 3, all: false },
        Names::Nowhere("not mounted".into()),
    ] {
        check("attach", Verdict::Degraded, |seen| seen.attached = Ok(names));
    }
    check("attach", Verdict::Fail, |seen| seen.attached = Err("not permitted".into()));
    check("pins", Verdict::Pass, |seen| seen.lasting.pins = Some(Ok(Kept { sets: 2, holder: Some(7) })));
    check("pins", Verdict::Degraded, |seen| seen.lasting.pins = Some(Err("not on a BPF file system".into())));
    check("pins", Verdict::Pass, |seen| seen.lasting.pins = None);
    check("state", Verdict::Degraded, |seen| seen.lasting.state = Some(Err("not permitted".into())));
    check("state", Verdict::Pass, |seen| seen.lasting.state = None);
    check("node", Verdict::Pass, |seen| seen.node = Ok(Node::All(Reason::NotMounted)));
    check("node", Verdict::Degraded, |seen| seen.node = Ok(Node::All(Reason::OwnAlone)));
    check("node", Verdict::Fail, |seen| seen.node = Err("node_cgroup: /none".into()));
    check("kubernetes", Verdict::Pass, |seen| seen.pods = None);
    check("kubernetes", Verdict::Degraded, |seen| seen.pods = Some(Ok(0)));
    check("kubernetes", Verdict::Degraded, |seen| seen.pods = Some(Err("forbidden".into())));
}

#[test]
fn what_the_kernel_writes_is_understood() {
    let v1 = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 25 0:27 / /sys/fs/cgroup/unified rw \
        - cgroup2 cgroup2 rw\n";
    assert_eq!(memory_controller(v1), Some(MemoryController::V1));
    assert_eq!(memory_controller("30 25 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"), Some(MemoryController::V2));
    assert_eq!(memory_controller("30 25 0:26 / /proc rw - proc proc rw\n"), None);
}
