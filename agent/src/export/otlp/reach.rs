//! Whether a destination can be reached at all, and takes what is sent there.

use opentelemetry_http::Bytes;

use super::client::Client;
use super::endpoint::Transport;
use crate::export::settings::{Endpoint, Protocol};
use crate::stats::Signal;

/// Says whether a collector takes requests of `signal` there, by sending one with nothing in it. Must be called inside
/// a Tokio runtime.
///
/// # Errors
/// What is wrong, with all its causes.
pub async fn reach(signal: Signal, endpoint: &Endpoint) -> Result<(), String> {
    let transport = Transport::new(endpoint).map_err(|error| format!("{error:#}"))?;
    let client = Client::new(signal, endpoint, &transport).map_err(|error| format!("{error:#}"))?;
    let result = client.send(Bytes::new()).await;
    result.map(drop).map_err(|failure| format!("{}{}", failure.cause, hint(endpoint, &failure.cause)))
}

/// What to look at when the peer took the connection and closed it without a word: that is all that a client hears from
/// a server of another protocol, and often from one that missed its certificate.
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
