//! An X display's CLIPBOARD selection (ICCCM §2).

mod incoming;
mod outgoing;
mod worker;

pub(crate) use worker::Worker;
