//! The picture's way from the source to the viewers' senders: two threads and a one-slot hand-over.
//!
//! `capture` opens the source while somebody watches and puts frames into the slot; `encode` takes the newest,
//! converts what changed, encodes it once and hands it to every viewer. With no viewer both sleep, and the
//! device is closed.

mod capture;
mod converting;
mod encode;
mod ladder;
mod open;
mod rungs;
mod state;
mod testcard;

use std::sync::Arc;
use std::thread::JoinHandle;

use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_protocol::control::VideoInfo;
use soft_kvm_protocol::media::AccessUnit;
use soft_kvm_video::cursor::Cursor;
use soft_kvm_video::slot::NewestSlot;

pub(crate) use rungs::makes_h264;
pub use state::{Counters, Shared};

/// Where encoded pictures go; called on the `encode` thread unless said otherwise.
pub trait Viewers: Send + Sync {
    /// Hands an access unit to everyone who watches.
    fn deliver(&self, unit: &AccessUnit<'_>);

    /// Tells everyone who watches, or will watch, what the picture is.
    fn announce(&self, info: VideoInfo);

    /// Tells everyone who watches, or will watch, about the cursor, which is not in the picture; called on the
    /// `capture` thread.
    fn cursor(&self, cursor: &Cursor);
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
            let (shared, slot, viewers) =
                (Arc::clone(&shared), Arc::clone(&slot), Arc::clone(&viewers));
            std::thread::Builder::new()
                .name("capture".into())
                .spawn(move || {
                    lockdown::narrow(Class::Device);
                    capture::run(&shared, &slot, viewers.as_ref());
                })?
        };
        let encode = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("encode".into())
                .spawn(move || {
                    lockdown::narrow(Class::Device);
                    // Drivers take their time to say what they have: not when the first viewer comes.
                    rungs::ask_drivers(&shared.encode_params());
                    let encoders = rungs::Machine(&shared);
                    encode::run(&shared, &slot, viewers.as_ref(), &encoders);
                })?
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
