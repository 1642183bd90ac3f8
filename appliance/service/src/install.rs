//! Installs a plain binary as a service, and takes it away again.
//!
//! Files go under a root, each whole or not at all: all are written beside their places first, then moved. What was
//! there before and differs is kept with `.old` behind its name. State is never touched.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use soft_kvm_core::Lang;

use crate::doctor::quoted;

/// First line of every text that is written; what lacks it is somebody else's.
const MARK: &str = "# Written by soft-kvm-server --install-service.\n";
/// How the units of a package name the programs.
const PACKAGED: &str = "/usr/bin/soft-kvm-";
/// The unit of a package.
const PACKAGE: &str = "usr/lib/systemd/system/soft-kvm.service";
/// Where a plain binary goes: the unit may not see home folders.
const PROGRAMS: &str = "usr/local/bin";
const SERVER: &str = "soft-kvm-server";
const CLIENT: &str = "soft-kvm-client";

/// Texts, and where they go.
const TEXTS: &[(&str, &str)] = &[
    (
        "etc/systemd/system/soft-kvm.service",
        include_str!("../../../systemd/soft-kvm.service"),
    ),
    (
        "etc/systemd/system/soft-kvm.socket",
        include_str!("../../../systemd/soft-kvm.socket"),
    ),
    (
        "etc/systemd/system/soft-kvm-broker.socket",
        include_str!("../../../systemd/soft-kvm-broker.socket"),
    ),
    (
        "etc/systemd/system/soft-kvm-broker.service",
        include_str!("../../../systemd/soft-kvm-broker.service"),
    ),
    (
        "etc/sysusers.d/soft-kvm.conf",
        include_str!("../../../systemd/soft-kvm.sysusers.conf"),
    ),
    (
        "etc/tmpfiles.d/soft-kvm.conf",
        include_str!("../../../systemd/soft-kvm.tmpfiles.conf"),
    ),
    (
        "etc/udev/rules.d/70-soft-kvm.rules",
        include_str!("../../../udev/70-soft-kvm.rules"),
    ),
    (
        "etc/udev/hwdb.d/70-soft-kvm.hwdb",
        include_str!("../../../udev/70-soft-kvm.hwdb"),
    ),
];
/// The operator's seats, where the client lies beside the server.
const SEATS: &[(&str, &str)] = &[
    (
        "etc/systemd/system/soft-kvm-seat@.service",
        include_str!("../../../systemd/soft-kvm-seat@.service"),
    ),
    (
        "etc/systemd/system/soft-kvm-client@.service",
        include_str!("../../../systemd/soft-kvm-client@.service"),
    ),
];
/// Made by `systemctl enable`.
const ENABLED: [&str; 2] = [
    "etc/systemd/system/multi-user.target.wants/soft-kvm.service",
    "etc/systemd/system/soft-kvm-server.service",
];

/// Why it cannot be installed; nothing was changed unless said so.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot {action}: {source}")]
pub struct InstallError {
    path: PathBuf,
    action: &'static str,
    source: io::Error,
}

/// What became of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written where nothing was.
    Written,
    /// Written; what was there is beside it, with `.old`.
    Replaced,
    /// It was so already.
    Unchanged,
    /// Taken away.
    Removed,
    /// Left alone: not written by us.
    Foreign,
}

impl Change {
    fn word(self, lang: Lang) -> &'static str {
        match self {
            Self::Written => lang.pick("written", "作成"),
            Self::Replaced => {
                lang.pick("replaced, the former kept as .old", "置き換え（元は .old）")
            }
            Self::Unchanged => lang.pick("unchanged", "変更なし"),
            Self::Removed => lang.pick("removed", "削除"),
            Self::Foreign => lang.pick(
                "left alone: not written by us",
                "対象外（他で作られたもの）",
            ),
        }
    }
}

/// Files and what became of them.
pub type Changes = Vec<(PathBuf, Change)>;

/// Where the programs lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The server that is running now.
    pub server: PathBuf,
    /// The client beside it, if there is one.
    pub client: Option<PathBuf>,
}

impl Programs {
    /// The running program, and the client beside it.
    ///
    /// # Errors
    /// The system does not tell where the running program lies.
    pub fn find() -> io::Result<Self> {
        let server = std::env::current_exe()?;
        let client = server.with_file_name(CLIENT);
        Ok(Self {
            client: client.is_file().then_some(client),
            server,
        })
    }
}

/// A file that is to be.
struct Wanted {
    path: PathBuf,
    mode: u32,
    content: Vec<u8>,
}

/// Writes everything under `root`.
///
/// # Errors
/// A file cannot be read or written, or a package has installed the service.
pub fn install(root: &Path, programs: &Programs) -> Result<Changes, InstallError> {
    let package = root.join(PACKAGE);
    if package.exists() {
        let why = "a package has installed the service: run systemctl enable --now soft-kvm";
        return Err(failed(&package, "replace")(io::Error::other(why)));
    }
    let mut wanted = Vec::new();
    let sources = [
        (SERVER, Some(&programs.server)),
        (CLIENT, programs.client.as_ref()),
    ];
    for (name, source) in sources {
        let Some(source) = source else { continue };
        wanted.push(Wanted {
            path: root.join(PROGRAMS).join(name),
            mode: 0o755,
            content: fs::read(source).map_err(failed(source, "read"))?,
        });
    }
    let seats = programs.client.as_ref().map_or(&[][..], |_| SEATS);
    for (path, text) in TEXTS.iter().chain(seats) {
        let text = text.replace(PACKAGED, &format!("/{PROGRAMS}/soft-kvm-"));
        wanted.push(Wanted {
            path: root.join(path),
            mode: 0o644,
            content: format!("{MARK}{text}").into_bytes(),
        });
    }
    // All of them, before the first is moved to its place.
    let mut staged = Vec::new();
    for one in &wanted {
        match stage(one) {
            Ok(temporary) => staged.push(temporary),
            Err(error) => {
                staged
                    .iter()
                    .flatten()
                    .for_each(|temporary| remove_quietly(temporary));
                return Err(error);
            }
        }
    }
    let mut changes = Changes::new();
    for (index, (one, temporary)) in wanted.iter().zip(&staged).enumerate() {
        match place(one, temporary.as_deref()) {
            Ok(change) => changes.push((one.path.clone(), change)),
            Err(error) => {
                staged
                    .iter()
                    .skip(index)
                    .flatten()
                    .for_each(|left| remove_quietly(left));
                return Err(error);
            }
        }
    }
    Ok(changes)
}

/// Takes away what [`install`] has written; state and what others wrote stay.
///
/// # Errors
/// A file cannot be read or removed; those before it in the list are gone.
pub fn uninstall(root: &Path) -> Result<Changes, InstallError> {
    let mut changes = Changes::new();
    let unit = root.join(TEXTS[0].0);
    let ours = read(&unit)?.is_some_and(|content| content.starts_with(MARK.as_bytes()));
    for enabled in ENABLED.map(|path| root.join(path)) {
        if ours && enabled.is_symlink() {
            fs::remove_file(&enabled).map_err(failed(&enabled, "remove"))?;
            changes.push((enabled, Change::Removed));
        }
    }
    let texts = TEXTS
        .iter()
        .skip(1)
        .chain(SEATS)
        .map(|(path, _)| root.join(path));
    // The unit last: it says whether the programs are ours, also when this is done again after an error.
    let programs = [SERVER, CLIENT].map(|name| root.join(PROGRAMS).join(name));
    for path in texts.chain(programs).chain([unit]) {
        let Some(content) = read(&path)? else {
            continue;
        };
        let program = path
            .parent()
            .is_some_and(|parent| parent.ends_with(PROGRAMS));
        let change = if (program && ours) || content.starts_with(MARK.as_bytes()) {
            fs::remove_file(&path).map_err(failed(&path, "remove"))?;
            Change::Removed
        } else {
            Change::Foreign
        };
        changes.push((path, change));
    }
    Ok(changes)
}

/// What was done and what to run next, for people.
#[must_use]
pub fn told(changes: &Changes, root: &Path, installed: bool, lang: Lang) -> String {
    let mut lines: Vec<_> = changes
        .iter()
        .map(|(path, change)| format!("{}: {}", path.display(), change.word(lang)))
        .collect();
    if changes.is_empty() {
        lines.push(
            lang.pick("nothing was installed", "インストールされていません")
                .to_owned(),
        );
    }
    if root == Path::new("/") {
        lines.push(
            lang.pick("Next, as root:", "次に root で実行してください:")
                .to_owned(),
        );
        let next: &[&str] = if installed {
            &[
                "systemd-sysusers",
                "systemd-tmpfiles --create soft-kvm.conf",
                "systemd-hwdb update && udevadm control --reload && udevadm trigger",
                "systemctl daemon-reload && systemctl enable soft-kvm && systemctl restart soft-kvm",
                "soft-kvm-server doctor --state-dir /var/lib/soft-kvm",
                "soft-kvm-server pair --state-dir /var/lib/soft-kvm",
            ]
        } else {
            &[
                "systemctl stop soft-kvm; systemctl daemon-reload",
                "systemd-hwdb update && udevadm control --reload && udevadm trigger",
            ]
        };
        lines.extend(next.iter().map(|command| format!("  {command}")));
    } else if installed {
        lines.push(match lang {
            Lang::English => "Next, for this root:".to_owned(),
            Lang::Japanese => "次に、このルートに対して:".to_owned(),
        });
        let root = quoted(&root.to_string_lossy());
        lines.push(format!("  systemd-sysusers --root={root}"));
        lines.push(format!("  systemctl --root={root} enable soft-kvm"));
    }
    if !installed {
        let kept = "/var/lib/soft-kvm, /var/lib/soft-kvm-seat, /etc/soft-kvm";
        lines.push(match lang {
            Lang::English => format!("Key, paired clients and stories stay: {kept}"),
            Lang::Japanese => format!("鍵、ペアリング、ストーリーは残ります: {kept}"),
        });
    }
    lines.join("\n")
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError {
        path,
        action,
        source,
    }
}

/// A file's content; nothing where there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, "read")(error)),
    }
}

/// Writes a file beside its place, down to the disk; nothing when it is so already.
fn stage(wanted: &Wanted) -> Result<Option<PathBuf>, InstallError> {
    let path = &wanted.path;
    let mode = fs::metadata(path)
        .ok()
        .map(|metadata| metadata.permissions().mode() & 0o7777);
    if read(path)?.is_some_and(|content| content == wanted.content) && mode == Some(wanted.mode) {
        return Ok(None);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(failed(folder, "make the folder"))?;
    let temporary = beside(path, &format!(".new-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&wanted.content)?;
        file.set_permissions(Permissions::from_mode(wanted.mode))?;
        file.sync_all()
    };
    write().map_err(|error| {
        remove_quietly(&temporary);
        failed(path, "write")(error)
    })?;
    Ok(Some(temporary))
}

/// Moves a file to its place.
fn place(wanted: &Wanted, temporary: Option<&Path>) -> Result<Change, InstallError> {
    let Some(temporary) = temporary else {
        return Ok(Change::Unchanged);
    };
    let path = &wanted.path;
    let text = wanted.mode == 0o644;
    let replaced = path.exists();
    // A program is made anew from its source; a text may have been changed by hand.
    if replaced && text {
        let old = beside(path, ".old");
        fs::copy(path, &old).map_err(failed(&old, "write"))?;
    }
    fs::rename(temporary, path).map_err(failed(path, "replace"))?;
    if let Some(folder) = path.parent() {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed(folder, "sync"))?;
    }
    Ok(if replaced {
        Change::Replaced
    } else {
        Change::Written
    })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove_quietly(path: &Path) {
    // It was ours a moment ago; what is wrong has been told already.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    fn programs(folder: &Path) -> Programs {
        let program = |name: &str| {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\n# {name}\n")).unwrap();
            path
        };
        Programs {
            server: program(SERVER),
            client: Some(program(CLIENT)),
        }
    }

    fn places() -> (TempDir, TempDir, Programs) {
        let (root, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let programs = programs(from.path());
        (root, from, programs)
    }

    /// All files of a tree, with their contents.
    fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = fs::read(&path).unwrap_or_default();
                    found.push((path.strip_prefix(root).unwrap().to_owned(), content));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn installing_twice_changes_nothing_and_uninstalling_leaves_only_the_state() {
        let (root, _from, programs) = places();
        let state = root.path().join("var/lib/soft-kvm/identity.pem");
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        fs::write(&state, "key").unwrap();
        let changes = install(root.path(), &programs).unwrap();
        assert_eq!(changes.len(), 12);
        assert!(changes.iter().all(|(_, change)| *change == Change::Written));
        let unit = fs::read_to_string(root.path().join(TEXTS[0].0)).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/local/bin/soft-kvm-server --broker "),
            "{unit}"
        );
        let before = files(root.path());
        let again = install(root.path(), &programs).unwrap();
        assert!(again.iter().all(|(_, change)| *change == Change::Unchanged));
        assert_eq!(files(root.path()), before);
        let enabled = ENABLED.map(|path| root.path().join(path));
        for link in &enabled {
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("/etc/systemd/system/soft-kvm.service", link).unwrap();
        }
        let removed = uninstall(root.path()).unwrap();
        assert!(removed.iter().all(|(_, change)| *change == Change::Removed));
        assert!(enabled.iter().all(|link| !link.is_symlink()));
        let left = files(root.path());
        assert_eq!(
            left,
            [("var/lib/soft-kvm/identity.pem".into(), b"key".to_vec())]
        );
        assert!(uninstall(root.path()).unwrap().is_empty());
    }

    #[test]
    fn changes_by_hand_are_kept_and_foreign_files_stay() {
        let (root, _from, programs) = places();
        install(root.path(), &programs).unwrap();
        let rules = root.path().join("etc/udev/rules.d/70-soft-kvm.rules");
        fs::write(&rules, "# mine\n").unwrap();
        let foreign = uninstall(root.path()).unwrap();
        assert!(foreign.contains(&(rules.clone(), Change::Foreign)));
        let changes = install(root.path(), &programs).unwrap();
        assert!(changes.contains(&(rules.clone(), Change::Replaced)));
        assert_eq!(
            fs::read_to_string(beside(&rules, ".old")).unwrap(),
            "# mine\n"
        );
        // A program that was there without our unit is not ours to remove.
        fs::remove_file(root.path().join(TEXTS[0].0)).unwrap();
        let server = root.path().join(PROGRAMS).join(SERVER);
        assert!(
            uninstall(root.path())
                .unwrap()
                .contains(&(server.clone(), Change::Foreign))
        );
        assert!(server.exists());
    }

    #[test]
    fn when_one_file_cannot_be_written_none_is() {
        let (root, _from, programs) = places();
        install(
            root.path(),
            &Programs {
                client: None,
                ..programs.clone()
            },
        )
        .unwrap();
        // A folder in the last one's place.
        fs::create_dir_all(root.path().join(SEATS[0].0)).unwrap();
        fs::write(root.path().join(TEXTS[0].0), "# former\n").unwrap();
        let before = files(root.path());
        let error = install(root.path(), &programs).unwrap_err().to_string();
        assert!(error.contains("soft-kvm-seat@.service"), "{error}");
        assert_eq!(files(root.path()), before);
        let package = root.path().join(PACKAGE);
        fs::create_dir_all(package.parent().unwrap()).unwrap();
        fs::write(&package, "").unwrap();
        let error = install(root.path(), &programs).unwrap_err().to_string();
        assert!(error.contains("a package"), "{error}");
        fs::remove_file(package).unwrap();
        let missing = Programs {
            server: "/no/such/program".into(),
            client: None,
        };
        assert!(
            install(root.path(), &missing)
                .unwrap_err()
                .to_string()
                .contains("/no/such")
        );
    }

    #[test]
    fn people_are_told_what_to_run_next_in_both_languages() {
        let changes = vec![(PathBuf::from("/etc/x"), Change::Written)];
        for (lang, word) in [(Lang::English, "written"), (Lang::Japanese, "作成")] {
            let text = told(&changes, Path::new("/"), true, lang);
            assert!(
                text.contains(word) && text.contains("systemctl enable soft-kvm"),
                "{text}"
            );
            let text = told(&changes, Path::new("/mnt"), true, lang);
            assert!(
                text.contains("systemctl --root=/mnt enable soft-kvm"),
                "{text}"
            );
            let text = told(&Changes::new(), Path::new("/"), false, lang);
            assert!(text.contains("/var/lib/soft-kvm"), "{text}");
        }
    }

    /// The tools of systemd read what was written. Those that this machine lacks are left out.
    #[test]
    fn systemd_takes_what_was_written() {
        let (root, _from, programs) = places();
        install(root.path(), &programs).unwrap();
        let run = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            command.arg(format!("--root={}", root.path().display()));
            let output = command.args(words).env("LC_ALL", "C").output().ok()?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {words:?}: {text}");
            Some(())
        };
        for folder in ["etc", "var/lib", "usr/lib/systemd/system"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        if run("systemd-sysusers", &[]).is_some() {
            let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
            assert!(
                groups.contains("input:") && groups.contains("video:"),
                "{groups}"
            );
        }
        if run("systemd-tmpfiles", &["--create", "soft-kvm.conf"]).is_some() {
            let state = fs::metadata(root.path().join("var/lib/soft-kvm")).unwrap();
            assert_eq!(state.permissions().mode() & 0o777, 0o700);
        }
    }
}
