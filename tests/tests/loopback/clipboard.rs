//! Copied text between two sessions: the one whose screen the server captures, and the one that the client's window is on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::programs::{client_command, server_command};
use soft_kvm_tests::sway::Sway;
use soft_kvm_tests::weston::Weston;
use soft_kvm_tests::xvfb::Xvfb;
use soft_kvm_tests::{Need, Process, Server, Stage, Test, until};

use crate::roles::pair_as;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "clipboard::what_is_copied_goes_both_ways_once_and_is_told_by_length",
        needs: NEEDS,
        run: what_is_copied_goes_both_ways_once_and_is_told_by_length,
    },
    Test {
        name: "clipboard::a_text_that_is_too_long_is_refused_aloud",
        needs: NEEDS,
        run: a_text_that_is_too_long_is_refused_aloud,
    },
    Test {
        name: "clipboard::a_secret_stays_where_it_was_copied",
        needs: NEEDS,
        run: a_secret_stays_where_it_was_copied,
    },
    Test {
        name: "clipboard::who_may_only_watch_or_shares_none_gets_and_sets_nothing",
        needs: NEEDS,
        run: who_may_only_watch_or_shares_none_gets_and_sets_nothing,
    },
    Test {
        name: "clipboard::the_story_lets_texts_out_only",
        needs: NEEDS,
        run: the_story_lets_texts_out_only,
    },
    Test {
        name: "clipboard::a_server_under_wayland_shares_the_compositors",
        needs: UNDER_SWAY,
        run: a_server_under_wayland_shares_the_compositors,
    },
    Test {
        name: "clipboard::a_window_under_wayland_shares_the_compositors",
        needs: UNDER_SWAY,
        run: a_window_under_wayland_shares_the_compositors,
    },
    Test {
        name: "clipboard::without_data_control_it_is_the_x_displays_and_it_is_told",
        needs: &[
            Need::Program("Xvfb"),
            Need::Program("xdotool"),
            Need::Program("xclip"),
            Need::Program("weston"),
        ],
        run: without_data_control_it_is_the_x_displays_and_it_is_told,
    },
];

const UNDER_SWAY: &[Need] = &[
    Need::Program("Xvfb"),
    Need::Program("xdotool"),
    Need::Program("xclip"),
    Need::Program("sway"),
    Need::Program("Xwayland"),
    Need::Program("wl-copy"),
    Need::Program("wtype"),
];

const NEEDS: &[Need] = &[
    Need::Program("Xvfb"),
    Need::Program("xdotool"),
    Need::Program("xclip"),
];
const LIMIT: Duration = Duration::from_secs(30);
/// One byte more than goes over.
const TOO_LONG: usize = 60 * 1024 + 1;

/// A desktop session, and other programs there that copy and paste.
trait Session {
    fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command;
    /// Has what is in this file in the clipboard.
    fn copier(&self, file: &Path) -> Command;
    fn paster(&self) -> Command;
}

impl Session for Xvfb {
    fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.on(command)
    }

    fn copier(&self, file: &Path) -> Command {
        let mut command = Command::new("xclip");
        command.args(["-selection", "clipboard", "-quiet", "-in"]);
        command.arg(file);
        command
    }

    fn paster(&self) -> Command {
        let mut command = Command::new("xclip");
        command.args(["-selection", "clipboard", "-out", "-target", "UTF8_STRING"]);
        command
    }
}

impl Session for Sway {
    fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.on(command)
    }

    fn copier(&self, file: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "exec wl-copy --foreground < \"$0\""]);
        command.arg(file);
        command
    }

    fn paster(&self) -> Command {
        let mut command = Command::new("wl-paste");
        command.arg("--no-newline");
        command
    }
}

/// A server that captures this session's X display, and its first client, paired.
fn server(stage: &Stage, screen: &dyn Session, words: &[&str]) -> anyhow::Result<Server> {
    let mut command = server_command(stage, "server")?;
    command.args(["--listen", "127.0.0.1", "--no-discovery", "--source", "x11"]);
    let server = Server::ready(stage, "server", {
        screen.on(command.args(words));
        command
    })?;
    server.pair(stage)?;
    Ok(server)
}

/// The window of the client with the state folder `name`, with the keyboard.
fn window(
    stage: &Stage,
    server: &Server,
    screen: &Xvfb,
    name: &str,
    words: &[&str],
) -> anyhow::Result<Process> {
    let address = server.address()?;
    let fixed = ["--server", &address, "--view", "window", "--once"];
    let mut command = client_command(stage, name, &[&fixed, words].concat())?;
    let client = stage.start(name, screen.on(&mut command))?;
    client.says("connected", LIMIT)?;
    until("the window is there", LIMIT, || {
        Ok(screen.focus(stage).is_ok())
    })?;
    Ok(client)
}

/// Types until this client has keyboard and mouse of the server.
fn take_turn(stage: &Stage, screen: &Xvfb) -> anyhow::Result<()> {
    screen.xdotool(stage, &["key", "--delay", "50", "shift"])?;
    Ok(())
}

/// Another program that has this text in the clipboard.
fn copy(stage: &Stage, screen: &dyn Session, text: &str) -> anyhow::Result<Process> {
    let file = stage.write("copied", text)?;
    let owner = stage.start("copier", screen.on(&mut screen.copier(&file)))?;
    await_pasted(stage, screen, text)?;
    Ok(owner)
}

/// The clipboard's text; none if it is empty.
fn pasted(stage: &Stage, screen: &dyn Session) -> anyhow::Result<String> {
    let mut command = screen.paster();
    Ok(stage.run("paste", LIMIT, screen.on(&mut command))?.stdout)
}

fn await_pasted(stage: &Stage, screen: &dyn Session, text: &str) -> anyhow::Result<()> {
    let mut seen = String::new();
    let outcome = until("the text is in the clipboard", LIMIT, || {
        seen = pasted(stage, screen)?;
        Ok(seen == text)
    });
    let begin: String = seen.chars().take(50).collect();
    outcome.with_context(|| format!("{} bytes: {begin:?}", seen.len()))
}

/// Which ways texts went, and how long they were, by the audit log, which may not know what they were.
fn told(state: &Path, secrets: &[&str]) -> anyhow::Result<Vec<(String, u64)>> {
    let log = std::fs::read_to_string(state.join("audit.jsonl"))?;
    for secret in secrets {
        ensure!(!log.contains(secret), "{secret:?} is in the audit log");
    }
    let lines = log.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
    let texts = lines.iter().filter(|line| line["event"] == "clipboard");
    texts
        .map(|line| {
            let way = line["way"].as_str().context("no way")?;
            let bytes = line["bytes"].as_u64().context("no length")?;
            Ok((way.to_owned(), bytes))
        })
        .collect()
}

fn what_is_copied_goes_both_ways_once_and_is_told_by_length(stage: &Stage) -> anyhow::Result<()> {
    let target = Xvfb::start(stage, "640x480x24")?;
    let seat = Xvfb::start(stage, "1024x768x24")?;
    let server = server(stage, &target, &[])?;
    // Copied before the window was opened: it goes once this seat has keyboard and mouse.
    let first = "copied at the seat: z\u{e4}h \u{20ac}\n\t\"two\"\n";
    let _first = copy(stage, &seat, first)?;
    let client = window(stage, &server, &seat, "client", &[])?;
    take_turn(stage, &seat)?;
    await_pasted(stage, &target, first)?;
    // The longest that goes.
    let second = "0123456789abcdef".repeat(60 * 1024 / 16);
    let _second = copy(stage, &target, &second)?;
    await_pasted(stage, &seat, &second)?;
    let _third = copy(stage, &seat, "third secret")?;
    await_pasted(stage, &target, "third secret")?;
    // Control characters stay here.
    let _fourth = copy(stage, &target, "fourth\u{1b}[31m secret")?;
    await_pasted(stage, &seat, "fourth[31m secret")?;
    client.interrupt()?.success()?;
    // What was copied last on a seat can still be pasted on the server.
    let _fifth = copy(stage, &seat, "fifth secret")?;
    let client = window(stage, &server, &seat, "client", &[])?;
    take_turn(stage, &seat)?;
    await_pasted(stage, &target, "fifth secret")?;
    client.interrupt()?.success()?;
    await_pasted(stage, &target, "fifth secret")?;

    let ended = server.process.interrupt()?.success()?;
    let secrets = ["third secret", "secret", "at the seat", "0123456789abcdef0"];
    for secret in secrets {
        ensure!(!ended.text().contains(secret), "{secret:?} is in the log");
    }
    let told = told(&server.state, &secrets)?;
    let went = |way: &str, text: &str| (way.to_owned(), text.len() as u64);
    let expected = [
        went("to-server", first),
        went("from-server", &second),
        went("to-server", "third secret"),
        went("from-server", "fourth[31m secret"),
        went("to-server", "fifth secret"),
    ];
    ensure!(told == expected, "each once, and nothing back: {told:?}");
    Ok(())
}

/// Two displays that share their clipboards.
struct Sharing {
    target: Xvfb,
    seat: Xvfb,
    server: Server,
    client: Process,
    /// Has the seat's text.
    _copier: Process,
}

/// A server and a client that has keyboard and mouse; "short" was copied at the seat and has come to the server.
fn share_a_text(stage: &Stage) -> anyhow::Result<Sharing> {
    let target = Xvfb::start(stage, "640x480x24")?;
    let seat = Xvfb::start(stage, "1024x768x24")?;
    let server = server(stage, &target, &[])?;
    let client = window(stage, &server, &seat, "client", &[])?;
    take_turn(stage, &seat)?;
    let copier = copy(stage, &seat, "short")?;
    await_pasted(stage, &target, "short")?;
    Ok(Sharing {
        target,
        seat,
        server,
        client,
        _copier: copier,
    })
}

fn a_text_that_is_too_long_is_refused_aloud(stage: &Stage) -> anyhow::Result<()> {
    let Sharing {
        target,
        seat,
        server,
        client,
        _copier,
    } = share_a_text(stage)?;
    let long = "x".repeat(TOO_LONG);
    let _long = copy(stage, &seat, &long)?;
    client.says("longer than 60 KiB and was not sent", LIMIT)?;
    ensure!(
        pasted(stage, &target)? == "short",
        "it was cut or passed on"
    );
    let _long = copy(stage, &target, &long)?;
    client.says("longer than 60 KiB and did not come here", LIMIT)?;
    ensure!(pasted(stage, &seat)? == long, "the seat's own was changed");
    client.interrupt()?.success()?;
    server.process.interrupt()?.success()?;
    let told = told(&server.state, &["xxxx"])?;
    ensure!(told == [("to-server".to_owned(), 5)], "{told:?}");
    Ok(())
}

fn a_secret_stays_where_it_was_copied(stage: &Stage) -> anyhow::Result<()> {
    let Sharing {
        target,
        seat,
        server,
        client,
        _copier,
    } = share_a_text(stage)?;
    // As a password manager has it in the clipboard.
    let file = stage.write("secret", "secret")?;
    let manager = |screen: &Xvfb| {
        let mut command = screen.copier(&file);
        command.args(["-target", "x-kde-passwordManagerHint"]);
        stage.start("password-manager", screen.on(&mut command))
    };
    let at_seat = manager(&seat)?;
    client.says("marked as a secret and was not sent", LIMIT)?;
    ensure!(pasted(stage, &target)? == "short", "it was passed on");
    let at_target = manager(&target)?;
    client.says("marked as a secret and did not come here", LIMIT)?;
    // What comes after goes both ways.
    there_and_back(stage, (&target, &seat))?;
    drop((at_seat, at_target));
    client.interrupt()?.success()?;
    server.process.interrupt()?.success()?;
    let told = told(&server.state, &["secret"])?;
    ensure!(told.len() == 5, "one, and four after it: {told:?}");
    Ok(())
}

fn who_may_only_watch_or_shares_none_gets_and_sets_nothing(stage: &Stage) -> anyhow::Result<()> {
    let target = Xvfb::start(stage, "640x480x24")?;
    let [viewer, quiet, seat] = [(); 3].map(|()| Xvfb::start(stage, "1024x768x24"));
    let (viewer, quiet, seat) = (viewer?, quiet?, seat?);
    let server = server(stage, &target, &[])?;
    pair_as(stage, &server, "viewer", &["--role", "view"])?;
    pair_as(stage, &server, "quiet", &["--role", "control"])?;
    let own = ["viewer's own", "quiet's own"];
    let _own = [copy(stage, &viewer, own[0])?, copy(stage, &quiet, own[1])?];
    let _viewer = window(stage, &server, &viewer, "viewer", &[])?;
    let _quiet = window(stage, &server, &quiet, "quiet", &["--no-clipboard"])?;
    take_turn(stage, &viewer)?;
    take_turn(stage, &quiet)?;
    let _client = window(stage, &server, &seat, "client", &[])?;
    let _another = copy(stage, &viewer, "viewer's other")?;
    for text in ["on the server", "on the server again"] {
        let _copied = copy(stage, &target, text)?;
        await_pasted(stage, &seat, text)?;
        ensure!(pasted(stage, &target)? == text, "somebody else set it");
    }
    ensure!(pasted(stage, &viewer)? == "viewer's other");
    ensure!(pasted(stage, &quiet)? == own[1]);
    server.process.interrupt()?.success()?;
    let told = told(&server.state, &own)?;
    let sent = |bytes| ("from-server".to_owned(), bytes);
    ensure!(told == [sent(13), sent(19)], "{told:?}");
    Ok(())
}

fn the_story_lets_texts_out_only(stage: &Stage) -> anyhow::Result<()> {
    let story = stage.write(
        "out.jsonnet",
        "(import 'default.jsonnet') + { control+: { clipboard: 'from-server' } }",
    )?;
    let story = story.to_str().context("a path that is no text")?;
    let target = Xvfb::start(stage, "640x480x24")?;
    let seat = Xvfb::start(stage, "1024x768x24")?;
    let server = server(stage, &target, &["--story", story])?;
    let _own = copy(stage, &seat, "at the seat")?;
    let _client = window(stage, &server, &seat, "client", &[])?;
    take_turn(stage, &seat)?;
    for text in ["out", "out again"] {
        let _copied = copy(stage, &target, text)?;
        await_pasted(stage, &seat, text)?;
        let _own = copy(stage, &seat, "at the seat")?;
        await_pasted(stage, &seat, "at the seat")?;
        ensure!(pasted(stage, &target)? == text, "it went in");
    }
    server.process.interrupt()?.success()?;
    let told = told(&server.state, &["at the seat"])?;
    ensure!(told.iter().all(|(way, _)| way == "from-server"), "{told:?}");
    ensure!(told.len() == 2, "{told:?}");
    Ok(())
}

/// Texts that went there, and came from there, once each.
fn there_and_back(
    stage: &Stage,
    (target, seat): (&dyn Session, &dyn Session),
) -> anyhow::Result<[(String, u64); 4]> {
    let to = ["copied at the seat: z\u{e4}h \u{20ac}\n", "again"];
    let longest = "0123456789abcdef".repeat(60 * 1024 / 16);
    let from = [longest.as_str(), "copied on the server"];
    let mut owners = Vec::new();
    for (to, from) in to.into_iter().zip(from) {
        owners.push(copy(stage, seat, to)?);
        await_pasted(stage, target, to)?;
        owners.push(copy(stage, target, from)?);
        await_pasted(stage, seat, from)?;
    }
    let went = |way: &str, text: &str| (way.to_owned(), text.len() as u64);
    Ok([
        went("to-server", to[0]),
        went("from-server", from[0]),
        went("to-server", to[1]),
        went("from-server", from[1]),
    ])
}

fn a_server_under_wayland_shares_the_compositors(stage: &Stage) -> anyhow::Result<()> {
    let target = Sway::start(stage)?;
    let seat = Xvfb::start(stage, "1024x768x24")?;
    let server = server(stage, &target, &[])?;
    let client = window(stage, &server, &seat, "client", &[])?;
    take_turn(stage, &seat)?;
    let expected = there_and_back(stage, (&target, &seat))?;
    client.interrupt()?.success()?;
    let ended = server.process.interrupt()?.success()?.text();
    ensure!(ended.contains("locked in: "), "it has not locked itself in");
    ensure!(!ended.contains("clipboard is"), "not the compositor's");
    let told = told(&server.state, &["seat", "copied", "0123456789abcdef0"])?;
    ensure!(told == expected, "each once, and nothing back: {told:?}");
    Ok(())
}

fn a_window_under_wayland_shares_the_compositors(stage: &Stage) -> anyhow::Result<()> {
    let target = Xvfb::start(stage, "640x480x24")?;
    let seat = Sway::start(stage)?;
    let server = server(stage, &target, &[])?;
    let address = server.address()?;
    let words = ["--server", &address, "--view", "window", "--once"];
    let mut command = client_command(stage, "client", &words)?;
    let client = stage.start("client", seat.on(&mut command))?;
    client.says("connected", LIMIT)?;
    let _first = copy(stage, &seat, "copied before")?;
    until("this seat has keyboard and mouse", LIMIT, || {
        let mut typed = Command::new("wtype");
        stage.run("wtype", LIMIT, seat.on(typed.args(["-k", "Shift_L"])))?;
        Ok(pasted(stage, &target)? == "copied before")
    })?;
    let expected = there_and_back(stage, (&target, &seat))?;
    let ended = client.interrupt()?.success()?.text();
    ensure!(!ended.contains("clipboard is"), "not the compositor's");
    server.process.interrupt()?.success()?;
    let told = told(&server.state, &["seat", "copied", "0123456789abcdef0"])?;
    let told = told.strip_prefix(&[("to-server".to_owned(), 13)]);
    ensure!(
        told == Some(&expected),
        "each once, and nothing back: {told:?}"
    );
    Ok(())
}

fn without_data_control_it_is_the_x_displays_and_it_is_told(stage: &Stage) -> anyhow::Result<()> {
    /// As under a compositor that has an X server beside it.
    struct Both(Weston, Xvfb);
    impl Session for Both {
        fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
            self.1.on(command);
            self.0.socket_on(command)
        }

        fn copier(&self, file: &Path) -> Command {
            self.1.copier(file)
        }

        fn paster(&self) -> Command {
            self.1.paster()
        }
    }
    let target = Both(Weston::start(stage)?, Xvfb::start(stage, "640x480x24")?);
    let seat = Xvfb::start(stage, "1024x768x24")?;
    let server = server(stage, &target, &[])?;
    let _client = window(stage, &server, &seat, "client", &[])?;
    take_turn(stage, &seat)?;
    there_and_back(stage, (&target, &seat))?;
    let why = "the compositor has neither ext-data-control nor wlr-data-control";
    let ended = server.process.interrupt()?.success()?.text();
    ensure!(ended.contains(why), "it does not say why");
    Ok(())
}
