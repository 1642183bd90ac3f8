//! What `nft -j list ruleset` says (`libnftables-json(5)`).

use serde_json::Value;

use super::{Base, Chain, Chains, Condition, Rule, Tool, Verdict};

/// Names of protocols by number, as a rule may have them.
const PROTOCOLS: &[(u64, &str)] = &[(6, "tcp"), (17, "udp")];

/// The chains, and whether any rule has parts that only iptables can name.
pub(super) fn parse(text: &str) -> Result<(Chains, bool), String> {
    let all: Value = serde_json::from_str(text).map_err(|error| format!("nft: {error}"))?;
    let items = all["nftables"].as_array().ok_or("nft: no list")?;
    let mut chains = Chains::new();
    let mut foreign = false;
    for item in items {
        if let Some(chain) = item.get("chain") {
            let entry = chains.entry(name(chain, "name")).or_default();
            entry.base = base(chain);
        } else if let Some(rule) = item.get("rule") {
            foreign |= has_foreign(rule);
            let chain: &mut Chain = chains.entry(name(rule, "chain")).or_default();
            chain.rules.push(parse_rule(rule, items));
        }
    }
    Ok((chains, foreign))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn name(value: &Value, key: &str) -> String {
    [
        text(value, "family"),
        text(value, "table"),
        text(value, key),
    ]
    .join(" ")
}

fn base(chain: &Value) -> Option<Base> {
    let incoming = matches!(text(chain, "hook"), "input" | "prerouting" | "ingress");
    let (v4, v6) = match text(chain, "family") {
        "ip" => (true, false),
        "ip6" => (false, true),
        "inet" | "netdev" => (true, true),
        _ => (false, false),
    };
    (incoming && text(chain, "type") == "filter").then(|| Base {
        drops: text(chain, "policy") == "drop",
        v4,
        v6,
        tool: Tool::Nft,
    })
}

fn has_foreign(rule: &Value) -> bool {
    let parts = rule["expr"].as_array();
    parts.is_some_and(|parts| parts.iter().any(|part| part.get("xt").is_some()))
}

fn parse_rule(rule: &Value, items: &[Value]) -> Rule {
    let mut conditions = Vec::new();
    let mut verdict = Verdict::Nothing;
    let parts = rule["expr"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for part in parts {
        let Some((kind, value)) = part.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        let table = |target: &str| [text(rule, "family"), text(rule, "table"), target].join(" ");
        match kind.as_str() {
            "match" => conditions.push(parse_match(value, rule, items)),
            "accept" => verdict = Verdict::Accept,
            "drop" | "reject" => verdict = Verdict::Drop,
            "return" => verdict = Verdict::Return,
            "jump" => verdict = Verdict::Jump(table(text(value, "target")), true),
            "goto" => verdict = Verdict::Jump(table(text(value, "target")), false),
            "counter" | "log" | "mangle" | "notrack" | "ct helper" | "meta" => {}
            "xt" if text(value, "type") == "target" && text(value, "name") == "REJECT" => {
                verdict = Verdict::Drop;
            }
            "xt" if text(value, "type") == "target" => verdict = Verdict::Unknown,
            // Holds or not, by how often packets come.
            "limit" | "quota" | "ct count" | "xt" => conditions.push(Condition::Unknown),
            "vmap" => verdict = state_map(value, rule).unwrap_or(Verdict::Unknown),
            _ => {}
        }
    }
    Rule {
        conditions,
        verdict,
        text: format!("rule {}", rule["handle"]),
    }
}

/// A map of states to verdicts, as in `ct state vmap { established : accept, invalid : drop }`: of new packets only.
fn state_map(map: &Value, rule: &Value) -> Option<Verdict> {
    if map["key"]["ct"]["key"] != "state" {
        return None;
    }
    let entries = map["data"]["set"].as_array()?;
    let new = entries.iter().find(|entry| entry[0] == "new");
    let Some(new) = new else {
        return Some(Verdict::Nothing);
    };
    let (kind, value) = new[1].as_object()?.iter().next()?;
    let target = || {
        [
            text(rule, "family"),
            text(rule, "table"),
            text(value, "target"),
        ]
        .join(" ")
    };
    Some(match kind.as_str() {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "jump" => Verdict::Jump(target(), true),
        "goto" => Verdict::Jump(target(), false),
        _ => return None,
    })
}

fn parse_match(value: &Value, rule: &Value, items: &[Value]) -> Condition {
    let inside = match text(value, "op") {
        "==" | "in" => true,
        "!=" => false,
        _ => return Condition::Unknown,
    };
    let (left, right) = (&value["left"], &value["right"]);
    let Some(words) = elements(right, rule, items) else {
        return Condition::Unknown;
    };
    understood(left, &words, inside).unwrap_or(Condition::Unknown)
}

fn understood(left: &Value, words: &[Value], inside: bool) -> Option<Condition> {
    let has = |word: &str| words.iter().any(|one| one == word);
    if let Some(payload) = left.get("payload") {
        return match (text(payload, "protocol"), text(payload, "field")) {
            (protocol @ ("tcp" | "udp" | "th"), "dport") => port(protocol, words, inside),
            ("ip", "protocol") | ("ip6", "nexthdr") => protocols(words, inside),
            // A rule about another protocol's field is not about ours.
            ("ip" | "ip6", "daddr") => group(words, inside),
            ("icmp" | "icmpv6" | "igmp" | "esp" | "ah" | "sctp", _) => {
                Some(Condition::Protocol(Vec::new()))
            }
            _ => None,
        };
    }
    if let Some(meta) = left.get("meta") {
        return match text(meta, "key") {
            "l4proto" => protocols(words, inside),
            "iifname" | "iif" if words.len() == 1 && has("lo") => {
                Some(Condition::FromOutside(!inside))
            }
            "nfproto" if words.len() == 1 => Some(Condition::V6(has("ipv6") == inside)),
            "protocol" if words.len() == 1 => Some(Condition::V6(has("ip6") == inside)),
            "pkttype" if words.len() == 1 && has("multicast") => {
                Some(Condition::ToOwnAddress(!inside))
            }
            _ => None,
        };
    }
    if left.get("ct").is_some_and(|ct| text(ct, "key") == "state") {
        return Some(Condition::New(has("new") == inside));
    }
    let fib = left.get("fib")?;
    let to = |flag: &Value| {
        flag == "daddr"
            || flag
                .as_array()
                .is_some_and(|all| all.contains(&"daddr".into()))
    };
    if text(fib, "result") == "type" && to(&fib["flags"]) && words.len() == 1 && has("local") {
        return Some(Condition::ToOwnAddress(inside));
    }
    None
}

/// The group of mDNS is the only address that is known here.
fn group(words: &[Value], inside: bool) -> Option<Condition> {
    let [word] = words else { return None };
    super::is_mdns_group(word.as_str()?).then_some(Condition::ToOwnAddress(!inside))
}

fn protocols(words: &[Value], inside: bool) -> Option<Condition> {
    let name = |word: &Value| {
        let known = word
            .as_u64()
            .and_then(|number| PROTOCOLS.iter().find(|(one, _)| *one == number));
        known.map_or_else(
            || word.as_str().unwrap_or("?").to_owned(),
            |(_, name)| (*name).to_owned(),
        )
    };
    let named: Vec<_> = words.iter().map(name).collect();
    if inside {
        return Some(Condition::Protocol(named));
    }
    let others = PROTOCOLS.iter().map(|(_, name)| (*name).to_owned());
    Some(Condition::Protocol(
        others.filter(|name| !named.contains(name)).collect(),
    ))
}

/// `tcp dport …` also says that the protocol is TCP.
fn port(protocol: &str, words: &[Value], inside: bool) -> Option<Condition> {
    let number = |value: &Value| -> Option<u16> { value.as_u64()?.try_into().ok() };
    let range = |word: &Value| match word.get("range") {
        Some(range) => Some((number(&range[0])?, number(&range[1])?)),
        None => number(word).map(|port| (port, port)),
    };
    let ranges: Option<Vec<_>> = words.iter().map(range).collect();
    Some(Condition::Port {
        protocol: (protocol != "th").then(|| protocol.to_owned()),
        ranges: ranges?,
        inside,
    })
}

/// The values of a set, of a named set, of a list, or the one value.
fn elements(value: &Value, rule: &Value, items: &[Value]) -> Option<Vec<Value>> {
    if let Some(set) = value.get("set") {
        return set.as_array().cloned();
    }
    if let Some(list) = value.as_array() {
        return Some(list.clone());
    }
    if let Some(wanted) = value.as_str().and_then(|text| text.strip_prefix('@')) {
        let set = items
            .iter()
            .filter_map(|item| item.get("set"))
            .find(|set| {
                text(set, "name") == wanted
                    && set["table"] == rule["table"]
                    && set["family"] == rule["family"]
            })?;
        return Some(set["elem"].as_array().cloned().unwrap_or_default());
    }
    Some(vec![value.clone()])
}
