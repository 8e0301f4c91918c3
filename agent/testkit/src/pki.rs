//! Who is who in a cluster of the tests: its certificate authority, certificates, tokens, and kubeconfigs.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};

/// Where API servers of tests are: on the loopback interface, or as a pod finds them.
const SERVER_NAMES: [&str; 4] = ["127.0.0.1", "localhost", "10.96.0.1", "10.99.0.1"];

/// Writes to `folder`: `ca.crt`, whom clients trust; `server.crt` and `.key` of the API server, `client.crt` and
/// `.key`, with which it asks kubelets; `accounts.key` and `.pub` that sign tokens of service accounts; and
/// `tokens.csv`, with the tokens `admin`, who may do everything, and `kubelet`, the node's.
pub fn write(folder: &Path, node: &str) {
    let write = |name: &str, content: &str| fs::write(folder.join(name), content).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write("ca.crt", &authority.pem());

    let mut server = CertificateParams::new(SERVER_NAMES.map(str::to_owned)).unwrap();
    server.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, "apiserver-kubelet-client");
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    client.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
    for (name, params) in [("server", server), ("client", client)] {
        let key = KeyPair::generate().unwrap();
        write(&format!("{name}.crt"), &params.signed_by(&key, &authority).unwrap().pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
    let accounts = KeyPair::generate().unwrap();
    write("accounts.key", &accounts.serialize_pem());
    write("accounts.pub", &accounts.public_key_pem());
    write("tokens.csv", &format!("admin,admin,admin,system:masters\nkubelet,system:node:{node},{node},system:nodes\n"));
}

/// How who has that token reaches the API server on that port of the loopback interface.
pub fn kubeconfig(port: u16, folder: &Path, token: &str) -> Value {
    let (server, authority) = (format!("https://127.0.0.1:{port}"), folder.join("ca.crt"));
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "c", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    })
}
