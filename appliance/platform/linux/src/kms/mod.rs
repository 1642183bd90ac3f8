//! Capture of what a screen shows, from DRM/KMS: linear framebuffers as they are, tiled and compressed ones through a GPU.
//!
//! Works below every compositor, on the text console and at the login screen. Reading another program's
//! framebuffer needs `CAP_SYS_ADMIN` (without it the kernel hides the buffer handles of `GETFB2`).
//!
//! A frame of a screen with one linear plane is a view of the live framebuffer as a DMA-BUF, not a copy: a program that draws
//! into the front buffer may draw while it is read. Several planes are put together by the CPU. The cursor plane
//! goes apart, as [`soft_kvm_video::source::Captured::Cursor`].
//!
//! | file | what it does |
//! |---|---|
//! | `source.rs` | when to look, and what to give |
//! | `planes.rs` | what each plane shows, and where |
//! | `picture.rs` | a frame of that |
//! | `framebuffer.rs`, `cache.rs`, `mapping.rs` | a framebuffer's memory: exported, kept, mapped |
//! | `linear.rs` | a framebuffer that only a GPU reads, drawn into linear memory |
//! | `cursor.rs` | the cursor plane |
//! | `flips.rs` | when nothing can have changed |
//! | `card.rs`, `sys.rs` | the card and its ioctls |

mod cache;
mod card;
mod cursor;
mod flips;
mod framebuffer;
mod linear;
mod mapping;
mod picture;
mod planes;
mod source;
mod sys;

use std::path::PathBuf;

use soft_kvm_core::FrameRate;
use soft_kvm_core::story::GpuMode;

pub(crate) use card::Card;
pub use card::active_connectors;
pub(crate) use framebuffer::{Layout, take_framebuffer};
pub(crate) use mapping::Exported;
pub use source::KmsSource;
pub(crate) use sys::Fb2;

/// Which screen to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsOptions {
    /// The card's node, e.g. `/dev/dri/card0`.
    pub device: PathBuf,
    /// Connector as the kernel names it, e.g. `HDMI-A-1`; by default the first that shows something.
    pub connector: Option<String>,
    /// Wanted rate; the screen's own is the limit.
    pub rate: FrameRate,
    /// Which framebuffers go through a GPU.
    pub gpu: GpuMode,
}

impl KmsOptions {
    /// The first active connector of a card, 30 frames in a second, a GPU where nothing else reads the memory.
    #[must_use]
    pub fn new(device: impl Into<PathBuf>) -> Self {
        Self {
            device: device.into(),
            connector: None,
            rate: FrameRate::hz(30),
            gpu: GpuMode::Auto,
        }
    }
}
