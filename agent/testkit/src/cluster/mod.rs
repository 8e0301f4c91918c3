//! The servers of a cluster without a node: a real etcd, API server and, if wanted, controllers, on free ports of the
//! loopback interface, ended with the test.

pub mod client;
pub mod kubelet;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use serde_json::{Value, json};

use self::client::Client;
use crate::agent::NODE;
use crate::machine;
use crate::pki::{self, kubeconfig};
use crate::programs::{Programs, Server, free_ports};
use crate::wait::eventually;

/// What the audit log tells of: what the agent asks for.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ['system:serviceaccount:kube-system:oom-watcher']
- level: None
";

/// What makes pods of workloads. Absent are those that delete pods of a node without a kubelet.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,\
    job-controller,cronjob-controller,serviceaccount-controller";

/// The servers.
pub struct Cluster {
    folder: tempfile::TempDir,
    programs: Programs,
    port: u16,
    etcd_port: u16,
    /// Who may do everything.
    pub admin: Client,
    /// The node's kubelet, which may do what a kubelet may.
    pub kubelet: Client,
    // The last ones end first.
    controllers: Option<Server>,
    api: Option<Server>,
    _etcd: Server,
}

impl Cluster {
    /// One with the node, the permissions of `k8s/daemonset.yaml`, and the namespace `shop`.
    pub fn start(programs: Programs, with_controllers: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        pki::write(folder.path(), NODE);
        fs::write(folder.path().join("audit.yaml"), AUDIT_POLICY).unwrap();
        let [port, etcd_port, peer_port] = free_ports();
        let client = format!("http://127.0.0.1:{etcd_port}");
        let arguments = [
            format!("--data-dir={}", folder.path().join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            // Nobody wants it after the test.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let etcd = Server::start(programs.path("etcd"), &arguments, &folder.path().join("etcd.log"));
        let [admin, kubelet] = ["admin", "kubelet"].map(|token| Client::new(&kubeconfig(port, folder.path(), token)));
        fs::write(folder.path().join("admin.kubeconfig"), kubeconfig(port, folder.path(), "admin").to_string())
            .unwrap();
        let mut cluster =
            Self { folder, programs, port, etcd_port, admin, kubelet, controllers: None, api: None, _etcd: etcd };
        cluster.start_api();
        if with_controllers {
            cluster.start_controllers();
        }
        cluster.permit();
        cluster
            .kubelet
            .post("/api/v1/nodes", &json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}}));
        // As the controller does that finds it ready.
        cluster.admin.merge(&format!("/api/v1/nodes/{NODE}"), &json!({"spec": {"taints": null}}));
        cluster.admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
        if !with_controllers {
            // That of the controllers.
            cluster.admin.post("/api/v1/namespaces/shop/serviceaccounts", &json!({"metadata": {"name": "default"}}));
        }
        eventually("service account", || cluster.admin.find("/api/v1/namespaces/shop/serviceaccounts/default"));
        cluster
    }

    /// Starts the API server, or starts it again.
    pub fn start_api(&mut self) {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            // As in every cluster whose own network and storage run in pods.
            "--allow-privileged=true".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ];
        self.api =
            Some(Server::start(self.programs.path("kube-apiserver"), &arguments, &self.folder.path().join("api.log")));
        eventually("API server that is ready", || self.admin.try_text("/readyz").filter(|text| text == "ok"));
    }

    /// Ends the API server at once.
    pub fn stop_api(&mut self) {
        self.api = None;
    }

    /// The API server's process, which must run.
    pub fn api_pid(&self) -> u32 {
        self.api.as_ref().unwrap().id()
    }

    /// Makes the store forget all earlier versions of everything, so that a watch cannot go on from one of them.
    pub fn forget_versions(&self) {
        // A new version; the key and the value are of no importance.
        let put = self.ask_etcd("/v3/kv/put", &json!({"key": "eA==", "value": "eA=="}));
        self.ask_etcd("/v3/kv/compaction", &json!({"revision": put["header"]["revision"]}));
    }

    fn ask_etcd(&self, path: &str, body: &Value) -> Value {
        let (body, mut stream) = (body.to_string(), TcpStream::connect((Ipv4Addr::LOCALHOST, self.etcd_port)).unwrap());
        write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.split(' ').nth(1) == Some("200"), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    fn start_controllers(&mut self) {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let arguments = [
            format!("--kubeconfig={}", file("admin.kubeconfig")),
            format!("--service-account-private-key-file={}", file("accounts.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--controllers={CONTROLLERS}"),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        let program = self.programs.path("kube-controller-manager");
        self.controllers = Some(Server::start(program, &arguments, &self.folder.path().join("controllers.log")));
    }

    /// Gives the agent what `k8s/daemonset.yaml` has of permissions.
    pub fn permit(&self) {
        self.apply(include_str!("../../../../k8s/daemonset.yaml"));
    }

    /// Applies what a manifest has of accounts and permissions.
    pub fn apply(&self, manifest: &str) {
        for document in manifest.split("\n---\n") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            let kind = object["kind"].as_str().unwrap();
            if kind == "ServiceAccount" || kind.contains("Role") {
                self.admin.apply(&path(&object), &object);
            }
        }
    }

    /// How a service account of `kube-system` reaches the API server.
    pub fn kubeconfig_of(&self, account: &str) -> String {
        let account = format!("/api/v1/namespaces/kube-system/serviceaccounts/{account}/token");
        let token = self.admin.post(&account, &json!({"spec": {"expirationSeconds": 3600}}))["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned();
        kubeconfig(self.port, self.folder.path(), &token).to_string()
    }

    /// A configuration of the agent as the service account of `k8s/daemonset.yaml`.
    pub fn settings(&self, container_wait: &str) -> String {
        self.settings_with(container_wait, &json!({}))
    }

    /// The same, and these settings.
    pub fn settings_with(&self, container_wait: &str, more: &Value) -> String {
        let kubeconfig = self.kubeconfig_of("oom-watcher");
        let [own, path] =
            ["agent.kubeconfig", "settings.yaml"].map(|name| self.folder.path().join(name).display().to_string());
        fs::write(&own, kubeconfig).unwrap();
        let kubernetes =
            json!({"kubeconfig": own, "container_wait": container_wait, "labels": ["team"], "pod_logs": "none"});
        let mut settings = more.clone();
        settings["kubernetes"] = kubernetes;
        fs::write(&path, settings.to_string()).unwrap();
        path
    }

    /// What the agent asked for so far: verb, path with query, and the code of the answer.
    pub fn asked(&self) -> Vec<(String, String, u64)> {
        let text = fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        lines
            .map(|line| {
                (text(&line["verb"]), text(&line["requestURI"]), line["responseStatus"]["code"].as_u64().unwrap_or(0))
            })
            .collect()
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program of that name.
    pub fn program(&self, name: &str) -> &Path {
        self.programs.path(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && !machine::guest() {
            for name in ["api.log", "controllers.log"] {
                let log = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
                let end: Vec<_> = log.lines().rev().take(20).collect();
                eprintln!("the end of {name}:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// Where the API server has an object: of the kinds that are used here.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
    let group = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let namespace = match &object["metadata"]["namespace"] {
        Value::String(namespace) => format!("/namespaces/{namespace}"),
        _ => String::new(),
    };
    format!("{group}{namespace}/{}s/{name}", kind.to_lowercase())
}
