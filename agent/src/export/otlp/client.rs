//! One signal's way to a collector: one request, and what the collector answered.
//!
//! Not the SDK's exporters: they take the SDK's records alone, which cannot be had back from a disk, send all data
//! points in one request, however large, and tell what went wrong as a text. Everything comes from the settings,
//! nothing from the environment.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use opentelemetry_http::{Bytes, HttpClient as _, Request as HttpRequest, Response};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::endpoint::{AGENT, HttpTransport, Transport, chain, headers};
use super::grpc::{self, Answer};
use crate::export::queue::{Failure, Taken};
use crate::export::settings::Endpoint;
use crate::stats::Signal;

/// gRPC codes and HTTP statuses with which a collector says that the same request will never do. Not among them:
/// missing or wrong credentials (somebody will mend them) and all that speaks of the collector's own state.
/// `Unimplemented` and 404 come from a collector without a pipeline for the signal.
const PERMANENT_CODES: [Code; 2] = [Code::InvalidArgument, Code::Unimplemented];
const PERMANENT_STATUSES: [u16; 9] = [400, 404, 405, 406, 411, 414, 415, 422, 501];

/// Sends requests of one signal.
#[derive(Clone)]
pub(super) struct Client {
    signal: Signal,
    wire: Wire,
    gzip: bool,
    timeout: Duration,
}

#[derive(Clone)]
enum Wire {
    Grpc(Channel, MetadataMap),
    Http(Box<HttpTransport>, String, HeaderMap),
}

impl Client {
    /// # Errors
    /// A malformed header.
    pub(super) fn new(signal: Signal, endpoint: &Endpoint, transport: &Transport) -> anyhow::Result<Self> {
        let mut headers = headers(endpoint)?;
        let wire = match transport {
            Transport::Grpc(channel) => Wire::Grpc(channel.clone(), MetadataMap::from_headers(headers)),
            Transport::Http(client) => {
                headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                if endpoint.gzip {
                    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                HttpRequest::post(&endpoint.url).body(()).context("reading the address")?;
                Wire::Http(client.clone(), endpoint.url.clone(), headers)
            }
        };
        Ok(Self { signal, wire, gzip: endpoint.gzip, timeout: endpoint.timeout })
    }

    /// Sends one request: an encoded message of its signal.
    ///
    /// # Errors
    /// The collector did not take it.
    pub(super) async fn send(&self, request: Bytes) -> Result<Taken, Failure> {
        let attempt = async {
            let answer = match &self.wire {
                Wire::Grpc(channel, metadata) => grpc::send(channel.clone(), self.signal, self.gzip, metadata, request)
                    .await
                    .map_err(|status| refused(&status))?,
                // A collector that answers with success has taken it, whatever else it says.
                Wire::Http(client, url, headers) => {
                    Answer::decode(self.post(client, url, headers, request).await?).unwrap_or_default()
                }
            };
            let partial = answer.partial_success.unwrap_or_default();
            Ok(Taken {
                rejected: u64::try_from(partial.rejected_log_records).unwrap_or_default(),
                why: partial.error_message,
            })
        };
        let late = || Failure { cause: format!("no answer within {:?}", self.timeout), ..Failure::default() };
        tokio::time::timeout(self.timeout, attempt).await.unwrap_or_else(|_| Err(late()))
    }

    async fn post(
        &self,
        client: &HttpTransport,
        url: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let body = if self.gzip { gzip(&body).map_err(|error| failure(&error))?.into() } else { body };
        let mut request = HttpRequest::post(url).body(body).map_err(|error| failure(&error))?;
        *request.headers_mut() = headers.clone();
        let answer = client
            .send_bytes(request)
            .await
            .map_err(|error| Failure { cause: chain(error.as_ref()), ..Failure::default() })?;
        if answer.status().is_success() { Ok(answer.into_body()) } else { Err(refused_http(&answer)) }
    }
}

/// Not the headers, which may be secrets.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("signal", &self.signal)
            .field("gzip", &self.gzip)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why a gRPC request failed.
fn refused(status: &Status) -> Failure {
    let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let mut cause = format!("gRPC code: {:?}", status.code());
    for text in [status.message().to_owned(), std::error::Error::source(status).map(chain).unwrap_or_default()] {
        if !text.is_empty() && !cause.ends_with(&text) {
            cause = format!("{cause}: {text}");
        }
    }
    Failure { permanent: PERMANENT_CODES.contains(&status.code()), retry_after, cause }
}

/// Why an HTTP request failed. A date in `Retry-After` is passed over: its clock is not ours.
fn refused_http(answer: &Response<Bytes>) -> Failure {
    let status = answer.status().as_u16();
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Failure {
        permanent: PERMANENT_STATUSES.contains(&status),
        retry_after: seconds.map(Duration::from_secs),
        cause: format!("status code: {status}{}", said(answer.body())),
    }
}

/// What a collector says to an HTTP request that it refuses, if that is a text.
fn said(body: &Bytes) -> String {
    const MOST: usize = 200;
    // By the specification it is a google.rpc.Status; proxies in between send what they like, and some of that can be
    // read as a Status with nothing in it.
    let status = tonic_types::Status::decode(body.as_ref()).map(|status| status.message).unwrap_or_default();
    let text = if status.is_empty() { std::str::from_utf8(body).unwrap_or_default() } else { &status };
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(MOST).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { cause: chain(error), ..Failure::default() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_collector_says_how_long_it_wants_to_be_left_alone() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(7)));
        let failure = refused(&Status::with_error_details(Code::ResourceExhausted, "too much", details));
        assert_eq!(
            failure,
            Failure {
                permanent: false,
                retry_after: Some(Duration::from_secs(7)),
                cause: "gRPC code: ResourceExhausted: too much".to_owned()
            }
        );
        for (header, expected) in
            [("7", Some(7)), (" 0 ", Some(0)), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("-1", None)]
        {
            let answer = Response::builder().status(429).header(RETRY_AFTER, header).body(Bytes::new()).unwrap();
            let expected = Failure {
                permanent: false,
                retry_after: expected.map(Duration::from_secs),
                cause: "status code: 429".to_owned(),
            };
            assert_eq!(refused_http(&answer), expected, "{header}");
        }
    }

    #[test]
    fn only_what_is_wrong_with_the_request_itself_is_permanent() {
        for (code, permanent) in [
            (Code::InvalidArgument, true),
            (Code::Unimplemented, true),
            (Code::Unavailable, false),
            (Code::Unauthenticated, false),
        ] {
            assert_eq!(
                refused(&Status::new(code, "")),
                Failure { permanent, retry_after: None, cause: format!("gRPC code: {code:?}") }
            );
        }
        for (status, permanent) in [(400, true), (404, true), (401, false), (413, false), (429, false), (503, false)] {
            let answer = Response::builder().status(status).body(Bytes::new()).unwrap();
            assert_eq!(refused_http(&answer).permanent, permanent, "{status}");
        }
    }

    #[test]
    fn what_a_refusal_says_is_for_people() {
        let status = tonic_types::Status { code: 3, message: "no such tenant".to_owned(), details: Vec::new() };
        let long = "x".repeat(1000);
        for (body, said) in [
            (status.encode_to_vec(), ": no such tenant".to_owned()),
            (b"<html>\r\nbad gateway".to_vec(), ": <html>bad gateway".to_owned()),
            (long.into_bytes(), format!(": {}", "x".repeat(200))),
            (vec![0xff, 0xfe], String::new()),
            (Vec::new(), String::new()),
        ] {
            let answer = Response::builder().status(502).body(Bytes::from(body)).unwrap();
            assert_eq!(refused_http(&answer).cause, format!("status code: 502{said}"));
        }
    }
}
