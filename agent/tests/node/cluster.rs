//! A whole cluster of one node: etcd, API server, controllers, scheduler, containerd and kubelet, with the images that
//! the tests run.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::machine::{ADDRESS, Machine};
use oom_watcher_testkit::agent::NODE;
use oom_watcher_testkit::pki;
use oom_watcher_testkit::programs::{Programs, Server};
use oom_watcher_testkit::wait::{eventually, eventually_within, try_within};

/// What a cold start of the slowest of them may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// `no_apparmor`, oom_score_adj: a machine without systemd, and perhaps without `CAP_SYS_RESOURCE`.
const CONTAINERD: &str = r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "@RUNC@"
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@PLUGINS@"
    conf_dir = "@FOLDER@/cni"
"#;

const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": false,
"ipam": {"type": "host-local", "dataDir": "/run/addresses", "ranges": [[{"subnet": "10.88.0.0/24"}]],
"routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

const KUBELET: &str = r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "@FOLDER@/ca.crt"}}
authorization: {mode: Webhook}
failSwapOn: false
oomScoreAdj: 0
resolvConf: ""
evictionHard: {memory.available: "50Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 4s
syncFrequency: 2s
"#;

/// It, until it is dropped.
pub(crate) struct Cluster {
    // The last ones end first.
    servers: Vec<Server>,
    machine: Machine,
}

/// The cluster's machine is what commands are run on.
impl Deref for Cluster {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Cluster {
    /// Starts it, and waits until its node takes pods. `Err`: what is missing here.
    pub(crate) fn start(programs: Programs) -> Result<Self, String> {
        let images = images()?;
        let machine = Machine::start(programs)?;
        let folder = machine.folder().to_owned();
        pki::write(&folder, NODE);
        for (name, token) in [("admin", "admin"), ("node", "kubelet")] {
            fs::write(folder.join(format!("{name}.kubeconfig")), pki::kubeconfig(443, &folder, token).to_string())
                .unwrap();
        }
        let runc = machine.programs().path("runc").to_owned();
        let fill = |text: &str| {
            let plugins = runc.parent().unwrap().display().to_string();
            text.replace("@FOLDER@", &folder.display().to_string())
                .replace("@RUNC@", &runc.display().to_string())
                .replace("@PLUGINS@", &plugins)
        };
        fs::create_dir(folder.join("cni")).unwrap();
        for (name, text) in
            [("containerd.toml", CONTAINERD), ("kubelet.yaml", KUBELET), ("cni/10-pods.conflist", NETWORK)]
        {
            fs::write(folder.join(name), fill(text)).unwrap();
        }

        let mut cluster = Self { servers: Vec::new(), machine };
        cluster.start_control_plane(&folder);
        cluster.serve_with("containerd", &[&format!("--config={}", folder.join("containerd.toml").display())]);
        eventually("containerd", || cluster.try_text("ctr version").ok());
        for image in images {
            cluster.text(&format!("ctr --namespace k8s.io images import {}", image.display()));
        }
        let [settings, node] = ["kubelet.yaml", "node.kubeconfig"].map(|name| folder.join(name).display().to_string());
        let address = format!("--node-ip={ADDRESS}");
        let name = format!("--hostname-override={NODE}");
        cluster.serve_with(
            "kubelet",
            &[&format!("--config={settings}"), &format!("--kubeconfig={node}"), &address, &name],
        );
        cluster.text("kubectl create namespace shop");
        cluster.await_text("kubectl get --namespace shop serviceaccount default");
        cluster.await_text(&format!("kubectl wait --for=condition=Ready node/{NODE} --timeout=60s"));
        Ok(cluster)
    }

    fn start_control_plane(&mut self, folder: &Path) {
        let file = |name: &str| folder.join(name).display().to_string();
        let etcd = "http://127.0.0.1:2379";
        self.serve_with(
            "etcd",
            &[
                "--data-dir=/run/etcd",
                &format!("--listen-client-urls={etcd}"),
                &format!("--advertise-client-urls={etcd}"),
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        );
        self.serve_with(
            "kube-apiserver",
            &[
                &format!("--etcd-servers={etcd}"),
                "--secure-port=443",
                "--bind-address=0.0.0.0",
                &format!("--advertise-address={ADDRESS}"),
                "--service-cluster-ip-range=10.96.0.0/24",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={}", file("accounts.pub")),
                &format!("--service-account-signing-key-file={}", file("accounts.key")),
                &format!("--tls-cert-file={}", file("server.crt")),
                &format!("--tls-private-key-file={}", file("server.key")),
                &format!("--client-ca-file={}", file("ca.crt")),
                &format!("--kubelet-client-certificate={}", file("client.crt")),
                &format!("--kubelet-client-key={}", file("client.key")),
                "--kubelet-preferred-address-types=InternalIP",
                &format!("--token-auth-file={}", file("tokens.csv")),
            ],
        );
        self.await_text("kubectl get --raw /readyz");
        let admin = format!("--kubeconfig={}", file("admin.kubeconfig"));
        let key = format!("--service-account-private-key-file={}", file("accounts.key"));
        let authority = format!("--root-ca-file={}", file("ca.crt"));
        let own = "--use-service-account-credentials=true";
        self.serve_with(
            "kube-controller-manager",
            &[&admin, &key, &authority, own, "--leader-elect=false", "--secure-port=0"],
        );
        self.serve_with("kube-scheduler", &[&admin, "--leader-elect=false", "--secure-port=0"]);
    }

    fn serve_with(&mut self, name: &str, arguments: &[&str]) {
        let program = self.machine.programs().path(name).display().to_string();
        let command: Vec<_> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        let server = self.machine.serve(name, &command);
        self.servers.insert(0, server);
    }

    /// What a command prints, once it succeeds.
    #[track_caller]
    pub(crate) fn await_text(&self, line: &str) -> String {
        try_within(PATIENCE, || self.try_text(line)).unwrap_or_else(|said| panic!("{line}: {said}\n{}", self.logs()))
    }

    /// Applies objects that are given as a text.
    pub(crate) fn apply(&self, objects: &str) {
        let path = self.folder().join("objects.yaml");
        fs::write(&path, objects).unwrap();
        self.text(&format!("kubectl apply -f {}", path.display()));
    }

    /// Waits until something is as it should be.
    #[track_caller]
    pub(crate) fn eventually<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        eventually_within(PATIENCE, what, look)
    }
}

/// What `agent/tests/servers/image` makes.
fn images() -> Result<Vec<PathBuf>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/image")
        .canonicalize()
        .map_err(|error| format!("target/image: {error}"))?;
    let images: Vec<_> = ["oom-watcher", "pause", "test"].map(|name| folder.join(format!("{name}.tar"))).into();
    match images.iter().find(|image| !image.exists()) {
        Some(image) => Err(format!("there is no {} (agent/tests/servers/image)", image.display())),
        None => Ok(images),
    }
}
