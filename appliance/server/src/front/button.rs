//! The button: pressed, it opens pairing as `soft-kvm-server pair` does.

use std::sync::atomic::{AtomicBool, Ordering};

use soft_kvm_platform::os::evdev::Button;
use soft_kvm_security::policy::By;
use soft_kvm_service::console;

use super::LOOK;
use crate::context::Context;

/// Reads the button until `ends`; one that is not there is waited for.
pub(super) fn run(context: &Context, device: &str, key: &str, ends: &AtomicBool) {
    let mut told = false;
    while !ends.load(Ordering::Acquire) {
        match Button::open(device, key) {
            Ok(button) => {
                tracing::info!(device, key, "the button opens pairing");
                told = false;
                follow(context, button, ends);
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(device, key, %error, "the button is not there: waiting for it");
                }
                std::thread::park_timeout(LOOK);
            }
        }
    }
}

fn follow(context: &Context, mut button: Button, ends: &AtomicBool) {
    while !ends.load(Ordering::Acquire) {
        match button.pressed(LOOK) {
            Ok(false) => {}
            Ok(true) => open(context),
            Err(error) => {
                tracing::warn!(%error, "the button has gone");
                return;
            }
        }
    }
}

fn open(context: &Context) {
    match context.open_pairing(None, By::Button) {
        Ok(code) => {
            tracing::info!("pairing is open: the button was pressed");
            let lang = context.lang;
            console::out(format!(
                "{} {code}",
                lang.pick("Pairing code:", "ペアリングコード:")
            ));
        }
        Err(error) => tracing::error!(%error, "the button cannot open pairing"),
    }
}
