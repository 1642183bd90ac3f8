//! The front of a box: a button that opens pairing, and its own screen that shows the code.

mod button;
mod picture;
mod screen;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use soft_kvm_core::story::{ControlParams, Story};
use soft_kvm_platform::os::evdev::Button;
use soft_kvm_platform::os::lockdown::{self, Class};

use crate::context::Context;

/// The key when the story names none: what routers and boxes with a button for joining have.
const KEY: &str = "KEY_WPS_BUTTON";
/// How often a thread looks whether it shall end, and the screen's whether pairing is open.
const LOOK: Duration = Duration::from_millis(250);

/// What the story says about the front.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    button: Option<(String, String)>,
    screen: Option<String>,
}

impl Parts {
    fn of(control: &ControlParams) -> Self {
        Self {
            button: button(control),
            screen: control.pair_screen.clone(),
        }
    }
}

/// The button's device, by its node or name, and its key.
pub(crate) fn button(control: &ControlParams) -> Option<(String, String)> {
    let key = control.pair_key.as_deref().unwrap_or(KEY);
    let device = control.pair_button.clone()?;
    Some((device, key.to_owned()))
}

/// The threads of button and screen; dropping ends them, and gives the screen back.
#[derive(Debug)]
pub(crate) struct Front {
    parts: Parts,
    threads: Threads,
}

impl Front {
    /// Starts what the story names.
    pub(crate) fn start(context: &Arc<Context>, story: &Story) -> Self {
        let parts = Parts::of(story.control());
        let threads = Threads::start(context, &parts);
        Self { parts, threads }
    }

    /// Starts anew if the story says something else about it.
    pub(crate) fn reload(&mut self, context: &Arc<Context>, story: &Story) {
        let parts = Parts::of(story.control());
        if parts != self.parts {
            // The old ones give the devices back first.
            self.threads.stop();
            self.threads = Threads::start(context, &parts);
            self.parts = parts;
        }
    }
}

#[derive(Debug, Default)]
struct Threads {
    ends: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(context: &Arc<Context>, parts: &Parts) -> Self {
        let mut threads = Self::default();
        if let Some((device, key)) = parts.button.clone() {
            if Button::knows(&key) {
                let context = Arc::clone(context);
                threads.spawn("button", move |ends| {
                    button::run(&context, &device, &key, ends);
                });
            } else {
                tracing::error!(
                    key,
                    "pair_key: the kernel has no key of this name; the button opens nothing"
                );
            }
        }
        if let Some(connector) = parts.screen.clone() {
            let context = Arc::clone(context);
            threads.spawn("pair-screen", move |ends| {
                screen::run(&context, &connector, ends);
            });
        }
        threads
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let ends = Arc::clone(&self.ends);
        let started = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                lockdown::narrow(Class::Device);
                work(&ends);
            });
        match started {
            Ok(thread) => self.running.push(thread),
            Err(error) => tracing::error!(%error, "no thread for {name}"),
        }
    }

    fn stop(&mut self) {
        self.ends.store(true, Ordering::Release);
        for thread in self.running.drain(..) {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread of the front panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}
