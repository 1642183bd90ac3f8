//! What the server's parts share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use soft_kvm_core::Lang;
use soft_kvm_core::story::Story;
use soft_kvm_monitoring::Metrics;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::audit::Event;
use soft_kvm_security::handover::What;
use soft_kvm_security::pairing::{PairingError, PairingWindow};
use soft_kvm_security::policy::By;
use soft_kvm_security::{Identity, PeerStore};
use soft_kvm_service::console;

use crate::audit::Audit;
use crate::clipboard::Clipboards;
use crate::session::{Sessions, SinkChoice};

/// The running server, as its tasks and threads see it.
#[derive(Debug)]
pub struct Context {
    /// The server's key.
    pub identity: Identity,
    /// The paired clients.
    pub peers: PeerStore,
    /// Where what clients do is kept.
    pub audit: Audit,
    /// The connected clients.
    pub sessions: Arc<Sessions>,
    /// The clipboard that is shared with them.
    pub clipboards: Arc<Clipboards>,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// Port of the media socket.
    pub udp_port: u16,
    /// Wall clock (NTP) minus monotonic clock at the start, in nanoseconds; kept, so that it never steps.
    pub ntp_minus_mono_ns: u64,
    /// The console's language.
    pub lang: Lang,
    /// The running story, and what follows from it.
    pub running: Mutex<Running>,
    /// Readiness to pair, and the role that the next client gets, if one was named.
    pub pairing: Mutex<Option<(PairingWindow, Option<Role>)>>,
    /// Random numbers of the system.
    pub random: ring::rand::SystemRandom,
}

/// What a reload replaces.
#[derive(Clone, Debug)]
pub struct Running {
    /// The story.
    pub story: Arc<Story>,
    /// The server's name for people.
    pub name: PeerName,
    /// Where clients reach the server.
    pub control_port: u16,
    /// Where input goes.
    pub sinks: SinkChoice,
}

impl Context {
    /// The running story.
    #[must_use]
    pub fn story(&self) -> Arc<Story> {
        Arc::clone(&lock(&self.running).story)
    }

    /// The server's name for people.
    #[must_use]
    pub fn name(&self) -> PeerName {
        lock(&self.running).name.clone()
    }

    /// Where clients reach the server.
    #[must_use]
    pub fn control_port(&self) -> u16 {
        lock(&self.running).control_port
    }

    /// Where new sessions' input goes.
    #[must_use]
    pub fn sinks(&self) -> SinkChoice {
        lock(&self.running).sinks.clone()
    }

    /// Fills `bytes` from the system's random number generator.
    ///
    /// # Errors
    /// The system gives none.
    pub fn random(&self, bytes: &mut [u8]) -> anyhow::Result<()> {
        ring::rand::SecureRandom::fill(&self.random, bytes)
            .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))
    }

    /// Keeps in the audit log what became of keyboard and mouse since the last call.
    pub fn record_handovers(&self) {
        for change in self.sinks().turns.take_changes() {
            let (client, key) = (change.name, change.peer.to_string());
            self.audit.record(match change.what {
                What::Controls(how) => {
                    let how = how.as_str();
                    Event::Controls { client, key, how }
                }
                What::Asks => Event::ControlAsked { client, key },
                What::Refused => Event::ControlRefused { client, key },
                _ => Event::ControlReleased { client, key },
            });
        }
    }

    /// Opens a pairing window, in place of one that is open, and gives its code. The client that pairs gets `role`, or what
    /// [`soft_kvm_security::policy::role_at_pairing`] says.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn open_pairing(&self, role: Option<Role>, by: By) -> Result<String, PairingError> {
        let now = clock::now();
        let window = PairingWindow::open(now)?;
        let code = window.code(now).map(|code| code.reveal().to_owned());
        *lock(&self.pairing) = Some((window, role));
        self.audit.record(Event::PairingOpened {
            role,
            by: by.to_string(),
        });
        code.ok_or(PairingError::Closed)
    }

    /// Runs one step of a pairing in the open window.
    ///
    /// # Errors
    /// No window is open, or what the step says.
    pub fn with_pairing<T>(
        &self,
        step: impl FnOnce(&mut PairingWindow) -> Result<T, PairingError>,
    ) -> Result<T, PairingError> {
        let mut pairing = lock(&self.pairing);
        let (window, _) = pairing.as_mut().ok_or(PairingError::Closed)?;
        step(window)
    }

    /// The role for who pairs in the open window, if one was named.
    #[must_use]
    pub fn pairing_role(&self) -> Option<Role> {
        lock(&self.pairing).as_ref().and_then(|(_, role)| *role)
    }

    /// Tells the console after a try: the code has been renewed, or the window is closed.
    pub fn pairing_changed(&self) {
        let now = clock::now();
        let state = lock(&self.pairing).as_ref().map(|(window, _)| {
            (
                window.code(now).map(|code| code.reveal().to_owned()),
                window.tries_left(),
            )
        });
        match state {
            Some((Some(_), left)) if left < soft_kvm_security::pairing::MAX_WRONG_TRIES => {
                tracing::warn!(left, "wrong pairing code");
            }
            Some((None, 0)) => console::out(self.lang.pick(
                "Pairing is closed after too many wrong codes. Run: soft-kvm-server pair",
                "コードの誤りが続いたため、ペアリングを閉じました。soft-kvm-server pair で再開できます。",
            )),
            _ => {}
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data consistent: a panic elsewhere is reported where it happened.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
