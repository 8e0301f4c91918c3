//! Flags, environment and a YAML file become one [`Config`], checked and complete. The only reader of the environment
//! and of that file.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. Whatever is set is checked, also
//! where something else wins, and all problems are reported at once. Nothing is logged here: logging is configured by
//! the result. What each setting is called and means is in [`KEYS`].

mod certificate;
mod effective;
mod environment;
mod file;
mod flags;
mod host;
mod keys;
mod kubernetes;
mod origin;
mod otlp;
mod pairs;
mod problem;
mod resolver;
mod resource;
mod url;
mod value;
mod yaml;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use effective::{Origins, Setting};
pub use environment::from_process;
pub use flags::Flags;
pub use keys::{Bounds, Command, Flag, KEYS, Key, Kind, MAX_NODE_NAME, MAX_POD_KEYS, SECTIONS, Unset};
pub use origin::Origin;
pub use problem::{Problem, Problems, Warning};
pub use value::Format;

use crate::cgroups::node::Choice;
use crate::export::settings::Otlp;
use crate::kubernetes::settings::Settings;
use crate::record::series::{FromZero, Limits};
use crate::source::probe;
use origin::Candidate;
use resolver::Resolver;

/// Everything that is set from outside.
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

/// What [`load`] found. Its text is a valid configuration file: see [`KEYS`] for what it can have.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What is allowed but probably not meant. To be logged.
    pub warnings: Vec<Warning>,
    /// Where each value came from. No secrets in it.
    pub origins: Origins,
}

/// Reads the file, asks `env` for each variable of [`KEYS`] and makes a `Config` of all.
///
/// # Errors
///
/// Each value that cannot be used, in the order in which they were found.
pub fn load(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
    load_on(&Host { name: host::name(), default_file: keys::DEFAULT_FILE.as_ref() }, flags, env)
}

/// What the machine says where nothing is set.
struct Host<'a> {
    name: Option<String>,
    default_file: &'a Path,
}

fn load_on(host: &Host<'_>, flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
    let mut resolver = Resolver::new(flags, env);
    read_file(&mut resolver, host.default_file);
    let config = resolve(&mut resolver, host.name.clone());
    environment::warn_unsupported(&mut resolver);
    resolver.finish(config)
}

/// Reads the file that is named. If none is named, reads the one at the default path, if there is one.
fn read_file(r: &mut Resolver<'_>, default: &Path) {
    let named = [r.flag("--config"), r.variable("OOM_WATCHER_CONFIG")].into_iter().flatten().next();
    let (path, origin, name) = match named {
        Some(Candidate { origin, text }) if text == "none" => (None, origin, String::new()),
        Some(Candidate { origin, text }) => (Some(PathBuf::from(text)), origin.clone(), origin.name()),
        // What cannot be looked at is no missing file: reading it says why.
        None if default.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) => {
            (None, Origin::Default, String::new())
        }
        None => (Some(default.to_owned()), Origin::Default, "the configuration file".to_owned()),
    };
    r.record("config", path.as_deref().map_or("none".into(), Path::to_string_lossy), origin);
    if let Some(path) = path {
        r.file = file::read(&path, &name, &mut r.problems);
    }
}

/// `None` if something cannot be used. Each bad value is reported all the same, as its default stands in for it.
fn resolve(r: &mut Resolver<'_>, host_name: Option<String>) -> Option<Config> {
    let node = host::node(r, host_name);
    let name = node.clone().unwrap_or_default();
    let config = Config {
        node: name.clone(),
        node_cgroup: r.resolve("node_cgroup", value::node_cgroup)?.0,
        listen: host::listen(r)?,
        log: log(r)?,
        probe: probe::Config {
            ring_bytes: r.within("probe.ring_bytes", value::size)?.0,
            arguments: r.resolve("probe.arguments", value::boolean)?,
            read_names: true,
            pins: r.resolve("probe.pin_directory", value::directory)?.0,
        },
        series: series(r)?,
        kubernetes: kubernetes::resolve(r, &name)?,
        container_wait: r.within("kubernetes.container_wait", value::duration)?.0,
        pod_logs: r.resolve("kubernetes.pod_logs", value::directory)?.0,
        state_directory: r.resolve("state.directory", value::directory)?.0,
        shutdown_grace: r.within("shutdown_grace", value::duration)?.0,
        otlp: otlp::resolve(r, &name)?,
    };
    node.map(|_| config)
}

fn log(r: &mut Resolver<'_>) -> Option<Log> {
    let (filter, origin) = r.find("log.filter", value::log_filter)?;
    if !value::filter_reaches_agent(&filter) {
        r.warn(
            origin.name(),
            format!(
                "{} names no level for oom_watcher: the agent's own messages are off, also its errors",
                problem::quoted(&filter)
            ),
        );
    }
    let format = r.one_of("log.format", &[("human", Format::Human), ("json", Format::Json)])?;
    Some(Log { filter, format })
}

fn series(r: &mut Resolver<'_>) -> Option<Limits> {
    let from_zero = [("none", FromZero::Nothing), ("kills", FromZero::Kills), ("incidents", FromZero::Incidents)];
    Some(Limits {
        owners: r.within("series.max_owners", value::count)?,
        expiry: r.within("series.expiry", value::duration)?.0,
        from_zero: r.one_of("series.from_zero", &from_zero)?,
    })
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
