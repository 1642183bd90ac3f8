//! `soft-kvm-client type` and the window's pasting: what the target's kernel reads, as a desktop understands it.

use anyhow::{Context as _, ensure};
use evdevil::Evdev;
use evdevil::event::Led;
use soft_kvm_lab_tests::guest::{self, Process};
use soft_kvm_testkit::keyboard::TextField;

use crate::input::{self, Reader};
use crate::keyboard::SMALL;
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::xvfb::{VARIABLES, Xvfb};

const KEYBOARD: &str = "Soft KVM typing keyboard";
const WINDOW_KEYBOARD: &str = "Soft KVM window keyboard";
const CAPS_LOCK: u16 = 58;
const LOCALE: &str = "en_US.UTF-8";
/// Direct keys, Shift, Alt Gr, dead keys and line ends.
const TEXT: &str =
    "Grüße, \"Häßlich\" & Co.: {[@€]} ~ \\ |\n\té è â ^ ` #1\nsudo rm -rf '/tmp/x y'; exit 0\n";

/// What is pasted.
const COPIED: &str = "Capital and small: \"ABC abc\" {1}";

/// A German text arrives through the kernel's own device as it was written, although Caps Lock was on; afterwards it is
/// on again.
pub(crate) fn through_uinput() -> anyhow::Result<()> {
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let file = seat.file("text");
    std::fs::write(&file, TEXT)?;
    let file = file.to_str().context("a path in UTF-8")?;
    let fixed = ["type", "--server", TARGET, "--layout", "de"];
    let words = ["--wait", "3", "--rate", "200", file];
    let mut client = seat.start("type", &[&fixed[..], &words].concat())?;
    let node = input::twin(KEYBOARD)?;
    let keys = Reader::start(&node)?;
    // The desktop's part: it shows its Caps Lock on every keyboard.
    let lamps = Evdev::open(&node)?;
    let lamp = |lit| lamps.set_led(Led::from_raw(1), lit);
    lamp(true)?;
    taps_caps_lock(&keys, 1)?;
    lamp(false)?;
    client.succeed(SOON)?;
    shows(&keys, "de", TEXT)?;
    server.stop().map(drop)
}

/// The window's chord types the clipboard, although Caps Lock is on at the target; afterwards it is on again.
pub(crate) fn pasted() -> anyhow::Result<()> {
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let copied = seat.file("copied");
    std::fs::write(&copied, COPIED)?;
    let screen = Xvfb::start()?;
    let _clipboard = Process::start(
        "xclip",
        screen
            .command("xclip")
            .args(["-selection", "clipboard", "-quiet", "-in"])
            .arg(&copied),
    )?;
    let client = seat.window(TARGET, VARIABLES)?;
    let node = input::twin(WINDOW_KEYBOARD).with_context(|| client.process.output())?;
    let keys = Reader::start(&node)?;
    let lamps = Evdev::open(&node)?;
    let lamp = |lit| lamps.set_led(Led::from_raw(1), lit);
    screen.focus_window()?;
    lamp(true)?;
    // Its way to the client is not waited for by anybody: a second chord would end what the first began.
    std::thread::sleep(std::time::Duration::from_secs(1));
    screen.xdotool(&["key", "ctrl+alt+shift+v"])?;
    taps_caps_lock(&keys, 1).with_context(|| client.process.output())?;
    lamp(false)?;
    taps_caps_lock(&keys, 2)?;
    shows(&keys, "us", COPIED)?;
    client.stop()?;
    server.stop().map(drop)
}

/// Waits until Caps Lock was tapped so often.
fn taps_caps_lock(keys: &Reader, times: usize) -> anyhow::Result<()> {
    guest::wait_for("the key that switches Caps Lock", SOON, || {
        let events = keys.events();
        let up = Some((CAPS_LOCK, false));
        let taps = events.iter().filter(|event| event.as_key() == up);
        (taps.count() >= times).then_some(())
    })
}

/// What a desktop with Caps Lock on made of all keys so far: this text, with Caps Lock on and nothing down at the end.
fn shows(keys: &Reader, layout: &str, text: &str) -> anyhow::Result<()> {
    let field = TextField::new(layout, "", LOCALE);
    let mut field = field.with_context(|| format!("libxkbcommon does not know {layout}"))?;
    field.key(CAPS_LOCK, true);
    field.key(CAPS_LOCK, false);
    let events = keys.events();
    for (key, down) in events.iter().filter_map(|event| event.as_key()) {
        field.key(key, down);
    }
    ensure!(field.text() == text, "{:?}", field.text());
    ensure!(field.has_modifiers(), "Caps Lock is off now");
    ensure!(input::down(&events).is_empty(), "a key is down");
    Ok(())
}
