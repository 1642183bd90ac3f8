//! `soft-kvm-client type`: what the target's kernel reads, as a desktop understands it.

use anyhow::{Context as _, ensure};
use evdevil::Evdev;
use evdevil::event::Led;
use soft_kvm_lab_tests::guest;
use soft_kvm_testkit::keyboard::TextField;

use crate::input::{self, Reader};
use crate::keyboard::SMALL;
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Soft KVM typing keyboard";
const CAPS_LOCK: u16 = 58;
const LOCALE: &str = "en_US.UTF-8";
/// Direct keys, Shift, Alt Gr, dead keys and line ends.
const TEXT: &str =
    "Grüße, \"Häßlich\" & Co.: {[@€]} ~ \\ |\n\té è â ^ ` #1\nsudo rm -rf '/tmp/x y'; exit 0\n";

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
    guest::wait_for("the key that switches Caps Lock off", SOON, || {
        let events = keys.events();
        let tapped = events
            .iter()
            .any(|event| event.as_key() == Some((CAPS_LOCK, false)));
        tapped.then_some(())
    })?;
    lamp(false)?;
    client.succeed(SOON)?;

    let mut field = TextField::new("de", "", LOCALE).context("libxkbcommon knows no German")?;
    field.key(CAPS_LOCK, true);
    field.key(CAPS_LOCK, false);
    for (key, down) in keys.events().iter().filter_map(|event| event.as_key()) {
        field.key(key, down);
    }
    ensure!(field.text() == TEXT, "{:?}", field.text());
    ensure!(field.has_modifiers(), "Caps Lock is off now");
    ensure!(input::down(&keys.events()).is_empty(), "a key is down");
    server.stop().map(drop)
}
