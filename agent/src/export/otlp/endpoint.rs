//! One destination: the connection to it, its headers, and how its errors read.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use tonic::transport::Channel;

use super::tls;
use crate::export::settings::{Endpoint, Protocol};

/// The longest wait for a connection; a shorter limit of the request applies too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without a word from the collector, a request makes the connection be tested: a peer that vanished is
/// else noticed after a quarter of an hour.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the test may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Who we say we are.
pub(super) const AGENT: &str = concat!("oom-watcher/", env!("CARGO_PKG_VERSION"));

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
                let connector = HttpsConnectorBuilder::new()
                    .with_tls_config(tls)
                    .https_or_http()
                    .enable_http1()
                    .wrap_connector(tcp);
                // The limit that counts is that of `Client::send`; it is the same for both transports.
                Ok(Self::Http(Box::new(HyperClient::new(connector, endpoint.timeout.saturating_mul(2), None))))
            }
        }
    }
}

pub(super) fn headers(endpoint: &Endpoint) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &endpoint.headers {
        let key = HeaderName::from_str(name).map_err(|_| anyhow!("{name:?} cannot be the name of a header"))?;
        // Not the value: it may be a secret.
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| anyhow!("the value of header {name:?} has characters that a header cannot have"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
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
            assert!(
                message.as_ref().is_some_and(|text| text.contains(name) && !text.contains("secret")),
                "{message:?}"
            );
        }
    }
}
