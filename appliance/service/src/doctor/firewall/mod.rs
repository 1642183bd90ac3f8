//! Whether a firewall of this machine drops what clients send, as far as its rules can be read.
//!
//! A packet is walked through the rules as the kernel would. A condition that is not understood may hold or not: then
//! both ways are followed, and the answer may be "perhaps".

mod iptables;
mod nft;
mod read;

use std::collections::BTreeMap;

use super::{Finding, Reader, State};

pub use read::{Readings, Unreadable};

/// Deepest nesting of chains that is followed; the kernel allows 16.
const MAX_DEPTH: u32 = 16;

/// A packet of a client to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Port on this machine.
    pub port: u16,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Whether it goes to a multicast group.
    pub multicast: bool,
}

impl Packet {
    /// A client's packet to a port.
    #[must_use]
    pub const fn to(protocol: &'static str, port: u16, v6: bool) -> Self {
        Self {
            protocol,
            port,
            v6,
            multicast: false,
        }
    }

    /// A question or an answer of mDNS (RFC 6762 §3).
    #[must_use]
    pub const fn mdns(v6: bool) -> Self {
        Self {
            multicast: true,
            ..Self::to("udp", 5353, v6)
        }
    }
}

/// Chains of one rule set, by `FAMILY TABLE NAME`.
pub(super) type Chains = BTreeMap<String, Chain>;

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// For one that incoming packets begin at: whether packets that no rule decides are dropped.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// Where incoming packets begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) drops: bool,
    pub(super) v4: bool,
    pub(super) v6: bool,
    /// The tool that its rules are written with.
    pub(super) tool: Tool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Nft,
    Iptables,
}

/// Conditions and what happens when all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Verdict,
    /// For people.
    pub(super) text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The protocol is one of these.
    Protocol(Vec<String>),
    /// The port on this machine is in one of these ranges, or in none.
    Port {
        /// The condition is about this protocol only.
        protocol: Option<String>,
        ranges: Vec<(u16, u16)>,
        inside: bool,
    },
    /// The packet is of this family.
    V6(bool),
    /// Of packets that begin a connection.
    New(bool),
    /// Of packets of another machine.
    FromOutside(bool),
    /// Of packets to an address of this machine, in contrast to the group of mDNS.
    ToOwnAddress(bool),
    /// Not understood.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    /// Chain, and whether the walk comes back from it.
    Jump(String, bool),
    /// Counts, logs, marks.
    Nothing,
    /// May end the packet or not.
    Unknown,
}

impl Condition {
    /// Whether it holds; `None` if nobody knows.
    fn holds(&self, packet: &Packet) -> Option<bool> {
        Some(match self {
            Self::Protocol(names) => names.iter().any(|name| name == packet.protocol),
            Self::Port {
                protocol: Some(protocol),
                ..
            } if protocol != packet.protocol => false,
            Self::Port { ranges, inside, .. } => {
                let found = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&packet.port));
                found == *inside
            }
            Self::V6(v6) => *v6 == packet.v6,
            Self::New(new) => *new,
            Self::FromOutside(outside) => *outside,
            Self::ToOwnAddress(own) => *own != packet.multicast,
            Self::Unknown => return None,
        })
    }
}

/// What may become of a packet in a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fate {
    accepted: bool,
    /// The first rule that may drop it.
    dropped: Option<String>,
    /// It may go on behind the chain.
    on: bool,
}

impl Fate {
    fn drop_by(&mut self, text: &str) {
        if self.dropped.is_none() {
            self.dropped = Some(text.to_owned());
        }
    }

    fn join(&mut self, other: &Self) {
        self.accepted |= other.accepted;
        if let Some(text) = &other.dropped {
            self.drop_by(text);
        }
    }
}

fn walk(chains: &Chains, name: &str, packet: &Packet, depth: u32) -> Fate {
    let mut fate = Fate::default();
    let Some(chain) = chains.get(name).filter(|_| depth < MAX_DEPTH) else {
        return Fate { on: true, ..fate };
    };
    for rule in &chain.rules {
        let holds: Vec<_> = rule
            .conditions
            .iter()
            .map(|one| one.holds(packet))
            .collect();
        if holds.contains(&Some(false)) {
            continue;
        }
        let certain = !holds.contains(&None);
        let goes_on = match &rule.verdict {
            Verdict::Nothing => true,
            Verdict::Accept => {
                fate.accepted = true;
                false
            }
            Verdict::Drop => {
                fate.drop_by(&rule.text);
                false
            }
            Verdict::Return => {
                fate.on = true;
                false
            }
            Verdict::Unknown => {
                fate.drop_by(&rule.text);
                true
            }
            Verdict::Jump(target, back) => {
                let inner = walk(chains, target, packet, depth + 1);
                fate.join(&inner);
                if !back {
                    fate.on |= inner.on;
                }
                inner.on && *back
            }
        };
        if certain && !goes_on {
            return fate;
        }
    }
    fate.on = true;
    fate
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passes,
    /// Dropped by this chain, for this reason.
    Dropped(Culprit),
    Perhaps(Culprit),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Culprit {
    chain: String,
    tool: Tool,
    rule: String,
}

/// RFC 6762 §3.
fn is_mdns_group(address: &str) -> bool {
    let bare = address.split('/').next().unwrap_or_default();
    matches!(bare, "224.0.0.251" | "ff02::fb")
}

/// Every chain at which incoming packets begin has to let it pass.
fn judge(chains: &Chains, packet: &Packet) -> Outcome {
    let mut perhaps = None;
    for (name, chain) in chains {
        let Some(base) = chain.base else { continue };
        if !(if packet.v6 { base.v6 } else { base.v4 }) {
            continue;
        }
        let mut fate = walk(chains, name, packet, 0);
        if fate.on {
            if base.drops {
                fate.drop_by("policy drop");
            } else {
                fate.accepted = true;
            }
        }
        let Some(rule) = fate.dropped else { continue };
        let culprit = Culprit {
            chain: name.clone(),
            tool: base.tool,
            rule,
        };
        if !fate.accepted {
            return Outcome::Dropped(culprit);
        }
        perhaps.get_or_insert(culprit);
    }
    perhaps.map_or(Outcome::Passes, Outcome::Perhaps)
}

/// What manages the rules, so that a rule of ours survives its next reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Firewalld,
    Ufw,
    None,
}

impl Manager {
    fn of(chains: &Chains) -> Self {
        let has = |word: &str| chains.keys().any(|name| name.contains(word));
        if has(" firewalld ") {
            Self::Firewalld
        } else if has(" ufw-") || has(" ufw6-") {
            Self::Ufw
        } else {
            Self::None
        }
    }

    fn mend(self, packet: &Packet, culprit: &Culprit) -> String {
        let Packet { protocol, port, .. } = packet;
        match (self, culprit.tool) {
            (Self::Firewalld, _) => format!(
                "sudo firewall-cmd --permanent --add-port={port}/{protocol} && sudo firewall-cmd --reload"
            ),
            (Self::Ufw, _) => format!("sudo ufw allow {port}/{protocol}"),
            (Self::None, Tool::Nft) => {
                format!(
                    "sudo nft insert rule {} {protocol} dport {port} accept",
                    culprit.chain
                )
            }
            (Self::None, Tool::Iptables) => {
                let program = if packet.v6 { "ip6tables" } else { "iptables" };
                let mut words = culprit.chain.split(' ').skip(1);
                let table = words.next().unwrap_or("filter");
                let chain = words.next().unwrap_or("INPUT");
                format!(
                    "sudo {program} -t {table} -I {chain} -p {protocol} --dport {port} -j ACCEPT"
                )
            }
        }
    }
}

/// Whether packets to these ports pass. `retry` is the command that reads the rules with more rights.
#[must_use]
pub fn check(
    readings: &Readings,
    packets: &[Packet],
    retry: &str,
    reader: &Reader,
) -> Vec<Finding> {
    const CHECK: &str = "firewall";
    let chains = match readings.chains() {
        Ok(chains) => chains,
        Err(why) => {
            let (english, japanese, mend) = match why {
                Unreadable::Denied => (
                    "only root can read the rules of the firewall",
                    "ファイアウォールの規則は root しか読めません",
                    retry,
                ),
                Unreadable::NoProgram => (
                    "the rules of the firewall cannot be read without nft or iptables-save",
                    "nft も iptables-save もなく、ファイアウォールの規則を読めません",
                    "sudo apt install nftables",
                ),
                Unreadable::Other(why) => {
                    let text = reader.say(
                        format!("the rules of the firewall cannot be read: {why}"),
                        format!("ファイアウォールの規則を読めません: {why}"),
                    );
                    return vec![Finding::new(CHECK, State::NotCheckable, text)];
                }
            };
            let text = reader.say(english, japanese);
            let found = Finding::new(CHECK, State::NotCheckable, text);
            return vec![found.mend(reader.command(mend))];
        }
    };
    let manager = Manager::of(&chains);
    let finding = |packet: &Packet| {
        let family = if packet.v6 { "IPv6" } else { "IPv4" };
        let name = format!(
            "{family} {} {}",
            packet.protocol.to_ascii_uppercase(),
            packet.port
        );
        match judge(&chains, packet) {
            Outcome::Passes => None,
            Outcome::Dropped(culprit) => {
                let text = reader.say(
                    format!("{name} is dropped by {} ({}); the command holds until the rules are loaded anew", culprit.chain, culprit.rule),
                    format!("{name} は {} で破棄されます（{}）。コマンドの効果は規則を読み込み直すまでです", culprit.chain, culprit.rule),
                );
                let text = if manager == Manager::None {
                    text
                } else {
                    reader.say(
                        format!("{name} is dropped by {} ({})", culprit.chain, culprit.rule),
                        format!(
                            "{name} は {} で破棄されます（{}）",
                            culprit.chain, culprit.rule
                        ),
                    )
                };
                let mend = reader.command(&manager.mend(packet, &culprit));
                Some(Finding::new(CHECK, State::Wrong, text).mend(mend))
            }
            Outcome::Perhaps(culprit) => {
                let text = reader.say(
                    format!("{name} may be dropped by {} ({}), under conditions that are not understood", culprit.chain, culprit.rule),
                    format!("{name} は {} で破棄されるかもしれません（{}）。条件を解釈できません", culprit.chain, culprit.rule),
                );
                Some(Finding::new(CHECK, State::NotCheckable, text))
            }
        }
    };
    let mut findings: Vec<_> = packets.iter().filter_map(finding).collect();
    if findings.is_empty() {
        let text = reader.say("lets the ports pass", "ポートは通過できます");
        findings.push(Finding::new(CHECK, State::Ok, text));
    }
    findings
}

#[cfg(test)]
mod tests;
