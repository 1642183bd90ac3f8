//! The composite in configfs (kernel: Documentation/usb/gadget_configfs.rst, gadget_hid.rst), and what USB device
//! controllers there are.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use soft_kvm_input::hid::Function;

/// Where the kernel keeps gadgets.
const GADGETS: &str = "/sys/kernel/config/usb_gadget";
/// Where the kernel lists USB device controllers.
pub const CONTROLLERS: &str = "/sys/class/udc";
/// How our gadgets' folders begin; the controller's name follows.
const PREFIX: &str = "soft-kvm.";

/// Why there is no gadget.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GadgetError {
    /// The kernel's module is not there.
    #[error(
        "{GADGETS}: no such folder: load the kernel module libcomposite (modprobe libcomposite)"
    )]
    Missing,
    /// Not root.
    #[error("{GADGETS}: permission denied: making USB gadgets takes root")]
    Permission,
    /// No controller at all.
    #[error(
        "this machine has no USB device controller ({CONTROLLERS} is empty): on a Raspberry Pi 4 add dtoverlay=dwc2 to \
         config.txt"
    )]
    NoController,
    /// Not the one that was asked for.
    #[error("there is no USB device controller {wanted}; there is {there}")]
    Unknown {
        /// What the story says.
        wanted: String,
        /// The names that there are.
        there: String,
    },
    /// Somebody else's gadget has it.
    #[error("the USB device controller {name} is in use by {user}")]
    Busy {
        /// Which controller.
        name: String,
        /// The gadget that has it.
        user: String,
    },
    /// Anything else.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl GadgetError {
    /// The kernel's number for it, for the process that asked the broker.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Self::Missing => libc::ENOENT,
            Self::Permission => libc::EPERM,
            Self::NoController | Self::Unknown { .. } => libc::ENODEV,
            Self::Busy { .. } => libc::EBUSY,
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Io { path, source },
        }
    }
}

/// A USB device controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its name, such as `fe980000.usb`.
    pub name: String,
    /// The gadget that has it, if one has.
    pub user: Option<String>,
}

/// The controllers of this machine by name; none where there is no such hardware.
#[must_use]
pub fn controllers() -> Vec<Controller> {
    let entries = fs::read_dir(CONTROLLERS).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let user = fs::read_to_string(entry.path().join("function")).unwrap_or_default();
            let user = user.trim();
            Some(Controller {
                name: entry.file_name().into_string().ok()?,
                user: (!user.is_empty()).then(|| user.to_owned()),
            })
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Where a process writes that makes gadgets: configfs, and the devices of the controllers, for `srp`. Those devices stay
/// when their drivers let go of them and take them again.
#[must_use]
pub fn written_folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(CONTROLLERS).into_iter().flatten().flatten();
    // /sys/devices/…/fe980000.usb/udc/fe980000.usb
    let devices = entries.filter_map(|entry| {
        let controller = fs::canonicalize(entry.path()).ok()?;
        Some(controller.ancestors().nth(2)?.to_owned())
    });
    devices
        .chain([PathBuf::from("/sys/kernel/config")])
        .collect()
}

/// The controller of this name, or the first that is free.
///
/// # Errors
/// With the reason and what to do.
pub fn choose(wanted: Option<&str>) -> Result<String, GadgetError> {
    let all = controllers();
    let (Some(first), true) = (all.first(), Path::new(GADGETS).is_dir()) else {
        let missing = all.is_empty();
        return Err(if missing {
            GadgetError::NoController
        } else {
            GadgetError::Missing
        });
    };
    let free = |controller: &Controller| match &controller.user {
        None => Ok(controller.name.clone()),
        Some(user) => Err(GadgetError::Busy {
            name: controller.name.clone(),
            user: user.clone(),
        }),
    };
    match wanted {
        None => free(all.iter().find(|one| one.user.is_none()).unwrap_or(first)),
        Some(wanted) => match all.iter().find(|one| one.name == wanted) {
            Some(found) => free(found),
            None => {
                let names: Vec<_> = all.into_iter().map(|one| one.name).collect();
                Err(GadgetError::Unknown {
                    wanted: wanted.to_owned(),
                    there: names.join(", "),
                })
            }
        },
    }
}

/// The files of a gadget that is bound.
#[derive(Debug)]
pub(super) struct Nodes {
    /// In the order of [`Function::ALL`].
    pub(super) functions: [File; 4],
    /// The controller's `state`, which the kernel notifies (`POLLPRI`).
    pub(super) state: File,
    /// The gadget's `suspended`, where the kernel tells it.
    suspended: Option<File>,
}

impl Nodes {
    /// With the state of this controller.
    pub(super) fn new(functions: [File; 4], controller: &str) -> Result<Self, GadgetError> {
        let controller = Path::new(CONTROLLERS).join(controller);
        let state = controller.join("state");
        let state = File::open(&state).map_err(GadgetError::at(&state))?;
        let device = controller.join("device");
        let mut parts = fs::read_dir(device).into_iter().flatten().flatten();
        let suspended = parts.find_map(|part| {
            let is_gadget = part.file_name().as_encoded_bytes().starts_with(b"gadget");
            let opened = is_gadget.then(|| File::open(part.path().join("suspended")));
            opened?.ok()
        });
        // What is there now is no news.
        let mut first = [0; 32];
        let _ = state.read_at(&mut first, 0);
        Ok(Self {
            functions,
            state,
            suspended,
        })
    }

    /// Whether the host sleeps.
    pub(super) fn are_suspended(&self) -> bool {
        let mut text = [0];
        let read = |file: &File| file.read_at(&mut text, 0).is_ok_and(|length| length == 1);
        self.suspended.as_ref().is_some_and(read) && text == *b"1"
    }

    /// Whether the controller that they were opened for is gone, even if it is back under its name: what it notified
    /// through [`Nodes::state`] comes no more, and polling that file gives an error at once (kernfs).
    pub(super) fn are_orphaned(&self) -> bool {
        self.state.read_at(&mut [0; 32], 0).is_err()
    }
}

/// A composite of our four functions, bound to a controller. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Composite {
    folder: PathBuf,
    controller: String,
    /// Told to other processes: this one lives.
    lock: Option<Flock<File>>,
}

impl Composite {
    pub(super) fn create(controller: String) -> Result<Self, GadgetError> {
        let folder = Path::new(GADGETS).join(format!("{PREFIX}{controller}"));
        make(&folder)?;
        let file = File::open(&folder).map_err(GadgetError::at(&folder))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| GadgetError::at(&folder)(errno.into()))?;
        let new = Self {
            folder,
            controller,
            lock: Some(lock),
        };
        new.describe()?;
        new.bind()?;
        Ok(new)
    }

    pub(super) fn controller(&self) -> &str {
        &self.controller
    }

    fn describe(&self) -> Result<(), GadgetError> {
        let set = |path: &str, value: &[u8]| write(&self.folder.join(path), value);
        // The Linux Foundation's multifunction composite gadget.
        set("idVendor", b"0x1d6b")?;
        set("idProduct", b"0x0104")?;
        set("bcdDevice", b"0x0100")?;
        set("bcdUSB", b"0x0200")?;
        for folder in ["strings/0x409", "configs/c.1", "configs/c.1/strings/0x409"] {
            make(&self.folder.join(folder))?;
        }
        set("strings/0x409/manufacturer", b"Soft KVM")?;
        set("strings/0x409/product", b"Keyboard and Mouse")?;
        set("strings/0x409/serialnumber", self.controller.as_bytes())?;
        set("configs/c.1/strings/0x409/configuration", b"HID")?;
        // USB 2.0, table 9-10: bus-powered, may wake the host.
        set("configs/c.1/bmAttributes", b"0xa0")?;
        set("configs/c.1/MaxPower", b"100")?;
        for function in Function::ALL {
            let name = name(function);
            let folder = self.folder.join("functions").join(name);
            make(&folder)?;
            let set = |file: &str, value: &[u8]| write(&folder.join(file), value);
            let (subclass, protocol) = function.boot_protocol();
            set("subclass", subclass.to_string().as_bytes())?;
            set("protocol", protocol.to_string().as_bytes())?;
            set(
                "report_length",
                function.report_length().to_string().as_bytes(),
            )?;
            set("report_desc", function.report_descriptor())?;
            // LEDs come by SET_REPORT then, as with every boot keyboard; controllers have few endpoints. Kernels
            // before 5.16 do not know this, few know the next.
            for (optional, value) in [("no_out_endpoint", b"1"), ("wakeup_on_write", b"1")] {
                if folder.join(optional).exists() {
                    set(optional, value)?;
                }
            }
            let link = self.folder.join("configs/c.1").join(name);
            symlink(&folder, &link).map_err(GadgetError::at(&link))?;
        }
        Ok(())
    }

    /// Gives the gadget to its controller, unless it has it.
    pub(super) fn bind(&self) -> Result<(), GadgetError> {
        let path = self.folder.join("UDC");
        let bound = fs::read_to_string(&path).map_err(GadgetError::at(&path))?;
        if bound.trim().is_empty() {
            write(&path, self.controller.as_bytes())?;
        }
        Ok(())
    }

    /// Opens the four `/dev/hidg*`, in the order of [`Function::ALL`]; they are there while the gadget is bound.
    pub(super) fn open(&self) -> Result<[File; 4], GadgetError> {
        let open = |function| -> Result<File, GadgetError> {
            let path = self
                .folder
                .join("functions")
                .join(name(function))
                .join("dev");
            let number = fs::read_to_string(&path).map_err(GadgetError::at(&path))?;
            let path = Path::new("/sys/dev/char")
                .join(number.trim())
                .join("uevent");
            let uevent = fs::read_to_string(&path).map_err(GadgetError::at(&path))?;
            let node = uevent
                .lines()
                .find_map(|line| line.strip_prefix("DEVNAME="));
            let node = Path::new("/dev").join(node.unwrap_or("hidg"));
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK);
            options.open(&node).map_err(GadgetError::at(&node))
        };
        let [keyboard, mouse, pointer, consumer] = Function::ALL;
        Ok([
            open(keyboard)?,
            open(mouse)?,
            open(pointer)?,
            open(consumer)?,
        ])
    }

    /// Unplugs and removes it, once.
    pub(super) fn remove(&mut self) {
        if let Some(lock) = self.lock.take() {
            drop(lock);
            if let Err(error) = remove(&self.folder) {
                tracing::warn!("the USB gadget stays: {error}");
            }
        }
    }

    /// Wakes the host that sleeps, if it lets itself be woken.
    pub(super) fn wake(&self) {
        let controller = Path::new(CONTROLLERS).join(&self.controller);
        if let Err(error) = write(&controller.join("srp"), b"1") {
            tracing::debug!("the sleeping host can't be woken: {error}");
        }
    }
}

impl Drop for Composite {
    fn drop(&mut self) {
        self.remove();
    }
}

const fn name(function: Function) -> &'static str {
    match function {
        Function::Keyboard => "hid.keyboard",
        Function::Mouse => "hid.mouse",
        Function::Pointer => "hid.pointer",
        Function::Consumer => "hid.consumer",
    }
}

fn make(folder: &Path) -> Result<(), GadgetError> {
    fs::create_dir(folder).map_err(GadgetError::at(folder))
}

fn write(path: &Path, value: &[u8]) -> Result<(), GadgetError> {
    fs::write(path, value).map_err(GadgetError::at(path))
}

/// Whether a gadget with this name was made by a server.
pub(super) fn is_ours(gadget: &str) -> bool {
    gadget.starts_with(PREFIX)
}

/// Removes what killed processes left; gadgets of living ones stay.
pub(super) fn remove_leftovers() -> Result<(), GadgetError> {
    for folder in left() {
        let file = File::open(&folder).map_err(GadgetError::at(&folder))?;
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            tracing::info!(gadget = %folder.display(), "removing what an earlier server left");
            remove(&folder)?;
        }
    }
    Ok(())
}

/// Whether there is any gadget that a server made.
pub(super) fn is_any_left() -> bool {
    left().next().is_some()
}

/// The folders of all gadgets that servers made.
fn left() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(GADGETS).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_ours))
        .map(|entry| entry.path())
}

/// Takes a gadget apart, also a half made one, in the reverse order of its making.
fn remove(folder: &Path) -> Result<(), GadgetError> {
    let absent = |result: io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(GadgetError::at(path)(error)),
        _ => Ok(()),
    };
    let udc = folder.join("UDC");
    // ENODEV: it was not bound.
    if let Err(error) = fs::write(&udc, b"\n") {
        tracing::debug!(%error, "unbinding {}", udc.display());
    }
    for function in Function::ALL {
        let link = folder.join("configs/c.1").join(name(function));
        absent(fs::remove_file(&link), &link)?;
        let made = folder.join("functions").join(name(function));
        absent(fs::remove_dir(&made), &made)?;
    }
    for part in [
        "configs/c.1/strings/0x409",
        "configs/c.1",
        "strings/0x409",
        "",
    ] {
        let part = folder.join(part);
        absent(fs::remove_dir(&part), &part)?;
    }
    Ok(())
}
