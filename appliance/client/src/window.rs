//! The window on the main thread: pictures in, the window's keyboard and pointer out.

use std::sync::Arc;

use soft_kvm_core::{MonoTime, Size};
use soft_kvm_platform::os::display::{DisplayOptions, KeeperCommand};
use soft_kvm_platform::os::{clock, confine};
use soft_kvm_protocol::input::DeviceId;

use crate::cli::ConnectArgs;
use crate::run::Shared;
use crate::session::outputs::lock;
use crate::steer::Steering;
use crate::typing::Paste;
use crate::view::screen::{self, ScreenOptions};
use crate::view::{self, ShownFrame, ViewEvent, ViewOptions, Viewport};

/// The window's keyboard; far from the ids that grabbed devices get.
pub(crate) const KEYBOARD: DeviceId = DeviceId(0xff00);
/// The window's pointer.
pub(crate) const POINTER: DeviceId = DeviceId(0xff01);
/// The window's touch screen.
const TOUCH: DeviceId = DeviceId(0xff02);

/// Shows full screen on a monitor without a window system, until the program ends.
pub(crate) fn run_on_screen(
    shared: &Shared,
    viewport: &Viewport,
    args: &ConnectArgs,
) -> anyhow::Result<()> {
    let options = ScreenOptions {
        now: clock::now,
        display: DisplayOptions {
            device: None,
            connector: args.screen.clone(),
            keeper: Some(KeeperCommand {
                program: confine::own_executable(),
                subcommand: screen::KEEPER,
            }),
        },
        overlay: args.overlay,
    };
    let rate = || {
        let stats = lock(&shared.shown()?.stats);
        stats.video.as_ref().map(|video| video.rate)
    };
    screen::run(viewport, &options, rate, |event| {
        if let ViewEvent::Presented { frame, at, direct } = event {
            presented(shared, frame, at, direct);
        }
    })?;
    Ok(())
}

fn presented(shared: &Shared, frame: ShownFrame, at: MonoTime, direct: bool) {
    if let Some(remote) = shared.shown() {
        lock(&remote.stats).presented(frame.captured_local, frame.decoded, at, direct);
    }
}

/// Shows the window until it is closed.
pub(crate) fn run(
    shared: &Arc<Shared>,
    viewport: &Viewport,
    sends: bool,
    args: &ConnectArgs,
) -> anyhow::Result<()> {
    let mut paste = Paste::new(Arc::clone(shared), args.layout.clone());
    let mut steering = Steering::new(Arc::clone(shared), &args.chord, &[])?;
    let options = ViewOptions {
        now: clock::now,
        send_input: sends,
        keyboard: KEYBOARD,
        pointer: POINTER,
        touch: TOUCH,
        overlay: args.overlay,
        fullscreen: false,
        size: Size::new(1280, 720),
        lang: shared.lang,
    };
    let mut touched = false;
    view::run(viewport, options, |event| match event {
        ViewEvent::Presented { frame, at, direct } => presented(shared, frame, at, direct),
        ViewEvent::Control(wish) => shared.wish(wish.into()),
        ViewEvent::Paste => paste.start(steering.remote()),
        // Servers do not know the devices of a window that only shows.
        ViewEvent::Input(report) if sends => {
            let now = clock::now();
            // A desktop that sees a touch screen changes its ways: only where there are fingers.
            if report.device == TOUCH && !std::mem::replace(&mut touched, true) {
                shared.announce(view::window_touch(TOUCH));
            }
            paste.follow(&report);
            match steering.follow_window(&report) {
                Some(turn) => drop(steering.turn(turn, now)),
                None => {
                    if let Some(link) = steering.link() {
                        link.push(now, report);
                    }
                }
            }
        }
        ViewEvent::Closed => shared.stop(),
        _ => {}
    })
    .map_err(|error| anyhow::anyhow!("{error}"))
}
