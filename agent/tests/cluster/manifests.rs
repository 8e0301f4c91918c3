//! That a real API server takes the manifests: what is valid by the schema may be refused all the same, such as a
//! privileged container that may not gain privileges.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;

/// The folders that kustomize renders. Not that of OpenShift: the server knows no SecurityContextConstraints.
const FOLDERS: [&str; 6] =
    ["", "overlays/collector", "overlays/non-root", "overlays/old-kernel", "overlays/pinned", "overlays/privileged"];
/// Values of the chart that change pods.
const VALUES: [&str; 4] = [
    "nonRoot=true,pin=true,networkPolicy.enabled=true",
    "privileged=true,port=18080",
    "oldKernel=true",
    "config.series.expiry=2h",
];

/// What the server says of it, without keeping it.
fn apply(cluster: &Cluster, what: &[&str], text: &str) -> Result<String, String> {
    let config = cluster.folder().join("admin.kubeconfig");
    let mut command = Command::new(cluster.program("kubectl"));
    // What kubectl learns of the server is not kept in the user's folder.
    command.arg("--kubeconfig").arg(config).arg("--cache-dir").arg(cluster.folder().join("kubectl"));
    // By the server: some are there already (Cluster::permit), which kubectl would warn of.
    command.args(["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"]).args(what);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    // A warning is something that will not work some day.
    if output.status.success() && error.is_empty() { Ok(out) } else { Err(format!("{out}{error}")) }
}

#[test]
fn a_real_api_server_takes_every_manifest() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let helm = Programs::find().unwrap().path("helm").to_owned();
    let cluster = Cluster::start(programs, false);
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("k8s");
    for folder in FOLDERS {
        let said = apply(&cluster, &["-k", manifests.join(folder).to_str().unwrap()], "")
            .unwrap_or_else(|error| panic!("{folder}: {error}"));
        assert!(said.contains("daemonset.apps/oom-watcher serverside-applied (server dry run)"), "{said}");
    }
    apply(&cluster, &["-f", manifests.join("networkpolicy.yaml").to_str().unwrap()], "").unwrap();
    for values in VALUES {
        let rendered = Command::new(&helm)
            .args(["template", "shop"])
            .arg(manifests.join("chart"))
            .args(["-n", "shop", "--kube-version", "1.35", "--set", values])
            .output();
        let said = apply(&cluster, &["-f", "-"], &String::from_utf8(rendered.unwrap().stdout).unwrap())
            .unwrap_or_else(|error| panic!("{values}: {error}"));
        assert!(said.contains("daemonset.apps/shop-oom-watcher serverside-applied (server dry run)"), "{said}");
    }
    // And it looks.
    let context = json!({"privileged": true, "allowPrivilegeEscalation": false});
    let spec = json!({"containers": [{"name": "app", "image": "registry.example/app", "securityContext": context}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
    assert!(
        apply(&cluster, &["-f", "-"], &pod.to_string())
            .is_err_and(|error| error.contains("cannot set `allowPrivilegeEscalation` to false"))
    );
}
