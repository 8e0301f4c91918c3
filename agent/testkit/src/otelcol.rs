//! The Collector as a child process, on free ports, with a configuration of `otel-collector/`.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::exposition::{Sample, parse_exposition};
use crate::programs::{Programs, Server, free_ports, try_get};
use crate::root;
use crate::wait::eventually;

/// A Collector that may be away for a while. Its queue on disk is its own.
pub struct Otelcol {
    program: PathBuf,
    configurations: Vec<PathBuf>,
    environment: Vec<(&'static str, String)>,
    grpc: u16,
    http: u16,
    health: u16,
    telemetry: u16,
    folder: TempDir,
    server: Option<Server>,
}

impl Otelcol {
    /// The one in front of the back ends, which all are at this address, over gRPC.
    pub fn gateway(programs: &Programs, back_end: &str) -> Self {
        // One exporter for all signals: the receiver speaks gRPC alone.
        let exporters = ["LOGS_EXPORTERS", "TRACES_EXPORTERS", "METRICS_EXPORTERS"]
            .map(|name| (name, "[otlp_grpc/traces]".to_owned()));
        Self::of(programs, &["gateway"], exporters.into_iter().chain([("TRACES_ENDPOINT", back_end.to_owned())]))
    }

    /// The one on each node, which hands all to that gateway.
    pub fn agent(programs: &Programs, gateway: &str) -> Self {
        Self::of(programs, &["agent"], [("GATEWAY_ENDPOINT", gateway.to_owned())])
    }

    /// One with these configurations, of which later ones win, and what they are told by variables.
    pub fn of(
        programs: &Programs,
        names: &[&str],
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [grpc, http, health, telemetry] = free_ports();
        let queue = folder.path().join("queue").display().to_string();
        let own = [("LISTEN_HOST", "127.0.0.1".to_owned()), ("QUEUE_DIRECTORY", queue)];
        let ports = [("GRPC_PORT", grpc), ("HTTP_PORT", http), ("HEALTH_PORT", health), ("TELEMETRY_PORT", telemetry)];
        let environment =
            own.into_iter().chain(ports.map(|(name, port)| (name, port.to_string()))).chain(environment).collect();
        let program = programs.path("otelcol").to_owned();
        let configurations = names.iter().map(|name| configuration(name)).collect();
        let mut started =
            Self { program, configurations, environment, grpc, http, health, telemetry, folder, server: None };
        started.start();
        started
    }

    /// Starts it, or starts it again with all that it has left.
    pub fn start(&mut self) {
        let arguments: Vec<_> = self.configurations.iter().map(|file| format!("--config={}", file.display())).collect();
        self.server = Some(Server::start_with(&self.program, &arguments, &self.environment, &self.log_file()));
        eventually("Collector that is ready", || try_get(self.health, "/").ok());
    }

    /// Starts it with one more file of configuration, which wins over the others.
    pub fn start_with(&mut self, more: &str) {
        let file = self.folder.path().join("more.yaml");
        fs::write(&file, more).unwrap();
        self.configurations.push(file);
        self.start();
        self.configurations.pop();
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Where it takes OTLP over gRPC: host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.grpc)
    }

    /// What an agent needs in its environment to send there.
    pub fn environment(&self) -> (&'static str, String) {
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address()))
    }

    /// The same over HTTP.
    pub fn http_environment(&self) -> [(&'static str, String); 2] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", self.http)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
        ]
    }

    /// What it says of itself; nothing while it is away.
    pub fn own(&self) -> Vec<Sample> {
        try_get(self.telemetry, "/metrics").map_or_else(|_| Vec::new(), |page| parse_exposition(&page))
    }

    /// Its process, which must run.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Otelcol {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the log of {}:\n{}",
                self.configurations[0].display(),
                fs::read_to_string(self.log_file()).unwrap_or_default()
            );
        }
    }
}

/// A file of `otel-collector/`.
pub fn configuration(name: &str) -> PathBuf {
    root().join(format!("otel-collector/{name}.yaml"))
}
