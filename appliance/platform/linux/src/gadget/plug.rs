//! The composite at its controller, made by this process or, where there is one, by the broker.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::configfs::{
    self, CONTROLLERS, Composite, Controller, GadgetError, Nodes, choose, controllers, is_ours,
};
use super::keeper::Keeper;
use crate::broker;

/// What the broker is asked to do with the composite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make it, and remove what was left there.
    Plug,
    /// Give it to its controller again if it has lost it, and open its four nodes.
    Open,
    /// Wake the host.
    Wake,
    /// Remove it.
    Unplug,
}

impl Step {
    /// As a number of the broker's protocol.
    const fn number(self) -> u32 {
        match self {
            Self::Plug => 1,
            Self::Open => 2,
            Self::Wake => 3,
            Self::Unplug => 4,
        }
    }

    fn of_number(number: u32) -> Option<Self> {
        let all = [Self::Plug, Self::Open, Self::Wake, Self::Unplug];
        all.into_iter().find(|step| step.number() == number)
    }
}

/// A composite of our four functions. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Plug {
    controller: String,
    made: Made,
}

#[derive(Debug)]
enum Made {
    Here {
        composite: Composite,
        // Ends after the composite is removed.
        _keeper: Keeper,
    },
    ByBroker,
    Removed,
}

impl Plug {
    /// Removes what killed processes left, and plugs a new one into the controller of this name, or into the first that is
    /// free.
    pub(super) fn new(wanted: Option<&str>, keeper: Command) -> Result<Self, GadgetError> {
        remove_leftovers()?;
        let controller = choose(wanted)?;
        let made = if broker::is_used() {
            ask(&controller, Step::Plug)?;
            Made::ByBroker
        } else {
            let program = PathBuf::from(keeper.get_program());
            Made::Here {
                _keeper: Keeper::start(keeper).map_err(GadgetError::at(&program))?,
                composite: Composite::create(controller.clone())?,
            }
        };
        Ok(Self { controller, made })
    }

    pub(super) fn controller(&self) -> &str {
        &self.controller
    }

    /// Opens its nodes; gives it to its controller before if it has lost it.
    pub(super) fn open(&self) -> Result<Nodes, GadgetError> {
        let functions = match &self.made {
            Made::Here { composite, .. } => {
                composite.bind()?;
                composite.open()?
            }
            Made::ByBroker => {
                let fds = ask(&self.controller, Step::Open)?;
                let missing = || io::Error::other("the broker gave no descriptor");
                let [keyboard, mouse, pointer, consumer] =
                    fds.map(|fd| fd.map(File::from).ok_or_else(missing));
                let all = || Ok([keyboard?, mouse?, pointer?, consumer?]);
                all().map_err(GadgetError::at("/dev/hidg".as_ref()))?
            }
            Made::Removed => return Err(GadgetError::NoController),
        };
        Nodes::new(functions, &self.controller)
    }

    /// Whether the controller is there, for a gadget that is.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.made, Made::Removed) && sysfs(&self.controller).exists()
    }

    /// Wakes the host that sleeps, if it lets itself be woken.
    pub(super) fn wake(&self) {
        match &self.made {
            Made::Here { composite, .. } => composite.wake(),
            Made::ByBroker => {
                if let Err(error) = ask(&self.controller, Step::Wake) {
                    tracing::debug!("the host can't be woken: {error}");
                }
            }
            Made::Removed => {}
        }
    }

    /// Unplugs and removes it, once.
    pub(super) fn remove(&mut self) {
        if let Made::ByBroker = std::mem::replace(&mut self.made, Made::Removed)
            && let Err(error) = ask(&self.controller, Step::Unplug)
        {
            tracing::warn!("the USB gadget stays: {error}");
        }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.remove();
    }
}

fn remove_leftovers() -> Result<(), GadgetError> {
    if !broker::is_used() {
        return configfs::remove_leftovers();
    }
    let ours = |one: &Controller| one.user.as_ref().is_some_and(|user| is_ours(user));
    for controller in controllers().into_iter().filter(ours) {
        // One that the story does not name stays.
        if let Err(error) = ask(&controller.name, Step::Unplug) {
            tracing::debug!("the gadget on {} stays: {error}", controller.name);
        }
    }
    Ok(())
}

fn sysfs(controller: &str) -> PathBuf {
    Path::new(CONTROLLERS).join(controller)
}

fn ask(controller: &str, step: Step) -> Result<[Option<OwnedFd>; 4], GadgetError> {
    let node = sysfs(controller);
    broker::gadget(&node, step.number()).map_err(GadgetError::at(&node))
}

/// What the broker does when it is asked; `held` is the composite that it has made.
///
/// # Errors
/// The kernel's number.
pub(crate) fn obey(
    held: &mut Option<Composite>,
    node: &Path,
    step: u32,
) -> Result<Vec<OwnedFd>, i32> {
    let step = Step::of_number(step).ok_or(libc::EPROTO)?;
    let name = node.file_name().and_then(|name| name.to_str());
    let name = name.ok_or(libc::EINVAL)?;
    take_step(held, name, step).map_err(|error| error.errno())
}

fn take_step(
    held: &mut Option<Composite>,
    name: &str,
    step: Step,
) -> Result<Vec<OwnedFd>, GadgetError> {
    match step {
        Step::Plug => make(held, name).map(|_| Vec::new()),
        Step::Open => {
            let made = match held.take() {
                Some(made) if made.controller() == name => held.insert(made),
                // Another broker may have made it, and died.
                _ => make(held, name)?,
            };
            made.bind()?;
            Ok(made.open()?.map(OwnedFd::from).into())
        }
        Step::Wake => {
            if let Some(made) = held {
                made.wake();
            }
            Ok(Vec::new())
        }
        Step::Unplug => {
            *held = None;
            configfs::remove_leftovers().map(|()| Vec::new())
        }
    }
}

fn make<'a>(held: &'a mut Option<Composite>, name: &str) -> Result<&'a mut Composite, GadgetError> {
    *held = None;
    configfs::remove_leftovers()?;
    Ok(held.insert(Composite::create(name.to_owned())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_pass_as_numbers_and_others_are_refused() {
        for step in [Step::Plug, Step::Open, Step::Wake, Step::Unplug] {
            assert_eq!(Step::of_number(step.number()), Some(step));
        }
        for number in [0, 5, u32::MAX] {
            assert_eq!(
                obey(&mut None, Path::new("/sys/class/udc/x"), number).unwrap_err(),
                libc::EPROTO
            );
        }
    }
}
