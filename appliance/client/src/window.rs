//! The window on the main thread: pictures in, the window's keyboard and pointer out.

use soft_kvm_core::Size;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::input::DeviceId;

use crate::run::Shared;
use crate::session::outputs::lock;
use crate::view::{self, ViewEvent, ViewOptions, Viewport};

/// The window's keyboard; far from the ids that grabbed devices get.
pub(crate) const KEYBOARD: DeviceId = DeviceId(0xff00);
/// The window's pointer.
pub(crate) const POINTER: DeviceId = DeviceId(0xff01);

/// Shows the window until it is closed.
pub(crate) fn run(shared: &Shared, viewport: &Viewport, sends: bool) -> anyhow::Result<()> {
    let options = ViewOptions {
        now: clock::now,
        send_input: sends,
        keyboard: KEYBOARD,
        pointer: POINTER,
        overlay: false,
        fullscreen: false,
        size: Size::new(1280, 720),
        lang: shared.lang,
    };
    view::run(viewport, options, |event| match event {
        ViewEvent::Presented { frame, at } => {
            lock(&shared.stats).presented(frame.captured_local, frame.decoded, at);
        }
        ViewEvent::Input(report) => {
            if let Some(link) = shared.link() {
                link.push(clock::now(), report);
            }
        }
        ViewEvent::Closed => shared.stop(),
        _ => {}
    })
    .map_err(|error| anyhow::anyhow!("{error}"))
}
