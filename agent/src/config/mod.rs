//! Flags, environment and a YAML file become one [`Config`], checked and complete. The only reader of the environment
//! and of that file.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. Whatever is set is checked, also
//! where something else wins, and all that is wrong is told at once. Nothing is logged here: logging is configured by
//! the result.

mod certificate;
mod environment;
mod file;
mod flags;
mod host;
mod kubernetes;
mod otlp;
mod pairs;
mod problem;
mod resolver;
mod resource;
mod url;
mod value;
mod yaml;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use environment::{VARIABLES, Variable, from_process};
pub use flags::Flags;
pub use problem::{Problem, Problems, Warning};
pub use resolver::{Origin, Origins, Setting};
pub use value::Format;

use crate::cgroups::node::Choice;
use crate::export::settings::Otlp;
use crate::kubernetes::settings::Settings;
use crate::record::series::{FromZero, Limits};
use crate::source::probe::{self, pins};
use crate::state;
use file::File;
use resolver::Resolver;
use value::{AtZero, NodeCgroup};

/// Everything the agent is told from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name of the node: the value of the label `node`.
    pub node: String,
    /// Which memory cgroups are this node's.
    pub node_cgroup: Choice,
    /// Where `/metrics` is served.
    pub listen: SocketAddr,
    /// What the agent tells about itself on standard error.
    pub log: Log,
    /// What the probe is loaded with.
    pub probe: probe::Config,
    /// Bounds of the table of counts.
    pub series: Limits,
    /// How this node's pods are watched. Absent: they are not.
    pub kubernetes: Option<Settings>,
    /// How long a kill waits for its container to be known to the Kubernetes API.
    pub container_wait: Duration,
    /// Where the kubelet has the logs of its pods, for names that the Kubernetes API does not tell. Absent: they are
    /// not looked at.
    pub pod_logs: Option<PathBuf>,
    /// Where the state is kept that outlives the agent. Absent: nowhere.
    pub state_directory: Option<PathBuf>,
    /// Where OTLP goes.
    pub otlp: Otlp,
    /// How long the agent goes on delivering what waits after it is told to end.
    pub shutdown_grace: Duration,
}

/// The agent's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Which messages, as in `RUST_LOG`. A filter that `tracing_subscriber::EnvFilter` takes.
    pub filter: String,
    /// How they look.
    pub format: Format,
}

/// What [`load`] found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What is allowed but probably not meant. To be logged.
    pub warnings: Vec<Warning>,
    /// Where each value came from: its text is what `oom-watcher config` prints. No secrets in it.
    pub origins: Origins,
}

/// Reads `--config`, asks `env` for each of [`VARIABLES`] and makes a `Config` of all.
///
/// # Errors
///
/// Each value that cannot be used, in the order in which they were found.
pub fn load(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
    load_on(host::name(), flags, env)
}

fn load_on(host_name: Option<String>, flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
    let mut resolver = Resolver::new(env);
    let file = match &flags.config {
        Some(path) => file::read(path, &mut resolver.problems),
        None => File::default(),
    };

    let r = &mut resolver;
    let node = host::node(r, flags, &file, host_name);
    let config = Config {
        node_cgroup: r
            .resolve("node_cgroup", [file.get("node_cgroup")], NodeCgroup(Choice::Auto), value::node_cgroup)
            .0,
        listen: host::listen(r, flags, &file),
        log: Log {
            filter: log_filter(r, flags, &file),
            format: r.resolve("log.format", [flags.log_format(), file.get("log.format")], Format::Human, value::format),
        },
        probe: probe::Config {
            ring_bytes: r
                .resolve("probe.ring_bytes", [file.get("probe.ring_bytes")], value::DEFAULT_RING, value::ring_bytes)
                .0,
            arguments: r.resolve("probe.arguments", [file.get("probe.arguments")], false, value::boolean),
            read_names: true,
            pins: pins(r, flags, &file),
        },
        series: Limits {
            owners: r.resolve("series.max_owners", [file.get("series.max_owners")], 2000, |text| {
                value::number(text, 1..=100_000)
            }),
            expiry: r
                .resolve("series.expiry", [file.get("series.expiry")], value::HOUR, |text| {
                    value::duration(text, "2m", "7d")
                })
                .0,
            from_zero: r
                .resolve("series.from_zero", [file.get("series.from_zero")], AtZero(FromZero::Kills), value::from_zero)
                .0,
        },
        kubernetes: kubernetes::resolve(r, &file, &node),
        container_wait: kubernetes::container_wait(r, &file),
        pod_logs: kubernetes::pod_logs(r, &file),
        state_directory: {
            let candidates = [flags.state_dir(), r.variable("OOM_WATCHER_STATE_DIR"), file.get("state.directory")];
            r.resolve("state.directory", candidates, value::Directory(Some(state::DEFAULT.into())), value::directory).0
        },
        shutdown_grace: r
            .resolve("shutdown_grace", [file.get("shutdown_grace")], value::Span(Duration::from_secs(10)), |text| {
                value::duration(text, "1s", "10m")
            })
            .0,
        otlp: otlp::resolve(r, &file, &node),
        node,
    };
    environment::warn_unsupported(r);
    resolver.finish(config)
}

fn pins(r: &mut Resolver<'_>, flags: &Flags, file: &File) -> Option<PathBuf> {
    let candidates = [flags.pin_dir(), r.variable("OOM_WATCHER_PIN_DIR"), file.get("probe.pin_directory")];
    r.resolve("probe.pin_directory", candidates, value::Directory(Some(pins::DEFAULT.into())), value::directory).0
}

fn log_filter(r: &mut Resolver<'_>, flags: &Flags, file: &File) -> String {
    let candidates = [flags.log_filter(), r.variable("RUST_LOG"), file.get("log.filter")];
    let Some((filter, origin)) = r.choose(candidates, value::log_filter) else {
        r.record("log.filter", "info", Origin::Default);
        return "info".to_owned();
    };
    if !value::filter_reaches_agent(&filter) {
        r.warn(
            origin.name(),
            format!(
                "{} names no level for oom_watcher: the agent's own messages are off, also its errors",
                problem::quoted(&filter)
            ),
        );
    }
    r.record("log.filter", &filter, origin);
    filter
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
