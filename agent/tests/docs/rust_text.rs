//! Reads Rust as text, as far as comparing it with pages needs: constants, and string literals in calls.
//!
//! No syntax tree: `syn` would be one more dependency for this alone. Raw strings are not understood; the code that is
//! read here has none.

use std::iter::Peekable;
use std::str::Chars;

use oom_watcher_testkit::pages::page;

/// The expression of `const NAME: type = expression;`
pub(crate) fn constant(file: &str, name: &str) -> Option<String> {
    let text = page(file);
    let declared = text.lines().find_map(|line| line.split_once(&format!("const {name}: ")))?;
    Some(declared.1.split_once(" = ")?.1.trim_end_matches(';').to_owned())
}

/// The number that a constant or the cell of a page stands for: bytes, milliseconds or things.
pub(crate) fn number(text: &str) -> (u64, &'static str) {
    let parse = |digits: &str| {
        digits.replace(['_', ','], "").trim().parse::<u64>().unwrap_or_else(|_| panic!("not a number: {text}"))
    };
    let in_call = |call: &str| text.strip_prefix(call).and_then(|rest| rest.strip_suffix(')'));
    if let Some(seconds) = in_call("Duration::from_secs(").or_else(|| text.strip_suffix(" s")) {
        return (parse(seconds) * 1000, "ms");
    }
    if let Some(milliseconds) = in_call("Duration::from_millis(").or_else(|| text.strip_suffix(" ms")) {
        return (parse(milliseconds), "ms");
    }
    let units = [(" KiB", 1 << 10), (" MiB", 1 << 20)];
    if let Some((digits, unit)) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))) {
        return (parse(digits) * unit, "");
    }
    let operation = |sign: &str| text.split_once(sign).map(|(a, b)| (parse(a), parse(b)));
    match (operation(" << "), operation(" * ")) {
        (Some((a, b)), _) => (a << b, ""),
        (_, Some((a, b))) => (a * b, ""),
        _ => (parse(text), ""),
    }
}

/// The longest part of a format string that is the same in every message made of it. Pages may set what is in backticks
/// otherwise.
pub(crate) fn constant_part(format: &str) -> &str {
    let parts = format
        .split('`')
        .flat_map(|part| part.split('{'))
        .map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    parts.map(str::trim).max_by_key(|part| part.len()).unwrap_or_default()
}

/// The string literals inside of each call that begins with `mark`, which ends in `(`. Not those of tests.
pub(crate) fn literals(file: &str, mark: &str) -> Vec<Vec<String>> {
    let text = page(file);
    let text = text.split_once("#[cfg(test)]\nmod tests").map_or(text.as_str(), |(product, _)| product);
    text.split(mark).skip(1).map(|rest| inside(rest.chars().peekable())).collect()
}

/// The string literals inside of each function of that name. Not those of tests.
pub(crate) fn literals_of(file: &str, function: &str) -> Vec<String> {
    let text = page(file);
    let begin = format!("fn {function}(");
    let bodies = text.split(&begin).skip(1).filter_map(|rest| rest.split_once('{'));
    bodies.flat_map(|(_, body)| until(body.chars().peekable(), ('{', '}'))).collect()
}

/// The literals up to the parenthesis that closes.
fn inside(rest: Peekable<Chars<'_>>) -> Vec<String> {
    until(rest, ('(', ')'))
}

/// The literals up to the bracket that closes what is open.
fn until(mut rest: Peekable<Chars<'_>>, (open, close): (char, char)) -> Vec<String> {
    let (mut depth, mut found) = (1, Vec::new());
    while let Some(c) = rest.next() {
        match c {
            _ if c == open => depth += 1,
            _ if c == close => depth -= 1,
            '"' => found.push(literal(&mut rest)),
            // A character, or a lifetime.
            '\'' => {
                let first = rest.next();
                if first == Some('\\') || rest.peek() == Some(&'\'') {
                    rest.by_ref().find(|c| *c == '\'');
                }
            }
            '/' if rest.peek() == Some(&'/') => {
                rest.by_ref().find(|c| *c == '\n');
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// Up to the closing quotation mark. An escape stands for itself; a line that goes on is one line.
fn literal(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => match rest.next() {
                Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                Some(escaped) => text.push(escaped),
                None => break,
            },
            plain => text.push(plain),
        }
    }
    text
}

#[test]
fn rust_is_read() {
    let check = |code: &str, expected: &[&str]| assert_eq!(inside(code.chars().peekable()), expected, "{code}");
    check(r#"f, "a {b}")); "no""#, &["a {b}"]);
    check(r#"'"', g("a\"b"), "c)d") "no""#, &["a\"b", "c)d"]);
    let body = r#"match a { B => f("a"), C => { "b" } } } fn g() { "no" }"#;
    assert_eq!(until(body.chars().peekable(), ('{', '}')), ["a", "b"]);
    check("&'a x, // \"no\"\n \"a \\\n     b\")", &["a b"]);
    assert_eq!(
        [number("8 * 1024"), number("1 << 20"), number("16_384")],
        [number("8 KiB"), number("1 MiB"), number("16,384")]
    );
    assert_eq!(
        [number("Duration::from_secs(5)"), number("Duration::from_millis(200)")],
        [number("5 s"), number("200 ms")]
    );
    assert_ne!(number("5 s"), number("5000"));
    assert_eq!(
        [constant_part("{a}: no {b:#} or `c` of it"), constant_part("ready"), constant_part("{error:#}")],
        ["of it", "ready", ""]
    );
}
