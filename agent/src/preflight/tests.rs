//! Each fault of a node is found, alone, and has a remedy.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]
use std::time::Duration;

use super::*;
use crate::privileges::capabilities::{CAP_BPF, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, NEEDED, Set};
use crate::privileges::denial::Denial;
use crate::source::probe::pins::Kept;

fn good() -> Seen {
    let needed = Set::of(&NEEDED);
    Seen {
        warnings: Vec::new(),
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
        types: Ok(()),
        memory: Some(Version::V2),
        lockdown: Some("[none] integrity confidentiality".into()),
        listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
        port: Port::Free,
        endpoints: vec![(Signal::Logs, "http://localhost:4317".into(), Ok(()))],
        attached: Ok(Names::FromKernel),
        programs: vec![loaded(None)],
        lasting: Lasting {
            pins: Some(Ok(Kept { sets: 0, holder: None })),
            state: Some(Ok(false)),
            state_holder: None,
            spool: None,
        },
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

/// Changes one thing, and the named finding alone must change to the verdict, with a remedy of its own.
#[track_caller]
fn check(name: &str, expected: Verdict, change: impl FnOnce(&mut Seen)) {
    let mut seen = good();
    change(&mut seen);
    let report = judge(&seen);
    for finding in &report.findings {
        let verdict = if finding.name == name { expected } else { Verdict::Pass };
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        let has_remedy = finding.remedy.as_ref().is_some_and(|remedy| !remedy.starts_with("see "));
        assert_eq!(finding.verdict != Verdict::Pass, has_remedy, "{finding:?}");
    }
    assert_eq!(report.verdict, expected);
    assert_eq!(report.summary.ends_with(&format!("see {name}")), expected != Verdict::Pass, "{}", report.summary);
}

#[test]
fn a_good_node_passes() {
    let report = judge(&good());
    assert_eq!((report.verdict, report.summary.as_str()), (Verdict::Pass, "the agent can run here"));
    assert!(report.to_string().ends_with("\nverdict       pass      the agent can run here\n"), "{report}");
}

/// What follows from a cause refers to it.
#[test]
fn a_cause_has_its_remedy_once() {
    let only_bpf = Standing { permitted: Set::of(&[CAP_BPF]), ..good().standing.unwrap() };
    let denied = |why| Err(AttachError::NotPermitted("making maps", anyhow::anyhow!("no"), why));
    let confined = |seen: &mut Seen| seen.lockdown = Some("none integrity [confidentiality]".into());
    type Change<'a> = Box<dyn Fn(&mut Seen) + 'a>;
    let cases: [(&str, Change<'_>); 7] = [
        ("probe", Box::new(|seen| (seen.object, seen.attached) = (false, Err(AttachError::NoObject)))),
        (
            "capabilities",
            Box::new(|seen| {
                seen.attached = denied(only_bpf.denial(1 << 20));
                seen.standing = Some(only_bpf.clone());
            }),
        ),
        (
            "memlock",
            Box::new(|seen| {
                seen.standing.as_mut().unwrap().kernel = Some((5, 10));
                seen.attached = denied(Denial::LockedMemory);
            }),
        ),
        (
            "types",
            Box::new(|seen| {
                let missing = || Err(AttachError::NoTracepoint("mark_victim"));
                seen.types = missing();
                seen.attached = missing().map(|()| Names::FromKernel);
            }),
        ),
        (
            "lockdown",
            Box::new(|seen| {
                confined(seen);
                seen.attached = Ok(Names::FromFiles { cgroups: 300, all: true });
            }),
        ),
        (
            "node",
            Box::new(|seen| {
                seen.node = Ok(Node::All(Reason::OwnAlone));
                seen.attached = Ok(Names::FromFiles { cgroups: 3, all: false });
            }),
        ),
        (
            "cgroups",
            Box::new(|seen| {
                seen.memory = None;
                seen.attached = Ok(Names::Nowhere("not mounted".into()));
            }),
        ),
    ];
    for (cause, change) in cases {
        let mut seen = good();
        change(&mut seen);
        let report = judge(&seen);
        let remedy = |name: &str| report.findings.iter().find(|one| one.name == name).unwrap().remedy.clone().unwrap();
        assert!(!remedy(cause).starts_with("see "), "{cause}: {}", remedy(cause));
        assert_eq!(remedy("attach"), format!("see {cause}"));
        assert!(report.summary.ends_with(&format!("see {cause}")), "{}", report.summary);
    }
}

#[test]
fn endpoints_that_fail_alike_have_one_remedy() {
    let failed = |why: &str| Err(why.to_owned());
    let url = || "http://localhost:4317".to_owned();
    let endpoints = vec![
        (Signal::Logs, url(), failed("refused")),
        (Signal::Traces, url(), failed("refused")),
        (Signal::Metrics, url(), failed("forbidden")),
    ];
    let report = judge(&Seen { endpoints, ..good() });
    let of = |name: &str| report.findings.iter().find(|one| one.name == name).unwrap().remedy.as_deref().unwrap();
    assert_eq!(of("otlp traces"), "see otlp logs");
    assert_eq!(of("otlp logs"), of("otlp metrics"));
    assert!(report.summary.ends_with("see otlp logs, otlp metrics"), "{}", report.summary);
}

#[test]
fn a_warning_is_a_finding_that_says_itself_what_to_do() {
    let warnings = vec![Warning { name: "NODE_NAME".into(), text: "not set: set it".into() }; 2];
    let report = judge(&Seen { warnings, ..good() });
    assert_eq!(report.summary, "the agent can run here, but something is missing: see configuration");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdict"], "degraded");
    let expected = serde_json::json!({
        "name": "configuration", "verdict": "degraded", "found": "NODE_NAME: not set: set it", "remedy": null,
    });
    assert_eq!(json["findings"][1], expected);
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
    check("types", Verdict::Fail, |seen| seen.types = Err(AttachError::NoBtf(io::ErrorKind::NotFound.into())));
    check("types", Verdict::Fail, |seen| seen.types = Err(AttachError::NoTracepoint("mark_victim")));
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
    check("attach", Verdict::Fail, |seen| seen.attached = Err(AttachError::Taken(Some(7))));
    let taken = |seen: &mut Seen| seen.lasting.pins = Some(Ok(Kept { sets: 2, holder: Some(7) }));
    check("pins", Verdict::Fail, taken);
    check("pins", Verdict::Pass, |seen| {
        taken(seen);
        seen.port = Port::Ours;
    });
    check("state", Verdict::Fail, |seen| seen.lasting.state_holder = Some(7));
    check("spool", Verdict::Pass, |seen| seen.lasting.spool = Some(Ok(None)));
    check("spool", Verdict::Fail, |seen| seen.lasting.spool = Some(Ok(Some(7))));
    check("spool", Verdict::Degraded, |seen| seen.lasting.spool = Some(Err(("no".into(), None))));
    check("pins", Verdict::Degraded, |seen| seen.lasting.pins = Some(Err(("no".into(), Some("mount one")))));
    check("pins", Verdict::Pass, |seen| seen.lasting.pins = None);
    check("pins", Verdict::Degraded, |seen| seen.lasting.pins = Some(Err(("no".into(), None))));
    check("state", Verdict::Degraded, |seen| seen.lasting.state = Some(Err(("not permitted".into(), None))));
    check("state", Verdict::Pass, |seen| seen.lasting.state = None);
    check("node", Verdict::Pass, |seen| seen.node = Ok(Node::All(Reason::NotMounted)));
    check("node", Verdict::Degraded, |seen| seen.node = Ok(Node::All(Reason::OwnAlone)));
    check("node", Verdict::Fail, |seen| seen.node = Err("node_cgroup: /none".into()));
    check("kubernetes", Verdict::Pass, |seen| seen.pods = None);
    check("kubernetes", Verdict::Degraded, |seen| seen.pods = Some(Ok(0)));
    check("kubernetes", Verdict::Degraded, |seen| seen.pods = Some(Err("forbidden".into())));
}
