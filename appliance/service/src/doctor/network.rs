//! Network interfaces: multicast for finding each other, WiFi that sleeps, room for bursts.

use std::process::Command;

use super::{Finding, Machine, Reader, State};

/// Bits of `/sys/class/net/*/flags` (`netdevice(7)`).
const IFF_UP: u64 = 0x1;
const IFF_LOOPBACK: u64 = 0x8;
const IFF_POINTOPOINT: u64 = 0x10;
const IFF_NOARP: u64 = 0x80;
const IFF_MULTICAST: u64 = 0x1000;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bits of the kernel.
    pub flags: u64,
    /// `up`, `down`, `unknown`, …
    pub state: String,
    /// It is a wireless one.
    pub wifi: bool,
    /// A bridge that filters multicast, and nobody asks who listens.
    pub deaf_bridge: bool,
}

impl Interface {
    const fn has(&self, flags: u64) -> bool {
        self.flags & flags != 0
    }

    /// A link to neighbours, in contrast to loopback and tunnels.
    const fn is_link(&self) -> bool {
        !self.has(IFF_LOOPBACK | IFF_POINTOPOINT | IFF_NOARP)
    }

    fn is_usable(&self) -> bool {
        // `unknown` is what drivers say that do not watch the cable.
        let carries = matches!(self.state.as_str(), "up" | "unknown");
        self.is_link() && self.has(IFF_UP) && carries
    }
}

/// Reads all interfaces.
#[must_use]
pub fn interfaces(machine: &Machine) -> Vec<Interface> {
    let read = |name: String| {
        let folder = format!("/sys/class/net/{name}");
        let flags = machine.word(&format!("{folder}/flags"))?;
        let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        let bridge = |file: &str| machine.number(&format!("{folder}/bridge/{file}"));
        let has = |file: &str| machine.exists(&format!("{folder}/{file}"));
        Some(Interface {
            flags,
            state: machine
                .word(&format!("{folder}/operstate"))
                .unwrap_or_default(),
            wifi: has("wireless") || has("phy80211"),
            deaf_bridge: bridge("multicast_snooping") == Some(1)
                && bridge("multicast_querier") == Some(0),
            name,
        })
    };
    machine
        .names("/sys/class/net")
        .into_iter()
        .filter_map(read)
        .collect()
}

/// Whether the kernel has IPv6.
#[must_use]
pub fn has_ipv6(machine: &Machine) -> bool {
    machine
        .text("/proc/net/if_inet6")
        .is_some_and(|text| !text.is_empty())
}

/// Whether servers and clients find each other by name. `discovery`: the story wants it.
#[must_use]
pub fn check_multicast(interfaces: &[Interface], discovery: bool, reader: &Reader) -> Vec<Finding> {
    const CHECK: &str = "multicast";
    if interfaces.is_empty() {
        let text = reader.say(
            "/sys/class/net cannot be read",
            "/sys/class/net を読めません",
        );
        return vec![Finding::new(CHECK, State::NotCheckable, text)];
    }
    let usable: Vec<_> = interfaces
        .iter()
        .filter(|interface| interface.is_usable())
        .collect();
    if usable.is_empty() {
        let text = reader.say(
            "no network interface is up: only programs on this machine reach each other",
            "有効なネットワークインターフェースがなく、このマシンの中でしか通信できません",
        );
        let found = Finding::new(CHECK, State::Wrong, text);
        let down = interfaces
            .iter()
            .find(|one| one.is_link() && !one.has(IFF_UP));
        return vec![match down {
            Some(one) => found.mend(reader.command(&format!("sudo ip link set {} up", one.name))),
            None => found,
        }];
    }
    if !discovery {
        let text = reader.say("not needed: discovery is off", "検出が無効なので不要です");
        return vec![Finding::new(CHECK, State::Ok, text)];
    }
    let finding = |interface: &&Interface| {
        let name = &interface.name;
        if !interface.has(IFF_MULTICAST) {
            let text = reader.say(
                format!("{name}: multicast is off: names are not found there (mDNS), addresses work"),
                format!("{name}: マルチキャストが無効で、名前で見つかりません (mDNS)。アドレスなら使えます"),
            );
            let mend = reader.command(&format!("sudo ip link set dev {name} multicast on"));
            return Finding::new(CHECK, State::Wrong, text).mend(mend);
        }
        if interface.deaf_bridge {
            let text = reader.say(
                format!("{name}: the bridge filters multicast and nobody asks who listens: names may vanish after minutes"),
                format!("{name}: ブリッジがマルチキャストを絞り、問い合わせ役がいません。数分で名前が見えなくなることがあります"),
            );
            let mend = format!("echo 1 | sudo tee /sys/class/net/{name}/bridge/multicast_querier");
            return Finding::new(CHECK, State::Warning, text).mend(reader.command(&mend));
        }
        let text = reader.say(format!("{name}: on"), format!("{name}: 有効です"));
        Finding::new(CHECK, State::Ok, text)
    };
    usable.iter().map(finding).collect()
}

/// Whether a wireless interface sleeps between packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerSave {
    /// It does.
    On,
    /// It does not.
    Off,
    /// `iw` is not installed.
    NoProgram,
    /// `iw` does not tell.
    Unknown,
}

impl PowerSave {
    /// Asks `iw`, the only program that the kernel's wireless drivers all answer.
    #[must_use]
    pub fn ask(interface: &str) -> Self {
        // Not in the path of users on Debian.
        let asked = ["iw", "/usr/sbin/iw", "/sbin/iw"]
            .into_iter()
            .find_map(|program| {
                let mut command = Command::new(program);
                command
                    .args(["dev", interface, "get", "power_save"])
                    .output()
                    .ok()
            });
        asked.map_or(Self::NoProgram, |output| {
            Self::parse(&String::from_utf8_lossy(&output.stdout))
        })
    }

    fn parse(text: &str) -> Self {
        match text.trim().strip_prefix("Power save: ") {
            Some("on") => Self::On,
            Some("off") => Self::Off,
            _ => Self::Unknown,
        }
    }
}

/// Whether WiFi delays keys.
#[must_use]
pub fn check_wifi(
    interfaces: &[Interface],
    power_save: impl Fn(&str) -> PowerSave,
    reader: &Reader,
) -> Vec<Finding> {
    const CHECK: &str = "wifi";
    let wireless: Vec<_> = interfaces
        .iter()
        .filter(|one| one.wifi && one.has(IFF_UP))
        .collect();
    if wireless.is_empty() {
        let text = reader.say("no WiFi in use", "WiFi は使われていません");
        return vec![Finding::new(CHECK, State::Ok, text)];
    }
    let finding = |interface: &&Interface| {
        let name = &interface.name;
        let unknown = |english: &str, japanese: &str| {
            let text = reader.say(format!("{name}: {english}"), format!("{name}: {japanese}"));
            Finding::new(CHECK, State::NotCheckable, text)
        };
        match power_save(name) {
            PowerSave::Off => Finding::new(
                CHECK,
                State::Ok,
                reader.say(format!("{name}: does not sleep"), format!("{name}: 省電力は切れています")),
            ),
            PowerSave::On => Finding::new(
                CHECK,
                State::Warning,
                reader.say(
                    format!("{name}: power saving is on: keys and pictures wait up to 100 ms and more; until the next start after the command"),
                    format!("{name}: 省電力が有効で、キーと映像が 100 ms 以上遅れることがあります。コマンドの効果は次の起動までです"),
                ),
            )
            .mend(reader.command(&format!("sudo iw dev {name} set power_save off"))),
            PowerSave::NoProgram => unknown(
                "power saving cannot be read without iw",
                "省電力の状態を調べるには iw が要ります",
            )
            .mend(reader.command("sudo apt install iw")),
            PowerSave::Unknown => unknown(
                "the driver does not tell whether it saves power",
                "ドライバーが省電力の状態を返しません",
            ),
        }
    };
    wireless.iter().map(finding).collect()
}

/// Largest socket buffers that a program may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// `net.core.rmem_max`.
    pub receive: Option<u64>,
    /// `net.core.wmem_max`.
    pub send: Option<u64>,
}

impl Buffers {
    /// Reads them.
    #[must_use]
    pub fn read(machine: &Machine) -> Self {
        Self {
            receive: machine.number("/proc/sys/net/core/rmem_max"),
            send: machine.number("/proc/sys/net/core/wmem_max"),
        }
    }
}

/// Whether bursts of key frames fit.
#[must_use]
pub fn check_buffers(buffers: Buffers, wanted: u64, reader: &Reader) -> Vec<Finding> {
    const CHECK: &str = "buffers";
    let finding = |name: &str, value: Option<u64>| {
        match value {
        None => Finding::new(
            CHECK,
            State::NotCheckable,
            reader.say(format!("net.core.{name} cannot be read"), format!("net.core.{name} を読めません")),
        ),
        Some(value) if value >= wanted => Finding::new(
            CHECK,
            State::Ok,
            reader.say(format!("net.core.{name} is {value}"), format!("net.core.{name} は {value} です")),
        ),
        Some(value) => Finding::new(
            CHECK,
            State::Warning,
            reader.say(
                format!("net.core.{name} is {value}, {wanted} is wanted: a burst of key frames may be lost"),
                format!("net.core.{name} は {value} です（必要なのは {wanted}）。キーフレームが続くと失われることがあります"),
            ),
        )
        .mend(reader.command(&format!(
            "echo 'net.core.{name}={wanted}' | sudo tee /etc/sysctl.d/90-soft-kvm-{}.conf && sudo sysctl -p /etc/sysctl.d/90-soft-kvm-{0}.conf",
            name.replace('_', "-")
        ))),
    }
    };
    vec![
        finding("rmem_max", buffers.receive),
        finding("wmem_max", buffers.send),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::tree;
    use super::super::tests::in_both;
    use super::*;

    fn interface(name: &str, flags: u64) -> Interface {
        Interface {
            name: name.to_owned(),
            flags,
            state: "up".to_owned(),
            ..Interface::default()
        }
    }

    fn loopback() -> Interface {
        interface("lo", IFF_UP | IFF_LOOPBACK)
    }

    #[test]
    fn interfaces_of_the_kernel() {
        let (_folder, machine) = tree(&[
            ("sys/class/net/lo/flags", "0x9\n"),
            ("sys/class/net/wlan0/flags", "0x1003\n"),
            ("sys/class/net/wlan0/operstate", "up\n"),
            ("sys/class/net/wlan0/wireless/x", ""),
            ("sys/class/net/br0/flags", "0x1003\n"),
            ("sys/class/net/br0/bridge/multicast_snooping", "1\n"),
            ("sys/class/net/br0/bridge/multicast_querier", "0\n"),
            ("sys/class/net/bonding_masters", ""),
        ]);
        let found = interfaces(&machine);
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["br0", "lo", "wlan0"]);
        assert!(found[0].deaf_bridge && !found[0].wifi);
        assert!(found[2].wifi && found[2].is_usable() && !found[1].is_usable());
    }

    #[test]
    fn each_fault_of_an_interface_has_its_command() {
        let mends = |interfaces: &[Interface], discovery| -> Vec<_> {
            let found = in_both(|reader| check_multicast(interfaces, discovery, reader));
            found.into_iter().map(|one| (one.state, one.mend)).collect()
        };
        let deaf = Interface {
            deaf_bridge: true,
            ..interface("br0", IFF_UP | IFF_MULTICAST)
        };
        let tunnel = interface("wg0", IFF_UP | IFF_POINTOPOINT | IFF_NOARP);
        let mute = interface("eth0", IFF_UP);
        let off = (
            State::Wrong,
            Some("sudo ip link set dev eth0 multicast on".to_owned()),
        );
        let querier = "echo 1 | sudo tee /sys/class/net/br0/bridge/multicast_querier";
        assert_eq!(
            mends(&[loopback(), mute.clone(), deaf, tunnel], true),
            [off, (State::Warning, Some(querier.to_owned()))]
        );
        assert_eq!(mends(&[mute], false), [(State::Ok, None)]);
        let down = interface("eth1", IFF_MULTICAST);
        let up = Some("sudo ip link set eth1 up".to_owned());
        assert_eq!(mends(&[loopback(), down], false), [(State::Wrong, up)]);
        let unplugged = Interface {
            state: "down".to_owned(),
            ..interface("eth0", IFF_UP | IFF_MULTICAST)
        };
        assert_eq!(mends(&[unplugged], true), [(State::Wrong, None)]);
        assert_eq!(mends(&[], true)[0].0, State::NotCheckable);
        assert_eq!(
            mends(&[interface("eth0", IFF_UP | IFF_MULTICAST)], true),
            [(State::Ok, None)]
        );
    }

    #[test]
    fn wifi_that_sleeps_is_told() {
        let wlan = Interface {
            wifi: true,
            ..interface("wlan0", IFF_UP | IFF_MULTICAST)
        };
        let ask = |power_save| {
            let found =
                in_both(|reader| check_wifi(&[loopback(), wlan.clone()], |_| power_save, reader));
            (found[0].state, found[0].mend.clone())
        };
        let off = Some("sudo iw dev wlan0 set power_save off".to_owned());
        assert_eq!(ask(PowerSave::On), (State::Warning, off));
        assert_eq!(ask(PowerSave::Off), (State::Ok, None));
        assert_eq!(ask(PowerSave::Unknown), (State::NotCheckable, None));
        assert_eq!(
            ask(PowerSave::NoProgram).1.as_deref(),
            Some("sudo apt install iw")
        );
        let none = in_both(|reader| check_wifi(&[loopback()], |_| PowerSave::On, reader));
        assert_eq!(none[0].state, State::Ok);
        assert_eq!(PowerSave::parse("Power save: on\n"), PowerSave::On);
        assert_eq!(PowerSave::parse("Power save: off\n"), PowerSave::Off);
        assert_eq!(
            PowerSave::parse("command failed: No such device (-19)"),
            PowerSave::Unknown
        );
    }

    #[test]
    fn small_buffers_are_told() {
        let (_folder, machine) = tree(&[("proc/sys/net/core/rmem_max", "212992\n")]);
        let buffers = Buffers::read(&machine);
        let found = in_both(|reader| check_buffers(buffers, 4 << 20, reader));
        assert_eq!(
            (found[0].state, found[1].state),
            (State::Warning, State::NotCheckable)
        );
        assert!(
            found[0]
                .mend
                .as_ref()
                .unwrap()
                .contains("net.core.rmem_max=4194304")
        );
        let enough = Buffers {
            receive: Some(4 << 20),
            send: Some(8 << 20),
        };
        let found = in_both(|reader| check_buffers(enough, 4 << 20, reader));
        assert!(found.iter().all(|one| one.state == State::Ok));
    }
}
