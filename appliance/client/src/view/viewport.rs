//! What the media thread and the statistics hand to the window.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::codec::I420Ref;
use soft_kvm_video::cursor::Cursor;
use soft_kvm_video::frame::Frame;

use super::convert::{BadPicture, to_pixels};

/// Wakes whoever shows the pictures; must not block.
pub(super) type Waker = Box<dyn Fn() + Send>;

/// Which frame a picture is, for [`super::ViewEvent::Presented`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShownFrame {
    /// The frame's number on the wire.
    pub frame: u32,
    /// When it was captured, on this machine's clock.
    pub captured_local: MonoTime,
    /// When it was decoded, on this machine's clock.
    pub decoded: MonoTime,
}

/// The hand-over to the window: newest picture, overlay, status and title. Share it in an `Arc`.
///
/// No call waits for the window or the window system: three buffers go round between the media thread, the
/// hand-over and the window, and a lock is held only to swap them.
#[derive(Default)]
pub struct Viewport {
    back: Mutex<Picture>,
    ready: Mutex<Ready>,
    texts: Mutex<Texts>,
    /// And whether the window has not taken it yet.
    cursor: Mutex<(Cursor, bool)>,
    replaced: AtomicU64,
    closed: AtomicBool,
    /// Whether the viewer takes frames.
    frames: AtomicBool,
    /// A wake-up is on its way, or there is no window yet to wake.
    woken: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A picture, converted or as a frame.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) size: Size,
    /// 0x00RRGGBB, line by line without padding; `size.pixels()` of them. Of no meaning beside a frame.
    pub(super) pixels: Vec<u32>,
    pub(super) frame: Option<Frame>,
    pub(super) info: ShownFrame,
}

#[derive(Debug, Default)]
struct Ready {
    picture: Picture,
    fresh: bool,
}

/// The texts, with a count that goes up when one changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    pub(super) overlay: Vec<String>,
    pub(super) status: String,
    pub(super) title: String,
    pub(super) notice: String,
    pub(super) version: u64,
}

impl fmt::Debug for Viewport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewport").finish_non_exhaustive()
    }
}

impl Viewport {
    /// Nothing to show yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows a picture: converts it on the calling thread (about 0.5 ms at 1920x1080) and wakes the window. A
    /// picture that the window has not taken yet is replaced. Allocates only when the size grows.
    ///
    /// # Errors
    /// [`BadPicture`] when the planes do not fit the size; the picture before stays.
    pub fn show(&self, picture: I420Ref<'_>, info: ShownFrame) -> Result<(), BadPicture> {
        {
            let mut back = lock(&self.back);
            to_pixels(picture, &mut back.pixels)?;
            back.size = picture.size;
            back.info = info;
            self.hand_over(&mut back);
        }
        self.wake();
        Ok(())
    }

    /// Whether the viewer shows frames at the moment: nothing is drawn over them.
    #[must_use]
    pub fn takes_frames(&self) -> bool {
        self.frames.load(Ordering::Acquire)
    }

    pub(super) fn set_frames(&self, taken: bool) {
        self.frames.store(taken, Ordering::Release);
    }

    /// Shows a picture that lies in memory of devices, for a viewer that takes such ones. It goes back when the viewer is
    /// done with it, or when it is replaced.
    pub fn show_frame(&self, frame: Frame, info: ShownFrame) {
        {
            let mut back = lock(&self.back);
            back.size = frame.info().size;
            back.info = info;
            back.frame = Some(frame);
            self.hand_over(&mut back);
        }
        self.wake();
    }

    fn hand_over(&self, back: &mut Picture) {
        {
            let mut ready = lock(&self.ready);
            std::mem::swap(back, &mut ready.picture);
            if std::mem::replace(&mut ready.fresh, true) {
                self.replaced.fetch_add(1, Ordering::Relaxed);
            }
        }
        back.frame = None;
    }

    /// Pictures that were replaced before the window showed them.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Replaces the overlay's lines, which are shown while the operator has the overlay on.
    pub fn set_overlay(&self, lines: &[String]) {
        self.change(|texts| {
            let differs = texts.overlay != lines;
            if differs {
                texts.overlay.clear();
                texts.overlay.extend_from_slice(lines);
            }
            differs
        });
    }

    /// Replaces the cursor that is drawn over the picture.
    pub fn set_cursor(&self, cursor: Cursor) {
        *lock(&self.cursor) = (cursor, true);
        self.wake();
    }

    /// Puts a text over the darkened picture, so that a picture that no longer moves never looks live; an
    /// empty text takes it away.
    pub fn set_status(&self, text: &str) {
        self.change(|texts| replace_text(&mut texts.status, text));
    }

    /// Puts a line over the lower edge of the picture; an empty one takes it away.
    pub fn set_notice(&self, text: &str) {
        self.change(|texts| replace_text(&mut texts.notice, text));
    }

    /// Replaces the window's title.
    pub fn set_title(&self, text: &str) {
        self.change(|texts| replace_text(&mut texts.title, text));
    }

    /// Closes the window: [`super::run`] returns.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    fn change(&self, set: impl FnOnce(&mut Texts) -> bool) {
        let changed = {
            let mut texts = lock(&self.texts);
            let changed = set(&mut texts);
            texts.version += u64::from(changed);
            changed
        };
        if changed {
            self.wake();
        }
    }

    // One wake-up is enough for everything that happens until the window takes it.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            match &*lock(&self.waker) {
                Some(waker) => waker(),
                None => self.woken.store(false, Ordering::Release),
            }
        }
    }

    pub(super) fn attach(&self, waker: Waker) {
        *lock(&self.waker) = Some(waker);
        self.woken.store(false, Ordering::Release);
        self.wake();
    }

    pub(super) fn detach(&self) {
        *lock(&self.waker) = None;
    }

    /// To be called before looking at what changed, so that a later change wakes again.
    pub(super) fn awake(&self) {
        self.woken.store(false, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Swaps the newest picture into `front`; whether there was one.
    pub(super) fn take(&self, front: &mut Picture) -> bool {
        let mut ready = lock(&self.ready);
        let fresh = std::mem::replace(&mut ready.fresh, false);
        if fresh {
            std::mem::swap(front, &mut ready.picture);
        }
        fresh
    }

    /// Takes the cursor over if it changed; whether it did.
    pub(super) fn take_cursor(&self, shown: &mut Cursor) -> bool {
        let (newest, fresh) = &mut *lock(&self.cursor);
        let fresh = std::mem::replace(fresh, false);
        if fresh {
            shown.clone_from(newest);
        }
        fresh
    }

    /// Copies the texts if they changed since `texts`; whether they did.
    pub(super) fn update(&self, texts: &mut Texts) -> bool {
        let newest = lock(&self.texts);
        let changed = newest.version != texts.version;
        if changed {
            texts.clone_from(&newest);
        }
        changed
    }
}

fn replace_text(old: &mut String, new: &str) -> bool {
    let differs = old != new;
    if differs {
        old.clear();
        old.push_str(new);
    }
    differs
}

// A panic in another thread leaves the values whole: a picture at worst has some lines of the one before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use soft_kvm_video::frame::Colorimetry;

    use super::*;

    fn show(viewport: &Viewport, frame: u32, size: Size, luma: u8) {
        let (width, height) = (size.width as usize, size.height as usize);
        let chroma = vec![128; width * height / 4];
        let picture = I420Ref {
            size,
            planes: [&vec![luma; width * height], &chroma, &chroma],
            strides: [width, width / 2, width / 2],
            color: Colorimetry::default(),
        };
        let info = ShownFrame {
            frame,
            ..ShownFrame::default()
        };
        viewport.show(picture, info).expect("a picture that fits");
    }

    #[test]
    fn the_window_gets_the_newest_picture_once() {
        let viewport = Viewport::new();
        let mut front = Picture::default();
        assert!(!viewport.take(&mut front));
        show(&viewport, 1, Size::new(32, 16), 16);
        show(&viewport, 2, Size::new(64, 32), 235);
        assert_eq!(viewport.replaced(), 1);
        assert!(viewport.take(&mut front));
        assert_eq!((front.info.frame, front.size), (2, Size::new(64, 32)));
        assert_eq!(front.pixels.len(), 64 * 32);
        assert_eq!(front.pixels[0] & 0xff_ffff, 0xff_ffff);
        assert!(!viewport.take(&mut front));
        assert_eq!(front.info.frame, 2);
    }

    #[test]
    fn unchanged_texts_are_no_change() {
        let viewport = Viewport::new();
        let mut texts = Texts::default();
        viewport.set_status("reconnecting…");
        assert!(viewport.update(&mut texts));
        viewport.set_status("reconnecting…");
        viewport.set_overlay(&[]);
        assert!(!viewport.update(&mut texts));
        viewport.set_status("");
        assert!(viewport.update(&mut texts));
        assert_eq!(texts.status, "");
    }
}
