//! What this node is called and where it is asked for `/metrics`.

use std::fs;
use std::net::SocketAddr;

use super::origin::Origin;
use super::resolver::Resolver;
use super::value;

/// The host's name: in a container without the host's network, the pod's.
pub(super) fn name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

/// Absent if it is refused, or not known.
pub(super) fn node(r: &mut Resolver<'_>, host_name: Option<String>) -> Option<String> {
    let unset = match r.variable_or_empty("NODE_NAME").as_deref() {
        Some("") => "empty",
        _ => "not set",
    };
    let candidates = [r.flag("--node-name"), r.variable("NODE_NAME"), r.file.get("node_name")];
    let is_set = candidates.iter().any(Option::is_some);
    if let Some((node, origin)) = r.choose(candidates, value::node_name) {
        if unset == "empty" {
            r.warn("NODE_NAME", format!("empty, the same as not set: the node is called {node} {origin}"));
        }
        r.record("node_name", &node, origin);
        return Some(node);
    }
    if is_set {
        return None;
    }
    let Some(node) = host_name.filter(|name| value::node_name(name).is_ok()) else {
        r.problems.push(
            "NODE_NAME",
            unset,
            "the name of this node, since the host's name in /proc/sys/kernel/hostname cannot be used either",
        );
        return None;
    };
    r.warn(
        "NODE_NAME",
        format!(
            "{unset}: the node is called {node} after the host's name, which in a pod is the pod's. Set it from \
             spec.nodeName"
        ),
    );
    // In a file it would be the name of every host that gets a copy.
    r.note("node_name", &node, Origin::Host);
    Some(node)
}

/// The address and the port each come from the first place that has them.
pub(super) fn listen(r: &mut Resolver<'_>) -> Option<SocketAddr> {
    let flag = [r.flag("--listen")];
    let flag = r.choose(flag, |text| value::address(text, true));
    let file = [r.file.get("listen"), r.default("listen")];
    let (file, file_origin) = r.choose(file, |text| value::address(text, false))?;
    let host = [r.variable("OTEL_EXPORTER_PROMETHEUS_HOST")];
    let host = r.choose(host, value::ip);
    let ports = [r.flag("--metrics-port"), r.variable("METRICS_PORT"), r.variable("OTEL_EXPORTER_PROMETHEUS_PORT")];
    let port = r.choose(ports, value::port);

    let (ip, ip_origin) = match &flag {
        Some((address, origin)) => (address.ip(), origin.clone()),
        None => host.unwrap_or((file.ip(), file_origin.clone())),
    };
    let (port, port_origin) = match flag {
        Some((address, origin)) => (address.port(), origin),
        None => port.unwrap_or((file.port(), file_origin)),
    };
    let listen = SocketAddr::new(ip, port);
    let origin = match ip_origin == port_origin {
        true => ip_origin,
        false => Origin::Listen { address: Box::new(ip_origin), port: Box::new(port_origin) },
    };
    // Any free port is for a flag alone.
    if port == 0 {
        r.note("listen", listen, origin)
    } else {
        r.record("listen", listen, origin)
    }
    Some(listen)
}
