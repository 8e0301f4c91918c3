//! One request over gRPC, whose message is bytes already.

use http::uri::PathAndQuery;
use opentelemetry_http::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use prost::bytes::BufMut;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::stats::Signal;

/// What a collector answers. The answers of all signals have the same fields: `partial_success` (1), in it the number
/// of rejected items (1) and why (2).
pub(super) type Answer = ExportLogsServiceResponse;

/// Sends a request of that signal, encoded as OTLP has it, compressed or not. Gives the answer.
///
/// # Errors
/// The collector cannot be reached, or has not taken it.
pub async fn send(
    channel: Channel,
    signal: Signal,
    gzip: bool,
    metadata: &MetadataMap,
    message: Bytes,
) -> Result<Answer, Status> {
    let path = match signal {
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    };
    // Servers in Go answer in the compression of the request, whether or not the client says that it takes it.
    let client = Grpc::new(channel).accept_compressed(CompressionEncoding::Gzip);
    let mut client = if gzip { client.send_compressed(CompressionEncoding::Gzip) } else { client };
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata.clone();
    client.unary(request, PathAndQuery::from_static(path), AsItIs).await.map(tonic::Response::into_inner)
}

/// Sends a message as it is.
#[derive(Clone, Copy)]
struct AsItIs;

impl Codec for AsItIs {
    type Encode = Bytes;
    type Decode = Answer;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for AsItIs {
    type Item = Answer;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Answer>, Status> {
        // A collector that answers with success has taken it, whatever else it says.
        Ok(Some(Answer::decode(buffer).unwrap_or_default()))
    }
}
