//! What the server keeps when it locks itself in, before its first thread and its first client.

use std::path::{Path, PathBuf};

use soft_kvm_core::story::{InputDriver, Story};
use soft_kvm_platform::os::lockdown::{self, Class, Keep, Level};
use soft_kvm_platform::os::{broker, gadget};

use crate::cli::RunArgs;
use crate::settings::Settings;

/// Gives up all files, ports and system calls but what this story takes. What the kernel refuses is told, and the server
/// runs all the same: this machine may have no other keyboard.
pub(crate) fn lock(args: &RunArgs, settings: &Settings, state: &Path) -> Level {
    match lockdown::lock_in(&keep(args, settings, state), Class::Main) {
        Ok(level) => {
            tracing::info!("locked in: {level}");
            level
        }
        Err(error) => {
            tracing::warn!(%error, "not locked in: this process may do all that its user may");
            Level::default()
        }
    }
}

fn keep(args: &RunArgs, settings: &Settings, state: &Path) -> Keep {
    let story = &settings.story;
    let mut keep = Keep::default().system().own_program();
    let named = args.story.iter().chain(&settings.files);
    keep.read
        .extend(named.map(|file| lockdown::folder_of(file)));
    keep.read.push(PathBuf::from("/etc/soft-kvm"));
    let edid = story.capture().edid.as_deref();
    if let Some(file) = edid.filter(|name| name.starts_with('/')) {
        keep.read.push(lockdown::folder_of(Path::new(file)));
    }
    keep.read.extend(x_authority());
    // Where libva looks for drivers besides the system's own folders.
    let drivers = std::env::var_os("LIBVA_DRIVERS_PATH").unwrap_or_default();
    keep.read.extend(std::env::split_paths(&drivers));
    keep.write.push(state.to_owned());
    let written = args.ready_file.iter().chain(&args.stats_json);
    keep.write
        .extend(written.map(|file| lockdown::folder_of(file)));
    if broker::is_used() {
        // What computes pictures and shows none needs no broker: no node of it tells anything about the machine.
        let nodes = std::fs::read_dir("/dev/dri")
            .into_iter()
            .flatten()
            .flatten();
        let nodes = nodes.map(|entry| entry.path());
        let render = nodes.filter(|node| node.to_string_lossy().contains("/renderD"));
        keep.devices.extend(render);
    } else {
        // Devices come and go under any name.
        keep.devices.push(PathBuf::from("/dev"));
        if is_gadget(story) {
            keep.write.extend(gadget::written_folders());
        }
    }
    keep
}

fn is_gadget(story: &Story) -> bool {
    story
        .input()
        .is_some_and(|input| input.driver == InputDriver::Gadget)
}

/// The key to an X display, where Xlib looks for it.
fn x_authority() -> Option<PathBuf> {
    let named = std::env::var_os("XAUTHORITY").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".Xauthority")))
}
