//! The text in an X display's CLIPBOARD selection (ICCCM §2): told when another program copies, and set as a program that
//! copies does. One thread with its own connection, which sleeps until the display or its owner has something for it.

mod incoming;
mod outgoing;
mod worker;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::waker::Waker;

/// How to use a display's clipboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipboardOptions {
    /// The display's name, e.g. `:0`; by default the environment's.
    pub display: Option<String>,
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
    /// The display cannot be used, or no more, and why; the last event.
    Ended(String),
}

impl fmt::Debug for ClipboardEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Passwords go through clipboards.
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::TooLong => f.write_str("TooLong"),
            Self::Ended(why) => write!(f, "Ended({why:?})"),
        }
    }
}

/// A display's clipboard in use. When it is dropped the thread ends; while it has the clipboard it first serves the text until
/// another program copies something, so that what was copied last can still be pasted.
pub struct Clipboard {
    orders: Arc<Mutex<Orders>>,
    waker: Waker,
}

/// What the thread is to do.
#[derive(Default)]
struct Orders {
    /// Others' texts are told.
    read: bool,
    /// To be put into the clipboard.
    set: Option<Arc<str>>,
    /// Nobody has orders any more.
    left: bool,
    /// The thread has ended.
    ended: bool,
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
        on_event: impl FnMut(ClipboardEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let waker = Waker::new()?;
        let orders = Arc::new(Mutex::new(Orders::default()));
        let own = Self {
            orders: Arc::clone(&orders),
            waker: waker.clone(),
        };
        std::thread::Builder::new()
            .name("clipboard".into())
            .spawn(move || worker::run(&options, &orders, &waker, on_event))?;
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

fn lock(orders: &Mutex<Orders>) -> MutexGuard<'_, Orders> {
    // Every critical section leaves its data consistent: a panic elsewhere is reported where it happened.
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}
