//! Where OTLP goes: the text of an endpoint is checked so far that only the network can fail. Pure.

use super::problem::{Refused, quoted};
use crate::export::settings::Protocol;
use crate::stats::Signal;

/// A URL that can be connected to, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    text: String,
    /// The port, if it is given.
    pub(super) port: Option<u16>,
    path: String,
    has_query: bool,
}

impl Url {
    pub(super) fn is_https(&self) -> bool {
        self.text.starts_with("https:")
    }

    pub(super) fn is_unix(&self) -> bool {
        self.text.starts_with("unix:")
    }

    /// What gRPC does not use: it has paths of its own.
    pub(super) fn path(&self) -> Option<&str> {
        Some(self.path.as_str()).filter(|path| !path.is_empty() && *path != "/")
    }

    /// One signal's part of an endpoint for all signals.
    pub(super) fn of_signal(&self, signal: Signal, protocol: Protocol) -> String {
        match protocol {
            Protocol::Grpc => self.text.clone(),
            Protocol::HttpProtobuf => format!("{}/v1/{}", self.text.trim_end_matches('/'), signal.as_str()),
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The endpoint of one signal.
pub(super) fn parse(text: &str) -> Result<Url, Refused> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return match text.contains('@') {
            true => Err(credentials()),
            false => {
                let shown = shown(text);
                if text.starts_with("unix:") {
                    return Err(Refused::new(
                        quoted(&shown),
                        "the path of a socket, such as unix:///run/otel/grpc.sock",
                    ));
                }
                let rest = shown.trim_start_matches("https:").trim_start_matches("http:").trim_start_matches('/');
                Err(Refused::new(
                    quoted(&shown),
                    format!("a URL with its scheme: write http://{rest} or https://{rest}"),
                ))
            }
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(credentials());
    }
    match scheme {
        "http" | "https" => {}
        "unix" if rest.starts_with('/') && rest.len() > 1 => {
            return Ok(Url { text: text.to_owned(), port: None, path: String::new(), has_query: false });
        }
        "unix" => return Err("the path of a socket, such as unix:///run/otel/grpc.sock".into()),
        _ => return Err(Refused::new(found(text), "the scheme http, https, or unix (gRPC only)")),
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err(Refused::new(found(text), format!("a host after {scheme}://, such as {scheme}://collector:4317")));
    }
    let uri = text.parse::<hyper::Uri>().ok().filter(|_| !text.contains('#'));
    let Some((uri, host)) = uri.as_ref().and_then(|uri| Some((uri, uri.host().filter(|host| is_host(host))?))) else {
        return Err(Refused::new(found(text), format!("a URL, such as {scheme}://collector:4317")));
    };
    let port = match authority.strip_prefix(host).unwrap_or_default() {
        "" => None,
        port => Some(
            super::value::port(port.trim_start_matches(':'))
                .map_err(|refused| Refused::new(found(text), refused.expected))?,
        ),
    };
    Ok(Url { text: text.to_owned(), port, path: uri.path().to_owned(), has_query: uri.query().is_some() })
}

/// The endpoint of all signals: each one's path is put behind it.
pub(super) fn parse_general(text: &str) -> Result<Url, Refused> {
    match parse(text)? {
        url if url.has_query => Err(Refused::new(found(text), "no query: set the variable of each signal instead")),
        url => Ok(url),
    }
}

/// The URL as it may be shown: a query can have a token in it.
pub(super) fn shown(text: &str) -> String {
    match text.split_once('?') {
        Some((before, _)) => format!("{before}?…"),
        None => text.to_owned(),
    }
}

/// Stricter than a URL may be: `$(HOST_IP)` is a variable that Kubernetes did not know.
fn is_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

fn found(text: &str) -> String {
    quoted(&shown(text))
}

fn credentials() -> Refused {
    Refused::new("a user name or password in the URL (not shown)", "credentials in OTEL_EXPORTER_OTLP_HEADERS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(Option<u16>, Option<&str>), &str>) {
        let parsed = parse_general(text);
        let found = parsed.as_ref().map(|url| (url.port, url.path())).map_err(|refused| refused.expected.as_str());
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn an_endpoint_can_be_connected_to() {
        check("http://collector:4317", Ok((Some(4317), None)));
        check("https://collector", Ok((None, None)));
        check("http://[fd00::1]:4317/", Ok((Some(4317), None)));
        check("http://10.0.0.1:4318/base/path", Ok((Some(4318), Some("/base/path"))));
        check("unix:///run/otel.sock", Ok((None, None)));

        check("collector:4317", Err("a URL with its scheme: write http://collector:4317 or https://collector:4317"));
        check("10.0.0.1", Err("a URL with its scheme: write http://10.0.0.1 or https://10.0.0.1"));
        check("htp://collector", Err("the scheme http, https, or unix (gRPC only)"));
        check("HTTP://collector", Err("the scheme http, https, or unix (gRPC only)"));
        check("http:/collector", Err("a URL with its scheme: write http://collector or https://collector"));
        check("http://", Err("a host after http://, such as http://collector:4317"));
        check("https://:4317", Err("a host after https://, such as https://collector:4317"));
        check("http:///v1/logs", Err("a host after http://, such as http://collector:4317"));
        check("http://a b", Err("a URL, such as http://collector:4317"));
        check("http://a#b", Err("a URL, such as http://collector:4317"));
        check("http://a:", Err("a port from 1 to 65535"));
        check("http://a:0", Err("a port from 1 to 65535"));
        check("http://a:99999", Err("a port from 1 to 65535"));
        check("http://[fd00::1]:x", Err("a port from 1 to 65535"));
        check("http://$(HOST_IP):4317", Err("a URL, such as http://collector:4317"));
        check("unix://run/otel.sock", Err("the path of a socket, such as unix:///run/otel/grpc.sock"));
        check("http://a/?b=c", Err("no query: set the variable of each signal instead"));
        assert!(parse("http://a/?b=c").is_ok());
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for text in [
            "http://user:SECRET@collector:4317",
            "user:SECRET@collector",
            "htp://SECRET@collector",
            "http://a:x?token=SECRET",
            "http://a b/?SECRET",
            "a?SECRET",
        ] {
            let found = parse(text).err().and_then(|refused| refused.found);
            assert!(found.as_ref().is_some_and(|found| !found.contains("SECRET")), "{text}: {found:?}");
        }
    }
}
