//! That a gateway with `otel-collector/kubernetes.yaml` finds the pod of a kill by its uid and adds what the agent does
//! not say; with the rights that come with it.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use serde_json::json;

use crate::start_with;
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::kubelet::{id, running};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::otelcol::Otelcol;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::eventually;

#[test]
fn a_gateway_that_may_ask_the_api_adds_what_it_knows_of_the_pod() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let (cluster, back_end) = (Cluster::start(programs, false), Collector::start());
    cluster
        .admin
        .post("/api/v1/namespaces/kube-system/serviceaccounts", &json!({"metadata": {"name": "otel-gateway"}}));
    cluster.apply(include_str!("../../../otel-collector/kubernetes/rbac.yaml"));
    let pod = cluster.make_bare("killed", &["app"]);
    cluster.report(&pod, "containerStatuses", &[running("app", &id(1), 0)]);
    let kubeconfig = cluster.folder().join("gateway.kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig_of("otel-gateway")).unwrap();
    let variables = [
        ("LOGS_EXPORTERS", "[otlp_grpc/traces]".to_owned()),
        ("TRACES_ENDPOINT", back_end.address()),
        ("KUBERNETES_AUTH", "kubeConfig".to_owned()),
        ("KUBECONFIG", kubeconfig.display().to_string()),
    ];
    let gateway = Otelcol::of(&Programs::find().unwrap(), &["gateway", "kubernetes"], variables);
    let (name, endpoint) = gateway.environment();
    let agent = start_with(&cluster, &back_end, &[(name, &endpoint)], &[]);
    eventually("series", || agent.kills("killed", "app"));
    let held = pod.kill(&id(1));
    let cgroup = held.made.cgroups[0].path.clone();
    let record = back_end.await_records(1, |path| path == cgroup).remove(0);
    let resource = back_end.resource_of(&record);
    let told =
        |key: &str| match resource.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()? {
            Attribute::StringValue(text) => Some(text.as_str()),
            _ => None,
        };
    assert_eq!(
        (told("k8s.namespace.name"), told("k8s.pod.name"), told("k8s.pod.uid")),
        (Some("shop"), Some("killed"), Some(pod.uid.as_str())),
        "{resource:?}"
    );
    // The agent does not say when a pod began.
    assert!(told("k8s.pod.start_time").is_some(), "{resource:?}");
    assert_eq!(told("service.name"), Some("oom-watcher"), "what the agent says of itself stays");
}
