//! The one-slot hand-over: the newest frame wins, older ones are dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A slot for one value between two threads. Never a queue: putting replaces.
#[derive(Debug)]
pub struct NewestSlot<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    replaced: AtomicU64,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    woken: bool,
    closed: bool,
}

/// What [`NewestSlot::take`] came back with.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The newest value.
    Value(T),
    /// Nothing was put within the time.
    TimedOut,
    /// [`NewestSlot::wake`] was called, and nothing was put.
    Woken,
    /// The slot is closed and empty.
    Closed,
}

impl<T> Default for NewestSlot<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                value: None,
                woken: false,
                closed: false,
            }),
            ready: Condvar::new(),
            replaced: AtomicU64::new(0),
        }
    }
}

impl<T> NewestSlot<T> {
    /// Puts a value, and drops the one that nobody took. Does nothing once closed.
    pub fn put(&self, value: T) {
        let old = {
            let mut state = self.lock();
            if state.closed {
                Some(value)
            } else {
                state.value.replace(value)
            }
        };
        if old.is_some() {
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        self.ready.notify_one();
    }

    /// Waits for a value, at most `timeout`.
    pub fn take(&self, timeout: Duration) -> Taken<T> {
        let state = self.lock();
        let (mut state, _) = self
            .ready
            .wait_timeout_while(state, timeout, |state| {
                state.value.is_none() && !state.woken && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let woken = std::mem::take(&mut state.woken);
        match state.value.take() {
            Some(value) => Taken::Value(value),
            None if state.closed => Taken::Closed,
            None if woken => Taken::Woken,
            None => Taken::TimedOut,
        }
    }

    /// Wakes the taker once, for something other than a value.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.ready.notify_one();
    }

    /// Wakes the taker for good.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// How many values were dropped because a newer one came, or because the slot was closed.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    // A panic in another thread leaves the slot's fields consistent: go on.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_wins() {
        let slot = NewestSlot::default();
        slot.put(1);
        slot.put(2);
        slot.put(3);
        assert_eq!(slot.take(Duration::ZERO), Taken::Value(3));
        assert_eq!(slot.take(Duration::ZERO), Taken::TimedOut);
        assert_eq!(slot.replaced(), 2);
    }

    #[test]
    fn waking_is_remembered_once() {
        let slot = NewestSlot::<u8>::default();
        slot.wake();
        assert_eq!(slot.take(Duration::from_secs(60)), Taken::Woken);
        assert_eq!(slot.take(Duration::ZERO), Taken::TimedOut);
    }

    #[test]
    fn waking_counts_once_and_a_value_goes_first() {
        let slot = NewestSlot::default();
        slot.wake();
        assert_eq!(slot.take(Duration::from_secs(60)), Taken::Woken);
        assert_eq!(slot.take(Duration::ZERO), Taken::TimedOut);
        slot.wake();
        slot.put(1);
        assert_eq!(slot.take(Duration::ZERO), Taken::Value(1));
        assert_eq!(slot.take(Duration::ZERO), Taken::TimedOut);
    }

    #[test]
    fn closing_lets_the_last_value_out() {
        let slot = NewestSlot::default();
        slot.put(1);
        slot.close();
        slot.put(2);
        assert_eq!(slot.take(Duration::ZERO), Taken::Value(1));
        assert_eq!(slot.take(Duration::from_secs(60)), Taken::Closed);
    }
}
