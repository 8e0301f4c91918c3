//! Kubernetes quantities of memory, such as `256Mi`: the grammar of `k8s.io/apimachinery/pkg/api/resource`, `Quantity`.
//!
//! The crates for it bring parsers and decimal arithmetic of which nothing is needed here.

/// Bytes, rounded up as the kubelet does. Absent if it is no quantity, negative, or more than 2^64 - 1.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty()
        || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let (base, exponent) = scale(suffix)?;
    // Digits beyond these are less than any memory: at the greatest scale (Ei, 2^60) the 19th is a part of one byte.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let places = i32::try_from(fraction.len()).ok()?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    // digits * base^exponent / 10^places
    let (mut up, mut down) = (1_u128, 10_u128.checked_pow(places.unsigned_abs())?);
    match exponent {
        0.. => up = up.checked_mul(u128::from(base).checked_pow(exponent.unsigned_abs())?)?,
        _ => down = down.checked_mul(u128::from(base).checked_pow(exponent.unsigned_abs())?)?,
    }
    u64::try_from(digits.checked_mul(up)?.div_ceil(down)).ok()
}

/// What a suffix multiplies with: a base and its exponent.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        _ => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|exponent| (-30..=30).contains(exponent))?),
    })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("128974848", Some(128_974_848)),
            ("129e6", Some(129_000_000)),
            ("129M", Some(129_000_000)),
            ("128974848000m", Some(128_974_848)),
            ("123Mi", Some(123 << 20)),
            ("1.5Gi", Some(3 << 29)),
            (".5Ki", Some(512)),
            ("1.", Some(1)),
            ("+1Ki", Some(1024)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("1E3", Some(1000)),
            ("1e-3", Some(1)),
            ("0.1", Some(1)),
            ("1n", Some(1)),
            ("15Ei", Some(15 << 60)),
            ("16Ei", None),
            ("1.000000000000000000000000000000000000001Ki", Some(1024)),
            ("-1Mi", None),
            ("", None),
            (".", None),
            ("Mi", None),
            ("1mi", None),
            ("1 Mi", None),
            ("1.2.3", None),
            ("1++", None),
            ("1e99", None),
            ("99999999999999999999999999999999999999999", None),
            ("١Mi", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
