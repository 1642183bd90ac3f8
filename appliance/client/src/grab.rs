//! The `input` thread: the operator's devices, taken for the server alone.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::bail;
use soft_kvm_input::chord::{Chord, ChordDetector};
use soft_kvm_input::{InputSource, SourceEvent, Waker};
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::evdev::{EvdevSource, Selection};
use soft_kvm_protocol::input::{DeviceId, Record};
use soft_kvm_service::console;

use crate::run::Shared;
use crate::session::outputs::lock;

/// How often the thread looks whether the connection came or went.
const LOOK: Duration = Duration::from_millis(50);

/// The running thread; dropping it lets all devices go.
#[derive(Debug)]
pub(crate) struct Grab {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Grab {
    /// What `--grab` says; `None` when nothing is to be taken.
    ///
    /// # Errors
    /// `all` or `none` together with something else.
    pub(crate) fn selection(words: &[String]) -> anyhow::Result<Option<Selection>> {
        match words {
            [] => Ok(None),
            [word] if word == "none" => Ok(None),
            [word] if word == "all" => Ok(Some(Selection::All)),
            devices if devices.iter().any(|word| word == "all" || word == "none") => {
                bail!("--grab takes all, none, or devices")
            }
            devices => Ok(Some(Selection::Named(devices.to_vec()))),
        }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The devices cannot be watched.
    pub(crate) fn start(selection: Selection, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let source = EvdevSource::new(selection)?;
        let waker = source.waker();
        console::err(shared.lang.pick(
            "LeftCtrl+RightCtrl+Esc (or both Shift keys and Esc) gives keyboard and mouse back at any moment.",
            "左Ctrl+右Ctrl+Esc（または両Shift+Esc）で、いつでもキーボードとマウスを取り戻せます。",
        ));
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("input".into())
            .spawn(move || work(source, &worker))?;
        Ok(Self {
            shared,
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for Grab {
    fn drop(&mut self) {
        self.shared.stop();
        self.waker.wake();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the input thread panicked");
        }
    }
}

fn work(mut source: EvdevSource, shared: &Shared) {
    let panic = Chord::default_panic()
        .into_iter()
        .map(|chord| (chord, ()))
        .collect();
    let mut chords = ChordDetector::new(panic);
    let mut given_back = false;
    let mut held = false;
    while !shared.is_stopped() {
        // Without a server the devices are the operator's own.
        let wanted = !given_back && shared.link().is_some();
        if wanted != held {
            source.set_grabbed(wanted);
            held = wanted;
        }
        while let Ok(message) = shared.feedback.1.try_recv() {
            if let Ok(Record::Leds(device, leds)) = Record::parse(&message) {
                source.set_leds(device, leds);
            }
        }
        let link = shared.link();
        if link.as_ref().is_some_and(|link| link.take_restarted()) {
            source.repeat_state();
        }
        let mut panicked = false;
        let outcome = source.wait(Some(LOOK), &mut |event| match event {
            SourceEvent::Report(report) => {
                for event in report.events {
                    panicked |= chords.follow(report.device, *event).is_some();
                }
                if let Some(link) = link.as_ref().filter(|_| !panicked) {
                    link.push(clock::now(), report);
                }
            }
            SourceEvent::Added {
                device,
                class,
                path,
            } => {
                tracing::info!(path, %class, name = device.name, "input device");
                lock(&shared.devices).push(device.clone());
                tell(shared, &Record::DeviceAdd(Box::new(device.clone())));
            }
            SourceEvent::Grabbed(device) => tracing::info!(%device, "taken"),
            SourceEvent::Removed(device) => removed(shared, &mut chords, device),
            SourceEvent::Problem(error) => tracing::warn!("{error}"),
            _ => {}
        });
        if let Err(error) = outcome {
            tracing::error!("{error}: input devices are given back");
            return;
        }
        if panicked {
            given_back = true;
            source.set_grabbed(false);
            held = false;
            chords.clear();
            if let Some(link) = &link {
                link.release_all(clock::now());
            }
            console::err(shared.lang.pick(
                "Keyboard and mouse are yours again. Start soft-kvm-client again to take them.",
                "キーボードとマウスを返しました。もう一度使うには soft-kvm-client を起動し直してください。",
            ));
        }
    }
}

fn removed(shared: &Shared, chords: &mut ChordDetector<()>, device: DeviceId) {
    tracing::info!(%device, "input device unplugged");
    chords.remove_device(device);
    lock(&shared.devices).retain(|known| known.id != device);
    if let Some(link) = shared.link() {
        link.remove_device(clock::now(), device);
    }
    tell(shared, &Record::DeviceRemove(device));
}

/// Sends a record on the control channel, if there is one; what is announced later is in `devices`.
fn tell(shared: &Shared, record: &Record) {
    let mut message = Vec::new();
    record.encode(&mut message);
    if let Some(records) = lock(&shared.records).as_ref()
        && records.try_send(message).is_err()
    {
        tracing::warn!("the control channel is full: the connection is made anew");
        records.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_grab() {
        let words = |list: &[&str]| {
            list.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert!(matches!(Grab::selection(&words(&["none"])), Ok(None)));
        assert!(matches!(
            Grab::selection(&words(&["all"])),
            Ok(Some(Selection::All))
        ));
        assert!(matches!(
            Grab::selection(&words(&["/dev/input/event3", "/dev/input/event4"])),
            Ok(Some(Selection::Named(devices))) if devices.len() == 2
        ));
        assert!(Grab::selection(&words(&["all", "/dev/input/event3"])).is_err());
    }
}
