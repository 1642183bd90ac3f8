//! Where a session's input goes: virtual devices in the kernel, the test card's echo, or both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use soft_kvm_core::MonoTime;
use soft_kvm_core::story::{InputDriver, InputParams};
use soft_kvm_input::echo::{EchoSink, EchoState};
use soft_kvm_input::sink::{InputSink, SinkError, SinkFeedback};
use soft_kvm_platform::os::uinput;
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, InputEvent};

/// What sinks sessions get.
#[derive(Clone, Debug)]
pub struct SinkChoice {
    /// Whether the kernel makes virtual devices for us.
    pub uinput: bool,
    /// What the test card shows.
    pub echo: Arc<Mutex<EchoState>>,
    /// Whether the picture is the test card: what was typed is kept nowhere else.
    pub echo_shown: Arc<AtomicBool>,
}

impl SinkChoice {
    /// Chooses as the story says; `auto` is uinput where it can be opened.
    ///
    /// # Errors
    /// The story wants uinput and it cannot be opened; the text says what to do.
    pub fn new(
        params: Option<&InputParams>,
        echo: Arc<Mutex<EchoState>>,
        echo_shown: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let driver = params.map_or(InputDriver::Echo, |params| params.driver);
        let uinput = match driver {
            InputDriver::Echo => false,
            InputDriver::Uinput => {
                uinput::probe()?;
                true
            }
            InputDriver::Auto => match uinput::probe() {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!("{error}; input only appears on the test card");
                    false
                }
            },
        };
        Ok(Self {
            uinput,
            echo,
            echo_shown,
        })
    }

    /// Its name on the wire: `uinput`, `echo`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.uinput { "uinput" } else { "echo" }
    }

    /// A sink for one session.
    #[must_use]
    pub fn open(&self) -> TargetSink {
        TargetSink {
            uinput: self.uinput.then(uinput::UinputSink::default),
            echo: EchoSink::new(Arc::clone(&self.echo)),
            echo_shown: Arc::clone(&self.echo_shown),
        }
    }
}

/// One session's sink.
#[derive(Debug)]
pub struct TargetSink {
    uinput: Option<uinput::UinputSink>,
    echo: EchoSink,
    echo_shown: Arc<AtomicBool>,
}

impl InputSink for TargetSink {
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError> {
        let echoed = self.echo.add_device(device)?;
        let Some(uinput) = self.uinput.as_mut() else {
            return Ok(echoed);
        };
        let made = uinput.add_device(device);
        if made.is_err() {
            self.echo.remove_device(device.id);
        }
        made
    }

    fn remove_device(&mut self, device: DeviceId) {
        self.echo.remove_device(device);
        if let Some(uinput) = self.uinput.as_mut() {
            uinput.remove_device(device);
        }
    }

    fn apply(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        let outcome = match self.uinput.as_mut() {
            Some(uinput) => uinput.apply(now, device, events, unfinished),
            None => Ok(()),
        };
        if self.echo_shown.load(Ordering::Relaxed) {
            self.echo.apply(now, device, events, unfinished)?;
        }
        outcome
    }

    fn poll_feedback(&mut self, each: &mut dyn FnMut(SinkFeedback)) {
        if let Some(uinput) = self.uinput.as_mut() {
            uinput.poll_feedback(each);
        }
    }

    fn kind(&self) -> &'static str {
        if self.uinput.is_some() {
            "uinput"
        } else {
            "echo"
        }
    }
}
