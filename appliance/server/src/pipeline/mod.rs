//! The picture's way from the source to the viewers' senders: two threads and a one-slot hand-over.
//!
//! `capture` opens the source while somebody watches and puts frames into the slot; `encode` takes the newest,
//! converts what changed, encodes it once and hands it to every viewer. With no viewer both sleep, and the
//! device is closed.

mod capture;
mod encode;
mod open;
mod state;
mod testcard;

use std::sync::Arc;
use std::thread::JoinHandle;

use soft_kvm_protocol::control::VideoInfo;
use soft_kvm_protocol::media::AccessUnit;
use soft_kvm_video::slot::NewestSlot;

pub use state::{Counters, Shared};

/// Where encoded pictures go; called on the `encode` thread.
pub trait Viewers: Send + Sync {
    /// Hands an access unit to everyone who watches.
    fn deliver(&self, unit: &AccessUnit<'_>);

    /// Tells everyone who watches, or will watch, what the picture is.
    fn announce(&self, info: VideoInfo);
}

/// The running pipeline; dropping it stops and joins the threads.
#[derive(Debug)]
pub struct Pipeline {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the two threads, asleep.
    ///
    /// # Errors
    /// The operating system's, when it gives no more threads.
    pub fn start(shared: Arc<Shared>, viewers: Arc<dyn Viewers>) -> std::io::Result<Self> {
        let slot = Arc::new(NewestSlot::default());
        shared.attach(Arc::clone(&slot));
        let capture = {
            let (shared, slot) = (Arc::clone(&shared), Arc::clone(&slot));
            std::thread::Builder::new()
                .name("capture".into())
                .spawn(move || capture::run(&shared, &slot))?
        };
        let encode = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("encode".into())
                .spawn(move || encode::run(&shared, &slot, viewers.as_ref()))?
        };
        Ok(Self {
            shared,
            threads: vec![capture, encode],
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a pipeline thread panicked");
            }
        }
    }
}
