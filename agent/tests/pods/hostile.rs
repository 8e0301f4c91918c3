//! Pods and cgroups as nobody should make them: nothing of it ends the agent, fills its memory or costs another one's
//! kill.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use oom_watcher::cgroups::hierarchy::Hierarchy;
use oom_watcher::selftest::scratch::Scratch;
use serde_json::{Value, json};

use crate::{container, kill, pod, start, within};
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

/// Much more than the API server takes; the objects are as large as it takes them, 1.5 MB.
const MANY: usize = 10_000;

fn hostile() -> Vec<Value> {
    let huge = "ü".repeat(250_000);
    let many = |member: &dyn Fn(usize) -> Value| (0..MANY).map(member).collect::<Vec<_>>();
    let labels: serde_json::Map<_, _> = (0..MANY).map(|number| (format!("key-{number}"), huge[..20].into())).collect();
    let uid = |number: u32| format!("{number:08x}-0000-4000-8000-000000000000");
    let metadata = |number: u32, name: &str| json!({"uid": uid(number), "name": name, "namespace": "shop"});
    let ids = [
        "",
        "containerd://",
        "://",
        "containerd://xyz",
        &"f".repeat(65),
        &format!("containerd://{}", "g".repeat(64)),
        &huge,
    ];
    let containers = many(&|number| json!({"name": format!("c-{number}"), "image": "a"}));
    let statuses =
        many(&|number| json!({"name": format!("s-{number}"), "containerID": format!("containerd://{number:064x}")}));
    let strange_ids = ids.map(|id| json!({"name": "a", "containerID": id, "restartCount": -1}));
    let strange_name = json!({"name": "\u{7f}\u{202e}", "resources": {"limits": {"memory": "1e999Ei"}}});
    let owners = many(&|_| json!({"kind": huge[..200], "name": "", "controller": true}));
    let times = json!({"uid": uid(7), "name": "times", "creationTimestamp": "9999999-99-99"});
    vec![
        json!({"metadata": {"uid": uid(1), "name": huge, "namespace": huge, "labels": labels, "annotations": labels}}),
        json!({"metadata": metadata(2, "many"), "spec": {"containers": containers}}),
        json!({"metadata": metadata(3, "statuses"), "status": {"containerStatuses": statuses}}),
        json!({"metadata": metadata(4, "ids"), "status": {"containerStatuses": strange_ids}}),
        json!({"metadata": metadata(5, "line\n\"break\\\u{0}"), "spec": {"containers": [strange_name]}}),
        json!({"metadata": {"uid": uid(6), "ownerReferences": owners}}),
        json!({"metadata": times, "status": {"startTime": huge, "qosClass": huge}}),
        json!({"metadata": {"uid": uid(8)}, "spec": null, "status": null}),
    ]
}

#[test]
fn hostile_objects_and_names_end_nothing_and_take_nothing_from_others() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(80));
    let agent = start(&api, &collector, "5s", &[]);
    let before = agent.resident();
    hostile().into_iter().for_each(|pod| api.apply(pod));
    api.apply(pod(&container, "web", true));
    eventually("pod behind them", || agent.kills("web", "app"));
    let held = kill(80);
    assert_eq!(collector.await_records(1, within(&held.made))[0].text("k8s.pod.name"), Some("web"));
    assert_eq!(agent.kills("web", "app"), Some(1.0));
    agent.await_resident(before + (8 << 20));
    let series = total(&agent.metrics(), "oom_watcher_series");
    assert!(series < 1000.0, "{series} series");

    // Bytes that are no text, in the name of a cgroup.
    let above = Scratch::create(&format!("/oom-watcher-test-bytes-{}", std::process::id()), 4 << 20).unwrap();
    let directory = Hierarchy::find()
        .unwrap()
        .mount
        .join(above.path().trim_start_matches('/'))
        .join(OsStr::from_bytes(b"\xff\xfe\x80pod\xc3"));
    fs::create_dir(&directory).unwrap();
    let mut victim = Command::new("sh");
    let status = victim
        .args(["-c", "echo $$ > \"$1\" && exec tail /dev/zero", "sh"])
        .arg(directory.join("cgroup.procs"))
        .status()
        .unwrap();
    let told = collector.await_records(1, |path| path.starts_with(&above.path()));
    fs::remove_dir(&directory).unwrap();
    assert!(
        !status.success()
            && told[0]
                .text("process.linux.cgroup")
                .is_some_and(|path| path.ends_with("/\u{fffd}\u{fffd}\u{fffd}pod\u{fffd}")),
        "{told:?}"
    );
}
