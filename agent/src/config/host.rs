//! What this node is called and where it is asked for `/metrics`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::file::File;
use super::flags::Flags;
use super::resolver::{Origin, Resolver};
use super::value;

const DEFAULT_PORT: u16 = 8080;

/// The host's name: in a container without the host's network, the pod's.
pub(super) fn name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

pub(super) fn node(r: &mut Resolver<'_>, flags: &Flags, file: &File, host_name: Option<String>) -> String {
    let unset = match r.variable_or_empty("NODE_NAME").as_deref() {
        Some("") => "empty",
        _ => "not set",
    };
    let candidates = [flags.node_name(), r.variable("NODE_NAME"), file.get("node_name")];
    let is_set = candidates.iter().any(Option::is_some);
    if let Some((node, origin)) = r.choose(candidates, value::node_name) {
        if unset == "empty" {
            r.warn("NODE_NAME", format!("empty, the same as not set: the node is called {node} {origin}"));
        }
        r.record("node_name", &node, origin);
        return node;
    }
    if is_set {
        // Refused, and told so.
        return String::new();
    }
    let Some(node) = host_name.filter(|name| value::node_name(name).is_ok()) else {
        r.problems.push(
            "NODE_NAME",
            unset,
            "the name of this node, since the host's name in /proc/sys/kernel/hostname cannot be used either",
        );
        return String::new();
    };
    r.warn(
        "NODE_NAME",
        format!(
            "{unset}: the node is called {node} after the host's name, which in a pod is the \
        pod's. Set it from spec.nodeName"
        ),
    );
    r.record("node_name", &node, Origin::Host);
    node
}

pub(super) fn listen(r: &mut Resolver<'_>, flags: &Flags, file: &File) -> SocketAddr {
    let all = r.choose([flags.listen()], |text| value::address(text, true));
    let file = r.choose([file.get("listen")], |text| value::address(text, false));
    let host = [r.variable("OTEL_EXPORTER_PROMETHEUS_HOST")];
    let host = r.choose(host, value::ip);
    let ports = [flags.metrics_port(), r.variable("METRICS_PORT"), r.variable("OTEL_EXPORTER_PROMETHEUS_PORT")];
    let port = r.choose(ports, value::port);

    let ip_of = |(address, origin): &(SocketAddr, Origin)| (address.ip(), origin.clone());
    let port_of = |(address, origin): &(SocketAddr, Origin)| (address.port(), origin.clone());
    let ip = all.as_ref().map(ip_of).or(host).or_else(|| file.as_ref().map(ip_of));
    let port = all.as_ref().map(port_of).or(port).or_else(|| file.as_ref().map(port_of));
    let (ip, ip_origin) = ip.unwrap_or((IpAddr::V4(Ipv4Addr::UNSPECIFIED), Origin::Default));
    let (port, port_origin) = port.unwrap_or((DEFAULT_PORT, Origin::Default));
    r.record("listen.address", ip, ip_origin);
    r.record("listen.port", port, port_origin);
    SocketAddr::new(ip, port)
}
