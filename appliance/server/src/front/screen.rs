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
    let mut windows = Windows::default();
    while !ends.load(Ordering::Acquire) {
        let Some(picture) = picture(context, &mut windows) else {
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

/// Which window's code is shown: the first client that pairs is who the screen is for. The window then goes on with a new
/// code, which the console has.
#[derive(Debug, Default)]
struct Windows(Option<(MonoTime, String)>);

impl Windows {
    /// The code to show at this time, if any: nothing more when the window's time is over or too many tries were wrong.
    fn code(&mut self, window: &PairingWindow, now: MonoTime) -> Option<String> {
        let code = window.code(now)?.reveal().to_owned();
        self.is_for_screen(window.closes_at(), &code)
            .then_some(code)
    }

    fn is_for_screen(&mut self, closes: MonoTime, code: &str) -> bool {
        match &self.0 {
            Some((time, first)) if *time == closes => first == code,
            _ => {
                self.0 = Some((closes, code.to_owned()));
                true
            }
        }
    }
}

/// What is to be shown now; `None` while pairing is closed, or somebody has paired.
fn picture(context: &Context, windows: &mut Windows) -> Option<Picture> {
    let now = clock::now();
    let (code, closes) = {
        let pairing = lock(&context.pairing);
        let (window, _) = pairing.as_ref()?;
        (windows.code(window, now)?, window.closes_at())
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
    use crate::context::PAIRING_TIME;

    #[test]
    fn a_code_is_off_the_screen_when_its_time_is_over() {
        let opened = MonoTime::from_nanos(7);
        let window = PairingWindow::open(opened, PAIRING_TIME).expect("random numbers");
        let mut windows = Windows::default();
        let code = windows.code(&window, opened);
        assert_eq!(code.as_ref().map(String::len), Some(6));
        let last = opened + (PAIRING_TIME - Duration::from_nanos(1));
        assert_eq!(windows.code(&window, last), code);
        assert_eq!(windows.code(&window, opened + PAIRING_TIME), None);
        let next =
            PairingWindow::open(opened + PAIRING_TIME, PAIRING_TIME).expect("random numbers");
        assert!(windows.code(&next, opened + PAIRING_TIME).is_some());
    }

    #[test]
    fn a_window_is_on_the_screen_until_somebody_paired() {
        let mut windows = Windows::default();
        let (one, two) = (MonoTime::from_nanos(1), MonoTime::from_nanos(2));
        assert!(windows.is_for_screen(one, "111111"));
        assert!(windows.is_for_screen(one, "111111"));
        assert!(!windows.is_for_screen(one, "222222"), "renewed");
        assert!(windows.is_for_screen(two, "222222"), "another window");
    }
}
