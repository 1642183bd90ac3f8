//! `soft-kvm-client devices`: what `--grab` can take.

use soft_kvm_core::Lang;
use soft_kvm_platform::os::evdev;
use soft_kvm_service::console;

/// Prints the list.
///
/// # Errors
/// Only when the list cannot be written as JSON.
pub fn run(json: bool, lang: Lang) -> anyhow::Result<()> {
    let found = evdev::list();
    if json {
        let list: Vec<_> = found
            .iter()
            .map(|device| match device {
                Ok(device) => serde_json::json!({
                    "path": device.path,
                    "name": device.descriptor.name,
                    "class": device.class.to_string(),
                    "own": device.ours,
                }),
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            })
            .collect();
        console::out(serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    if found.is_empty() {
        console::out(lang.pick(
            "This machine has no input devices.",
            "入力デバイスがありません。",
        ));
    }
    for device in found {
        match device {
            Ok(device) if device.ours => {}
            Ok(device) => console::out(format!(
                "{:<20} {:<12} {}",
                device.path.display(),
                device.class.to_string(),
                device.descriptor.name
            )),
            Err(error) => console::out(error),
        }
    }
    Ok(())
}
