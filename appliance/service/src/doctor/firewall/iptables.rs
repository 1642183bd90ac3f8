//! What `iptables-save` and `ip6tables-save` say.

use super::{Base, Chain, Chains, Condition, Rule, Tool, Verdict};

/// Chains that incoming packets begin at, in tables that may drop.
const INCOMING: &[&str] = &["INPUT", "PREROUTING"];
const TABLES: &[&str] = &["filter", "raw", "mangle", "security"];

/// Extensions whose conditions hold by how often packets come.
const RATES: &[&str] = &[
    "connlimit",
    "hashlimit",
    "limit",
    "quota",
    "recent",
    "statistic",
];
/// Targets that decide nothing.
const HARMLESS: &[&str] = &[
    "AUDIT", "CONNMARK", "CT", "LOG", "MARK", "NFLOG", "NOTRACK", "TCPMSS", "TRACE",
];

/// Reads all tables, in place of what was known of them; `v6` tells of which family they are.
pub(super) fn parse(text: &str, v6: bool, chains: &mut Chains) {
    let family = if v6 { "ip6" } else { "ip" };
    let mut table = String::new();
    for line in text.lines() {
        let name = |chain: &str| format!("{family} {table} {chain}");
        if let Some(next) = line.strip_prefix('*') {
            next.clone_into(&mut table);
            let own = format!("{family} {table} ");
            chains.retain(|name, _| !name.starts_with(&own));
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            let (chain, policy) = (words.next().unwrap_or_default(), words.next());
            let incoming = INCOMING.contains(&chain) && TABLES.contains(&table.as_str());
            let entry: &mut Chain = chains.entry(name(chain)).or_default();
            entry.base = incoming.then(|| Base {
                drops: policy == Some("DROP"),
                v4: !v6,
                v6,
                tool: Tool::Iptables,
            });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let Some((chain, rest)) = words.split_first() else {
                continue;
            };
            let is_chain = |target: &str| chains.contains_key(&name(target));
            let rule = parse_rule(rest, rule, name, is_chain);
            chains.entry(name(chain)).or_default().rules.push(rule);
        }
    }
}

/// Words between blanks; double quotes keep blanks together.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        let last = words.last_mut();
        match c {
            _ if escaped => {
                escaped = false;
                last.into_iter().for_each(|word| word.push(c));
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => last.into_iter().for_each(|word| word.push(c)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Options, each with the values until the next one.
fn parse_rule(
    words: &[String],
    text: &str,
    name: impl Fn(&str) -> String,
    is_chain: impl Fn(&str) -> bool,
) -> Rule {
    let mut conditions = Vec::new();
    let mut verdict = Verdict::Nothing;
    let mut inside = true;
    let mut rest = words.iter().map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        if word == "!" {
            inside = false;
            continue;
        }
        let inside = std::mem::replace(&mut inside, true);
        let value = rest.next_if(|next| *next != "!").unwrap_or_default();
        // A comment may look like an option; nothing else has values that begin so.
        while word != "--comment" && rest.next_if(|next| !next.starts_with(['-', '!'])).is_some() {}
        match word {
            "--comment" => {}
            // Which extension the next options are of; these hold by how often packets come.
            "-m" if RATES.contains(&value) => conditions.push(Condition::Unknown),
            "-m" => {}
            "-p" => conditions.push(protocol(value, inside)),
            "--dport" | "--dports" => conditions.push(port(value, inside)),
            "-i" if value == "lo" => conditions.push(Condition::FromOutside(!inside)),
            "-d" if super::is_mdns_group(value) => {
                conditions.push(Condition::ToOwnAddress(!inside));
            }
            "--ctstate" | "--state" => {
                let new = value.split(',').any(|state| state == "NEW");
                conditions.push(Condition::New(new == inside));
            }
            "--dst-type" if value == "LOCAL" => conditions.push(Condition::ToOwnAddress(inside)),
            "--dst-type" if value == "MULTICAST" => {
                conditions.push(Condition::ToOwnAddress(!inside));
            }
            "-j" | "-g" => {
                verdict = match value {
                    "ACCEPT" => Verdict::Accept,
                    "DROP" | "REJECT" => Verdict::Drop,
                    "RETURN" => Verdict::Return,
                    _ if HARMLESS.contains(&value) => Verdict::Nothing,
                    chain if is_chain(chain) => Verdict::Jump(name(chain), word == "-j"),
                    _ => Verdict::Unknown,
                };
                // What follows are the target's options.
                break;
            }
            _ => conditions.push(Condition::Unknown),
        }
    }
    Rule {
        conditions,
        verdict,
        text: format!("-A {text}"),
    }
}

fn protocol(value: &str, inside: bool) -> Condition {
    let all = ["tcp", "udp"];
    let named = match value {
        "6" => "tcp",
        "17" => "udp",
        other => other,
    };
    if matches!(named, "all" | "0") {
        return Condition::Protocol(all.map(str::to_owned).to_vec());
    }
    if inside {
        return Condition::Protocol(vec![named.to_owned()]);
    }
    let others = all.into_iter().filter(|one| *one != named);
    Condition::Protocol(others.map(str::to_owned).collect())
}

/// `22`, `1000:2000`, `22,80,1000:2000`.
fn port(value: &str, inside: bool) -> Condition {
    let range = |word: &str| -> Option<(u16, u16)> {
        let (low, high) = word.split_once(':').unwrap_or((word, word));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    let ranges: Option<Vec<_>> = value.split(',').map(range).collect();
    ranges.map_or(Condition::Unknown, |ranges| Condition::Port {
        protocol: None,
        ranges,
        inside,
    })
}
