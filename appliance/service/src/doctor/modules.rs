//! Drivers of the kernel.

use super::{Finding, Machine, Reader, State};

/// What the kernel has of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Loaded, or part of the kernel.
    There,
    /// A file that can be loaded.
    Loadable,
    /// Neither.
    Absent,
}

impl Module {
    /// Looks for a module by its name with underscores.
    #[must_use]
    pub fn read(machine: &Machine, name: &str) -> Self {
        let release = machine
            .word("/proc/sys/kernel/osrelease")
            .unwrap_or_default();
        let lists = |file: &str| {
            let text = machine
                .text(&format!("/lib/modules/{release}/{file}"))
                .unwrap_or_default();
            text.lines().any(|line| {
                let path = line.split(':').next().unwrap_or_default();
                let file = path.rsplit('/').next().unwrap_or_default();
                let stem = file.split('.').next().unwrap_or_default();
                stem.replace('-', "_") == name
            })
        };
        if machine.exists(&format!("/sys/module/{name}")) || lists("modules.builtin") {
            Self::There
        } else if lists("modules.dep") {
            Self::Loadable
        } else {
            Self::Absent
        }
    }
}

/// USB video devices that no driver has taken, by their names in `/sys/bus/usb/devices`.
#[must_use]
pub fn driverless_cameras(machine: &Machine) -> Vec<String> {
    const VIDEO: &str = "0e";
    const FOLDER: &str = "/sys/bus/usb/devices";
    let mut names = machine.names(FOLDER);
    names.retain(|name| {
        let class = machine.word(&format!("{FOLDER}/{name}/bInterfaceClass"));
        class.as_deref() == Some(VIDEO) && !machine.exists(&format!("{FOLDER}/{name}/driver"))
    });
    names
}

/// Whether plugged capture dongles have their driver.
#[must_use]
pub fn check_modules(driverless: &[String], uvcvideo: Module, reader: &Reader) -> Finding {
    const CHECK: &str = "modules";
    if driverless.is_empty() {
        let text = reader.say(
            "no USB capture device lacks its driver",
            "ドライバーのない USB キャプチャー機器はありません",
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    let names = driverless.join(", ");
    let text = reader.say(
        format!("USB {names}: a capture device without its driver (uvcvideo)"),
        format!("USB {names}: キャプチャー機器にドライバー (uvcvideo) がありません"),
    );
    let mend = match uvcvideo {
        Module::There => "sudo modprobe -r uvcvideo && sudo modprobe uvcvideo",
        Module::Loadable => "sudo modprobe uvcvideo",
        // Where distributions keep it.
        Module::Absent => {
            "sudo apt install linux-modules-extra-$(uname -r) || sudo apt install linux-image-$(dpkg --print-architecture)"
        }
    };
    Finding::new(CHECK, State::Wrong, text).mend(reader.command(mend))
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::tree;
    use super::super::tests::in_both;
    use super::*;

    #[test]
    fn modules_are_loaded_built_in_loadable_or_absent() {
        let (_folder, machine) = tree(&[
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("sys/module/uinput/refcnt", "0"),
            (
                "lib/modules/6.1.0/modules.builtin",
                "kernel/drivers/input/evdev.ko\n",
            ),
            (
                "lib/modules/6.1.0/modules.dep",
                "kernel/drivers/usb/dwc2/dwc2.ko.xz: kernel/x.ko\nkernel/drivers/dma-buf/udmabuf.ko:\nkernel/a/two-words.ko.zst:\n",
            ),
        ]);
        let read = |name| Module::read(&machine, name);
        assert_eq!(read("uinput"), Module::There);
        assert_eq!(read("evdev"), Module::There);
        assert_eq!(read("dwc2"), Module::Loadable);
        assert_eq!(read("two_words"), Module::Loadable);
        assert_eq!(read("x"), Module::Absent);
    }

    #[test]
    fn a_dongle_without_a_driver_is_found() {
        let (_folder, machine) = tree(&[
            ("sys/bus/usb/devices/1-1:1.0/bInterfaceClass", "0e\n"),
            ("sys/bus/usb/devices/1-2:1.0/bInterfaceClass", "0e\n"),
            ("sys/bus/usb/devices/1-2:1.0/driver/x", ""),
            ("sys/bus/usb/devices/1-3:1.0/bInterfaceClass", "03\n"),
        ]);
        let found = driverless_cameras(&machine);
        assert_eq!(found, ["1-1:1.0"]);
        let ask = |names: &[String], module| {
            let found = in_both(|reader| vec![check_modules(names, module, reader)]).remove(0);
            (found.state, found.mend.unwrap_or_default())
        };
        assert_eq!(ask(&[], Module::Absent).0, State::Ok);
        let load = (State::Wrong, "sudo modprobe uvcvideo".to_owned());
        assert_eq!(ask(&found, Module::Loadable), load);
        assert!(ask(&found, Module::There).1.starts_with("sudo modprobe -r"));
        assert!(ask(&found, Module::Absent).1.contains("apt install"));
    }
}
