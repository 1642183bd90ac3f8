//! What keeps the server's process in: Landlock, seccomp, and the broker that opens devices in its place.

use super::{Finding, Machine, Reader, State};

/// Where the broker's socket is (`systemd/soft-kvm-broker.socket`).
const SOCKET: &str = "/run/soft-kvm-broker";
/// The version of Landlock that knows TCP ports; the server's rules for them are left out below it.
const PORTS: u8 = 4;
/// A socket that waits for connections: `__SO_ACCEPTCON` of `<linux/net.h>`, in the flags of `/proc/net/unix`.
const LISTENS: u32 = 1 << 16;

/// What the kernel and the system have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Landlock's version; 0 where the kernel refuses it.
    pub landlock: u8,
    /// The security modules in force, by commas; `None` where the kernel does not tell.
    pub modules: Option<String>,
    /// Landlock is part of the kernel, in force or not; `None` where its configuration is not told.
    pub built: Option<bool>,
    /// Where GRUB's configuration is taken from further files, as on Debian.
    pub grub: bool,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// The broker's unit is installed.
    pub installed: bool,
    /// Its socket waits for the server.
    pub listens: bool,
    /// A broker's process, of systemd's or of a server with `--user`.
    pub broker: Option<u32>,
    /// A server with this state folder runs.
    pub server: bool,
}

impl Facts {
    /// Reads them; `landlock` is what the kernel answers, `server` whether one runs.
    #[must_use]
    pub fn read(machine: &Machine, landlock: u8, server: bool) -> Self {
        let release = machine
            .word("/proc/sys/kernel/osrelease")
            .unwrap_or_default();
        let config = machine.text(&format!("/boot/config-{release}"));
        let built = |config: String| {
            let mut lines = config.lines();
            lines.any(|line| line == "CONFIG_SECURITY_LANDLOCK=y")
        };
        let status = machine.text("/proc/self/status").unwrap_or_default();
        let unit = |folder: &str| machine.exists(&format!("{folder}/soft-kvm-broker.socket"));
        let folders = [
            "/etc/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ];
        let sockets = machine.text("/proc/net/unix").unwrap_or_default();
        Self {
            landlock,
            modules: machine.word("/sys/kernel/security/lsm"),
            built: config.map(built),
            grub: machine.exists("/etc/default/grub.d"),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            installed: folders.into_iter().any(unit),
            listens: sockets.lines().any(listens),
            broker: broker(machine),
            server,
        }
    }
}

/// Whether a line of `/proc/net/unix` is the broker's socket that waits.
fn listens(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let flags = words.nth(3).unwrap_or_default();
    let flags = u32::from_str_radix(flags, 16).unwrap_or_default();
    flags & LISTENS != 0 && words.nth(3) == Some(SOCKET)
}

fn broker(machine: &Machine) -> Option<u32> {
    let names = machine.names("/proc");
    let mut numbers = names.iter().filter_map(|name| name.parse().ok());
    numbers.find(|number: &u32| {
        let line = machine.text(&format!("/proc/{number}/cmdline"));
        let line = line.unwrap_or_default();
        let mut words = line.split('\0');
        let program = words.next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        name == "soft-kvm-server" && words.next() == Some("broker")
    })
}

/// What of it is missing.
#[must_use]
pub fn check(facts: &Facts, reader: &Reader) -> Vec<Finding> {
    vec![
        landlock(facts, reader),
        seccomp(facts, reader),
        broker_of(facts, reader),
    ]
}

fn landlock(facts: &Facts, reader: &Reader) -> Finding {
    const CHECK: &str = "landlock";
    let version = facts.landlock;
    if version >= PORTS {
        let text = reader.say(
            format!("version {version}: the server keeps only its own files and TCP ports"),
            format!(
                "バージョン {version}: サーバーが使えるのは自分のファイルと TCP ポートだけです"
            ),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    if version > 0 {
        let text = reader.say(
            format!(
                "version {version}: the server keeps only its own files; TCP ports take version {PORTS} (Linux 6.7)"
            ),
            format!(
                "バージョン {version}: サーバーが使えるのは自分のファイルだけです。TCP ポートの制限にはバージョン {PORTS}(Linux 6.7)が必要です"
            ),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    if facts.built != Some(true) {
        let text = reader.say(
            "this kernel has none: a server that is taken over reads what its user may; it takes Linux 5.13 with CONFIG_SECURITY_LANDLOCK",
            "このカーネルにはありません。サーバーが乗っ取られると、そのユーザーの読めるものがすべて読まれます。CONFIG_SECURITY_LANDLOCK 付きの Linux 5.13 以降が必要です",
        );
        return Finding::new(CHECK, State::Warning, text);
    }
    let text = reader.say(
        "the kernel has it, but it was not started with it: a server that is taken over reads what its user may; restart the machine after the command",
        "カーネルにありますが、有効にして起動されていません。サーバーが乗っ取られると、そのユーザーの読めるものがすべて読まれます。コマンドの後で再起動してください",
    );
    let finding = Finding::new(CHECK, State::Warning, text);
    match &facts.modules {
        Some(modules) if facts.grub && is_list(modules) => {
            finding.mend(reader.command(&with_landlock(modules)))
        }
        _ => finding,
    }
}

/// Whether this is what the kernel lists, and so safe in a command.
fn is_list(modules: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | '_' | '-');
    modules.chars().all(plain)
}

/// Starts the kernel with Landlock before the modules that are in force; `capability` always is.
fn with_landlock(modules: &str) -> String {
    let others = modules
        .split(',')
        .filter(|name| !name.is_empty() && *name != "capability");
    let list: Vec<_> = std::iter::once("landlock").chain(others).collect();
    let list = list.join(",");
    format!(
        r#"echo 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX lsm={list}"' | sudo tee /etc/default/grub.d/landlock.cfg && sudo update-grub"#
    )
}

fn seccomp(facts: &Facts, reader: &Reader) -> Finding {
    const CHECK: &str = "seccomp";
    if facts.seccomp {
        let text = reader.say(
            "each thread keeps only its own system calls",
            "各スレッドが使えるのは必要なシステムコールだけです",
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    let text = reader.say(
        "this kernel filters no system calls: it takes one with CONFIG_SECCOMP_FILTER",
        "このカーネルはシステムコールを制限できません。CONFIG_SECCOMP_FILTER 付きのカーネルが必要です",
    );
    Finding::new(CHECK, State::Warning, text)
}

fn broker_of(facts: &Facts, reader: &Reader) -> Finding {
    const CHECK: &str = "broker";
    if let Some(process) = facts.broker {
        let text = reader.say(
            format!("process {process} opens the devices for the server"),
            format!("プロセス {process} がサーバーの代わりにデバイスを開いています"),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    if facts.listens {
        let text = reader.say(
            format!("waits at {SOCKET} for the server"),
            format!("{SOCKET} でサーバーを待っています"),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    if !facts.installed {
        let text = reader.say(
            "none: the process that faces the network opens the devices itself, with the rights of its user; the service has a broker, and so has --user",
            "ありません。ネットワークに面するプロセスが自分のユーザー権限でデバイスを開きます。サービスとして動かすか --user を付けるとブローカーが使われます",
        );
        let program = std::env::current_exe().unwrap_or_else(|_| "soft-kvm-server".into());
        let program = super::quoted(&program.to_string_lossy());
        let mend = reader.command(&format!("sudo {program} --install-service"));
        return Finding::new(CHECK, State::Warning, text).mend(mend);
    }
    if facts.server {
        let text = reader.say(
            "the server that runs has none: it opens the devices itself",
            "動作中のサーバーにはありません。サーバーが自分でデバイスを開いています",
        );
        let mend = reader.command("sudo systemctl restart soft-kvm");
        return Finding::new(CHECK, State::Warning, text).mend(mend);
    }
    let text = reader.say(
        "comes and goes with the service, which is not running",
        "サービスと共に起動しますが、サービスは停止中です",
    );
    let mend = reader.command("sudo systemctl start soft-kvm");
    Finding::new(CHECK, State::NotCheckable, text).mend(mend)
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::tree;
    use super::super::tests::in_both;
    use super::*;

    const UNIX: &str = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0005 01 18293 /run/udev/control
0000000000000000: 00000002 00000000 00010000 0005 01 20112 /run/soft-kvm-broker
0000000000000000: 00000003 00000000 00000000 0005 03 20240 /run/soft-kvm-broker
";

    fn whole() -> Facts {
        Facts {
            landlock: 6,
            seccomp: true,
            installed: true,
            listens: true,
            broker: Some(71),
            server: true,
            ..Facts::default()
        }
    }

    fn states(facts: &Facts) -> Vec<State> {
        let findings = in_both(|reader| check(facts, reader));
        findings.iter().map(|finding| finding.state).collect()
    }

    fn mends(facts: &Facts, check_name: &str) -> Option<String> {
        let findings = in_both(|reader| check(facts, reader));
        let found = findings.into_iter().find(|one| one.check == check_name);
        found.and_then(|one| one.mend)
    }

    #[test]
    fn facts_of_a_machine() {
        let (_folder, machine) = tree(&[
            ("proc/sys/kernel/osrelease", "6.1.0-9-amd64\n"),
            (
                "boot/config-6.1.0-9-amd64",
                "# x\nCONFIG_SECURITY_LANDLOCK=y\n",
            ),
            ("sys/kernel/security/lsm", "capability,yama"),
            ("proc/self/status", "Name:\tx\nSeccomp:\t0\n"),
            ("proc/net/unix", UNIX),
            ("proc/70/cmdline", "/usr/bin/soft-kvm-server\0--broker\0x\0"),
            ("proc/71/cmdline", "/usr/bin/soft-kvm-server\0broker\0"),
            ("proc/72/cmdline", "cat\0broker\0"),
            ("usr/lib/systemd/system/soft-kvm-broker.socket", ""),
        ]);
        let facts = Facts::read(&machine, 2, true);
        let expected = Facts {
            landlock: 2,
            modules: Some("capability,yama".to_owned()),
            built: Some(true),
            ..whole()
        };
        assert_eq!(facts, expected);
        let (_folder, machine) = tree(&[
            ("proc/self/status", "Name:\tSeccomp:\n"),
            (
                "proc/net/unix",
                UNIX.replace("00010000", "00000000").as_str(),
            ),
        ]);
        assert_eq!(Facts::read(&machine, 0, false), Facts::default());
    }

    #[test]
    fn a_machine_that_has_all_of_it() {
        assert_eq!(states(&whole()), [State::Ok; 3]);
        let old = Facts {
            landlock: 2,
            broker: None,
            ..whole()
        };
        assert_eq!(states(&old), [State::Ok; 3]);
    }

    #[test]
    fn landlock_that_is_off_is_switched_on() {
        let off = Facts {
            landlock: 0,
            built: Some(true),
            modules: Some("capability,lockdown,yama".to_owned()),
            grub: true,
            ..whole()
        };
        assert_eq!(states(&off)[0], State::Warning);
        let mend = mends(&off, "landlock").unwrap();
        assert!(mend.contains(" lsm=landlock,lockdown,yama\""), "{mend}");
        for other in [
            Facts {
                built: None,
                ..off.clone()
            },
            Facts {
                grub: false,
                ..off.clone()
            },
            Facts {
                modules: Some("yama';reboot'".to_owned()),
                ..off
            },
        ] {
            assert_eq!(states(&other)[0], State::Warning);
            assert_eq!(mends(&other, "landlock"), None, "{other:?}");
        }
        let none = Facts {
            seccomp: false,
            ..whole()
        };
        assert_eq!(states(&none)[1], State::Warning);
    }

    #[test]
    fn a_broker_that_is_missing_has_its_command() {
        let missing = Facts {
            listens: false,
            broker: None,
            ..whole()
        };
        assert_eq!(states(&missing)[2], State::Warning);
        let mend = mends(&missing, "broker").unwrap();
        assert_eq!(mend, "sudo systemctl restart soft-kvm");
        let stopped = Facts {
            server: false,
            ..missing.clone()
        };
        assert_eq!(states(&stopped)[2], State::NotCheckable);
        let mend = mends(&stopped, "broker").unwrap();
        assert_eq!(mend, "sudo systemctl start soft-kvm");
        let plain = Facts {
            installed: false,
            ..missing
        };
        assert_eq!(states(&plain)[2], State::Warning);
        let mend = mends(&plain, "broker").unwrap();
        assert!(mend.ends_with(" --install-service"), "{mend}");
    }
}
