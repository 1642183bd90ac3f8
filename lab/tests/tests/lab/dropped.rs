//! Events that the operator's kernel drops, because the client could not read in time.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use evdevil::Evdev;
use evdevil::event::{Abs, EventType};
use soft_kvm_lab_tests::guest;

use crate::input::{self, Event};
use crate::input_equal::{Device, Scene};
use crate::kvm::SOON;

const X: u16 = 0;
/// Many times what the kernel queues for a reader.
const FLOOD: i32 = 600;
/// What the client says of it.
const TOLD: &str = "the kernel dropped input events";

/// Gamepad, flight stick, steering wheel and pen report faster than the client may read: buttons and axes whose last change was
/// dropped stand on the target as they do on the device.
pub(crate) fn axes_and_buttons() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    for class in ["gamepad", "joystick", "wheel", "pen"] {
        let before = scene.client.process.output().matches(TOLD).count();
        let device = scene.device(class)?;
        lose_events(device).with_context(|| class.to_owned())?;
        let told = || scene.client.process.output().matches(TOLD).count();
        guest::wait_for("the client to tell", SOON, || {
            (told() > before).then_some(())
        })
        .with_context(|| format!("{class}: nothing was dropped"))?;
    }
    scene.end()
}

/// One button is held before, goes up in what is lost, and another goes down; every axis moves; then one axis moves alone
/// until the kernel's queue has overrun more than once.
fn lose_events(device: &Device) -> anyhow::Result<()> {
    let descriptor = &device.recording.device;
    let [held, pressed] = *descriptor.keys.first_chunk().context("two buttons")?;
    let twin = Evdev::open(&device.twin)?;
    let is_down = |code: u16| -> Option<bool> {
        let keys = twin.key_state().ok()?;
        Some(keys.iter().any(|key| key.raw() == code))
    };
    device.hardware.report(&[Event::key(held.0, true)])?;
    guest::wait_for("the first button", SOON, || is_down(held.0)?.then_some(()))?;

    let at = |code, value| Event::new(EventType::ABS, code, value);
    let axes = || descriptor.absolute.iter();
    std::thread::scope(|scope| {
        let hand = scope.spawn(|| -> anyhow::Result<()> {
            // Nobody reads meanwhile.
            input::ahead_of_all();
            let mut lost = vec![Event::key(held.0, false), Event::key(pressed.0, true)];
            lost.extend(axes().map(|axis| {
                let span = axis.maximum - axis.minimum;
                at(axis.code, axis.maximum - span / 8)
            }));
            device.hardware.report(&lost)?;
            let range = axes().find(|axis| axis.code == X).context("no X")?;
            let step = (range.maximum - range.minimum) / 8;
            (0..FLOOD).try_for_each(|number| {
                device
                    .hardware
                    .report(&[at(X, range.minimum + step * (number % 7))])
            })
        });
        hand.join()
            .map_err(|_| anyhow::anyhow!("the hand panicked"))?
    })?;

    let source = Evdev::open(device.hardware.node())?;
    let state = |of: &Evdev| -> anyhow::Result<(Vec<i32>, Vec<u16>)> {
        let values = axes().map(|axis| Ok(of.abs_info(Abs::from_raw(axis.code))?.value()));
        let values = values.collect::<std::io::Result<_>>()?;
        Ok((
            values,
            of.key_state()?.iter().map(|key| key.raw()).collect(),
        ))
    };
    let wanted = state(&source)?;
    ensure!(wanted.1 == [pressed.0], "the device itself has {wanted:?}");
    guest::wait_for("the same state on the target", SOON, || {
        (state(&twin).ok()? == wanted).then_some(())
    })
    .or_else(|error| {
        let got = state(&twin)?;
        Err(error).with_context(|| format!("it has {got:?}, the device {wanted:?}"))
    })?;
    // And it stays so.
    std::thread::sleep(Duration::from_millis(50));
    ensure!(state(&twin)? == wanted, "it changed afterwards");
    device.hardware.report(&[Event::key(pressed.0, false)])?;
    guest::wait_for("the second button", SOON, || {
        (!is_down(pressed.0)?).then_some(())
    })
}
