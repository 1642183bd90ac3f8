//! `--view window`: the picture in a window of X11 or Wayland, drawn by the CPU, and the window's keyboard, pointer and touch screen.
//!
//! The media thread hands pictures to a [`Viewport`]; [`run`] owns the main thread, shows the newest one, and gives
//! [`ViewEvent`]s back. Keys of the window itself, which are not sent to the server:
//!
//! | keys | what they do |
//! |---|---|
//! | Ctrl+Alt+Shift+S | overlay on and off |
//! | Ctrl+Alt+Shift+Z | sending of keyboard and pointer on and off |
//! | Ctrl+Alt+Shift+X | full screen on and off |
//! | Ctrl+Alt+Shift+V | type the clipboard's text on the server |
//! | Ctrl+Alt+Shift+R | ask for keyboard and mouse, where another has them |
//! | Ctrl+Alt+Shift+G, N | give them to who asks, or keep them |
//! | Ctrl+Alt+Shift+L | have them no more, or ask no more |
//! | Ctrl+Alt+Shift+T | have them at once, as an admin |
//! | Ctrl+Alt+Shift+Q | close |
//! | F11 | full screen, while keyboard and pointer are not sent (firmware set-up screens need F11) |

pub(crate) mod convert;
mod input;
mod paint;
pub(crate) mod screen;
mod touch;
mod viewport;
mod window;

use soft_kvm_core::MonoTime;
use soft_kvm_input::Wish;
use soft_kvm_protocol::input::EventReport;

pub use convert::BadPicture;
pub use input::{window_keyboard, window_pointer};
pub use touch::window_touch;
pub use viewport::{ShownFrame, Viewport};
#[doc(hidden)]
pub use window::run_on_any_thread;
pub use window::{ViewError, ViewOptions, run};

/// What happens in the window.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ViewEvent<'a> {
    /// A new picture was handed to the window system.
    Presented {
        /// Which one.
        frame: ShownFrame,
        /// When the call that presents came back.
        at: MonoTime,
        /// The monitor reads the decoder's own memory: no pixel was touched by the CPU.
        direct: bool,
    },
    /// The window's keyboard, pointer or touch screen, as a device with the id given in [`ViewOptions`]; never empty.
    Input(EventReport<'a>),
    /// Sending of input was switched on or off; all keys are up.
    SendInput(bool),
    /// The operator wants the clipboard's text typed; all keys are up.
    Paste,
    /// The operator wants keyboard and mouse, or to pass them on.
    Control(Wish),
    /// The operator closed the window; [`run`] returns.
    Closed,
}
