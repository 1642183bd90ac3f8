//! The `force` thread: plays on the operator's devices what programs on the servers want. A device may be slow to do it,
//! and nothing else waits for that.

mod inbox;

use std::sync::Arc;
use std::thread::JoinHandle;

use soft_kvm_input::force::Player;
use soft_kvm_platform::os::force::Hardware;
use soft_kvm_protocol::input::DeviceId;

use inbox::Work;
pub(crate) use inbox::{Inbox, Server};

/// The running thread; dropping it stops everything that is played.
#[derive(Debug)]
pub(crate) struct ForceThread {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl ForceThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's, when it gives no more threads.
    pub(crate) fn start(inbox: &Arc<Inbox>) -> std::io::Result<Self> {
        let theirs = Arc::clone(inbox);
        let thread = std::thread::Builder::new()
            .name("force".into())
            .spawn(move || run(&theirs))?;
        Ok(Self {
            inbox: Arc::clone(inbox),
            thread: Some(thread),
        })
    }
}

impl Drop for ForceThread {
    fn drop(&mut self) {
        self.inbox.stop();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the force thread panicked");
        }
    }
}

fn run(inbox: &Inbox) {
    let mut player: Player<Hardware> = Player::new();
    while let Some(work) = inbox.next() {
        match work {
            Work::Arrived(id, abilities, device) => player.add_device(id, abilities, device),
            Work::Gone(id) => player.remove_device(id),
            Work::Lost(server) => player.forget(server),
            Work::Place(place) => {
                for (id, error) in player.set_place(place) {
                    tell(id, &error);
                }
            }
            Work::Change(server, id, change) => {
                if let Some(error) = player.change(server, id, change) {
                    tell(id, &error);
                }
            }
        }
    }
    // The devices are left as after a switch: settings outlive the closing that follows.
    player.set_place(None);
}

fn tell(device: DeviceId, error: &std::io::Error) {
    tracing::warn!(%device, %error, "force feedback is not played; this is told once");
}
