//! What the compositor has told.

use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use wayland_client::protocol::{wl_callback, wl_registry, wl_seat};
use wayland_client::{Connection, Dispatch, Proxy as _, QueueHandle};
use wayland_protocols::ext::data_control::v1::client::ext_data_control_manager_v1::ExtDataControlManagerV1;
use wayland_protocols_wlr::data_control::v1::client::zwlr_data_control_manager_v1::ZwlrDataControlManagerV1;

use super::kinds::{Kinds, TEXTS};
use super::outgoing::Outgoing;
use super::protocol::{Offer, Source};

/// Most programs that are given our text at the same time; the one that waits longest makes room.
const MOST_READERS: usize = 16;

pub(super) struct State {
    /// The kind that only we offer.
    pub(super) mark: String,
    /// Names in the registry.
    pub(super) seat: Option<u32>,
    pub(super) ext: Option<u32>,
    pub(super) wlr: Option<u32>,
    /// It has answered all that was asked so far.
    pub(super) synced: bool,
    /// What another program has in the clipboard.
    pub(super) offer: Option<Box<dyn Offer>>,
    /// What is in the clipboard has changed.
    pub(super) changed: bool,
    /// What we have put into it, while it is there.
    pub(super) own: Option<Own>,
    /// Programs that paste it.
    pub(super) outgoing: Vec<Outgoing>,
    /// The seat is gone.
    pub(super) finished: bool,
}

pub(super) struct Own {
    pub(super) number: u64,
    pub(super) source: Box<dyn Source>,
    pub(super) text: Arc<str>,
}

impl Default for State {
    fn default() -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        Self {
            mark: format!("application/x-soft-kvm-{random:016x}"),
            seat: None,
            ext: None,
            wlr: None,
            synced: false,
            offer: None,
            changed: false,
            own: None,
            outgoing: Vec::new(),
            finished: false,
        }
    }
}

impl State {
    /// This is in the clipboard now.
    pub(super) fn selected(&mut self, offer: Option<Box<dyn Offer>>) {
        if let Some(before) = self.offer.take() {
            before.destroy();
        }
        self.changed = true;
        let Some(offer) = offer else {
            return;
        };
        // A clipboard manager that has taken ours over offers its mark as well.
        let own = self.own.is_some() && offer.kinds().is_some_and(Kinds::is_own);
        if own {
            offer.destroy();
        } else {
            self.offer = Some(offer);
        }
    }

    /// A program wants our text written to `pipe`.
    pub(super) fn asked(&mut self, number: u64, kind: &str, pipe: OwnedFd) {
        let own = self.own.as_ref().filter(|own| own.number == number);
        let Some(own) = own.filter(|_| TEXTS.contains(&kind)) else {
            return;
        };
        match Outgoing::begin(pipe, Arc::clone(&own.text)) {
            Ok(outgoing) => {
                if self.outgoing.len() >= MOST_READERS {
                    self.outgoing.remove(0);
                }
                self.outgoing.push(outgoing);
            }
            Err(error) => tracing::debug!(%error, "a program that pastes is not answered"),
        }
    }

    /// Our text is in the clipboard no more.
    pub(super) fn replaced(&mut self, number: u64) {
        self.own.take_if(|own| own.number == number);
    }
}

impl Dispatch<wl_registry::WlRegistry, ()> for State {
    fn event(
        state: &mut Self,
        _: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_registry::Event::Global {
                name, interface, ..
            } => {
                let place = match interface {
                    seat if seat == wl_seat::WlSeat::interface().name => &mut state.seat,
                    ext if ext == ExtDataControlManagerV1::interface().name => &mut state.ext,
                    wlr if wlr == ZwlrDataControlManagerV1::interface().name => &mut state.wlr,
                    _ => return,
                };
                // The first seat is the one that people sit at.
                place.get_or_insert(name);
            }
            wl_registry::Event::GlobalRemove { name } if state.seat == Some(name) => {
                state.finished = true;
            }
            _ => {}
        }
    }
}

impl Dispatch<wl_callback::WlCallback, ()> for State {
    fn event(
        state: &mut Self,
        _: &wl_callback::WlCallback,
        _: wl_callback::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.synced = true;
    }
}

impl Dispatch<wl_seat::WlSeat, ()> for State {
    fn event(
        _: &mut Self,
        _: &wl_seat::WlSeat,
        _: wl_seat::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}
