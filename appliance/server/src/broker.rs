//! The broker role: a process of its own that keeps the rights to the devices while the server gives its own up.
//!
//! `--user` starts two processes: one keeps the socket and starts the other, which answers, again when it dies. Both end with
//! the server. Under systemd standard input is a socket that listens: one process answers the first who connects, and ends
//! with that server; `soft-kvm-broker.socket` starts the next one.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use soft_kvm_core::Lang;
use soft_kvm_core::story::{CaptureDriver, EncoderDriver, InputDriver, Story};
use soft_kvm_platform::os::broker::{self, Grant, Grants};
use soft_kvm_platform::os::lockdown::{self, Class, Keep};
use soft_kvm_platform::os::{confine, gadget, process};
use soft_kvm_service::console;

use crate::cli::{BrokerArgs, RunArgs};
use crate::front;
use crate::run::file_stamps;
use crate::settings::{self, Settings};

/// Between the death of a broker and the next one.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the broker, and asks it for devices from now on.
pub(crate) fn start(args: &RunArgs) -> std::io::Result<()> {
    let (ours, theirs) = broker::pair()?;
    let args = BrokerArgs {
        story: args.story.clone(),
        source: args.source.clone(),
        encoder: args.encoder.clone(),
        worker: false,
    };
    // It ends when this end of the socket is closed, and nobody waits for it.
    command(&args).stdin(Stdio::from(theirs)).spawn()?;
    broker::use_broker(ours);
    Ok(())
}

fn command(args: &BrokerArgs) -> Command {
    let mut command = Command::new(confine::own_executable());
    command.arg("broker");
    if let Some(story) = &args.story {
        command.arg("--story").arg(story);
    }
    for (option, value) in [("--source", &args.source), ("--encoder", &args.encoder)] {
        if let Some(value) = value {
            command.args([option, value]);
        }
    }
    command
}

/// Plays the broker until the server is gone.
///
/// # Errors
/// The story cannot be used, or the socket is none.
pub fn run(args: &BrokerArgs, lang: Lang) -> anyhow::Result<()> {
    console::start_logging();
    let stdin = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    anyhow::ensure!(
        stdin.metadata()?.file_type().is_socket(),
        "standard input is no socket: soft-kvm-server --user and soft-kvm-broker.socket start the broker by themselves"
    );
    if args.worker || broker::listens(stdin.as_fd()) {
        return work(args, stdin.into(), lang);
    }
    loop {
        let mut worker = command(args)
            .arg("--worker")
            .stdin(Stdio::from(stdin.try_clone()?))
            .spawn()?;
        let status = worker.wait()?;
        if status.success() {
            return Ok(());
        }
        tracing::error!(%status, "the broker, which opens the devices, has died: starting it again");
        std::thread::sleep(PAUSE);
    }
}

fn work(args: &BrokerArgs, mut socket: OwnedFd, lang: Lang) -> anyhow::Result<()> {
    if let Err(error) = process::keep_secrets() {
        tracing::warn!(%error, "broker: core dumps stay possible");
    }
    let options = RunArgs {
        story: args.story.clone(),
        source: args.source.clone(),
        encoder: args.encoder.clone(),
        ..RunArgs::default()
    };
    let Settings { story, mut files } = settings::load(&options, lang)?;
    let mut granted = grants(&story);
    let mut stamps = file_stamps(&files);
    let mut keep = Keep::default().system().own_program();
    keep.read.extend(
        args.story
            .iter()
            .chain(&files)
            .map(|file| lockdown::folder_of(file)),
    );
    keep.devices.push("/dev".into());
    // A story that is changed may want a USB gadget.
    keep.write.extend(gadget::written_folders());
    match lockdown::lock_in(&keep, Class::Broker) {
        Ok(level) => tracing::info!("broker: {granted:?}; locked in: {level}"),
        Err(error) => tracing::warn!(%error, "broker: not locked in"),
    }
    if broker::listens(socket.as_fd()) {
        socket = broker::accept(socket.as_fd())?;
    }
    broker::serve(socket.as_fd(), || {
        // The server reads a changed story by itself, and asks for its devices then.
        let now = file_stamps(&files);
        if now != stamps {
            stamps = now;
            match settings::load(&options, lang) {
                Ok(settings) => {
                    files = settings.files;
                    stamps = file_stamps(&files);
                    granted = grants(&settings.story);
                }
                Err(error) => tracing::error!("broker: {error:#}: the story before stays in force"),
            }
        }
        granted.clone()
    })?;
    Ok(())
}

/// The devices that the story names; "any" where it leaves the choice to the machine.
fn grants(story: &Story) -> Grants {
    let named = |device: &Option<String>| match device {
        Some(device) => Grant::Only(device.into()),
        None => Grant::Any,
    };
    let source = story.capture();
    let (capture, screen) = match source.driver {
        CaptureDriver::Auto => (Grant::Any, Grant::Any),
        CaptureDriver::V4l2 => (named(&source.device), Grant::Nothing),
        CaptureDriver::Kms => (Grant::Nothing, named(&source.device)),
        CaptureDriver::X11 | CaptureDriver::Testcard => (Grant::Nothing, Grant::Nothing),
    };
    let video = story.video();
    let codec = match video.driver {
        EncoderDriver::Openh264 => Grant::Nothing,
        // A named encoder may need any converter before it, and neither shows anything of the machine.
        _ => Grant::Any,
    };
    let (uinput, gadget) = match story.input().map(|input| (input.driver, &input.device)) {
        Some((InputDriver::Auto | InputDriver::Uinput, _)) => (true, Grant::Nothing),
        Some((InputDriver::Gadget, Some(name))) => (
            false,
            Grant::Only(Path::new(gadget::CONTROLLERS).join(name)),
        ),
        Some((InputDriver::Gadget, None)) => (false, Grant::Any),
        Some((InputDriver::Echo, _)) | None => (false, Grant::Nothing),
    };
    Grants {
        capture,
        codec,
        screen,
        uinput,
        gadget,
        button: front::button(story.control()),
        monitor: story.control().pair_screen.clone(),
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::story::Kind;

    use super::*;

    #[test]
    fn the_story_says_what_is_handed_over() {
        let any = grants(&Story::embedded());
        assert_eq!(
            (&any.capture, &any.screen, any.uinput),
            (&Grant::Any, &Grant::Any, true)
        );
        assert_eq!((any.button, any.monitor), (None, None));
        let args = RunArgs {
            source: Some("v4l2:/dev/video7".to_owned()),
            encoder: Some("openh264".to_owned()),
            ..RunArgs::default()
        };
        let settings = settings::load(&args, Lang::English).expect("a good story");
        let one = grants(&settings.story);
        assert_eq!(one.capture, Grant::Only("/dev/video7".into()));
        assert_eq!((one.codec, one.screen), (Grant::Nothing, Grant::Nothing));
        let args = RunArgs {
            encoder: Some("v4l2m2m:/dev/video11".to_owned()),
            ..RunArgs::default()
        };
        let settings = settings::load(&args, Lang::English).expect("a good story");
        let codec = grants(&settings.story).codec;
        assert_eq!(codec, Grant::Any, "a converter may stand before it");
    }

    #[test]
    fn a_boxs_button_and_screen_are_handed_over() {
        let mut story = Story::embedded();
        for (key, value) in [("pair_button", "gpio-keys"), ("pair_screen", "HDMI-A-1")] {
            story = story
                .with(Kind::Control, key, value.into(), key)
                .expect("a good story");
        }
        let grants = grants(&story);
        let button = ("gpio-keys".to_owned(), "KEY_WPS_BUTTON".to_owned());
        assert_eq!(grants.button, Some(button));
        assert_eq!(grants.monitor.as_deref(), Some("HDMI-A-1"));
    }
}
