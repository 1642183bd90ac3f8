//! What the clipboard's thread is to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct Orders {
    /// Others' texts are told.
    pub(super) read: bool,
    /// To be put into the clipboard.
    pub(super) set: Option<Arc<str>>,
    /// Nobody has orders any more.
    pub(super) left: bool,
    /// The thread has ended.
    pub(super) ended: bool,
}

/// What is to be done now.
pub(crate) struct Order {
    /// Whether others' texts are told.
    pub(crate) read: bool,
    /// To be put into the clipboard.
    pub(crate) set: Option<Arc<str>>,
}

/// The next order; `None` when the thread is to end. While it `serves` a text it goes on.
pub(crate) fn next(orders: &Mutex<Orders>, serves: bool) -> Option<Order> {
    let mut orders = lock(orders);
    let set = orders.set.take();
    if orders.left && set.is_none() && !serves {
        // Said under the lock: an order that comes now learns that nobody follows it.
        orders.ended = true;
        return None;
    }
    let read = orders.read;
    Some(Order { read, set })
}

pub(super) fn lock(orders: &Mutex<Orders>) -> MutexGuard<'_, Orders> {
    // Every critical section leaves its data consistent: a panic elsewhere is reported where it happened.
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}
