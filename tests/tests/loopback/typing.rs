//! `soft-kvm-client type`: what the keys make on the target, as the test card shows it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_tests::media::Rgb;
use soft_kvm_tests::programs::{client_command, wrapped};
use soft_kvm_tests::xvfb::Xvfb;
use soft_kvm_tests::{Need, Process, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "typing::the_target_shows_the_text",
        needs: NEEDS,
        run: the_target_shows_the_text,
    },
    Test {
        name: "typing::nothing_is_typed_when_a_character_cannot_be",
        needs: NEEDS,
        run: nothing_is_typed_when_a_character_cannot_be,
    },
    Test {
        name: "typing::ctrl_c_lets_all_keys_go",
        needs: NEEDS,
        run: ctrl_c_lets_all_keys_go,
    },
    Test {
        name: "typing::the_windows_chord_types_the_clipboard",
        needs: &[
            Need::Program("Xvfb"),
            Need::Program("xdotool"),
            Need::Program("xclip"),
        ],
        run: the_windows_chord_types_the_clipboard,
    },
];

const NEEDS: &[Need] = &[];
const LIMIT: Duration = Duration::from_secs(30);

/// `soft-kvm-client type WORDS…` to the server.
fn typing(stage: &Stage, server: &Server, words: &[&str]) -> anyhow::Result<Command> {
    let address = server.address()?;
    let fixed = ["type", "--server", &address, "--wait", "0"];
    client_command(stage, "client", &[&fixed, words].concat())
}

/// A server that has shown its test card, which notes keys from then on.
fn server(stage: &Stage) -> anyhow::Result<Server> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    echo(stage, &server)?;
    Ok(server)
}

/// Waits until the test card shows this text, and no key down.
fn await_text(stage: &Stage, server: &Server, fits: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let mut shown = None;
    let outcome = until("the test card shows the text", LIMIT, || {
        let (keys, text, _) = shown.insert(echo(stage, server)?);
        Ok(keys == "keys" && fits(text))
    });
    outcome.with_context(|| format!("{shown:?}"))
}

/// What the test card says of the keys: their names, the last characters, the number of reports. The first picture may be one
/// from before: this is what the second look sees.
fn settled(stage: &Stage, server: &Server) -> anyhow::Result<(String, String, u32)> {
    echo(stage, server)?;
    echo(stage, server)
}

fn echo(stage: &Stage, server: &Server) -> anyhow::Result<(String, String, u32)> {
    let file = stage.file("look.png");
    let mut look = server.watch(stage, 1, &["--force"])?;
    stage
        .run("look", LIMIT, look.arg("--screenshot").arg(&file))?
        .success()?;
    let picture = Rgb::read_png(&file)?;
    let line = |row: u32| {
        let line = picture.text(16, picture.size.height - 48 + 12 + 20 * row, 66);
        line.trim_end().to_owned()
    };
    let code = picture.barcode().context("no code in the picture")?;
    let text = line(1);
    let text = text.strip_prefix("text").with_context(|| text.clone())?;
    Ok((line(0), text.trim_start().to_owned(), code.reports))
}

/// A command with a file as its standard input.
fn fed(command: &Command, file: &str) -> Command {
    let script = format!("exec \"$@\" <'{file}'");
    wrapped(&["sh", "-c", &script, "sh"], command)
}

fn write(stage: &Stage, name: &str, text: &str) -> anyhow::Result<String> {
    let file = stage.file(name);
    std::fs::write(&file, text)?;
    Ok(file.to_str().context("a path in UTF-8")?.to_owned())
}

fn the_target_shows_the_text(stage: &Stage) -> anyhow::Result<()> {
    let server = server(stage)?;
    let file = write(stage, "text", "Say \"{[#~|\\]}\"\n\t& `Wait`, 100% OK;\n")?;
    let mut command = typing(stage, &server, &["--rate", "200", &file])?;
    stage.run("type", LIMIT, &mut command)?.success()?;
    let text = "Say \"{[#~|\\]}\"  & `Wait`, 100% OK;";
    await_text(stage, &server, |shown| shown == text)?;
    // The test card believes in an American keyboard: there a German one has other characters on its keys.
    let file = write(stage, "german", "zäh=?\n")?;
    let words = ["--layout", "de", "--rate", "200", "--dry-run"];
    let mut command = fed(&typing(stage, &server, &words)?, &file);
    stage.run("dry", LIMIT, &mut command)?.success()?;
    let (_, shown, _) = settled(stage, &server)?;
    ensure!(shown == text, "typed by --dry-run: {shown:?}");
    let mut command = fed(
        &typing(stage, &server, &["--layout", "de", "--rate", "200"])?,
        &file,
    );
    stage.run("german", LIMIT, &mut command)?.success()?;
    await_text(stage, &server, |shown| shown.ends_with(" y'h)_"))
}

fn nothing_is_typed_when_a_character_cannot_be(stage: &Stage) -> anyhow::Result<()> {
    let server = server(stage)?;
    let before = echo(stage, &server)?;
    let file = write(stage, "text", "ok\nf\u{fc}r 5 \u{20ac}\n")?;
    let mut command = typing(stage, &server, &[&file])?;
    stage.run("type", LIMIT, &mut command)?.refuses(&[
        "2:2: ü U+00FC",
        "2:7: € U+20AC",
        "nothing was typed",
    ])?;
    for (words, reason) in [
        (["--layout", "klingon", &file], "no such keyboard layout"),
        (["--compose", "none", "/no/such/file"], "/no/such/file"),
    ] {
        let mut command = typing(stage, &server, &words)?;
        stage
            .run("refused", LIMIT, &mut command)?
            .refuses(&[reason])?;
    }
    let after = settled(stage, &server)?;
    ensure!(after == before, "something was typed: {after:?}");
    let words = ["--skip-untypable", "--rate", "200", &file];
    let mut command = typing(stage, &server, &words)?;
    stage.run("skip", LIMIT, &mut command)?.success()?;
    await_text(stage, &server, |shown| shown == "ok fr 5")
}

fn ctrl_c_lets_all_keys_go(stage: &Stage) -> anyhow::Result<()> {
    let server = server(stage)?;
    let file = write(stage, "text", &"AbC@ ".repeat(1_000))?;
    let mut command = typing(stage, &server, &["--rate", "20", &file])?;
    let began = Instant::now();
    let client = stage.start("type", &mut command)?;
    client.says("connected", LIMIT)?;
    until("something is typed", LIMIT, || {
        Ok(echo(stage, &server)?.2 > 0)
    })?;
    // It tells how far it is.
    client.says("/5000 characters typed", LIMIT)?;
    let ended = client.interrupt()?.refuses(&[
        "cancelled, all keys are let go; typed so far: ",
        "/5000 (1:",
    ])?;
    let typed = ended.stderr.split("typed so far: ").nth(1);
    let typed = typed.and_then(|rest| rest.split('/').next()?.parse().ok());
    let typed: f64 = typed.context("how many were typed")?;
    // 20 keys in a second, two of them for a capital letter, are the most.
    let most = began.elapsed().as_secs_f64() * 20.0 + 1.0;
    ensure!(typed <= most, "{typed} were typed in the time of {most}");
    let (keys, text, _) = settled(stage, &server)?;
    ensure!(keys == "keys", "{keys:?}");
    ensure!("AbC@ ".repeat(50).contains(&text), "{text:?}");
    Ok(())
}

fn the_windows_chord_types_the_clipboard(stage: &Stage) -> anyhow::Result<()> {
    let screen = Xvfb::start(stage, "1024x768x24")?;
    let server = server(stage)?;
    let copied = copy(stage, &screen, "f\u{fc}r")?;
    let mut command = server.client(stage, &["--view", "window", "--once"])?;
    let client = stage.start("client", screen.on(&mut command))?;
    client.says("connected", LIMIT)?;
    until("the window shows the picture", LIMIT, || {
        Ok(screen.picture()?.colors() > 4)
    })?;
    let window = screen.focus(stage)?;
    let chord = ["key", "ctrl+alt+shift+v"];
    screen.xdotool(stage, &chord)?;
    client.says("nothing was typed", LIMIT)?;
    drop(copied);
    let _copied = copy(stage, &screen, "Hi! \"Paste\" {it}")?;
    screen.xdotool(stage, &chord)?;
    await_text(stage, &server, |shown| shown == "Hi! \"Paste\" {it}")?;
    screen.close(window.trim().parse()?)?;
    client.wait(LIMIT)?.success()?;
    Ok(())
}

/// Another program that has this text in the clipboard.
fn copy(stage: &Stage, screen: &Xvfb, text: &str) -> anyhow::Result<Process> {
    let file = write(stage, "copied", text)?;
    let clipboard = ["-selection", "clipboard"];
    let mut command = Command::new("xclip");
    command.args(clipboard).args(["-quiet", "-in", &file]);
    let owner = stage.start("xclip", screen.on(&mut command))?;
    until("the text is in the clipboard", LIMIT, || {
        let mut command = Command::new("xclip");
        command.args(clipboard).arg("-out");
        let shown = stage.run("xclip-out", LIMIT, screen.on(&mut command))?;
        Ok(shown.stdout == text)
    })?;
    Ok(owner)
}
