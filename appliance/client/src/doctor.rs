//! `soft-kvm-client doctor`: what is wrong with this machine as a seat, and the way to a server.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use soft_kvm_core::Lang;
use soft_kvm_platform::os::{clock, disk};
use soft_kvm_security::{PeerStore, StateDir};
use soft_kvm_service::console;
use soft_kvm_service::doctor::access::{self, User};
use soft_kvm_service::doctor::clock::Clock;
use soft_kvm_service::doctor::firewall::{self, Packet, Readings};
use soft_kvm_service::doctor::network::{self, Buffers, PowerSave};
use soft_kvm_service::doctor::state::{self, Disk, Folder};
use soft_kvm_service::doctor::{
    Access, Finding, Machine, Node, Reader, Report, State, as_root, clock as clock_check, quoted,
};

use crate::cli::TargetArgs;
use crate::control::target;
use crate::session::media::RECEIVE_BUFFER;

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Checks everything and prints it; says whether nothing is wrong.
///
/// # Errors
/// There is no place for the state, or the report cannot be written as JSON.
pub fn run(args: &TargetArgs, json: bool, lang: Lang) -> anyhow::Result<bool> {
    let state_dir = console::state_path(args.state_dir.as_deref(), "client")?;
    let machine = Machine::default();
    let user = User::read(&machine);
    let reader = Reader {
        lang,
        root: user.is_root(),
    };
    let mut findings = devices(&machine.nodes("/dev/input", "event"), &user, &reader);
    findings.extend(access::check_groups(&user, &["input"], &reader));
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let window = set("DISPLAY") || set("WAYLAND_DISPLAY");
    findings.push(display(window, &machine.nodes("/dev/dri", "card"), &reader));
    findings.push(access::check_realtime(&user, &reader));
    let folder = Folder::read(&state_dir);
    let room = disk::look(&folder.nearest).ok().map(|disk| Disk {
        writable: disk.writable,
        read_only: disk.read_only,
        free: disk.free,
    });
    findings.extend(state::check(&folder, room, &user, &reader));
    let interfaces = network::interfaces(&machine);
    findings.extend(network::check_multicast(&interfaces, true, &reader));
    let retry = as_root("soft-kvm-client");
    // What servers send in a connection passes where the connection does.
    let families = [false, true].into_iter();
    let families = families.filter(|v6| !v6 || network::has_ipv6(&machine));
    let packets: Vec<_> = families.map(Packet::mdns).collect();
    let readings = Readings::ask(&machine);
    findings.extend(firewall::check(&readings, &packets, &retry, &reader));
    findings.extend(network::check_wifi(&interfaces, PowerSave::ask, &reader));
    let wanted = u64::try_from(RECEIVE_BUFFER).unwrap_or(u64::MAX);
    let buffers = network::check_buffers(Buffers::read(&machine), wanted, &reader);
    findings.extend(buffers);
    let clock = Clock::read(&machine, clock::wall(), clock::synchronised());
    findings.push(clock_check::check(&clock, &reader));
    if let Some(name) = &args.server {
        findings.extend(server(&Way::look(name, &state_dir), &reader));
    }
    let report = Report::new("soft-kvm-client", env!("CARGO_PKG_VERSION"), findings);
    report.print(json, lang)?;
    Ok(!report.is_wrong())
}

/// Whether `--grab` can take keyboards and mice.
fn devices(nodes: &[Node], user: &User, reader: &Reader) -> Vec<Finding> {
    const CHECK: &str = "devices";
    let granted = nodes
        .iter()
        .filter(|node| node.access == Access::Granted)
        .count();
    if nodes.is_empty() {
        let text = reader.say(
            "no input devices: nothing can be grabbed; keys of the viewer's window still go to the server",
            "入力デバイスがなく --grab は使えません。ウィンドウのキー入力は送れます",
        );
        return vec![Finding::new(CHECK, State::Warning, text)];
    }
    let Some(denied) = nodes.iter().find(|node| node.access == Access::Denied) else {
        let text = reader.say(
            format!("{granted} input devices can be grabbed"),
            format!("{granted} 個の入力デバイスを占有できます"),
        );
        return vec![Finding::new(CHECK, State::Ok, text)];
    };
    let state = if granted == 0 {
        State::Wrong
    } else {
        State::Warning
    };
    let count = nodes.len() - granted;
    let path = &denied.path;
    let text = reader.say(
        format!("{count} of {} input devices cannot be grabbed, e.g. {path}: permission denied; log in again after the command", nodes.len()),
        format!("{} 個のうち {count} 個の入力デバイスを占有できません（{path} などに権限がありません）。コマンドの後でログインし直してください", nodes.len()),
    );
    let mend = access::open_up(denied, "input", user, reader);
    vec![Finding::new(CHECK, state, text).mend(mend)]
}

/// Where the picture can be shown.
fn display(window: bool, cards: &[Node], reader: &Reader) -> Finding {
    const CHECK: &str = "display";
    let (state, english, japanese) = if window {
        (State::Ok, "a window system", "ウィンドウシステムがあります")
    } else if !cards.is_empty() {
        (
            State::Ok,
            "no window system; a monitor can be taken with --view kms",
            "ウィンドウシステムはありません。--view kms でモニターに表示できます",
        )
    } else {
        (
            State::Warning,
            "no window system (DISPLAY, WAYLAND_DISPLAY) and no graphics card: only --view none, --record and relay work",
            "ウィンドウシステム (DISPLAY、WAYLAND_DISPLAY) もグラフィックスカードもなく、--view none、--record、relay だけが使えます",
        )
    };
    Finding::new(CHECK, state, reader.say(english, japanese))
}

/// What one address said.
#[derive(Clone, Debug)]
struct Answer {
    address: SocketAddr,
    /// Why nothing listens there.
    refused: Option<String>,
}

/// What is known of the way to a server.
#[derive(Clone, Debug)]
struct Way {
    name: String,
    /// Whether a key is kept for it; `Err` when the list cannot be read.
    paired: Result<bool, String>,
    /// Where it was looked for, and what each address said.
    answers: Result<Vec<Answer>, String>,
}

impl Way {
    fn look(name: &str, state_dir: &Path) -> Self {
        // A folder that is not there is not made for a look.
        let paired = if state_dir.is_dir() {
            StateDir::open(state_dir)
                .and_then(|state| PeerStore::open(&state))
                .and_then(|peers| target::is_paired(name, &peers))
                .map_err(|error| error.to_string())
        } else {
            Ok(false)
        };
        let ask = |address: SocketAddr| {
            let answer = TcpStream::connect_timeout(&address, ANSWER);
            Answer {
                address,
                refused: answer.err().map(|error| error.to_string()),
            }
        };
        Self {
            name: name.to_owned(),
            paired,
            answers: target::resolve_unpaired(name)
                .map(|addresses| addresses.into_iter().map(ask).collect())
                .map_err(|error| format!("{error:#}")),
        }
    }
}

/// Whether a server is found, answers and is paired.
fn server(way: &Way, reader: &Reader) -> Vec<Finding> {
    vec![reached(way, reader), paired(way, reader)]
}

fn reached(way: &Way, reader: &Reader) -> Finding {
    const CHECK: &str = "server";
    let name = &way.name;
    let answers = match &way.answers {
        Ok(answers) => answers,
        Err(why) => {
            let text = reader.say(
                format!("{name} is not found: {why}"),
                format!("{name} が見つかりません: {why}"),
            );
            return Finding::new(CHECK, State::Wrong, text).mend("soft-kvm-client discover");
        }
    };
    if let Some(Answer { address, .. }) = answers.iter().find(|one| one.refused.is_none()) {
        let text = reader.say(
            format!("{name} answers at {address}"),
            format!("{name} は {address} で応答します"),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    let said: Vec<_> = answers
        .iter()
        .filter_map(|one| Some(format!("{}: {}", one.address, one.refused.as_ref()?)))
        .collect();
    let said = said.join("; ");
    let text = reader.say(
        format!("{name} does not answer ({said}): run the command on {name}; its doctor looks at firewall and ports"),
        format!("{name} が応答しません（{said}）。{name} でコマンドを実行してください。ファイアウォールとポートは向こうの doctor が調べます"),
    );
    Finding::new(CHECK, State::Wrong, text).mend(reader.command("sudo systemctl restart soft-kvm"))
}

fn paired(way: &Way, reader: &Reader) -> Finding {
    const CHECK: &str = "pairing";
    let name = &way.name;
    match &way.paired {
        Ok(true) => Finding::new(
            CHECK,
            State::Ok,
            reader.say(format!("{name} is paired"), format!("{name} はペアリング済みです")),
        ),
        Ok(false) => Finding::new(
            CHECK,
            State::Wrong,
            reader.say(
                format!("{name} is not paired; its code is shown by soft-kvm-server pair"),
                format!("{name} とペアリングされていません。コードは soft-kvm-server pair で表示できます"),
            ),
        )
        .mend(format!("soft-kvm-client pair {}", quoted(name))),
        Err(why) => Finding::new(
            CHECK,
            State::NotCheckable,
            reader.say(format!("the list of paired servers: {why}"), format!("ペアリング一覧: {why}")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(check: impl Fn(&Reader) -> Finding) -> Finding {
        let ask = |lang| check(&Reader { lang, root: false });
        let (english, japanese) = (ask(Lang::English), ask(Lang::Japanese));
        assert_eq!(
            (english.state, &english.mend),
            (japanese.state, &japanese.mend)
        );
        assert!(english.message.is_ascii() && !japanese.message.is_ascii());
        english
    }

    fn node(access: Access) -> Node {
        Node {
            path: "/dev/input/event0".to_owned(),
            access,
            gid: Some(104),
            mode: Some(0o660),
        }
    }

    #[test]
    fn devices_that_cannot_be_grabbed_have_a_command() {
        let user = User {
            uid: 1000,
            name: Some("mia".to_owned()),
            groups: vec![access::Group {
                name: "input".to_owned(),
                gid: 104,
                members: Vec::new(),
            }],
            ..User::default()
        };
        let ask = |nodes: &[Node]| both(|reader| devices(nodes, &user, reader).remove(0));
        let found = ask(&[node(Access::Denied), node(Access::Denied)]);
        assert_eq!(found.state, State::Wrong);
        assert_eq!(found.mend.as_deref(), Some("sudo usermod -aG input mia"));
        assert_eq!(
            ask(&[node(Access::Denied), node(Access::Granted)]).state,
            State::Warning
        );
        assert_eq!(ask(&[node(Access::Granted)]).state, State::Ok);
        assert_eq!(ask(&[]).state, State::Warning);
    }

    #[test]
    fn a_seat_needs_something_to_show_pictures_on() {
        let ask = |window, cards: &[Node]| both(|reader| display(window, cards, reader)).state;
        assert_eq!(ask(true, &[]), State::Ok);
        assert_eq!(ask(false, &[node(Access::Granted)]), State::Ok);
        assert_eq!(ask(false, &[]), State::Warning);
    }

    #[test]
    fn each_stage_of_the_way_to_a_server_has_its_command() {
        let answer = |refused: Option<&str>| Answer {
            address: "10.0.0.1:7755".parse().expect("an address"),
            refused: refused.map(str::to_owned),
        };
        let way = Way {
            name: "rack-1".to_owned(),
            paired: Ok(true),
            answers: Ok(vec![answer(None)]),
        };
        let ask = |way: &Way| {
            let finding = |index: usize| both(|reader| server(way, reader).remove(index));
            (finding(0), finding(1))
        };
        let (reached, paired) = ask(&way);
        assert_eq!((reached.state, paired.state), (State::Ok, State::Ok));
        let refused = Way {
            answers: Ok(vec![answer(Some("refused"))]),
            paired: Ok(false),
            ..way.clone()
        };
        let (reached, paired) = ask(&refused);
        assert_eq!(
            reached.mend.as_deref(),
            Some("sudo systemctl restart soft-kvm")
        );
        assert!(
            reached.message.contains("10.0.0.1:7755: refused"),
            "{}",
            reached.message
        );
        assert_eq!(paired.mend.as_deref(), Some("soft-kvm-client pair rack-1"));
        let lost = Way {
            answers: Err("no answer".to_owned()),
            paired: Err("broken".to_owned()),
            ..way
        };
        let (reached, paired) = ask(&lost);
        assert_eq!(reached.mend.as_deref(), Some("soft-kvm-client discover"));
        assert_eq!(paired.state, State::NotCheckable);
    }
}
