//! Certificates for both transports: whom to trust, and who we are.
//!
//! Read once: a rotated certificate is used after the agent's next start. The process has no default provider of
//! cryptography; ring is named here.

use std::sync::Arc;

use anyhow::{Context, ensure};
use hyper_rustls::ConfigBuilderExt;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::export::settings::Tls;

/// For gRPC. Always to be set: tonic alone trusts nobody.
///
/// # Errors
/// A text that is not PEM.
pub(super) fn grpc(tls: &Tls) -> anyhow::Result<ClientTlsConfig> {
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca {
        Some(pem) => {
            certificates(pem).context("reading the CA certificate")?;
            config.ca_certificate(Certificate::from_pem(pem))
        }
        None => config.with_enabled_roots(),
    };
    if let Some((certificate, key)) = &tls.identity {
        identity(certificate, key)?;
        config = config.identity(Identity::from_pem(certificate, key));
    }
    Ok(config)
}

/// For HTTP.
///
/// # Errors
/// A text that is not PEM, a key that does not belong to its certificate, no roots on this system.
pub(super) fn http(tls: &Tls) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match &tls.ca {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem).context("reading the CA certificate")? {
                roots.add(certificate).context("reading the CA certificate")?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.with_native_roots().context("reading the system's CA certificates")?,
    };
    match &tls.identity {
        Some((certificate, key)) => {
            let (chain, key) = identity(certificate, key)?;
            builder.with_client_auth_cert(chain, key).context("using the client certificate")
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// For plain HTTP: trusts nobody.
///
/// # Errors
/// None in practice.
pub(super) fn nobody() -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn identity(certificate: &[u8], key: &[u8]) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(certificate).context("reading the client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("reading the client key")?;
    Ok((chain, key))
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    ensure!(!certificates.is_empty(), "no certificate in it");
    Ok(certificates)
}
