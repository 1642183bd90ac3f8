//! The text in a desktop session's clipboard: told when another program copies, and set as a program that copies does. One
//! thread with its own connection to the session's display, which sleeps until the display or its owner has something for it.
//!
//! Which display that is: a Wayland compositor's where it lets programs without a window at its clipboard
//! (`wayland/clipboard`), else an X display's, perhaps Xwayland's (`x11/clipboard`).

mod desktop;
mod orders;
mod step;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub use desktop::Desktop;
pub(crate) use orders::{Order, Orders, next};
pub(crate) use step::{Patience, Step};

use crate::lockdown::{self, Class};
use crate::waker::Waker;
use crate::{wayland, x11};
use orders::lock;

/// What password managers offer beside a secret. Clipboard managers keep none that has it; its value does not matter here.
/// Named by KDE's Klipper, and used by KeePassXC and others under X as under Wayland.
pub(crate) const SECRET: &str = "x-kde-passwordManagerHint";

/// How to use a session's clipboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipboardOptions {
    /// Where it is.
    pub desktop: Desktop,
    /// Longest text that is read, in bytes.
    pub longest: usize,
    /// When reading begins, what is in the clipboard then is told first.
    pub current: bool,
}

/// What happens in the clipboard; never for what was [`Clipboard::set`].
#[derive(Clone, PartialEq, Eq)]
pub enum ClipboardEvent {
    /// A text was copied.
    Text(String),
    /// A text longer than [`ClipboardOptions::longest`] was copied.
    TooLong,
    /// Something was copied that its owner marks as a secret; it is not read.
    Secret,
    /// The X display is used in place of the Wayland compositor, and why.
    Fallback(String),
    /// The display cannot be used, or no more, and why; the last event.
    Ended(String),
}

impl fmt::Debug for ClipboardEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Passwords go through clipboards.
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::TooLong => f.write_str("TooLong"),
            Self::Secret => f.write_str("Secret"),
            Self::Fallback(why) => write!(f, "Fallback({why:?})"),
            Self::Ended(why) => write!(f, "Ended({why:?})"),
        }
    }
}

/// A session's clipboard in use. When it is dropped the thread ends; while it has the clipboard it first serves the text until
/// another program copies something, so that what was copied last can still be pasted.
pub struct Clipboard {
    orders: Arc<Mutex<Orders>>,
    waker: Waker,
}

impl fmt::Debug for Clipboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clipboard").finish_non_exhaustive()
    }
}

impl Clipboard {
    /// Starts the thread, which connects to the display; `on_event` is called there.
    ///
    /// # Errors
    /// The operating system has no more threads or descriptors. A display that does not answer is
    /// [`ClipboardEvent::Ended`].
    pub fn start(
        options: ClipboardOptions,
        mut on_event: impl FnMut(ClipboardEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let waker = Waker::new()?;
        let orders = Arc::new(Mutex::new(Orders::default()));
        let own = Self {
            orders: Arc::clone(&orders),
            waker: waker.clone(),
        };
        std::thread::Builder::new()
            .name("clipboard".into())
            .spawn(move || {
                let outcome = serve(&options, &orders, &waker, &mut on_event);
                lock(&orders).ended = true;
                if let Err(why) = outcome {
                    on_event(ClipboardEvent::Ended(why));
                }
            })?;
        Ok(own)
    }

    /// Puts a text into the clipboard; the newest counts. False if the thread has ended.
    #[must_use]
    pub fn set(&self, text: Arc<str>) -> bool {
        self.order(|orders| orders.set = Some(text))
    }

    /// Tells from now on what other programs copy, or no more. False if the thread has ended.
    #[must_use]
    pub fn read(&self, read: bool) -> bool {
        self.order(|orders| orders.read = read)
    }

    fn order(&self, give: impl FnOnce(&mut Orders)) -> bool {
        let mut orders = lock(&self.orders);
        give(&mut orders);
        let lives = !orders.ended;
        drop(orders);
        self.waker.wake();
        lives
    }
}

impl Drop for Clipboard {
    fn drop(&mut self) {
        self.order(|orders| (orders.left, orders.read) = (true, false));
    }
}

/// Serves until nobody wants it any more, or the display is gone.
fn serve(
    options: &ClipboardOptions,
    orders: &Mutex<Orders>,
    waker: &Waker,
    on_event: &mut impl FnMut(ClipboardEvent),
) -> Result<(), String> {
    let Desktop { wayland, display } = &options.desktop;
    let open = |socket: &Path| wayland::clipboard::Worker::open(options, socket);
    match (wayland.as_deref().map(open), display) {
        (Some(Ok(mut worker)), _) => {
            lockdown::narrow(Class::Network);
            return worker.serve(orders, waker, on_event);
        }
        (Some(Err(why)), None) => return Err(why),
        (Some(Err(why)), Some(_)) => on_event(ClipboardEvent::Fallback(why)),
        (None, _) => {}
    }
    let display = display.as_deref().ok_or("this session has no display")?;
    let mut worker = x11::clipboard::Worker::open(options, display)?;
    lockdown::narrow(Class::Network);
    worker.serve(orders, waker, on_event)
}
