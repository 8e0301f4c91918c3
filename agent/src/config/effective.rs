//! What `oom-watcher config` prints: the effective configuration as a valid file, with the source of each value beside
//! it. What a file cannot say is a comment. No secrets.

use std::fmt;

use super::Loaded;
use super::keys::{self, Key, Kind};
use super::origin::Origin;
use super::yaml;

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What it is called in the file, or would be.
    pub key: String,
    /// As it could be written. Secrets are left out.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// Whether a file can say it.
    pub of_file: bool,
}

/// The values in force, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub(super) Vec<Setting>);

impl Origins {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }
}

/// A line without its source, which only some lines have.
type Line<'a> = (String, Option<&'a Origin>);

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A very long value does not push the sources of all others out of sight.
        const COLUMN: usize = 60;
        let lines = self.lines();
        let widths = lines.iter().filter(|(_, origin)| origin.is_some()).map(|(text, _)| text.chars().count());
        let width = widths.filter(|width| *width <= COLUMN).max().unwrap_or(0);
        for (text, origin) in lines {
            match origin {
                Some(origin) => writeln!(f, "{text:width$}  # {}", visible(&origin.to_string()))?,
                None => writeln!(f, "{text}")?,
            }
        }
        for warning in &self.warnings {
            writeln!(f, "# warning: {}", visible(&warning.to_string()))?;
        }
        Ok(())
    }
}

impl Loaded {
    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = vec![("# The effective configuration. It is a valid configuration file.".to_owned(), None)];
        let settings = || self.origins.iter();
        lines.extend(settings().filter(|setting| setting.key == "config").map(comment));
        let mut section = None;
        for (name, key) in keys::in_file() {
            let Some(setting) = settings().find(|setting| setting.key == name) else { continue };
            let (of, name) = name.split_once('.').map_or((None, name), |(section, name)| (Some(section), name));
            if of != section {
                lines.extend(of.map(|of| (format!("{of}:"), None)));
                section = of;
            }
            let indent = if of.is_some() { "  " } else { "" };
            lines.push(match setting.of_file {
                true => (format!("{indent}{name}: {}", written(key, &setting.value)), Some(&setting.origin)),
                false => comment(setting),
            });
        }
        lines.push(("# Set by variables only, so not part of a file:".to_owned(), None));
        let is_other = |setting: &&Setting| setting.key != "config" && keys::of_file(&setting.key).is_none();
        lines.extend(settings().filter(is_other).map(comment));
        lines
    }
}

fn comment(setting: &Setting) -> Line<'_> {
    (format!("# {}: {}", visible(&setting.key), visible(&setting.value)), Some(&setting.origin))
}

/// The value as YAML.
fn written(key: &Key, value: &str) -> String {
    match key.kind {
        Kind::Boolean | Kind::Auto | Kind::Number(_) | Kind::PodKeys => value.to_owned(),
        _ => yaml::scalar(value),
    }
}

/// A text for a comment, which must not end with the line. In YAML more than `\n` ends a line, and some characters may
/// be nowhere.
fn visible(text: &str) -> String {
    let escaped = |c: char| if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::tests::{Variables, file_flag, load_with, write};
    use super::super::{Config, Flags};

    #[test]
    fn each_value_is_printed_with_where_it_came_from() {
        let file = write("# a comment\nseries:\n  max_owners: 7\n");
        let flags = Flags::from([("--config", file.path().to_str().unwrap()), ("--log-format", "json")]);
        let variables: Variables<'_> = &[
            ("METRICS_PORT", "9090"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://c/in?token=SECRET"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20SECRET"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ];
        let loaded = load_with(&flags, variables).unwrap();
        let text = loaded.to_string();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let from_file = format!("max_owners: 7 # from {}:3:3", file.path().display());
        let path = format!("# config: {} # from --config", file.path().display());
        for expected in [
            &path,
            "# node_name: host-a # the host's name",
            "listen: 0.0.0.0:9090 # address: default; port: from METRICS_PORT",
            "log:",
            "format: json # from --log-format",
            "ring_bytes: 1MiB # default",
            "arguments: false # default",
            "pin_directory: /sys/fs/bpf/oom-watcher # default",
            &from_file,
            "expiry: 1h # default",
            "enabled: auto # default",
            "labels: [] # default",
            "container_wait: 5s # default",
            "directory: /run/oom-watcher # default",
            "# otlp.logs.endpoint: https://c/in?… # from OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "# otlp.logs.headers: authorization (values not shown) # from OTEL_EXPORTER_OTLP_HEADERS",
            "# otlp.logs.certificate: the system's # default",
            "# otlp.traces.endpoint: none # from OTEL_TRACES_EXPORTER",
            "# otlp.resource.service.name: oom-watcher # default",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected} is not in\n{text}");
        }
        assert!(!text.contains("SECRET"), "{text}");
        assert!(!format!("{:?}", loaded.warnings).contains("SECRET"));
        let headers = loaded.config.otlp.logs.unwrap().headers;
        assert_eq!(headers, [("authorization".to_owned(), "Bearer SECRET".to_owned())]);
        let columns: BTreeSet<usize> =
            text.lines().filter_map(|line| Some(line.rsplit_once("  # ")?.0.chars().count())).collect();
        assert_eq!(columns.len(), 1, "not aligned:\n{text}");
    }

    /// The configuration without what the environment alone can say.
    fn of_file(config: &Config) -> Config {
        let mut config = config.clone();
        let none = load_with(&Flags::default(), &[]).unwrap().config;
        config.otlp = crate::export::settings::Otlp { spool: config.otlp.spool, ..none.otlp };
        config
    }

    fn values(text: &str) -> serde_yaml::Value {
        serde_yaml::from_str(text).unwrap()
    }

    /// The text, given back as the file, alone and beside what made it.
    #[track_caller]
    fn check(flags: &[(&'static str, &str)], variables: Variables<'_>, file: &str) -> String {
        let given = write(file);
        let beside =
            |path: &Path| flags.iter().copied().chain([("--config", path.to_str().unwrap())]).collect::<Flags>();
        let loaded = load_with(&beside(given.path()), variables).unwrap();
        let text = loaded.to_string();
        let written = write(&text);
        let alone = load_with(&file_flag(written.path()), &[]).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(of_file(&alone.config), of_file(&loaded.config), "{text}");
        assert_eq!(values(&alone.to_string()), values(&text));
        let again = load_with(&beside(written.path()), variables).unwrap();
        assert_eq!(again.config, loaded.config, "{text}");
        assert_eq!(values(&again.to_string()), values(&text));
        text
    }

    #[test]
    fn what_is_printed_is_a_file_that_changes_nothing() {
        check(&[], &[], "");
        check(&[], &[("NODE_NAME", "node-a"), ("METRICS_PORT", "9090")], "listen: 127.0.0.1:1\n");
        check(&[("--listen", "[::1]:7"), ("--state-dir", "none"), ("--log-format", "json")], &[], "");
        check(
            &[("--log-filter", "[span]=info"), ("--pin-dir", "")],
            &[("OOM_WATCHER_KUBERNETES", "true"), ("OOM_WATCHER_DAEMONSET", "a/b"), ("OOM_WATCHER_SPOOL_DIR", "/s")],
            "kubernetes: {labels: [app, \"1\", \"true\"], annotations: [\"null\", a/b], container_wait: 0s}\n",
        );
        check(
            &[],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
                ("OTEL_TRACES_EXPORTER", "none"),
            ],
            "series: {max_owners: 7, expiry: 90m, from_zero: none}\nprobe: {ring_bytes: 65536, arguments: true}\n",
        );
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oom-watcher.example.yaml");
        check(&[], &[("RUST_LOG", "off")], &std::fs::read_to_string(example).unwrap());
    }

    #[test]
    fn no_value_can_be_taken_for_another_or_for_a_key() {
        #[rustfmt::skip]
        let names = [
            "true", "12", "null", "~", "1e3", "0x10", "off", "a: b", "a #b", "#", "- a", "[a]", "{a: b}", "&a", "*a",
            "!a", "|", ">", "%a", "@a", "`a`", "---", "...", "'a'", "\"a\"", "a\\nb", "ä", "日本", "😀",
            "a\u{301}", "\u{feff}a", "a\u{a0}b", "a\u{2028}b", "\u{ffff}", "=", "<<",
        ];
        for name in names {
            check(&[], &[("NODE_NAME", name)], "");
        }
        for path in ["/a\nlog: {format: json}", "/\t#", "/\u{85}a", "/\u{2028}b: c", "/\u{7f}\u{1}\r", "/a b", "/\"\\'"]
        {
            let text = check(&[], &[("OOM_WATCHER_STATE_DIR", path), ("OTEL_SERVICE_NAME", path)], "");
            assert!(text.contains("format: human"), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a\nnode_name: b");
        std::fs::write(&path, "log: {format: json}\n").unwrap();
        let text = load_with(&file_flag(&path), &[("NODE_NAME", "node-a")]).unwrap().to_string();
        assert_eq!(values(&text)["node_name"], "node-a", "{text}");
    }

    #[test]
    fn what_a_file_cannot_say_is_a_comment() {
        let text = check(&[], &[("OTEL_EXPORTER_OTLP_HEADERS", "a=1")], "");
        assert!(text.contains("\n# node_name: host-a "), "{text}");
        // Port 0 of a flag is refused in a file.
        let any = load_with(&Flags::from([("--listen", "127.0.0.1:0")]), &[]).unwrap().to_string();
        assert!(any.contains("\n# listen: 127.0.0.1:0 ") && any.contains("# from --listen"), "{any}");
        assert!(load_with(&file_flag(write(&any).path()), &[]).is_ok());
    }
}
