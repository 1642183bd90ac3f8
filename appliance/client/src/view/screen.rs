//! `--view kms`: full screen on a monitor without a window system, on the main thread.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use soft_kvm_core::{FrameRate, MonoTime, Size};
use soft_kvm_platform::os::display::{self, Display, DisplayError, DisplayOptions};
use soft_kvm_video::convert::Converter;
use soft_kvm_video::cursor::Cursor;
use soft_kvm_video::frame::Frame;

use super::ViewEvent;
use super::convert::to_pixels;
use super::paint::{self, Placement, Scaler};
use super::viewport::{Picture, Texts, Viewport};

/// How often a monitor that has gone is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// The subcommand that is the screen's keeper.
pub(crate) const KEEPER: &str = "screen-keeper";

/// How the screen is used.
#[derive(Clone, Debug)]
pub(crate) struct ScreenOptions {
    /// This machine's `CLOCK_MONOTONIC`.
    pub(crate) now: fn() -> MonoTime,
    /// Which monitor.
    pub(crate) display: DisplayOptions,
    /// Show the overlay.
    pub(crate) overlay: bool,
}

/// The keeper's process.
///
/// # Errors
/// It was started by hand, or the screen cannot be restored.
pub(crate) fn keep(crtc: u32, connector: u32) -> anyhow::Result<()> {
    display::run_keeper(crtc, connector).context("this is for soft-kvm-client itself")
}

/// Takes the monitor and shows the viewport's pictures until [`Viewport::close`] is called. What was on the monitor
/// before comes back at the end. A monitor that is pulled is waited for. `rate` tells that of the stream, once it is known.
///
/// # Errors
/// [`DisplayError`] when no monitor can be taken at the start.
pub(crate) fn run(
    viewport: &Viewport,
    options: &ScreenOptions,
    rate: impl Fn() -> Option<FrameRate>,
    mut on_event: impl FnMut(ViewEvent<'_>),
) -> Result<(), DisplayError> {
    let mut screen = Screen {
        display: Display::open(&options.display)?,
        front: Picture::default(),
        texts: Texts::default(),
        scaler: Scaler::default(),
        cursor: Cursor::default(),
        pointed: false,
        canvas: Vec::new(),
        leaving: None,
        refused: None,
        reader: Converter::new(),
    };
    let main = thread::current();
    viewport.attach(Box::new(move || main.unpark()));
    let mut stale = true;
    let mut lost = false;
    loop {
        viewport.awake();
        if viewport.is_closed() {
            break;
        }
        let before = screen.front.frame.take();
        let fresh = viewport.take(&mut screen.front);
        let leaving = if fresh {
            before
        } else {
            screen.front.frame = before;
            None
        };
        let texts = viewport.update(&mut screen.texts);
        let cursor = viewport.take_cursor(&mut screen.cursor);
        stale |= fresh || texts;
        stale |= cursor && !screen.point();
        if !stale {
            thread::park();
            continue;
        }
        // Before the server has told: a multiple of 30 pictures in a second shows 30 and 60 evenly.
        let pace = rate().unwrap_or_else(|| FrameRate::hz(30));
        let drawn = screen.draw(options.overlay, pace);
        viewport.set_frames(screen.takes_frames(options.overlay));
        if fresh {
            screen.leaving = leaving;
        }
        match drawn {
            Ok(direct) => {
                (stale, lost) = (false, false);
                if fresh {
                    on_event(ViewEvent::Presented {
                        frame: screen.front.info,
                        at: (options.now)(),
                        direct,
                    });
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut lost, true) {
                    tracing::warn!("{error}: tried again every half second");
                }
                thread::park_timeout(LOOK);
            }
        }
    }
    viewport.detach();
    Ok(())
}

struct Screen {
    display: Display,
    front: Picture,
    texts: Texts,
    scaler: Scaler,
    cursor: Cursor,
    /// The cursor is shown by the hardware, not drawn into the picture.
    pointed: bool,
    /// 0x00RRGGBB; graphics memory is slow to read, so nothing is mixed there.
    canvas: Vec<u32>,
    /// The frame before, which the monitor shows until its next refresh.
    leaving: Option<Frame>,
    /// Size of pictures that the hardware does not show as they lie in memory.
    refused: Option<Size>,
    /// Reads frames that something is drawn over.
    reader: Converter,
}

impl Screen {
    /// Shows the cursor where it is now; false when that takes a new picture.
    fn point(&mut self) -> bool {
        let before = std::mem::replace(&mut self.pointed, self.display.point(&self.cursor));
        // One that was drawn has to go from the picture.
        self.pointed && before
    }

    /// Whether the next picture may lie in a decoder's memory: nothing is drawn over it, and the hardware takes such ones.
    fn takes_frames(&self, overlay: bool) -> bool {
        let texts = &self.texts;
        let overlaid = overlay && !texts.overlay.is_empty();
        let bare = texts.status.is_empty() && texts.notice.is_empty() && !overlaid;
        let drawn = self.cursor.image.is_some() && !self.pointed;
        bare && !drawn && self.refused != Some(self.front.size)
    }

    /// The frame's pixels for the CPU.
    fn read(&mut self) {
        let Some(frame) = &self.front.frame else {
            return;
        };
        let pixels = &mut self.front.pixels;
        let read = self.reader.update(frame).map_err(|error| error.to_string());
        let read = read.and_then(|_| {
            to_pixels(self.reader.picture(), pixels).map_err(|error| error.to_string())
        });
        if let Err(error) = read {
            tracing::warn!("{error}");
            pixels.clear();
        }
        // Odd edges are left out.
        pixels.resize(self.front.size.pixels(), 0);
    }

    /// Shows what is in front; whether as it lies in the decoder's memory.
    fn draw(&mut self, overlay: bool, rate: FrameRate) -> Result<bool, DisplayError> {
        let size = self.display.prepare(self.front.size, rate)?;
        self.point();
        if self.takes_frames(overlay)
            && let Some(frame) = &self.front.frame
        {
            if self.display.show_frame(frame)? {
                return Ok(true);
            }
            self.refused = Some(self.front.size);
        }
        self.read();
        self.canvas.resize(size.pixels(), 0);
        let place = Placement::fit(self.front.size, size);
        let picture = self.front.size;
        self.scaler
            .draw(picture, &self.front.pixels, place, size, &mut self.canvas);
        if !self.pointed {
            paint::cursor(size, &mut self.canvas, place, picture, &self.cursor);
        }
        if !self.texts.status.is_empty() {
            paint::status(size, &mut self.canvas, &self.texts.status);
        }
        if !self.texts.notice.is_empty() {
            paint::notice(size, &mut self.canvas, &self.texts.notice);
        }
        if overlay && !self.texts.overlay.is_empty() {
            paint::overlay(size, &mut self.canvas, &self.texts.overlay);
        }
        self.display.show(&self.canvas)?;
        Ok(false)
    }
}
