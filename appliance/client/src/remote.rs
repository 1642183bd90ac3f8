//! One server of the client: how to find it, its connection while there is one, its figures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_channel::{Receiver, Sender};
use soft_kvm_protocol::handover::ControlRequest;

use crate::clipboard::Copied;
use crate::control::target::Target;
use crate::desk::Desk;
use crate::session::cursor::RemoteCursor;
use crate::session::link::InputLink;
use crate::session::outputs::lock;
use crate::session::stats::Stats;

/// A server that a connection is kept to.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) target: Target,
    /// The way to the server while there is one.
    pub(crate) link: Mutex<Option<Arc<InputLink>>>,
    /// Input records for the control channel of the current connection.
    pub(crate) records: Mutex<Option<Sender<Vec<u8>>>>,
    /// LEDs and auto-repeat that the server told, for the grabbed devices.
    pub(crate) feedback: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    pub(crate) stats: Arc<Mutex<Stats>>,
    /// Its cursor, which is not in its picture.
    pub(crate) cursor: RemoteCursor,
    /// Who has its keyboard and mouse.
    pub(crate) desk: Mutex<Desk>,
    /// What this seat wants with them.
    pub(crate) wishes: (Sender<ControlRequest>, Receiver<ControlRequest>),
    /// What is still to be copied into its clipboard.
    pub(crate) copied: Copied,
    shown: AtomicBool,
    /// Wakes the connection's task when `shown` changed.
    pub(crate) turned: (Sender<()>, Receiver<()>),
}

impl Remote {
    /// A server that is not connected yet.
    pub(crate) fn new(target: Target, shown: bool) -> Self {
        Self {
            target,
            link: Mutex::new(None),
            records: Mutex::new(None),
            feedback: async_channel::bounded(64),
            stats: Arc::new(Mutex::new(Stats::new())),
            cursor: RemoteCursor::default(),
            desk: Mutex::default(),
            wishes: async_channel::bounded(8),
            copied: Copied::default(),
            shown: AtomicBool::new(shown),
            turned: async_channel::bounded(1),
        }
    }

    /// The way to the server, if there is one now.
    pub(crate) fn link(&self) -> Option<Arc<InputLink>> {
        lock(&self.link).clone()
    }

    /// Whether this server's picture is the one that is shown, recorded and measured.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown.load(Ordering::Acquire)
    }

    /// Shows this server's picture, or no more.
    pub(crate) fn set_shown(&self, shown: bool) {
        if self.shown.swap(shown, Ordering::AcqRel) != shown {
            // One that is waiting already is enough.
            let _ = self.turned.0.try_send(());
        }
    }
}
