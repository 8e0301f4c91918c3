//! `name=value,name=value`, percent-encoded: the form of the headers and of the resource attributes. Pure.
//!
//! Such a text is not repeated in what is said about it: it may be a secret.

use super::problem::{Refused, quoted};

/// The pairs in their order, decoded. Names are not empty.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, Refused> {
    let pair = |(index, pair): (usize, &str)| {
        let (name, value) = pair.split_once('=').ok_or_else(|| refused(index, "without `=`"))?;
        let name = percent_decoded(name.trim())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| refused(index, "without a valid name"))?;
        let value = percent_decoded(value.trim()).ok_or_else(|| refused(index, "with a bad percent-encoding"))?;
        Ok((name, value))
    };
    // A comma at the end is not an item.
    text.split(',').filter(|item| !item.trim().is_empty()).enumerate().map(pair).collect()
}

/// Names that a request needs for itself.
const RESERVED_HEADERS: &[&str] =
    &["connection", "content-encoding", "content-length", "content-type", "host", "te", "transfer-encoding"];

/// [`pairs`] with valid names, in lower case, and values that a header can carry.
pub(super) fn headers(text: &str) -> Result<Vec<(String, String)>, Refused> {
    let header = |(index, (name, value)): (usize, (String, String))| {
        // Also the name may be a secret: `Authorization: Basic dXNlcg==` is a common mistake.
        let valid = hyper::header::HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| refused(index, "without a valid name"))?;
        let name = valid.as_str();
        // gRPC keeps names for itself, and decodes the values of those that end with -bin.
        if RESERVED_HEADERS.contains(&name) || name.starts_with("grpc-") || name.ends_with("-bin") {
            return Err(Refused::new(quoted(name), "a header that the protocol does not use itself"));
        }
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(refused(index, "with other characters than visible ASCII"));
        }
        Ok((name.to_owned(), value))
    };
    pairs(text)?.into_iter().enumerate().map(header).collect()
}

fn refused(index: usize, why: &str) -> Refused {
    Refused::new(
        format!("item {} {why} (not shown, it may be a secret)", index + 1),
        "name=value,name=value, percent-encoded",
    )
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    #[test]
    fn percent_encoding_is_exact() {
        for (text, decoded) in [
            ("plain", Some("plain")),
            ("a%20b%2C", Some("a b,")),
            ("%C3%A4", Some("ä")),
            ("a+b", Some("a+b")),
            ("%", None),
            ("%2", None),
            ("%+1", None),
            ("%zz", None),
            ("%C3", None),
            ("%ä", None),
        ] {
            assert_eq!(percent_decoded(text).as_deref(), decoded, "{text}");
        }
    }

    #[test]
    fn a_header_can_be_sent_and_its_value_is_never_told() {
        assert_eq!(
            headers(" X-Scope-OrgID = a%20b , ,c=").unwrap(),
            [("x-scope-orgid".into(), "a b".into()), ("c".into(), String::new())]
        );
        for text in [
            "SECRET",
            "=SECRET",
            "a=SECRET%0A",
            "a=SECRET%",
            "ä=SECRET",
            "Authorization: Basic SECRET=",
            "host=SECRET",
            "grpc-x=SECRET",
            "x-bin=SECRET",
            "a=%C3%A4SECRET",
        ] {
            let refused = headers(text).unwrap_err();
            assert!(refused.found.as_ref().is_some_and(|found| !found.contains("SECRET")), "{refused:?}");
        }
    }
}
