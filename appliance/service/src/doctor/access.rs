//! Who runs the program, and what the kernel lets them open.

use super::modules::Module;
use super::{Access, Finding, Machine, Node, Reader, State, quoted};

/// The rule that gives device nodes to their groups; the other lines are in `udev/70-soft-kvm.rules`.
const UDEV_RULE: &str = r#"KERNEL=="uinput", SUBSYSTEM=="misc", GROUP="input", MODE="0660", OPTIONS+="static_node=uinput", TAG+="uaccess""#;

/// `CAP_SYS_ADMIN` is number 21 (`capabilities(7)`).
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// `CAP_NET_BIND_SERVICE` is number 10.
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
/// `CAP_SYS_NICE` is number 23.
const CAP_SYS_NICE: u64 = 1 << 23;

/// The user, as process and as account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Effective user.
    pub uid: u32,
    /// Name of the account, if it has one.
    pub name: Option<String>,
    /// Groups that the process has.
    pub gids: Vec<u32>,
    /// Capabilities that the process can put in force, as bits.
    pub capabilities: u64,
    /// Highest real-time priority that it may take; `None` when not told.
    pub realtime: Option<u64>,
    /// Groups of the system: name, number, members.
    pub groups: Vec<Group>,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: u32,
    /// Accounts in it.
    pub members: Vec<String>,
}

/// How a user stands to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Member,
    /// The account is in it, the process was started before.
    AfterLogin,
    Stranger,
    NoGroup,
}

impl User {
    /// Reads it.
    #[must_use]
    pub fn read(machine: &Machine) -> Self {
        let status = machine.text("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default()
        };
        let numbers = |name: &str| -> Vec<u32> {
            let words = field(name).split_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        // Real, effective, saved, file system.
        let effective = |name: &str| numbers(name).get(1).copied();
        let uid = effective("Uid:").unwrap_or(u32::MAX);
        let mut gids = numbers("Groups:");
        gids.extend(effective("Gid:"));
        let limits = machine.text("/proc/self/limits").unwrap_or_default();
        let realtime = limits.lines().find_map(|line| {
            let rest = line.strip_prefix("Max realtime priority")?;
            rest.split_whitespace()
                .next()
                .map(|word| word.parse().unwrap_or(u64::MAX))
        });
        Self {
            uid,
            name: account(&machine.text("/etc/passwd").unwrap_or_default(), uid),
            gids,
            capabilities: u64::from_str_radix(field("CapPrm:"), 16).unwrap_or(0),
            realtime,
            groups: groups(&machine.text("/etc/group").unwrap_or_default()),
        }
    }

    /// Whether it is root.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether it may put `CAP_SYS_ADMIN` in force.
    #[must_use]
    pub const fn may_administrate(&self) -> bool {
        self.capabilities & CAP_SYS_ADMIN != 0
    }

    /// Whether it may bind ports below the unprivileged ones.
    #[must_use]
    pub const fn may_bind_low_ports(&self) -> bool {
        self.capabilities & CAP_NET_BIND_SERVICE != 0
    }

    fn shell_name(&self) -> String {
        self.name
            .as_deref()
            .map_or_else(|| "$USER".to_owned(), quoted)
    }

    fn membership(&self, group: &str) -> Membership {
        let Some(group) = self.groups.iter().find(|one| one.name == group) else {
            return Membership::NoGroup;
        };
        let listed = |name: &String| group.members.contains(name);
        if self.gids.contains(&group.gid) {
            Membership::Member
        } else if self.name.as_ref().is_some_and(listed) {
            Membership::AfterLogin
        } else {
            Membership::Stranger
        }
    }
}

fn account(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn groups(text: &str) -> Vec<Group> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(Group {
            name,
            gid,
            members: members
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    };
    text.lines().filter_map(group).collect()
}

/// The groups whose members may use the devices.
#[must_use]
pub fn check_groups(user: &User, wanted: &[&str], reader: &Reader) -> Vec<Finding> {
    const CHECK: &str = "groups";
    if user.is_root() {
        let message = reader.say("root needs no group", "root にグループは不要です");
        return vec![Finding::new(CHECK, State::Ok, message)];
    }
    let name = user.shell_name();
    let finding = |group: &&str| {
        match user.membership(group) {
        Membership::Member => Finding::new(
            CHECK,
            State::Ok,
            reader.say(format!("in group {group}"), format!("グループ {group} に入っています")),
        ),
        Membership::AfterLogin => Finding::new(
            CHECK,
            State::Warning,
            reader.say(
                format!("added to group {group} since this login: log in again, or use a shell with the group"),
                format!("グループ {group} への追加はこのログインより後です。ログインし直すか、グループ付きのシェルを使ってください"),
            ),
        )
        .mend(format!("newgrp {group}")),
        Membership::Stranger => Finding::new(
            CHECK,
            State::Warning,
            reader.say(
                format!("not in group {group}; log in again after the command"),
                format!("グループ {group} に入っていません。コマンドの後でログインし直してください"),
            ),
        )
        .mend(reader.command(&format!("sudo usermod -aG {group} {name}"))),
        Membership::NoGroup => Finding::new(
            CHECK,
            State::Warning,
            reader.say(
                format!("this system has no group {group}; log in again after the command"),
                format!("グループ {group} がありません。コマンドの後でログインし直してください"),
            ),
        )
        .mend(reader.command(&format!(
            "sudo groupadd --system {group} && sudo usermod -aG {group} {name}"
        ))),
    }
    };
    wanted.iter().map(finding).collect()
}

/// The command that lets the user open a node that was denied: its group, or the rule that gives it to the group.
#[must_use]
pub fn open_up(node: &Node, group: &str, user: &User, reader: &Reader) -> String {
    let of_group = user
        .groups
        .iter()
        .any(|one| one.name == group && Some(one.gid) == node.gid);
    let group_may = node.mode.is_some_and(|mode| mode & 0o060 == 0o060);
    if of_group && group_may {
        if user.membership(group) == Membership::AfterLogin {
            return format!("newgrp {group}");
        }
        return reader.command(&format!("sudo usermod -aG {group} {}", user.shell_name()));
    }
    if node.path == "/dev/uinput" {
        return reader.command(&format!(
            "echo {} | sudo tee /etc/udev/rules.d/70-soft-kvm.rules && sudo udevadm control --reload && sudo udevadm trigger",
            quoted(UDEV_RULE)
        ));
    }
    reader.command(&format!(
        "sudo chgrp {group} {0} && sudo chmod g+rw {0}",
        node.path
    ))
}

/// Whether keys and pointer can go into this machine's kernel.
#[must_use]
pub fn check_uinput(node: &Node, module: Module, user: &User, reader: &Reader) -> Finding {
    const CHECK: &str = "uinput";
    let path = &node.path;
    let wrong = |english: &str, japanese: &str| {
        let text = reader.say(format!("{path}: {english}"), format!("{path}: {japanese}"));
        Finding::new(CHECK, State::Wrong, text)
    };
    match (&node.access, module) {
        (Access::Granted, _) => Finding::new(
            CHECK,
            State::Ok,
            reader.say(format!("{path} can be used"), format!("{path} を使えます")),
        ),
        (Access::Denied, _) => wrong(
            "permission denied: keys cannot be injected",
            "権限がなく、キー入力を渡せません",
        )
        .mend(open_up(node, "input", user, reader)),
        (Access::Missing, Module::Absent) => wrong(
            "this kernel has no uinput: keys cannot be injected. It takes a kernel with CONFIG_INPUT_UINPUT, e.g. the distribution's",
            "このカーネルには uinput がなく、キー入力を渡せません。CONFIG_INPUT_UINPUT の入ったカーネル（ディストリビューションのものなど）が要ります",
        )
        .mend(reader.command("sudo apt install linux-image-generic || sudo apt install linux-image-$(dpkg --print-architecture)")),
        (Access::Missing, _) => wrong(
            "the kernel module is not loaded: keys cannot be injected",
            "カーネルモジュールが読み込まれておらず、キー入力を渡せません",
        )
        .mend(reader.command(
            "sudo modprobe uinput && echo uinput | sudo tee /etc/modules-load.d/soft-kvm.conf",
        )),
        (Access::Other(why), _) => wrong(why, &format!("開けません（{why}）"))
            .mend(reader.command("sudo modprobe -r uinput; sudo modprobe uinput")),
    }
}

/// Whether a screen can be read below the desktop. `wanted`: the story names the driver.
#[must_use]
pub fn check_capabilities(
    user: &User,
    screens: bool,
    wanted: bool,
    program: &str,
    reader: &Reader,
) -> Finding {
    const CHECK: &str = "capabilities";
    if user.may_administrate() {
        let message = reader.say(
            "CAP_SYS_ADMIN: screens can be captured (kms)",
            "CAP_SYS_ADMIN があり、画面を取り込めます (kms)",
        );
        return Finding::new(CHECK, State::Ok, message);
    }
    if !screens && !wanted {
        let message = reader.say(
            "no graphics card: CAP_SYS_ADMIN is not needed",
            "グラフィックスカードがないので CAP_SYS_ADMIN は不要です",
        );
        return Finding::new(CHECK, State::Ok, message);
    }
    let state = if wanted { State::Wrong } else { State::Warning };
    let message = reader.say(
        "without CAP_SYS_ADMIN the kernel shows no screen's picture (kms)",
        "CAP_SYS_ADMIN がないと、カーネルは画面の内容を渡しません (kms)",
    );
    Finding::new(CHECK, state, message)
        .mend(reader.command(&format!("sudo setcap cap_sys_admin+ep {}", quoted(program))))
}

/// Whether the threads that keys pass through can run ahead of encoders.
#[must_use]
pub fn check_realtime(user: &User, reader: &Reader) -> Finding {
    const CHECK: &str = "realtime";
    /// What the threads ask for.
    const WANTED: u64 = 20;
    let Some(limit) = user.realtime else {
        let message = reader.say(
            "/proc/self/limits cannot be read",
            "/proc/self/limits を読めません",
        );
        return Finding::new(CHECK, State::NotCheckable, message);
    };
    if limit >= WANTED || user.capabilities & CAP_SYS_NICE != 0 {
        let message = reader.say(
            "threads that keys pass through may have real-time priority",
            "キー入力のスレッドにリアルタイム優先度を付けられます",
        );
        return Finding::new(CHECK, State::Ok, message);
    }
    let message = reader.say(
        "no real-time priority for the threads that keys pass through: a busy machine delays keys; log in again after the command",
        "キー入力のスレッドにリアルタイム優先度を付けられず、混んでいるとキーが遅れます。コマンドの後でログインし直してください",
    );
    Finding::new(CHECK, State::Warning, message).mend(reader.command(&format!(
        "echo '{} - rtprio {WANTED}' | sudo tee /etc/security/limits.d/90-soft-kvm.conf",
        user.name.as_deref().unwrap_or("@input")
    )))
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::tree;
    use super::super::tests::in_both;
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t27 44 1000 \nCapPrm:\t0000000000200000\n";

    fn ordinary() -> User {
        let (_folder, machine) = tree(&[
            ("proc/self/status", STATUS),
            (
                "proc/self/limits",
                "Limit   Soft Limit  Hard Limit  Units\nMax realtime priority     0     0     \n",
            ),
            (
                "etc/passwd",
                "root:x:0:0::/root:/bin/sh\nmia:x:1000:1000::/home/mia:/bin/sh\n",
            ),
            (
                "etc/group",
                "input:x:104:\nvideo:x:44:mia\nrender:x:105:kim,mia\nbroken\n",
            ),
        ]);
        User::read(&machine)
    }

    fn denied(gid: u32, mode: u32) -> Node {
        Node {
            path: "/dev/uinput".to_owned(),
            access: Access::Denied,
            gid: Some(gid),
            mode: Some(mode),
        }
    }

    fn missing() -> Node {
        Node {
            access: Access::Missing,
            gid: None,
            mode: None,
            ..denied(0, 0)
        }
    }

    #[test]
    fn the_user_is_read() {
        let user = ordinary();
        assert_eq!((user.uid, user.name.as_deref()), (1000, Some("mia")));
        assert_eq!(user.gids, [27, 44, 1000, 1000]);
        assert!(user.may_administrate() && !user.may_bind_low_ports() && !user.is_root());
        assert_eq!(user.realtime, Some(0));
        assert_eq!(user.groups.len(), 3);
    }

    #[test]
    fn each_way_of_not_being_in_a_group_has_its_command() {
        let user = ordinary();
        let found =
            in_both(|reader| check_groups(&user, &["video", "render", "input", "kvm"], reader));
        let mends: Vec<_> = found
            .iter()
            .map(|finding| finding.mend.as_deref())
            .collect();
        assert_eq!(
            mends,
            [
                None,
                Some("newgrp render"),
                Some("sudo usermod -aG input mia"),
                Some("sudo groupadd --system kvm && sudo usermod -aG kvm mia"),
            ]
        );
        let root = User { uid: 0, ..user };
        assert_eq!(
            in_both(|reader| check_groups(&root, &["input"], reader))[0].state,
            State::Ok
        );
    }

    #[test]
    fn each_reason_against_uinput_has_its_command() {
        let user = ordinary();
        let mend = |node: &Node, module| {
            let found = in_both(|reader| vec![check_uinput(node, module, &user, reader)]);
            assert_eq!(found[0].state, State::Wrong);
            found[0].mend.clone().unwrap_or_default()
        };
        assert!(mend(&missing(), Module::Loadable).starts_with("sudo modprobe uinput"));
        assert!(mend(&missing(), Module::Absent).contains("apt install linux-image"));
        assert_eq!(
            mend(&denied(104, 0o660), Module::There),
            "sudo usermod -aG input mia"
        );
        let rule = mend(&denied(0, 0o600), Module::There);
        assert!(rule.contains("udev/rules.d/70-soft-kvm.rules") && rule.contains(UDEV_RULE));
        let broken = Node {
            access: Access::Other("I/O error".to_owned()),
            ..missing()
        };
        assert!(mend(&broken, Module::There).contains("modprobe -r"));
        let fine = Node {
            access: Access::Granted,
            ..missing()
        };
        let found = in_both(|reader| vec![check_uinput(&fine, Module::There, &user, reader)]);
        assert_eq!(found[0].state, State::Ok);
    }

    #[test]
    fn the_rule_is_the_one_of_the_udev_folder() {
        assert!(include_str!("../../../../udev/70-soft-kvm.rules").contains(UDEV_RULE));
    }

    #[test]
    fn the_capability_matters_where_there_is_a_screen() {
        let user = User {
            capabilities: 0,
            ..ordinary()
        };
        let state = |user: &User, screens, wanted| {
            let found = in_both(|reader| {
                vec![check_capabilities(
                    user, screens, wanted, "/opt/a b", reader,
                )]
            });
            (found[0].state, found[0].mend.clone())
        };
        let command = Some("sudo setcap cap_sys_admin+ep '/opt/a b'".to_owned());
        assert_eq!(state(&user, false, false), (State::Ok, None));
        assert_eq!(state(&user, true, false), (State::Warning, command.clone()));
        assert_eq!(state(&user, false, true), (State::Wrong, command));
        assert_eq!(state(&ordinary(), true, true), (State::Ok, None));
    }

    #[test]
    fn priority_is_a_limit_or_a_capability() {
        let user = ordinary();
        let check = |user: &User| in_both(|reader| vec![check_realtime(user, reader)]).remove(0);
        let found = check(&user);
        assert_eq!(found.state, State::Warning);
        assert!(
            found
                .mend
                .is_some_and(|mend| mend.contains("mia - rtprio 20"))
        );
        let with = |realtime| User {
            realtime,
            ..user.clone()
        };
        assert_eq!(check(&with(Some(20))).state, State::Ok);
        assert_eq!(check(&with(None)).state, State::NotCheckable);
        let able = User {
            capabilities: CAP_SYS_NICE,
            ..user
        };
        assert_eq!(check(&able).state, State::Ok);
    }
}
