//! TLS with both transports: whom we trust, who we are, and what is said when it fails.

use std::sync::Arc;

use oom_watcher::export::otlp::{Receiver, reach};
use oom_watcher::export::settings::{Endpoint, Protocol, Tls};
use oom_watcher::stats::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::http::serve_tls;
use crate::setup::{ANY, LONG, deadline, endpoint, log_record, settings, start};

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
type Pair = (String, String);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, expired: bool) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        }
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn trusted(&self) -> Tls {
        Tls { ca: Some(self.0.pem().into_bytes()), identity: None }
    }

    fn mutual(&self, (certificate, key): Pair) -> Tls {
        Tls { identity: Some((certificate.into_bytes(), key.into_bytes())), ..self.trusted() }
    }
}

fn grpc_server((certificate, key): &Pair, clients: Option<&Authority>) -> Receiver {
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    if let Some(clients) = clients {
        tls = tls.client_ca_root(Certificate::from_pem(clients.0.pem()));
    }
    Receiver::start_with(ANY, Server::builder().tls_config(tls).unwrap()).unwrap()
}

fn http_server((certificate, key): &Pair, clients: Option<&Authority>) -> std::net::SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(clients.0.pem().as_bytes()).unwrap()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
        None => builder.with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    serve_tls(builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap())
}

fn https(protocol: Protocol, port: u16, tls: Tls) -> Endpoint {
    Endpoint { tls, ..endpoint(protocol, format!("https://localhost:{port}/v1/logs")) }
}

async fn check(endpoint: Endpoint, expected: Result<(), &str>) {
    let message = reach(Signal::Logs, &endpoint).await;
    match (&message, expected) {
        (Ok(()), Ok(())) => {}
        (Err(message), Err(part)) => {
            assert!(message.contains(part), "{:?}: {message:?} does not say {part:?}", endpoint.protocol)
        }
        _ => panic!("{:?}: {message:?} instead of {expected:?}", endpoint.protocol),
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_alone() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.issue("localhost", false);
    let grpc = grpc_server(&server, None);
    for (tls, expected) in
        [(ours.trusted(), Ok(())), (theirs.trusted(), Err("UnknownIssuer")), (Tls::default(), Err("UnknownIssuer"))]
    {
        check(https(Protocol::Grpc, grpc.address().port(), tls.clone()), expected).await;
        check(https(Protocol::HttpProtobuf, http_server(&server, None).port(), tls), expected).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_called_expired() {
    let authority = Authority::new("ours");
    let server = authority.issue("localhost", true);
    let grpc = grpc_server(&server, None);
    check(
        https(Protocol::Grpc, grpc.address().port(), authority.trusted()),
        Err("invalid peer certificate: certificate expired"),
    )
    .await;
    let port = http_server(&server, None).port();
    check(
        https(Protocol::HttpProtobuf, port, authority.trusted()),
        Err("invalid peer certificate: certificate expired"),
    )
    .await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("ours");
    let server = authority.issue("collector.example", false);
    let grpc = grpc_server(&server, None);
    check(https(Protocol::Grpc, grpc.address().port(), authority.trusted()), Err("not valid for name")).await;
    check(
        https(Protocol::HttpProtobuf, http_server(&server, None).port(), authority.trusted()),
        Err("not valid for name"),
    )
    .await;
}

#[tokio::test]
async fn a_server_that_wants_to_know_us_gets_our_certificate() {
    let authority = Authority::new("ours");
    let server = authority.issue("localhost", false);
    let client = || authority.mutual(authority.issue("agent", false));
    let grpc = grpc_server(&server, Some(&authority));
    check(https(Protocol::Grpc, grpc.address().port(), client()), Ok(())).await;
    check(https(Protocol::HttpProtobuf, http_server(&server, Some(&authority)).port(), client()), Ok(())).await;
    // The server's alert may get lost when it closes the connection.
    let http = http_server(&server, Some(&authority)).port();
    for without in [
        https(Protocol::Grpc, grpc.address().port(), authority.trusted()),
        https(Protocol::HttpProtobuf, http, authority.trusted()),
    ] {
        let message = reach(Signal::Logs, &without).await.unwrap_err();
        assert!(
            message.contains("CertificateRequired") || message.contains("wants a client certificate"),
            "{:?}: {message:?}",
            without.protocol
        );
    }
}

#[tokio::test]
async fn what_is_no_certificate_is_named() {
    let authority = Authority::new("ours");
    let (certificate, key) = authority.issue("agent", false);
    let broken = [
        (Tls { ca: Some(b"no PEM".to_vec()), identity: None }, "reading the CA certificate"),
        (authority.mutual(("no PEM".to_owned(), key)), "reading the client certificate"),
        (authority.mutual((certificate, "no PEM".to_owned())), "reading the client key"),
    ];
    for (tls, part) in broken {
        check(https(Protocol::Grpc, 1, tls.clone()), Err(part)).await;
        check(https(Protocol::HttpProtobuf, 1, tls), Err(part)).await;
    }
}

#[tokio::test]
async fn records_arrive_over_tls() {
    let authority = Authority::new("ours");
    let receiver = grpc_server(&authority.issue("localhost", false), Some(&authority));
    let tls = authority.mutual(authority.issue("agent", false));
    let (otlp, stats) = start(&settings(&https(Protocol::Grpc, receiver.address().port(), tls)));
    otlp.log(log_record(1));
    receiver.wait_for(|received| received.records().count() == 1, LONG).await.unwrap();
    otlp.shutdown(deadline()).await;
    assert_eq!((stats.logs.sent.get(), stats.logs.failures.get()), (1, 0));
}
