//! The back ends as child processes, on free ports of loopback, with the configurations of `otel-collector/stack/`, and
//! what is asked of them.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::api_server::ApiServer;
use crate::exposition::{Sample, parse_exposition};
use crate::otelcol::Otelcol;
use crate::programs::{Programs, Server, ask, free_ports, try_get};
use crate::root;
use crate::wait::eventually;

/// All of them, with a gateway in front.
pub struct Stack {
    folder: TempDir,
    prometheus: u16,
    logs: u16,
    jaeger: u16,
    alertmanager: u16,
    /// In front.
    pub gateway: Otelcol,
    servers: Vec<(&'static str, Server)>,
}

impl Stack {
    /// Starts them, and waits until all are ready. `rules` are more of these, beside those of `k8s/rules.yaml`.
    pub fn start(programs: &Programs, rules: &str) -> Self {
        Self::start_every(programs, rules, "1s", &[])
    }

    /// The same with so much time between two scrapes and two evaluations of rules, and more in the environment of the
    /// gateway.
    pub fn start_every(programs: &Programs, rules: &str, interval: &str, of_gateway: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [prometheus, logs, alertmanager] = free_ports();
        let [jaeger, jaeger_grpc, jaeger_otlp, jaeger_health] = free_ports();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let local = |port: u16| format!("127.0.0.1:{port}");
        // As it is, with the rules of the test.
        let config = source("otel-collector/stack/prometheus.yaml")
            .replace("15s", interval)
            .replace("[rules.yaml]", "[rules.yaml, more.yaml]");
        write("prometheus.yaml", &config);
        write("rules.yaml", &source("k8s/rules.yaml"));
        write("more.yaml", rules);
        write("targets.yaml", "[]");
        write("alertmanagers.yaml", &format!("[{{targets: [\"{}\"]}}]", local(alertmanager)));
        write("alertmanager.yaml", &source("otel-collector/stack/alertmanager.yaml"));
        write("jaeger.yaml", &source("otel-collector/stack/jaeger.yaml"));
        let start = |program: &'static str, arguments: &[String], environment: &[(&str, String)]| {
            (
                program,
                Server::start_with(
                    programs.path(program),
                    arguments,
                    environment,
                    &folder.path().join(format!("{program}.log")),
                ),
            )
        };
        let servers = vec![
            start(
                "prometheus",
                &[
                    format!("--config.file={}", file("prometheus.yaml")),
                    format!("--storage.tsdb.path={}", file("prometheus")),
                    format!("--web.listen-address={}", local(prometheus)),
                    "--web.enable-remote-write-receiver".to_owned(),
                ],
                &[],
            ),
            start(
                "alertmanager",
                &[
                    format!("--config.file={}", file("alertmanager.yaml")),
                    format!("--storage.path={}", file("alertmanager")),
                    format!("--web.listen-address={}", local(alertmanager)),
                    // One alone.
                    "--cluster.listen-address=".to_owned(),
                ],
                &[],
            ),
            start(
                "victoria-logs",
                &[format!("-storageDataPath={}", file("victoria-logs")), format!("-httpListenAddr={}", local(logs))],
                &[],
            ),
            start(
                "jaeger",
                &[format!("--config={}", file("jaeger.yaml"))],
                &[
                    ("JAEGER_PORT", jaeger.to_string()),
                    ("JAEGER_GRPC_PORT", jaeger_grpc.to_string()),
                    ("JAEGER_OTLP_PORT", jaeger_otlp.to_string()),
                    ("JAEGER_HEALTH_PORT", jaeger_health.to_string()),
                ],
            ),
        ];
        for (port, path) in [(prometheus, "/-/ready"), (alertmanager, "/-/ready"), (logs, "/health"), (jaeger, "/")] {
            eventually(path, || try_get(port, path).ok());
        }
        let gateway = Otelcol::of(
            programs,
            &["gateway", "remote-write"],
            [
                ("LOGS_EXPORTERS", "[otlp_http/logs]".to_owned()),
                ("LOGS_ENDPOINT", format!("http://{}/insert/opentelemetry", local(logs))),
                ("TRACES_EXPORTERS", "[otlp_grpc/traces]".to_owned()),
                ("TRACES_ENDPOINT", local(jaeger_otlp)),
                ("METRICS_EXPORTERS", "[prometheus_remote_write/metrics]".to_owned()),
                ("METRICS_ENDPOINT", format!("http://{}/api/v1/write", local(prometheus))),
            ]
            .into_iter()
            .chain(of_gateway.iter().map(|(name, value)| (*name, (*value).to_owned()))),
        );
        Self { folder, prometheus, logs, jaeger, alertmanager, gateway, servers }
    }

    /// An agent in front of them, which knows the pods of that API server, and which Prometheus scrapes.
    pub fn agent(&self, api: &ApiServer, variables: &[(&str, &str)]) -> Agent {
        let settings = api.settings("5s").display().to_string();
        let (name, endpoint) = self.gateway.environment();
        let agent = Agent::start(
            &[&[(name, endpoint.as_str()), ("OTEL_METRIC_EXPORT_INTERVAL", "1000")], variables].concat(),
            &["--config", &settings],
        );
        self.targets(&format!("[{{targets: [\"{}\"]}}]", agent.address()));
        agent
    }

    /// The process of one of them.
    pub fn pid(&self, program: &str) -> u32 {
        self.servers.iter().find(|(name, _)| *name == program).unwrap().1.id()
    }

    /// Tells Prometheus what to scrape.
    pub fn targets(&self, targets: &str) {
        fs::write(self.folder.path().join("targets.yaml"), targets).unwrap();
    }

    /// What Prometheus says of itself.
    pub fn prometheus_own(&self) -> Vec<Sample> {
        parse_exposition(&try_get(self.prometheus, "/metrics").unwrap())
    }

    /// The metrics of VictoriaLogs itself.
    pub fn log_store_own(&self) -> Vec<Sample> {
        parse_exposition(&try_get(self.logs, "/metrics").unwrap())
    }

    /// What Prometheus answers to a query now: its series.
    pub fn prometheus(&self, query: &str) -> Vec<Value> {
        let answer = json(self.prometheus, &format!("/api/v1/query?query={}", encoded(query)));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// What a path of Prometheus answers.
    pub fn prometheus_path(&self, path: &str) -> Value {
        json(self.prometheus, path)["data"].clone()
    }

    /// The log records that VictoriaLogs finds, each with all its fields. Attributes keep their names.
    pub fn records(&self, query: &str) -> Vec<Value> {
        let path = format!("/select/logsql/query?query={}", encoded(query));
        let text = try_get(self.logs, &path).unwrap_or_else(|error| panic!("{query}: {error}"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The number that Prometheus answers to a query now; absent if it found nothing.
    ///
    /// # Errors
    /// It does not answer, or not well.
    pub fn prometheus_number(&self, query: &str) -> Result<Option<f64>, String> {
        number(self.prometheus, &format!("/api/v1/query?query={}", encoded(query)))
    }

    /// The same from VictoriaLogs, for a query that ends in `stats`.
    ///
    /// # Errors
    /// It does not answer, or not well.
    pub fn records_number(&self, query: &str) -> Result<Option<f64>, String> {
        number(self.logs, &format!("/select/logsql/stats_query?query={}", encoded(query)))
    }

    /// The spans of a trace; none if it is not known.
    pub fn spans(&self, trace: &str) -> Vec<Value> {
        let Ok(text) = try_get(self.jaeger, &format!("/api/v3/traces/{trace}")) else { return Vec::new() };
        let answer: Value = serde_json::from_str(&text).unwrap();
        let resources = answer["result"]["resourceSpans"].as_array().cloned().unwrap_or_default();
        let scopes = resources.iter().flat_map(|resource| resource["scopeSpans"].as_array().unwrap());
        scopes.flat_map(|scope| scope["spans"].as_array().unwrap()).cloned().collect()
    }

    /// The alerts that Alertmanager has.
    pub fn alerts(&self) -> Vec<Value> {
        json(self.alertmanager, "/api/v2/alerts").as_array().unwrap().clone()
    }

    /// The same by the messages that they go in.
    pub fn alert_groups(&self) -> Vec<Value> {
        json(self.alertmanager, "/api/v2/alerts/groups").as_array().unwrap().clone()
    }

    /// Tells Alertmanager of alerts.
    pub fn post_alerts(&self, alerts: &Value) {
        ask(self.alertmanager, "POST", "/api/v2/alerts", &alerts.to_string()).unwrap();
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in ["prometheus", "victoria-logs", "jaeger", "alertmanager"] {
                let log = fs::read_to_string(self.folder.path().join(format!("{program}.log"))).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                eprintln!("the end of the log of {program}:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
    }
}

/// A file of the repository.
pub fn source(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// A text as it may stand in a URL.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() { encoded.push(byte.into()) } else { write!(encoded, "%{byte:02X}").unwrap() }
    }
    encoded
}

fn json(port: u16, path: &str) -> Value {
    try_json(port, path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn try_json(port: u16, path: &str) -> Result<Value, String> {
    let text = try_get(port, path)?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

/// The first number of an answer as Prometheus and VictoriaLogs give it.
fn number(port: u16, path: &str) -> Result<Option<f64>, String> {
    let answer = try_json(port, path)?;
    Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|number| number.parse().ok()))
}
