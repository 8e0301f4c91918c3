//! The example of an Alertmanager, by its own program: who gets what. What silences what is tested by the ring "stack".

use crate::renders::{Renders, root, run};
use oom_watcher_testkit::needs::needs;

#[test]
fn each_alert_goes_to_whom_it_is_for() {
    let renders = needs!(Renders::find());
    let config = root().join("otel-collector/stack/alertmanager.yaml");
    let said = run(renders.program("amtool").arg("check-config").arg(&config)).unwrap();
    assert!(said.contains("SUCCESS") && said.contains("4 inhibit rules"), "{said}");
    for (receiver, labels) in [
        ("chat", ["alertname=ContainerOOMKilled", "severity=warning", "namespace=shop"]),
        // A container that is no pod's.
        ("chat", ["alertname=ContainerOOMKilled", "severity=warning", "namespace="]),
        ("pager", ["alertname=ContainerOOMKilledRepeatedly", "severity=critical", "namespace=shop"]),
        ("pager", ["alertname=ContainerOOMKilledRepeatedly", "severity=critical", "namespace="]),
        ("pager", ["alertname=WorkloadOOMKilled", "severity=critical", "namespace=shop"]),
        ("nobody", ["alertname=PodMemoryLimitHit", "severity=info", "namespace=shop"]),
        ("pager", ["alertname=NodeOutOfMemory", "severity=critical", "node=n"]),
        ("chat", ["alertname=OOMWatcherDown", "severity=warning", "node=n"]),
        ("pager", ["alertname=OOMWatcherAbsent", "severity=critical", "job=oom-watcher"]),
        ("nobody", ["alertname=OOMWatcherSilent", "severity=info", "node=n"]),
    ] {
        let mut command = renders.program("amtool");
        command
            .args(["config", "routes", "test", "--config.file"])
            .arg(&config)
            .arg(format!("--verify.receivers={receiver}"))
            .args(labels);
        run(&mut command).unwrap();
    }
}
