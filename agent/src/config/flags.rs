//! The flags that every subcommand that needs a configuration takes. Their values are texts: `load` checks them like
//! all others.

use std::path::PathBuf;

use super::resolver::{Candidate, Origin};

/// Flags of `run`, `check`, `selftest` and `config`.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Configuration (a flag wins over a variable, a variable over the file)")]
pub struct Flags {
    /// A YAML file with settings that have no variable. docs/oom-watcher.example.yaml shows all of them
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The name of this node, the label `node` of every series [env: NODE_NAME] [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where to serve /metrics; port 0 takes any free port [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "metrics_port")]
    pub listen: Option<String>,
    /// The port of /metrics alone [env: METRICS_PORT] [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<String>,
    /// Where in bpffs the probe outlives the agent, or none [env: OOM_WATCHER_PIN_DIR] [default:
    /// /sys/fs/bpf/oom-watcher]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<String>,
    /// Where the state is kept that outlives the agent; `none`: nowhere [env: OOM_WATCHER_STATE_DIR] [default:
    /// /run/oom-watcher]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// How the agent's own messages look: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Which of the agent's own messages are written, such as `warn` or `info,oom_watcher=debug` [env: RUST_LOG]
    /// [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
}

impl Flags {
    pub(super) fn node_name(&self) -> Option<Candidate> {
        candidate("--node-name", &self.node_name)
    }

    pub(super) fn listen(&self) -> Option<Candidate> {
        candidate("--listen", &self.listen)
    }

    pub(super) fn metrics_port(&self) -> Option<Candidate> {
        candidate("--metrics-port", &self.metrics_port)
    }

    pub(super) fn pin_dir(&self) -> Option<Candidate> {
        candidate("--pin-dir", &self.pin_dir)
    }

    pub(super) fn state_dir(&self) -> Option<Candidate> {
        candidate("--state-dir", &self.state_dir)
    }

    pub(super) fn log_format(&self) -> Option<Candidate> {
        candidate("--log-format", &self.log_format)
    }

    pub(super) fn log_filter(&self) -> Option<Candidate> {
        candidate("--log-filter", &self.log_filter)
    }
}

fn candidate(name: &'static str, text: &Option<String>) -> Option<Candidate> {
    Some(Candidate { origin: Origin::Flag(name), text: text.clone()? })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn flags_are_texts_and_an_address_excludes_a_port() {
        let parse = |arguments: &str| Program::try_parse_from(arguments.split(' ')).map(|program| program.flags);
        let all = parse(
            "p --config f --node-name n --metrics-port x --pin-dir d --state-dir s --log-format y --log-filter z",
        )
        .ok();
        let text = |text: &str| Some(text.to_owned());
        let expected = Flags {
            config: Some("f".into()),
            node_name: text("n"),
            listen: None,
            metrics_port: text("x"),
            pin_dir: text("d"),
            state_dir: text("s"),
            log_format: text("y"),
            log_filter: text("z"),
        };
        assert_eq!(all, Some(expected));
        let conflict = parse("p --listen a --metrics-port 1").map_err(|error| error.kind());
        assert_eq!(conflict, Err(clap::error::ErrorKind::ArgumentConflict));
    }
}
