//! Regular expressions for the texts of numbers, sizes and durations between bounds. Only what ECMAScript, Go and Rust
//! all read.

/// The units of durations, in milliseconds.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A whole number and a unit, from `min` to `max`, which are written so too.
pub(crate) fn duration(min: &str, max: &str) -> String {
    let (min, max) = (millis(min), millis(max));
    let of_unit = |(name, unit): (&str, u64)| {
        let (low, high) = (min.div_ceil(unit), max / unit);
        (low <= high).then(|| format!("{}{name}", any(numbers(low, high))))
    };
    format!("^0*{}$", any(UNITS.into_iter().filter_map(of_unit).collect()))
}

/// The powers of two from `min` to `max`, as numbers of bytes.
pub(crate) fn powers(min: &str, max: &str) -> Vec<u64> {
    let (min, max) = (bytes(min), bytes(max));
    (0..u64::BITS).map(|power| 1 << power).filter(|power| (min..=max).contains(power)).collect()
}

/// The same as texts: in bytes, or with a unit.
pub(crate) fn size(min: &str, max: &str) -> String {
    let powers = powers(min, max);
    let of_unit = |unit: u64| {
        let whole = powers.iter().filter(move |power| **power >= unit);
        whole.map(|power| (power / unit).to_string()).collect::<Vec<_>>()
    };
    let with_unit = [1 << 10, 1 << 20].map(|unit| any(of_unit(unit)));
    let [kib, mib] = with_unit;
    format!("^0*{}$", any([of_unit(1), vec![format!("{kib}KiB"), format!("{mib}MiB")]].concat()))
}

/// The whole numbers from `low` to `high` in digits, as alternatives.
pub(crate) fn numbers(low: u64, high: u64) -> Vec<String> {
    let digits = low.to_string().len()..=high.to_string().len();
    let of_length = |length: usize| {
        let smallest = if length == 1 { 0 } else { 10_u64.pow(length as u32 - 1) };
        let largest = 10_u64.pow(length as u32) - 1;
        same_length(&low.max(smallest).to_string(), &high.min(largest).to_string())
    };
    digits.flat_map(of_length).collect()
}

/// The numbers between two of the same number of digits.
fn same_length(low: &str, high: &str) -> Vec<String> {
    let (Some(first), Some(last)) = (low.chars().next(), high.chars().next()) else { return vec![String::new()] };
    let (below, above) = (&low[1..], &high[1..]);
    if first == last {
        return same_length(below, above).into_iter().map(|rest| format!("{first}{rest}")).collect();
    }
    let (nines, zeros) = ("9".repeat(below.len()), "0".repeat(below.len()));
    let (is_whole_at_low, is_whole_at_high) = (below == zeros, above == nines);
    let mut found = Vec::new();
    if !is_whole_at_low {
        found.extend(same_length(below, &nines).into_iter().map(|rest| format!("{first}{rest}")));
    }
    let from = first as u8 + u8::from(!is_whole_at_low);
    let to = last as u8 - u8::from(!is_whole_at_high);
    if from <= to {
        let digit =
            if from == to { char::from(from).to_string() } else { format!("[{}-{}]", from as char, to as char) };
        let rest = match below.len() {
            0 => String::new(),
            1 => "[0-9]".to_owned(),
            length => format!("[0-9]{{{length}}}"),
        };
        found.push(format!("{digit}{rest}"));
    }
    if !is_whole_at_high {
        found.extend(same_length(&zeros, above).into_iter().map(|rest| format!("{last}{rest}")));
    }
    found
}

fn any(alternatives: Vec<String>) -> String {
    format!("(?:{})", alternatives.join("|"))
}

fn millis(text: &str) -> u64 {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == &text[digits.len()..]).unwrap();
    digits.parse::<u64>().unwrap() * unit
}

fn bytes(text: &str) -> u64 {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => 1,
    };
    digits.parse::<u64>().unwrap() * unit
}

#[test]
fn a_pattern_of_numbers_has_these_and_no_others() {
    for (low, high, expected) in [
        (0, 9, "[0-9]"),
        (7, 7, "7"),
        (
            1,
            65535,
            "[1-9]|[1-9][0-9]|[1-9][0-9]{2}|[1-9][0-9]{3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|\
            655[0-2][0-9]|6553[0-5]",
        ),
        (95, 105, "9[5-9]|10[0-5]"),
    ] {
        assert_eq!(numbers(low, high).join("|"), expected);
    }
}
