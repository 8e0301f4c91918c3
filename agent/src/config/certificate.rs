//! Certificates and keys: the PEM files are read and checked here, so that a mistake is told at the start and not at
//! the first kill.
//!
//! Whether a certificate is trusted is the handshake's business; here it is only whether it can be one, and when it
//! ends.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::file::bounded;
use super::problem::{Refused, quoted};

/// A file of certificates or of one key.
pub(super) struct Pem {
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    /// Why it will probably not be accepted.
    pub(super) concern: Option<String>,
}

/// Certificates to trust. Old ones may stay in the file: it is odd only if none is valid.
pub(super) fn authorities(path: &str) -> Result<Pem, Refused> {
    let (bytes, certificates) = certificates(path)?;
    let mut concerns = certificates.iter().map(concern);
    let first = concerns.next().flatten();
    let concern = if concerns.all(|concern| concern.is_some()) { first } else { None };
    Ok(Pem { path: path.to_owned(), bytes, concern })
}

/// Our own certificate, and those that lead to its authority.
pub(super) fn client(path: &str) -> Result<Pem, Refused> {
    let (bytes, certificates) = certificates(path)?;
    Ok(Pem { path: path.to_owned(), bytes, concern: certificates.first().and_then(concern) })
}

/// The key of our own certificate.
pub(super) fn key(path: &str) -> Result<Pem, Refused> {
    let expected = "a PEM file with a private key that is not encrypted";
    let bytes = bounded(path.as_ref()).map_err(|error| Refused::new(format!("{}: {error}", quoted(path)), expected))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| Refused::new(format!("{}: no private key in it", quoted(path)), expected))?;
    match rustls::crypto::ring::sign::any_supported_type(&key) {
        Ok(_) => Ok(Pem { path: path.to_owned(), bytes, concern: None }),
        Err(_) => Err(Refused::new(
            format!("{}: a key of an unknown kind", quoted(path)),
            "an RSA, ECDSA (P-256, P-384) or Ed25519 key",
        )),
    }
}

/// Whether `key` is the one of `client`.
pub(super) fn belong_together(client: &Pem, key: &Pem) -> bool {
    let chain = CertificateDer::pem_slice_iter(&client.bytes).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(&key.bytes)
        .ok()
        .and_then(|key| rustls::crypto::ring::sign::any_supported_type(&key).ok());
    match (chain, key) {
        (Ok(chain), Some(key)) => CertifiedKey::new(chain, key).keys_match().is_ok(),
        _ => false,
    }
}

fn certificates(path: &str) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), Refused> {
    let expected = "a PEM file with certificates";
    let bytes = bounded(path.as_ref()).map_err(|error| Refused::new(format!("{}: {error}", quoted(path)), expected))?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok((bytes, certificates)),
        Ok(_) => Err(Refused::new(format!("{}: no certificate in it", quoted(path)), expected)),
        Err(_) => Err(Refused::new(format!("{}: broken PEM", quoted(path)), expected)),
    }
}

fn concern(certificate: &CertificateDer<'_>) -> Option<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    match validity(certificate) {
        None => Some("the certificate in it cannot be read".to_owned()),
        Some((_, end)) if end.unix < now => Some(format!("the certificate in it expired on {}", end.date)),
        Some((start, _)) if start.unix > now => {
            Some(format!("the certificate in it is not valid before {}", start.date))
        }
        Some(_) => None,
    }
}

/// A moment in a certificate.
struct Moment {
    /// Seconds since 1970.
    unix: i64,
    /// Year, month and day.
    date: String,
}

/// `tbsCertificate.validity`, RFC 5280 section 4.1. The only field that is needed: a crate for all of them would bring
/// fifteen more.
fn validity(certificate: &[u8]) -> Option<(Moment, Moment)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let of = |(tag, content, rest)| (tag == SEQUENCE).then_some((content, rest));
    let (certificate, _) = of(element(certificate)?)?;
    let (mut fields, _) = of(element(certificate)?)?;
    if let (VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    let (_, _serial, fields) = element(fields)?;
    let (_, _algorithm, fields) = element(fields)?;
    let (_, _issuer, fields) = element(fields)?;
    let (validity, _) = of(element(fields)?)?;
    let (start_tag, start, rest) = element(validity)?;
    let (end_tag, end, _) = element(rest)?;
    Some((moment(start_tag, start)?, moment(end_tag, end)?))
}

/// The tag, the content and what follows of the DER element at the beginning of `bytes`.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // Longer than what fits into four bytes is no certificate.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `UTCTime` (two digits of the year) or `GeneralizedTime`, always in UTC.
fn moment(tag: u8, text: &[u8]) -> Option<Moment> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let text = match tag {
        UTC_TIME => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    if text.len() != 14 {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let seconds = number(8, 10)? * 3600 + number(10, 12)? * 60 + number(12, 14)?;
    Some(Moment { unix: days(year, month, day) * 86_400 + seconds, date: format!("{year:04}-{month:02}-{day:02}") })
}

/// Days from 1970-01-01: years are counted from March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 1
        - 719_468
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use std::fs;

    use super::*;

    /// The PEM texts of a certificate that is valid in these years, and of its key.
    fn certificate(from: i32, to: i32) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["collector".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 2);
        params.not_after = rcgen::date_time_ymd(to, 3, 4);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
            let path = self.0.path().join(name);
            fs::write(&path, content).unwrap();
            path.display().to_string()
        }
    }

    fn load(variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let flags = crate::config::Flags::from([("--node-name", "n"), ("--config", "none")]);
        let base = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317")];
        let env = |name: &str| {
            base.iter().chain(variables).rev().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        };
        let loaded = crate::config::load(&flags, &env).map_err(|problems| problems.to_string())?;
        Ok(loaded.warnings.iter().map(ToString::to_string).collect())
    }

    const CA: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    const CLIENT: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
    const KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_its_path_and_the_cause() {
        let files = Files(tempfile::tempdir().unwrap());
        let (pem, key_pem) = certificate(2020, 2120);
        let (cert, key) = (files.write("cert.pem", &pem), files.write("key.pem", &key_pem));
        let other_key = files.write("other.pem", certificate(2020, 2120).1);
        let text = files.write("text.pem", "hello");
        let cut = files.write("cut.pem", &pem[..pem.len() / 2]);
        let directory = files.0.path().display().to_string();
        let check = |variables: &[(&str, &str)], expected: String| assert_eq!(load(variables), Err(expected));

        let expected = "expected a PEM file with certificates";
        check(
            &[(CA, "/no/ca.pem")],
            format!(r#"{CA}: "/no/ca.pem": No such file or directory (os error 2), {expected}"#),
        );
        check(&[(CA, &directory)], format!("{CA}: {directory:?}: a directory, {expected}"));
        check(&[(CA, &text)], format!("{CA}: {text:?}: no certificate in it, {expected}"));
        check(&[(CA, &key)], format!("{CA}: {key:?}: no certificate in it, {expected}"));
        check(&[(CA, &cut)], format!("{CA}: {cut:?}: broken PEM, {expected}"));
        check(
            &[(CLIENT, &cert), (KEY, &cert)],
            format!(
                "{KEY}: {cert:?}: no private key in it, expected a PEM file with a private key that is not encrypted"
            ),
        );
        check(
            &[(CLIENT, &cert), (KEY, &other_key)],
            format!(
                "{KEY}: {other_key:?}: the key of another certificate, expected the key of the certificate in {cert} \
                 ({CLIENT})"
            ),
        );
        check(
            &[(CLIENT, &cert)],
            format!("{CLIENT}: {cert:?} alone, expected {KEY} too: a certificate is of no use without its key"),
        );
        check(
            &[(KEY, &key)],
            format!("{KEY}: {key:?} alone, expected {CLIENT} too: a key is of no use without its certificate"),
        );
    }

    #[test]
    fn a_certificate_that_is_not_valid_now_is_warned_about() {
        let files = Files(tempfile::tempdir().unwrap());
        let (good, key_pem) = certificate(2020, 2120);
        let (old, old_key) = certificate(2001, 2020);
        let (early, _) = certificate(2101, 2120);
        let broken = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "AAAA");
        let (good_file, key) = (files.write("good.pem", &good), files.write("key.pem", key_pem));
        let (old_file, old_key) = (files.write("old.pem", &old), files.write("old-key.pem", old_key));
        let early_file = files.write("early.pem", early);
        let broken_file = files.write("broken.pem", broken);
        let both_file = files.write("both.pem", [old, good].concat());
        let check =
            |variables: &[(&str, &str)], expected: &[String]| assert_eq!(load(variables).as_deref(), Ok(expected));

        check(&[(CA, &good_file), (CLIENT, &good_file), (KEY, &key)], &[]);
        check(&[(CA, &both_file)], &[]);
        check(&[(CA, &old_file)], &[format!("{CA}: {old_file:?}: the certificate in it expired on 2020-03-04")]);
        check(
            &[(CLIENT, &old_file), (KEY, &old_key)],
            &[format!("{CLIENT}: {old_file:?}: the certificate in it expired on 2020-03-04")],
        );
        check(
            &[(CA, &early_file)],
            &[format!("{CA}: {early_file:?}: the certificate in it is not valid before 2101-01-02")],
        );
        check(&[(CA, &broken_file)], &[format!("{CA}: {broken_file:?}: the certificate in it cannot be read")]);
        check(
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector"), (CA, &good_file)],
            &[format!("{CA}: not used: the endpoint is not https://")],
        );
    }

    #[test]
    fn no_bytes_make_reading_a_certificate_fail_otherwise() {
        let (pem, _) = certificate(2020, 2120);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!(
            validity(&der).is_some_and(|(start, end)| (start.date.as_str(), end.unix) == ("2020-01-02", 4_738_953_600))
        );
        for length in 0..der.len() {
            // The validity is not at the end, but the outermost length says that all is there.
            assert!(validity(&der[..length]).is_none());
        }
        for index in 0..der.len() {
            let mut bytes = der.to_vec();
            bytes[index] ^= 0xff;
            let _ = validity(&bytes);
        }
    }

    #[test]
    fn days_are_counted_from_1970() {
        for (date, expected) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days(date.0, date.1, date.2), expected, "{date:?}");
        }
    }
}
