//! Reads Rust source far enough to know which paths it names: comments, texts and everything that is only compiled for
//! tests are left out.
//!
//! No parser: macros are seen as they are written, and a module inside a file is taken for a part of the file.

/// A word, `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// As it is written.
    pub(crate) text: String,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// What the agent is compiled from.
#[derive(Debug)]
pub(crate) struct Source {
    /// What is left of the file.
    pub(crate) tokens: Vec<Token>,
    /// Modules with files of their own that are compiled for tests only.
    pub(crate) test_modules: Vec<String>,
}

/// A path as in `a::b::c`. Of `a::{b, c::d}` there are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Its words.
    pub(crate) words: Vec<String>,
    /// The line it begins in.
    pub(crate) line: usize,
}

impl Path {
    /// Whether these words follow each other in it.
    pub(crate) fn has(&self, words: &[&str]) -> bool {
        self.words.windows(words.len()).any(|window| window.iter().zip(words).all(|(word, wanted)| word == wanted))
    }
}

/// Reads a file.
pub(crate) fn scan(text: &str) -> Source {
    without_tests(tokens(text))
}

/// All paths, single words among them, in their order.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        // The name of a field or of a method begins no path.
        let begins = is_word(&tokens[at].text) && (at == 0 || tokens[at - 1].text != ".");
        at = if begins { path(tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

/// Adds the paths that begin at `at`, behind `prefix`, and says where they end.
fn path(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let line = tokens[at].line;
    let mut words = prefix.to_vec();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    loop {
        if text(at) != "self" || words.is_empty() {
            words.push(text(at).to_owned());
        }
        at += 1;
        if text(at) != "::" {
            break;
        }
        match text(at + 1) {
            "{" => return tree(tokens, at + 2, &words, found),
            word if is_word(word) => at += 1,
            _ => break,
        }
    }
    found.push(Path { words, line });
    at
}

/// Adds the paths of a list in braces, which begins at `at`.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    while at < tokens.len() && tokens[at].text != "}" {
        match tokens[at].text.as_str() {
            // `name as other`: the other name is not what is imported.
            "as" => at += 2,
            word if is_word(word) => at = path(tokens, at, prefix, found),
            _ => at += 1,
        }
    }
    at + 1
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn without_tests(tokens: Vec<Token>) -> Source {
    let (mut kept, mut test_modules, mut at) = (Vec::new(), Vec::new(), 0);
    let is = |at: usize, texts: &[&str]| {
        texts.iter().enumerate().all(|(offset, text)| tokens.get(at + offset).is_some_and(|token| token.text == *text))
    };
    while at < tokens.len() {
        if !is(at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = end_of_item(&tokens, at);
        let item = &tokens[at..end];
        if let [.., keyword, name, semicolon] = item
            && (keyword.text.as_str(), semicolon.text.as_str()) == ("mod", ";")
        {
            test_modules.push(name.text.clone());
        }
        at = end;
    }
    Source { tokens: kept, test_modules }
}

/// Behind the item whose attributes begin at `at`: behind its braces, or its semicolon.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + offset + 1;
                }
            }
            ";" if depth == 0 => return at + offset + 1,
            _ => {}
        }
    }
    tokens.len()
}

fn tokens(text: &str) -> Vec<Token> {
    let (mut found, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, is_token) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => (quoted(rest, '"'), false),
            '\'' => (character(rest), false),
            'r' | 'b' | 'c' if prefixed_text(rest).is_some() => (prefixed_text(rest).unwrap_or(1), false),
            c if c.is_alphanumeric() || c == '_' => {
                (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true)
            }
            ':' if rest.starts_with("::") => (2, true),
            c => (c.len_utf8(), !c.is_whitespace()),
        };
        let (token, after) = rest.split_at(length);
        if is_token {
            found.push(Token { text: token.to_owned(), line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    found
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a text that begins and ends with `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character, or of a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.chars().skip(1);
    match (characters.next(), characters.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(text, '\''),
        _ => text[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(text.len(), |length| length + 1),
    }
}

/// The length of `r"…"`, `r#"…"#`, `b"…"`, `b'…'` and their like.
fn prefixed_text(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'r' | 'b' | 'c'))?;
    if prefix > 2 {
        return None;
    }
    let rest = &text[prefix..];
    if !text[..prefix].contains('r') {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        return Some(prefix + quoted(rest, quote));
    }
    let marks = rest.bytes().take_while(|byte| *byte == b'#').count();
    let content = rest[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    Some(prefix + marks + 1 + content.find(&end).map_or(content.len(), |at| at + end.len()))
}
