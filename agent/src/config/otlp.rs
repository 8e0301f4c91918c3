//! The variables of the OTLP exporters. A signal's own variable wins over the one for all signals.

use super::certificate::{self, Pem};
use super::origin::{Candidate, Origin};
use super::pairs;
use super::problem::Refused;
use super::resolver::Resolver;
use super::resource;
use super::url::{self, Url};
use super::value;
use crate::export::settings::{Endpoint, Otlp, Protocol, QueueLimits, Tls};
use crate::stats::Signal;

const MAX_ITEMS: usize = 65_536;
/// A record of a kill has 2 to 3 KiB: more than the default number of items is rarely as large.
const MAX_BYTES: usize = 16 << 20;

pub(super) fn resolve(r: &mut Resolver<'_>, node: &str) -> Option<Otlp> {
    let disabled = disabled(r);
    let mut missing = Vec::new();
    let mut endpoint = |signal| {
        if disabled || !is_exported(r, signal) {
            return None;
        }
        let endpoint = endpoint(r, signal);
        if endpoint.is_none() {
            missing.push(signal.as_str());
        }
        endpoint
    };
    let (logs, traces, metrics) = (endpoint(Signal::Logs), endpoint(Signal::Traces), endpoint(Signal::Metrics));
    if !missing.is_empty() {
        let signals = missing.join(", ");
        let meant: Vec<_> = missing.iter().map(|name| format!("OTEL_{}_EXPORTER", name.to_uppercase())).collect();
        let meant = meant.join(", ");
        r.warn(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!(
                "not set: no OTLP export of {signals}. /metrics is served all the same. If that is meant, set {meant} \
                 to none"
            ),
        );
    }
    let interval = set_or_default(r, "OTEL_METRIC_EXPORT_INTERVAL");
    let (interval, origin) = r.choose(interval, |text| value::milliseconds(text, 100..=3_600_000))?;
    r.record("otlp.metric_interval", interval, origin);
    refuse_delta(r);
    let spool = r.resolve("export.spool_directory", value::directory)?.0;
    let queue = queue(r)?;
    let resource = resource::resolve(r, node);
    Some(Otlp { logs, traces, metrics, metric_interval: interval.0, queue, spool, resource })
}

fn disabled(r: &mut Resolver<'_>) -> bool {
    let variable = r.variable("OTEL_SDK_DISABLED");
    let disabled = variable.as_ref().is_some_and(|candidate| candidate.text.eq_ignore_ascii_case("true"));
    if disabled {
        r.warn("OTEL_SDK_DISABLED", "true: no OTLP export at all. /metrics is served all the same");
    } else if variable.is_some_and(|candidate| !candidate.text.eq_ignore_ascii_case("false")) {
        // The specification makes every other value mean false.
        r.warn("OTEL_SDK_DISABLED", "neither true nor false: taken as false");
    }
    disabled
}

fn is_exported(r: &mut Resolver<'_>, signal: Signal) -> bool {
    let exporters = |text: &str| {
        let mut exporters = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        match exporters
            .clone()
            .find(|name| !matches!((name.as_str(), signal), ("otlp" | "none", _) | ("prometheus", Signal::Metrics)))
        {
            Some(_) if signal == Signal::Metrics => Err("otlp, prometheus or none".into()),
            Some(_) => Err(Refused::from("otlp or none")),
            None => Ok(exporters.any(|name| name == "otlp")),
        }
    };
    let variable = [r.variable(&format!("OTEL_{}_EXPORTER", signal.as_str().to_uppercase()))];
    let (exported, origin) = r.choose(variable, exporters).unwrap_or((true, Origin::Default));
    if !exported {
        r.record(format!("otlp.{}.endpoint", signal.as_str()), "none", origin);
    }
    exported
}

/// One signal's destination. All its variables are checked, also without an endpoint.
fn endpoint(r: &mut Resolver<'_>, signal: Signal) -> Option<Endpoint> {
    let key = |name| format!("otlp.{}.{name}", signal.as_str());
    let (protocol, protocol_origin) = choose_or_default(r, signal, "PROTOCOL", value::protocol)?;
    let [specific, general] = r.signal_variables(signal, "ENDPOINT");
    let general = r.choose([general], url::parse_general);
    let url = r.choose([specific], url::parse);
    let headers = choose(r, signal, "HEADERS", pairs::headers);
    let (gzip, gzip_origin) = choose_or_default(r, signal, "COMPRESSION", value::compression)?;
    let (timeout, timeout_origin) =
        choose_or_default(r, signal, "TIMEOUT", |text| value::milliseconds(text, 1..=600_000))?;
    let insecure = choose(r, signal, "INSECURE", value::boolean);
    let certificates = Certificates::choose(r, signal);

    let (parsed, origin) = url.clone().or_else(|| general.clone())?;
    check_url(r, &parsed, &origin, protocol, &protocol_origin);
    if let (true, Some((true, variable))) = (parsed.is_https(), insecure) {
        r.warn(variable.name(), format!("true has no effect: {} says https", origin.name()));
    }
    let url = match url {
        Some((url, _)) => url.into_text(),
        None => parsed.of_signal(signal, protocol),
    };
    r.record(key("endpoint"), url::shown(&url), origin);
    r.record(key("protocol"), if protocol == Protocol::Grpc { "grpc" } else { "http/protobuf" }, protocol_origin);
    let (headers, origin) = headers.unwrap_or((Vec::new(), Origin::Default));
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    r.record(
        key("headers"),
        if names.is_empty() { "none".to_owned() } else { format!("{} (values not shown)", names.join(", ")) },
        origin,
    );
    r.record(key("compression"), if gzip { "gzip" } else { "none" }, gzip_origin);
    r.record(key("timeout"), timeout, timeout_origin);
    let tls = certificates.into_tls(r, &parsed, key);
    Some(Endpoint { protocol, url, headers, gzip, timeout: timeout.0, tls })
}

fn choose<T>(
    r: &mut Resolver<'_>,
    signal: Signal,
    variable: &str,
    parse: impl Fn(&str) -> Result<T, Refused>,
) -> Option<(T, Origin)> {
    let candidates = r.signal_variables(signal, variable);
    r.choose(candidates, parse)
}

fn choose_or_default<T>(
    r: &mut Resolver<'_>,
    signal: Signal,
    variable: &str,
    parse: impl Fn(&str) -> Result<T, Refused>,
) -> Option<(T, Origin)> {
    let [specific, general] = r.signal_variables(signal, variable);
    let default = r.default(&format!("OTEL_EXPORTER_OTLP_{variable}"));
    r.choose([specific, general, default], parse)
}

fn set_or_default(r: &mut Resolver<'_>, variable: &str) -> [Option<Candidate>; 2] {
    [r.variable(variable), r.default(variable)]
}

/// What is wrong or odd with a URL for this protocol.
fn check_url(r: &mut Resolver<'_>, url: &Url, origin: &Origin, protocol: Protocol, protocol_origin: &Origin) {
    match protocol {
        Protocol::HttpProtobuf if url.is_unix() => {
            r.problems.push(origin.name(), "a socket with the protocol http/protobuf", "http:// or https://, or grpc")
        }
        Protocol::Grpc if url.port == Some(4318) && *protocol_origin == Origin::Default => {
            r.warn(
                origin.name(),
                "port 4318 usually speaks HTTP, the protocol is grpc: set \
                OTEL_EXPORTER_OTLP_PROTOCOL to say which is meant",
            );
        }
        Protocol::Grpc => {
            if let Some(path) = url.path() {
                r.warn(origin.name(), format!("the path {path} is not used by the protocol grpc"));
            }
        }
        Protocol::HttpProtobuf => {
            let of_signal = |path: &str| {
                Signal::ALL
                    .into_iter()
                    .any(|signal| path.trim_end_matches('/').ends_with(&format!("/v1/{}", signal.as_str())))
            };
            if *origin == Origin::Variable("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned())
                && url.path().is_some_and(of_signal)
            {
                r.warn(
                    origin.name(),
                    "ends with the path of one signal, and each signal's path is put behind it: leave it out here",
                );
            }
        }
    }
}

/// The files of one signal.
struct Certificates {
    ca: Option<(Pem, Origin)>,
    client: Option<(Pem, Origin)>,
    key: Option<(Pem, Origin)>,
}

impl Certificates {
    fn choose(r: &mut Resolver<'_>, signal: Signal) -> Self {
        // A file that cannot be read is set all the same.
        let mut is_set = |rest| r.signal_variables(signal, rest).into_iter().flatten().next();
        let (client, key) = (is_set("CLIENT_CERTIFICATE"), is_set("CLIENT_KEY"));
        one_without_other(
            r,
            &client,
            &key,
            "OTEL_EXPORTER_OTLP_CLIENT_KEY too: a certificate is of no use without its key",
        );
        one_without_other(
            r,
            &key,
            &client,
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too: a key is of no use without its certificate",
        );
        let files = Self {
            ca: choose(r, signal, "CERTIFICATE", certificate::authorities),
            client: choose(r, signal, "CLIENT_CERTIFICATE", certificate::client),
            key: choose(r, signal, "CLIENT_KEY", certificate::key),
        };
        if let (Some((client, client_origin)), Some((key, key_origin))) = (&files.client, &files.key)
            && !certificate::belong_together(client, key)
        {
            let expected = format!("the key of the certificate in {} ({})", client.path, client_origin.name());
            r.problems.push(key_origin.name(), format!("{:?}: the key of another certificate", key.path), expected);
        }
        files
    }

    fn into_tls(self, r: &mut Resolver<'_>, url: &Url, key: impl Fn(&'static str) -> String) -> Tls {
        let mut take = |name, file: Option<(Pem, Origin)>, unset: &str| {
            let Some((file, origin)) = file else {
                r.record(key(name), unset, Origin::Default);
                return None;
            };
            if !url.is_https() {
                r.warn(origin.name(), "not used: the endpoint is not https://");
            } else if let Some(concern) = file.concern {
                r.warn(origin.name(), format!("{:?}: {concern}", file.path));
            }
            r.record(key(name), file.path, origin);
            Some(file.bytes)
        };
        let ca = take("certificate", self.ca, "the system's");
        let client = take("client_certificate", self.client, "none");
        let client_key = take("client_key", self.key, "none");
        Tls { ca, identity: client.zip(client_key) }
    }
}

fn one_without_other(r: &mut Resolver<'_>, one: &Option<Candidate>, other: &Option<Candidate>, expected: &str) {
    if let (Some(one), None) = (one, other) {
        r.problems.push(one.origin.name(), format!("{:?} alone", one.text), expected);
    }
}

fn refuse_delta(r: &mut Resolver<'_>) {
    let variable = [r.variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")];
    r.choose(variable, |text| match text.eq_ignore_ascii_case("cumulative") {
        true => Ok(()),
        false => {
            Err("cumulative: Prometheus drops deltas, and a delta that is lost is a kill that is never counted".into())
        }
    });
}

/// Bounds of the queues of log records and of spans.
fn queue(r: &mut Resolver<'_>) -> Option<QueueLimits> {
    let items = set_or_default(r, "OTEL_BLRP_MAX_QUEUE_SIZE");
    let (items, origin) = r.choose(items, |text| value::number(text, 1..=MAX_ITEMS))?;
    r.record("otlp.queue.items", items, origin);
    let [batch, default] = set_or_default(r, "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE");
    let (default, _) = r.choose([default], |text| value::number(text, 1..=MAX_ITEMS))?;
    let batch = r.choose([batch], |text| value::number(text, 1..=items));
    // A small queue has small batches.
    let (batch, origin) = batch.unwrap_or((default.min(items), Origin::Default));
    r.record("otlp.queue.batch", batch, origin);
    Some(QueueLimits { items, bytes: MAX_BYTES, batch })
}
