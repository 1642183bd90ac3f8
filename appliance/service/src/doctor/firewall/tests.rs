use soft_kvm_core::Lang;

use super::super::tests::in_both;
use super::*;

const TCP: Packet = Packet {
    protocol: "tcp",
    port: 7755,
    v6: false,
    multicast: false,
};
const UDP: Packet = Packet {
    protocol: "udp",
    ..TCP
};
const MDNS: Packet = Packet {
    port: 5353,
    multicast: true,
    ..UDP
};

fn nft(text: &str) -> Readings {
    Readings {
        nft: Ok(text.to_owned()),
        iptables: Err(Unreadable::NoProgram),
        ip6tables: Err(Unreadable::NoProgram),
        legacy: false,
    }
}

fn iptables(text: &str) -> Readings {
    Readings {
        nft: Err(Unreadable::NoProgram),
        iptables: Ok(text.to_owned()),
        ip6tables: Err(Unreadable::NoProgram),
        legacy: false,
    }
}

/// A base chain with this policy and these rules, as nft 1.0 prints them.
fn base(policy: &str, rules: &[&str]) -> String {
    let rule = |(handle, expr): (usize, &&str)| {
        format!(
            r#",{{"rule":{{"family":"inet","table":"filter","chain":"input","handle":{handle},"expr":[{expr}]}}}}"#
        )
    };
    let rules: String = rules.iter().enumerate().map(rule).collect();
    format!(
        r#"{{"nftables":[{{"metainfo":{{"json_schema_version":1}}}},{{"chain":{{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"{policy}"}}}}{rules}]}}"#
    )
}

const ESTABLISHED: &str = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}"#;
const LOOPBACK: &str =
    r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"accept":null}"#;

fn port(protocol: &str, ports: &str, verdict: &str) -> String {
    format!(
        r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"{protocol}","field":"dport"}}}},"right":{ports}}}}},{{"{verdict}":null}}"#
    )
}

fn outcome(readings: &Readings, packet: Packet) -> Outcome {
    judge(&readings.chains().unwrap(), &packet)
}

fn passes(readings: &Readings, packet: Packet) -> bool {
    outcome(readings, packet) == Outcome::Passes
}

fn mend(readings: &Readings, packet: Packet) -> Option<String> {
    in_both(|reader| check(readings, &[packet], "sudo x doctor", reader))
        .remove(0)
        .mend
}

#[test]
fn a_closed_chain_drops_what_no_rule_accepts() {
    let closed = nft(&base("drop", &[ESTABLISHED, LOOPBACK]));
    assert_eq!(
        mend(&closed, UDP).as_deref(),
        Some("sudo nft insert rule inet filter input udp dport 7755 accept")
    );
    let ports = port("tcp", r#"{"set":[22,{"range":[7000,8000]}]}"#, "accept");
    let open = nft(&base("drop", &[ESTABLISHED, &ports]));
    assert!(passes(&open, TCP), "in the range");
    assert!(!passes(&open, UDP), "of the other protocol");
    assert!(passes(&nft(&base("accept", &[])), UDP));
    assert!(passes(&nft(r#"{"nftables":[]}"#), TCP), "no rules at all");
}

#[test]
fn a_rule_drops_one_port() {
    let one = nft(&base("accept", &[&port("udp", "7755", "drop")]));
    assert!(passes(&one, TCP));
    assert!(matches!(outcome(&one, UDP), Outcome::Dropped(culprit) if culprit.rule == "rule 0"));
    let other = r#"{"match":{"op":"!=","left":{"payload":{"protocol":"udp","field":"dport"}},"right":5353}},{"reject":{"type":"icmpx"}}"#;
    let other = nft(&base("accept", &[other]));
    assert!(passes(&other, TCP) && !passes(&other, UDP));
    assert!(passes(&other, MDNS));
}

#[test]
fn what_is_not_understood_is_perhaps() {
    let address = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.0.0.0","len":8}}}},{"accept":null}"#;
    let limited = nft(&base("drop", &[address]));
    assert!(matches!(outcome(&limited, TCP), Outcome::Perhaps(_)));
    let found = in_both(|reader| check(&limited, &[TCP], "", reader)).remove(0);
    assert_eq!((found.state, found.mend), (State::NotCheckable, None));
    // Whatever the first rule does, the last one accepts or drops.
    let dropped = nft(&base(
        "accept",
        &[
            r#"{"limit":{"rate":3}},{"log":null}"#,
            &port("tcp", "7755", "drop"),
        ],
    ));
    assert!(matches!(outcome(&dropped, TCP), Outcome::Dropped(_)));
}

#[test]
fn named_sets_jumps_and_maps_are_followed() {
    let text = r#"{"nftables":[
        {"set":{"family":"inet","name":"open","table":"t","type":"inet_service","elem":[22,{"range":[7750,7760]}]}},
        {"chain":{"family":"inet","table":"t","name":"in","type":"filter","hook":"input","prio":0,"policy":"drop"}},
        {"chain":{"family":"inet","table":"t","name":"lan"}},
        {"chain":{"family":"inet","table":"t","name":"out","type":"filter","hook":"output","prio":0,"policy":"drop"}},
        {"rule":{"family":"inet","table":"t","chain":"in","handle":1,"expr":[{"vmap":{"key":{"ct":{"key":"state"}},"data":{"set":[["established",{"accept":null}],["invalid",{"drop":null}]]}}}]}},
        {"rule":{"family":"inet","table":"t","chain":"in","handle":2,"expr":[{"match":{"op":"==","left":{"meta":{"key":"nfproto"}},"right":"ipv4"}},{"jump":{"target":"lan"}}]}},
        {"rule":{"family":"inet","table":"t","chain":"lan","handle":3,"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"th","field":"dport"}},"right":"@open"}},{"counter":{"packets":0,"bytes":0}},{"accept":null}]}}
    ]}"#;
    let readings = nft(text);
    assert!(passes(&readings, TCP) && passes(&readings, UDP));
    assert!(
        !passes(&readings, Packet { v6: true, ..TCP }),
        "the jump is for IPv4"
    );
    assert!(!passes(&readings, MDNS));
    // A chain that jumps to itself ends.
    let looped = base("drop", &[r#"{"jump":{"target":"input"}}"#]);
    assert!(!passes(&nft(&looped), TCP));
}

/// What `iptables-save` 1.8.9 printed.
const SAVED: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables)
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:user - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment "-j is \"no\" option" -j LOG --log-prefix "x "
-A INPUT -j user
-A INPUT -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A INPUT -m addrtype --dst-type LOCAL -j RETURN
-A INPUT -j ACCEPT
-A user -p udp -m multiport --dports 7755,99:101 -j ACCEPT
-A user -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"#;

#[test]
fn rules_of_iptables() {
    let saved = iptables(SAVED);
    assert!(passes(&saved, UDP) && passes(&saved, MDNS));
    assert!(passes(&saved, Packet { port: 100, ..UDP }));
    assert_eq!(
        mend(&saved, TCP).as_deref(),
        Some("sudo iptables -t filter -I INPUT -p tcp --dport 7755 -j ACCEPT")
    );
    // A target that nobody knows may drop.
    let odd = iptables("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j WEIRD\nCOMMIT\n");
    assert!(matches!(outcome(&odd, TCP), Outcome::Perhaps(_)));
    let address =
        iptables("*filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\nCOMMIT\n");
    assert!(matches!(outcome(&address, TCP), Outcome::Perhaps(_)));
    // Of nat nothing is dropped.
    assert!(passes(
        &iptables("*nat\n:PREROUTING DROP [0:0]\nCOMMIT\n"),
        TCP
    ));
}

#[test]
fn iptables_says_what_nft_cannot_name() {
    let foreign = r#"{"nftables":[
        {"chain":{"family":"ip","table":"filter","name":"INPUT","type":"filter","hook":"input","prio":0,"policy":"drop"}},
        {"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":3,"expr":[{"xt":{"type":"match","name":"multiport"}},{"accept":null}]}}
    ]}"#;
    let alone = nft(foreign);
    assert!(matches!(outcome(&alone, UDP), Outcome::Perhaps(_)));
    let both = Readings {
        iptables: Ok(SAVED.to_owned()),
        ..alone
    };
    assert!(passes(&both, UDP));
    assert!(
        matches!(outcome(&both, TCP), Outcome::Dropped(culprit) if culprit.tool == Tool::Iptables)
    );
}

#[test]
fn the_manager_of_the_rules_is_asked_to_mend() {
    let ufw = iptables(
        "*filter\n:INPUT DROP [0:0]\n:ufw-user-input - [0:0]\n-A INPUT -j ufw-user-input\nCOMMIT\n",
    );
    assert_eq!(mend(&ufw, UDP).as_deref(), Some("sudo ufw allow 7755/udp"));
    let firewalld = nft(
        r#"{"nftables":[{"chain":{"family":"inet","table":"firewalld","name":"filter_INPUT","type":"filter","hook":"input","prio":10,"policy":"drop"}}]}"#,
    );
    let command = mend(&firewalld, TCP).unwrap();
    assert!(
        command.starts_with("sudo firewall-cmd --permanent --add-port=7755/tcp"),
        "{command}"
    );
    let v6 = Packet { v6: true, ..TCP };
    let six = Readings {
        ip6tables: Ok("*filter\n:INPUT DROP [0:0]\nCOMMIT\n".to_owned()),
        ..iptables("")
    };
    assert!(passes(&six, TCP));
    assert!(
        mend(&six, v6)
            .unwrap()
            .starts_with("sudo ip6tables -t filter -I INPUT")
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let ask = |nft, iptables| {
        let readings = Readings {
            nft: Err(nft),
            iptables: Err(iptables),
            ..nft_none()
        };
        let found = in_both(|reader| check(&readings, &[TCP], "sudo x doctor", reader)).remove(0);
        assert_eq!(found.state, State::NotCheckable);
        found.mend
    };
    let (denied, none) = (Unreadable::Denied, Unreadable::NoProgram);
    assert_eq!(
        ask(denied.clone(), none.clone()).as_deref(),
        Some("sudo x doctor")
    );
    assert_eq!(ask(none.clone(), denied).as_deref(), Some("sudo x doctor"));
    assert_eq!(
        ask(none.clone(), none.clone()).as_deref(),
        Some("sudo apt install nftables")
    );
    assert_eq!(ask(Unreadable::Other("odd".to_owned()), none), None);
    assert!(nft("no json").chains().is_err() && nft("{}").chains().is_err());
    let passing = nft(&base("accept", &[]));
    let reader = Reader {
        lang: Lang::English,
        root: true,
    };
    assert_eq!(
        check(&passing, &[TCP, UDP], "", &reader)[0].state,
        State::Ok
    );
}

fn nft_none() -> Readings {
    iptables("")
}
