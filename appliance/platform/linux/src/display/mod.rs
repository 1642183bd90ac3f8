//! A monitor without a window system: mode setting and page flips of a DRM card (kernel doc "Kernel Mode Setting").
//!
//! The kernel gives the screen back when the descriptor is closed, also when the process is killed. A clean end puts
//! back itself what was there before; for a process that is killed its keeper does.

mod direct;
mod keeper;
mod mode;
mod pointer;
mod screen;

pub use keeper::{KeeperCommand, run_keeper};
pub(crate) use screen::open_master;
pub use screen::{Display, DisplayOptions};

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DisplayError {
    /// There is no card, or none with a connected monitor.
    #[error("{0}")]
    NoMonitor(String),
    /// Another program, such as a desktop, has the screen.
    #[error(
        "{device}: another program has the screen: switch to a text console (Ctrl+Alt+F3), or use --view window"
    )]
    Busy {
        /// The card.
        device: String,
    },
    /// The operating system said no.
    #[error("{device}: {action}: {source}")]
    Io {
        /// The card.
        device: String,
        /// The step that failed.
        action: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}
