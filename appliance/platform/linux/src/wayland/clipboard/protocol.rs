//! The two protocols as one: they differ in their names only.

use std::os::fd::BorrowedFd;

use wayland_client::protocol::wl_registry::WlRegistry;
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, event_created_child};

use super::kinds::{Kinds, TEXTS};
use super::state::State;

/// The clipboard of a seat.
pub(super) trait Control {
    /// Puts a text into it, whose bytes programs ask for by `number`, and which `mark` is known by.
    fn copy(&self, number: u64, mark: &str, queue: &QueueHandle<State>) -> Box<dyn Source>;
}

/// Opens a seat's clipboard, by the manager with this name in the registry.
pub(super) type Open = fn(u32, &WlRegistry, &WlSeat, &QueueHandle<State>) -> Box<dyn Control>;

/// A text that we have put into the clipboard.
pub(super) trait Source {
    fn destroy(&self);
}

/// What a program has in the clipboard.
pub(super) trait Offer {
    fn kinds(&self) -> Option<&Kinds>;
    /// Has it written to this pipe, as one of its kinds.
    fn receive(&self, kind: &str, pipe: BorrowedFd<'_>);
    fn destroy(&self);
}

macro_rules! protocol {
    ($open:ident, $client:path, $manager_mod:ident::$manager:ident, $device_mod:ident::$device:ident,
     $offer_mod:ident::$offer:ident, $source_mod:ident::$source:ident) => {
        mod $open {
            use $client::{
                $device_mod::{self, $device},
                $manager_mod::{self, $manager},
                $offer_mod::{self, $offer},
                $source_mod::{self, $source},
            };

            use super::*;

            struct Pair($manager, $device);

            pub(in super::super) fn open(
                name: u32,
                registry: &WlRegistry,
                seat: &WlSeat,
                queue: &QueueHandle<State>,
            ) -> Box<dyn Control> {
                // The first version tells nothing of the primary selection, where it has a second.
                let manager: $manager = registry.bind(name, 1, queue, ());
                let device = manager.get_data_device(seat, queue, ());
                Box::new(Pair(manager, device))
            }

            impl Control for Pair {
                fn copy(
                    &self,
                    number: u64,
                    mark: &str,
                    queue: &QueueHandle<State>,
                ) -> Box<dyn Source> {
                    let source = self.0.create_data_source(queue, number);
                    for kind in TEXTS.into_iter().chain([mark]) {
                        source.offer(kind.to_owned());
                    }
                    self.1.set_selection(Some(&source));
                    Box::new(source)
                }
            }

            impl Source for $source {
                fn destroy(&self) {
                    self.destroy();
                }
            }

            impl Offer for $offer {
                fn kinds(&self) -> Option<&Kinds> {
                    self.data::<Kinds>()
                }

                fn receive(&self, kind: &str, pipe: BorrowedFd<'_>) {
                    self.receive(kind.to_owned(), pipe);
                }

                fn destroy(&self) {
                    self.destroy();
                }
            }

            impl Dispatch<$manager, ()> for State {
                fn event(
                    _: &mut Self,
                    _: &$manager,
                    _: $manager_mod::Event,
                    _: &(),
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                }
            }

            impl Dispatch<$device, ()> for State {
                fn event(
                    state: &mut Self,
                    _: &$device,
                    event: $device_mod::Event,
                    _: &(),
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                    match event {
                        $device_mod::Event::Selection { id } => {
                            state.selected(id.map(|offer| Box::new(offer) as _));
                        }
                        $device_mod::Event::PrimarySelection { id: Some(offer) } => offer.destroy(),
                        $device_mod::Event::Finished => state.finished = true,
                        _ => {}
                    }
                }

                event_created_child!(State, $device, [
                    $device_mod::EVT_DATA_OFFER_OPCODE => ($offer, Kinds::default()),
                ]);
            }

            impl Dispatch<$offer, Kinds> for State {
                fn event(
                    state: &mut Self,
                    _: &$offer,
                    event: $offer_mod::Event,
                    kinds: &Kinds,
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                    if let $offer_mod::Event::Offer { mime_type } = event {
                        kinds.note(&mime_type, &state.mark);
                    }
                }
            }

            impl Dispatch<$source, u64> for State {
                fn event(
                    state: &mut Self,
                    source: &$source,
                    event: $source_mod::Event,
                    number: &u64,
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                    match event {
                        $source_mod::Event::Send { mime_type, fd } => {
                            state.asked(*number, &mime_type, fd);
                        }
                        $source_mod::Event::Cancelled => {
                            state.replaced(*number);
                            source.destroy();
                        }
                        _ => {}
                    }
                }
            }
        }
    };
}

protocol!(
    ext,
    wayland_protocols::ext::data_control::v1::client,
    ext_data_control_manager_v1::ExtDataControlManagerV1,
    ext_data_control_device_v1::ExtDataControlDeviceV1,
    ext_data_control_offer_v1::ExtDataControlOfferV1,
    ext_data_control_source_v1::ExtDataControlSourceV1
);
protocol!(
    wlr,
    wayland_protocols_wlr::data_control::v1::client,
    zwlr_data_control_manager_v1::ZwlrDataControlManagerV1,
    zwlr_data_control_device_v1::ZwlrDataControlDeviceV1,
    zwlr_data_control_offer_v1::ZwlrDataControlOfferV1,
    zwlr_data_control_source_v1::ZwlrDataControlSourceV1
);

pub(super) use {ext::open as open_ext, wlr::open as open_wlr};
