//! What a session's client may do at this moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use soft_kvm_protocol::input::InputEvent;
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::policy::{self, Act};

/// Asked before anything of a session takes effect, on whichever carrier it came. Once shut it stays so.
#[derive(Debug)]
pub struct Gate {
    role: Role,
    shut: AtomicBool,
    keys: AtomicU64,
}

impl Gate {
    /// Open for a client with this role.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            shut: AtomicBool::new(false),
            keys: AtomicU64::new(0),
        }
    }

    /// What the client may do, unless the gate is shut.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        (!self.is_shut()).then_some(self.role)
    }

    /// Whether the client may do this now.
    #[must_use]
    pub fn lets(&self, act: Act) -> bool {
        self.role().is_some_and(|role| policy::may(role, act))
    }

    /// Counts keys and buttons that went down; which ones they were is kept nowhere.
    pub fn count_keys(&self, events: &[InputEvent]) {
        let down = |event: &&InputEvent| event.as_key().is_some_and(|(_, down)| down);
        let count = events.iter().filter(down).count();
        self.keys.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many keys and buttons went down.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// Lets nothing through any more.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// Whether nothing gets through.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shut_gate_lets_nobody_through() {
        for role in Role::ALL {
            let gate = Gate::new(role);
            assert_eq!(gate.lets(Act::Inject), role >= Role::Control);
            assert_eq!(gate.lets(Act::Clipboard), role >= Role::Control);
            gate.shut();
            let acts = [Act::Inject, Act::Clipboard, Act::Manage];
            assert!(!acts.into_iter().any(|act| gate.lets(act)));
            assert_eq!(gate.role(), None);
        }
    }
}
