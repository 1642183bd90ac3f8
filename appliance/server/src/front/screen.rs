//! The box's own screen: the pairing code while pairing is open, and what was there before at any other time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use soft_kvm_core::{FrameRate, MonoTime, Size};
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::display::{Display, DisplayError, DisplayOptions};
use soft_kvm_security::pairing::PairingWindow;

use super::LOOK;
use super::picture::Picture;
use crate::context::{Context, lock};
use crate::run::pairing_uri;

/// Shows the code at `connector` whenever pairing is open, until `ends`.
pub(super) fn run(context: &Context, connector: &str, ends: &AtomicBool) {
    let mut shown: Option<(Display, Picture)> = None;
    let mut told = false;
    while !ends.load(Ordering::Acquire) {
        let Some(picture) = picture(context) else {
            if shown.take().is_some() {
                tracing::info!(connector, "the screen is given back");
            }
            told = false;
            thread::park_timeout(LOOK);
            continue;
        };
        if shown.as_ref().is_none_or(|(_, before)| *before != picture) {
            let display = shown.take().map(|(display, _)| display);
            match show(display, connector, &picture) {
                Ok(display) => {
                    told = false;
                    shown = Some((display, picture));
                }
                // Pairing stays open: the console has the code, too.
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(
                        connector,
                        "the pairing code is not on the screen: {}",
                        words(&error)
                    );
                }
                Err(_) => {}
            }
        }
        thread::park_timeout(LOOK);
    }
}

fn show(
    display: Option<Display>,
    connector: &str,
    picture: &Picture,
) -> Result<Display, DisplayError> {
    let mut display = match display {
        Some(display) => display,
        None => Display::open(&DisplayOptions {
            device: None,
            connector: Some(connector.to_owned()),
            // The server starts no process once it has locked itself in.
            keeper: None,
        })?,
    };
    let size = display.prepare(Size::default(), FrameRate::hz(60))?;
    display.show(&picture.pixels(size))?;
    Ok(display)
}

/// The library's words are for the client.
fn words(error: &DisplayError) -> String {
    match error {
        DisplayError::Busy { device } => format!("{device}: another program has the screen"),
        error => error.to_string(),
    }
}

/// The code to show at this time: none when the window's time is over, too many tries were wrong, or the client that the
/// screen is for has paired. The window then goes on with a new code, which the console has.
fn code(window: &PairingWindow, now: MonoTime) -> Option<String> {
    let code = window.code(now).filter(|_| !window.has_paired())?;
    Some(code.reveal().to_owned())
}

/// What is to be shown now; `None` while pairing is closed, or somebody has paired.
fn picture(context: &Context) -> Option<Picture> {
    let now = clock::now();
    let (code, closes) = {
        let pairing = lock(&context.pairing);
        let (window, _) = pairing.as_ref()?;
        (code(window, now)?, window.closes_at())
    };
    Some(Picture {
        name: context.name().to_string(),
        addresses: addresses(context.control_port()),
        uri: pairing_uri(context, &code),
        code,
        seconds: closes.since(now).as_secs(),
    })
}

/// Where the server is reached, for clients that do not find it by its name.
fn addresses(port: u16) -> String {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = interfaces
        .iter()
        .filter_map(|interface| match interface.ip() {
            std::net::IpAddr::V4(address) if !address.is_loopback() => Some(address),
            _ => None,
        });
    let shown: Vec<_> = addresses
        .take(3)
        .map(|address| format!("{address}:{port}"))
        .collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_code_is_off_the_screen_when_its_time_is_over() {
        let opened = MonoTime::from_nanos(7);
        let window = PairingWindow::open(opened).expect("random numbers");
        let shown = code(&window, opened);
        assert_eq!(shown.as_ref().map(String::len), Some(6));
        let last = opened + (Duration::from_secs(120) - Duration::from_nanos(1));
        assert_eq!(code(&window, last), shown);
        assert_eq!(code(&window, opened + Duration::from_secs(120)), None);
    }
}
