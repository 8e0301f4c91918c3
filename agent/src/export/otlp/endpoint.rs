//! One destination: the connection to it, the exporter of data points that uses that, and the question whether it can be reached at all.
//!
//! Everything comes from the settings. The exporter also reads the `OTEL_EXPORTER_OTLP_*` variables by itself: what that adds is overridden, but for
//! `…_COMPRESSION=gzip`, which no setting can take back.

use std::future::Future;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Compression, MetricExporter, RetryPolicy, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::client::{Client, PERMANENT_CODES, PERMANENT_STATUSES};
use super::tls;
use crate::export::queue::Failure;
use crate::export::settings::{Endpoint, Protocol};
use crate::stats::Signal;

/// The longest wait for a connection; a shorter limit of the request applies too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without a word from the collector, a request makes the connection be tested: a peer that vanished is else noticed after a quarter of
/// an hour.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the test may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Who we say we are.
pub(super) const AGENT: &str = concat!("oom-watcher/", env!("CARGO_PKG_VERSION"));

/// Says whether a collector takes requests of `signal` there, by sending one with nothing in it. Must be called inside a Tokio runtime.
///
/// # Errors
/// What is wrong, with all its causes.
pub async fn reach(signal: Signal, endpoint: &Endpoint) -> Result<(), String> {
    let transport = Transport::new(endpoint).map_err(|error| format!("{error:#}"))?;
    let setup = |error: anyhow::Error| format!("{error:#}");
    let result = match signal {
        Signal::Logs => Client::new(endpoint, &transport).map_err(setup)?.logs(Default::default()).await.map(drop),
        Signal::Traces => Client::new(endpoint, &transport).map_err(setup)?.spans(Default::default()).await.map(drop),
        Signal::Metrics => {
            let outlet = Outlet::metrics(endpoint, &transport).map_err(setup)?;
            outlet.attempt(outlet.exporter.export(&ResourceMetrics::default())).await
        }
    };
    result.map_err(|failure| format!("{}{}", failure.cause, hint(endpoint, &failure.cause)))
}

/// What to look at when the peer took the connection and closed it without a word: that is all that a client hears from a server of another protocol,
/// and often from one that missed its certificate.
fn hint(endpoint: &Endpoint, cause: &str) -> &'static str {
    let closed = ["connection closed", "broken pipe", "connection reset", "http2 error", "unexpected end of file"];
    if !closed.iter().any(|text| cause.to_lowercase().contains(text)) {
        ""
    } else if endpoint.url.starts_with("https://") && endpoint.tls.identity.is_none() {
        " (perhaps it wants a client certificate, or is no server of this protocol)"
    } else if endpoint.protocol == Protocol::Grpc {
        " (perhaps it is no gRPC server)"
    } else {
        " (perhaps it is no HTTP server)"
    }
}

/// A connection, made when it is first needed and again when it broke. Signals with the same destination share one.
#[derive(Clone)]
pub(super) enum Transport {
    Grpc(Channel),
    Http(Box<HttpTransport>),
}

pub(super) type HttpTransport = HyperClient<HttpsConnector<HttpConnector>>;

impl Transport {
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// A malformed address, unusable certificates.
    pub(super) fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let connect = CONNECT_TIMEOUT.min(endpoint.timeout);
        let https = endpoint.url.starts_with("https://");
        match endpoint.protocol {
            Protocol::Grpc => {
                let mut channel = tonic::transport::Endpoint::from_shared(endpoint.url.clone())
                    .context("reading the address")?
                    .user_agent(AGENT)?
                    .connect_timeout(connect)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT);
                if https {
                    let tls = tls::grpc(&endpoint.tls)?.timeout(connect);
                    // Not `context(…)` alone: tonic's error is only "transport error", what went wrong is its cause.
                    channel = channel.tls_config(tls).context("setting up TLS")?;
                }
                Ok(Self::Grpc(channel.connect_lazy()))
            }
            Protocol::HttpProtobuf => {
                let mut tcp = HttpConnector::new();
                tcp.enforce_http(false);
                tcp.set_nodelay(true);
                tcp.set_connect_timeout(Some(connect));
                // Plain HTTP needs no roots; a minimal image has none.
                let tls = if https { tls::http(&endpoint.tls)? } else { tls::nobody()? };
                let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
                // The limit that counts is that of `Outlet::attempt`; it is the same for both transports.
                Ok(Self::Http(Box::new(HyperClient::new(connector, endpoint.timeout.saturating_mul(2), None))))
            }
        }
    }
}

/// The exporter of data points.
pub(super) struct Outlet {
    pub(super) exporter: MetricExporter,
    timeout: Duration,
    network_error: NetworkError,
}

/// Why the last HTTP request did not reach the collector: the exporter says "network error" only.
type NetworkError = Arc<Mutex<Option<String>>>;

impl Outlet {
    /// Cumulative, whatever the environment says: a delta that is lost is lost for good.
    pub(super) fn metrics(endpoint: &Endpoint, transport: &Transport) -> anyhow::Result<Self> {
        let builder = || MetricExporter::builder().with_temporality(Temporality::Cumulative);
        let network_error = NetworkError::default();
        let exporter = match transport {
            Transport::Grpc(channel) => grpc(builder().with_tonic(), endpoint, channel)?.build()?,
            Transport::Http(client) => http(builder().with_http(), endpoint, client, network_error.clone())?.build()?,
        };
        Ok(Self { exporter, timeout: endpoint.timeout, network_error })
    }

    /// Waits for one request, no longer than the endpoint's timeout.
    ///
    /// # Errors
    /// Why it failed.
    pub(super) async fn attempt(&self, request: impl Future<Output = OTelSdkResult>) -> Result<(), Failure> {
        let Ok(answer) = tokio::time::timeout(self.timeout, request).await else {
            return Err(Failure { cause: format!("no answer within {:?}", self.timeout), ..Failure::default() });
        };
        answer.map_err(|error| {
            let text = match error {
                OTelSdkError::InternalFailure(text) => text,
                other => other.to_string(),
            };
            let network_error = self.network_error.lock().unwrap_or_else(PoisonError::into_inner).take();
            let cause = network_error.unwrap_or_else(|| without_client(&text).to_owned());
            Failure { permanent: is_permanent(&text), cause, ..Failure::default() }
        })
    }
}

/// Whether an exporter's error says that the collector will never take the request. The code is in the error's text only.
fn is_permanent(error: &str) -> bool {
    let word_after = |mark: &str| {
        let (_, rest) = error.split_once(mark)?;
        rest.split(|c: char| !c.is_ascii_alphanumeric()).next()
    };
    let code = word_after("gRPC code: ").is_some_and(|word| PERMANENT_CODES.iter().any(|code| format!("{code:?}") == word));
    code || word_after("status code: ").is_some_and(|word| word.parse().is_ok_and(|status| PERMANENT_STATUSES.contains(&status)))
}

/// "gRPC code: …": the rest is of interest to the exporter's authors.
fn without_client(error: &str) -> &str {
    error.split_once("Client export failed with ").map_or(error, |(_, rest)| rest)
}

fn grpc<B: WithExportConfig + WithTonicConfig>(builder: B, endpoint: &Endpoint, channel: &Channel) -> anyhow::Result<B> {
    let metadata = MetadataMap::from_headers(headers(endpoint)?);
    let builder = builder
        .with_endpoint(&endpoint.url)
        .with_timeout(endpoint.timeout)
        .with_retry_policy(RetryPolicy::disabled())
        .with_channel(channel.clone())
        .with_interceptor(move |mut request: tonic::Request<()>| {
            *request.metadata_mut() = metadata.clone();
            Ok(request)
        });
    Ok(if endpoint.gzip { builder.with_compression(Compression::Gzip) } else { builder })
}

fn http<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    endpoint: &Endpoint,
    client: &HttpTransport,
    network_error: NetworkError,
) -> anyhow::Result<B> {
    let mut headers = headers(endpoint)?;
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    let builder = builder
        .with_endpoint(&endpoint.url)
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_timeout(endpoint.timeout)
        .with_retry_policy(RetryPolicy::disabled())
        .with_http_client(Sender { client: client.clone(), headers, network_error });
    Ok(if endpoint.gzip { builder.with_compression(Compression::Gzip) } else { builder })
}

pub(super) fn headers(endpoint: &Endpoint) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &endpoint.headers {
        let key = HeaderName::from_str(name).map_err(|_| anyhow!("{name:?} cannot be the name of a header"))?;
        // Not the value: it may be a secret.
        let mut value = HeaderValue::from_str(value).map_err(|_| anyhow!("the value of header {name:?} has characters that a header cannot have"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

/// Sends with our headers only, and keeps what went wrong.
#[derive(Debug)]
struct Sender {
    client: HttpTransport,
    headers: HeaderMap,
    network_error: NetworkError,
}

#[tonic::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let made = std::mem::replace(request.headers_mut(), self.headers.clone());
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = made.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        self.client.send_bytes(request).await.inspect_err(|error| {
            *self.network_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain(error.as_ref()));
        })
    }
}

/// An error and all its causes, but nothing twice: the libraries repeat themselves.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_request_itself_is_permanent() {
        let check = |error: &str, permanent: bool| assert_eq!(is_permanent(error), permanent, "{error}");
        check("TonicLogsClient export failed with gRPC code: InvalidArgument", true);
        check("TonicTracesClient export failed with gRPC code: Unimplemented: something", true);
        check("HTTP export failed with status code: 400", true);
        check("HTTP export failed with status code: 404", true);
        check("TonicLogsClient export failed with gRPC code: Unavailable: tcp connect error", false);
        check("TonicLogsClient export failed with gRPC code: Unauthenticated", false);
        check("TonicLogsClient export failed with gRPC code: ResourceExhausted", false);
        check("TonicLogsClient export failed with gRPC code: Unknown: InvalidArgument", false);
        check("HTTP export failed with status code: 401", false);
        check("HTTP export failed with status code: 4000", false);
        check("HTTP export failed with status code: 503", false);
        check("HTTP export failed: network error", false);
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused_without_their_value() {
        let endpoint = |name: &str, value: &str| Endpoint {
            protocol: Protocol::Grpc,
            url: "http://127.0.0.1:4317".to_owned(),
            headers: vec![(name.to_owned(), value.to_owned())],
            gzip: false,
            timeout: Duration::from_secs(1),
            tls: Default::default(),
        };
        assert!(headers(&endpoint("x-scope-orgid", "tenant")).is_ok());
        for (name, value) in [("two words", "secret"), ("authorization", "secret\n")] {
            let message = headers(&endpoint(name, value)).map_err(|error| error.to_string()).err();
            assert!(message.as_ref().is_some_and(|text| text.contains(name) && !text.contains("secret")), "{message:?}");
        }
    }
}
