//! A display server of the test's own, and its clipboard in use.

use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use soft_kvm_platform_linux::clipboard::{Clipboard, ClipboardEvent, ClipboardOptions, Desktop};

/// A program that is stopped with this.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The clipboard, and what is told of it.
pub(crate) fn start(
    desktop: Desktop,
    longest: usize,
    current: bool,
) -> (Clipboard, Receiver<ClipboardEvent>) {
    let options = ClipboardOptions {
        desktop,
        longest,
        current,
    };
    let (events, heard) = channel();
    let clipboard = Clipboard::start(options, move |event| {
        let _ = events.send(event);
    });
    (clipboard.expect("a thread"), heard)
}

/// That this was copied, as it is heard.
pub(crate) fn text(text: &str) -> Result<ClipboardEvent, RecvTimeoutError> {
    Ok(ClipboardEvent::Text(text.to_owned()))
}
