//! Rules on Rust source, by its tokens: comments and strings cannot trip them.

use std::path::Path;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use super::Violation;

/// The crates that talk to the operating system: the only place for `unsafe`.
const UNSAFE: &[&str] = &["appliance/platform/linux/", "appliance/platform/openh264/"];
/// Where one may ask for the operating system.
const SYSTEM: &[&str] = &["appliance/platform/", "appliance/service/"];
/// No clock, socket, thread or asynchronous code here.
const PURE: &[&str] = &[
    "appliance/core/src/",
    "appliance/protocol/src/",
    "appliance/video/src/",
    "appliance/input/src/",
];

/// Words of a `cfg` that ask for the operating system.
const SYSTEM_WORDS: &[&str] = &[
    "target_os",
    "target_family",
    "target_vendor",
    "unix",
    "windows",
];
const LEFTOVERS: &[&str] = &["dbg", "todo", "unimplemented"];
const IMPURE: &[&[&str]] = &[
    &["Instant"],
    &["SystemTime"],
    &["TcpListener"],
    &["TcpStream"],
    &["UdpSocket"],
    &["UnixDatagram"],
    &["UnixListener"],
    &["UnixStream"],
    &["async"],
    &["await"],
    &["std", "thread"],
    &["thread", "spawn"],
];

/// All breaches in one file, whose path is relative to the checkout.
pub(super) fn violations(path: &Path, text: &str) -> Vec<Violation> {
    let place = path.to_string_lossy();
    let mut finder = Finder {
        within: Place::of(&place),
        place: &place,
        found: Vec::new(),
    };
    match parse(text) {
        Ok(tokens) => finder.stream(tokens),
        Err(error) => finder.found.push(format!("{place}: not Rust: {error}")),
    }
    finder.found
}

/// A crate root without `#![forbid(unsafe_code)]`, where it is due.
pub(super) fn missing_forbid(path: &Path, text: &str) -> Option<Violation> {
    let place = path.to_string_lossy();
    if Place::of(&place).may_be_unsafe {
        return None;
    }
    let Ok(tokens) = parse(text) else { return None };
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let forbids = tokens.windows(3).any(|window| match window {
        [
            TokenTree::Punct(hash),
            TokenTree::Punct(bang),
            TokenTree::Group(group),
        ] => {
            let attribute = group.stream().to_string().replace(' ', "");
            hash.as_char() == '#'
                && bang.as_char() == '!'
                && attribute.starts_with("forbid(")
                && attribute.contains("unsafe_code")
        }
        _ => false,
    });
    (!forbids).then(|| format!("{place}: has to say #![forbid(unsafe_code)]"))
}

fn parse(text: &str) -> Result<TokenStream, proc_macro2::LexError> {
    // A first line for an interpreter is no Rust token.
    let text = if text.starts_with("#!/") {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    } else {
        text
    };
    text.parse()
}

#[derive(Clone, Copy, Debug)]
struct Place {
    may_be_unsafe: bool,
    may_ask_system: bool,
    pure: bool,
}

impl Place {
    fn of(path: &str) -> Self {
        let below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
        Self {
            may_be_unsafe: below(UNSAFE),
            may_ask_system: below(SYSTEM),
            pure: below(PURE),
        }
    }
}

struct Finder<'a> {
    within: Place,
    place: &'a str,
    found: Vec<Violation>,
}

impl Finder<'_> {
    fn stream(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            let rest = tokens.get(index..).unwrap_or_default();
            match token {
                TokenTree::Ident(word) => self.word(word, rest),
                TokenTree::Group(group) => self.stream(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn word(&mut self, word: &Ident, rest: &[TokenTree]) {
        let text = word.to_string();
        let line = word.span().start().line;
        let at = format!("{}:{line}", self.place);
        if text == "unsafe" && !self.within.may_be_unsafe {
            self.found.push(format!(
                "{at}: unsafe belongs to the crates under appliance/platform"
            ));
        }
        if (text == "cfg" || text == "cfg_attr")
            && !self.within.may_ask_system
            && let Some(asked) = argument(rest).and_then(system_word)
        {
            self.found.push(format!(
                "{at}: {text}({asked}) belongs to the platform and service crates"
            ));
        }
        let is_macro =
            matches!(rest.get(1), Some(TokenTree::Punct(punct)) if punct.as_char() == '!');
        if is_macro && LEFTOVERS.contains(&text.as_str()) {
            self.found.push(format!("{at}: {text}! is not for commits"));
        }
        if self.within.pure && IMPURE.iter().any(|pattern| path_matches(pattern, rest)) {
            self.found.push(format!(
                "{at}: {text}: pure crates know no clock, socket, thread or asynchronous code"
            ));
        }
    }
}

/// The parentheses after `cfg` or `cfg!`.
fn argument(rest: &[TokenTree]) -> Option<TokenStream> {
    let next = match rest.get(1)? {
        TokenTree::Punct(punct) if punct.as_char() == '!' => rest.get(2)?,
        other => other,
    };
    match next {
        TokenTree::Group(group) if group.delimiter() != Delimiter::Brace => Some(group.stream()),
        _ => None,
    }
}

fn system_word(tokens: TokenStream) -> Option<String> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(word) => {
            let word = word.to_string();
            SYSTEM_WORDS.contains(&word.as_str()).then_some(word)
        }
        TokenTree::Group(group) => system_word(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    })
}

/// Whether the tokens begin with these words joined by `::`.
fn path_matches(pattern: &[&str], tokens: &[TokenTree]) -> bool {
    let mut tokens = tokens
        .iter()
        .filter(|token| !matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':'));
    pattern
        .iter()
        .all(|wanted| matches!(tokens.next(), Some(TokenTree::Ident(word)) if word == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        violations(Path::new(path), text).len()
    }

    #[test]
    fn unsafe_only_in_platform_crates() {
        let text = "fn f() {\n    unsafe { g() }\n}\nunsafe impl Send for X {}";
        assert_eq!(found("appliance/video/src/lib.rs", text), 2);
        assert_eq!(found("appliance/platform/src/lib.rs", text), 2);
        assert_eq!(found("tests/tests/x.rs", text), 2);
        assert_eq!(found("appliance/platform/linux/src/lib.rs", text), 0);
        assert!(violations(Path::new("xtask/src/a.rs"), text)[0].starts_with("xtask/src/a.rs:2:"));
        let inside_macro = "m! { unsafe { } }";
        assert_eq!(found("appliance/video/src/lib.rs", inside_macro), 1);
    }

    #[test]
    fn comments_strings_and_names_are_not_code() {
        let text = "// unsafe todo!()\n/* unsafe */\n/// unsafe\nconst A: &str = \"unsafe dbg!() cfg(unix)\";\n\
                    #![forbid(unsafe_code)]\nfn unsafe_code() {}\nfn todo() {}\nlet unix = cfg;";
        assert_eq!(found("appliance/video/src/lib.rs", text), 0);
    }

    #[test]
    fn the_system_is_asked_in_facades_only() {
        for text in [
            "#[cfg(target_os = \"linux\")] mod x;",
            "#[cfg(any(test, unix))] mod x;",
            "#[cfg(not(windows))] mod x;",
            "#[cfg_attr(target_family = \"unix\", path = \"x.rs\")] mod x;",
            "fn f() -> bool { cfg!(unix) }",
            "#![cfg(target_os = \"linux\")]",
        ] {
            assert_eq!(found("appliance/server/src/lib.rs", text), 1, "{text}");
            assert_eq!(found("appliance/platform/src/lib.rs", text), 0, "{text}");
            assert_eq!(found("appliance/service/src/lib.rs", text), 0, "{text}");
        }
        assert_eq!(
            found(
                "appliance/server/src/lib.rs",
                "#[cfg(test)] mod x; #[cfg(fuzzing)] mod y;"
            ),
            0
        );
    }

    #[test]
    fn leftovers() {
        for text in [
            "fn f() { todo!() }",
            "fn f() { unimplemented!(\"x\") }",
            "fn f() { dbg!(1); }",
        ] {
            assert_eq!(
                found("appliance/platform/linux/src/lib.rs", text),
                1,
                "{text}"
            );
        }
    }

    #[test]
    fn pure_crates_have_no_clock_socket_or_thread() {
        for text in [
            "use std::time::Instant;",
            "fn f() { std::thread::sleep(d) }",
            "async fn f() {}",
            "use std::net::UdpSocket;",
            "fn f() { thread::spawn(g); }",
        ] {
            assert_ne!(found("appliance/core/src/lib.rs", text), 0, "{text}");
            assert_eq!(found("appliance/client/src/lib.rs", text), 0, "{text}");
            assert_eq!(found("appliance/core/tests/a.rs", text), 0, "{text}");
        }
        assert_eq!(
            found(
                "appliance/core/src/lib.rs",
                "use std::net::IpAddr; use std::time::Duration;"
            ),
            0
        );
    }

    #[test]
    fn broken_source_is_told() {
        assert_eq!(found("appliance/core/src/lib.rs", "fn f( {"), 1);
    }

    #[test]
    fn crate_roots_forbid_unsafe() {
        let missing = |path: &str, text: &str| missing_forbid(Path::new(path), text).is_some();
        assert!(missing(
            "appliance/core/src/lib.rs",
            "//! Text.\npub mod x;"
        ));
        assert!(missing(
            "appliance/core/src/lib.rs",
            "// #![forbid(unsafe_code)]"
        ));
        assert!(missing(
            "appliance/core/src/lib.rs",
            "#![deny(unsafe_code)]"
        ));
        assert!(!missing(
            "appliance/core/src/lib.rs",
            "//! Text.\n#![forbid(unsafe_code)]"
        ));
        assert!(!missing(
            "appliance/core/src/lib.rs",
            "#![forbid(missing_docs, unsafe_code)]"
        ));
        assert!(!missing("appliance/platform/linux/src/lib.rs", ""));
    }
}
