//! The state folder and the disk under it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::access::User;
use super::{Finding, Reader, State, quoted};

/// Below this nothing can be written safely.
const FULL: u64 = 16 << 20;
/// Below this a recording or a log may fill it.
const SHORT: u64 = 256 << 20;

/// Files of the folder that only their owner may read.
const SECRETS: &[&str] = &["identity.pem", "peers.json"];

/// What is known of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is, or will be.
    pub path: PathBuf,
    /// The folder, or what stands in its place.
    pub found: Option<Found>,
    /// The nearest folder above that is there; the folder itself, if it is.
    pub nearest: PathBuf,
    /// Secret files and their modes, as far as they are there.
    pub secrets: Vec<(PathBuf, u32)>,
}

/// What stands at the folder's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it is a folder.
    pub folder: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
}

/// What the kernel tells about the nearest folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Whether this user may make files in it.
    pub writable: bool,
    /// Whether the file system is mounted read-only.
    pub read_only: bool,
    /// Bytes that this user may still write.
    pub free: u64,
}

impl Folder {
    /// Looks at it; changes nothing.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let found = fs::metadata(path).ok().map(|metadata| Found {
            folder: metadata.is_dir(),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
        });
        let nearest = path.ancestors().find(|path| path.is_dir());
        let secret = |name: &&str| {
            let file = path.join(name);
            let mode = fs::metadata(&file).ok()?.mode() & 0o7777;
            Some((file, mode))
        };
        Self {
            path: path.to_owned(),
            found,
            nearest: nearest.unwrap_or(Path::new("/")).to_owned(),
            secrets: SECRETS.iter().filter_map(secret).collect(),
        }
    }
}

/// Whether key and peers can be kept. `disk` is `None` when the kernel does not tell.
#[must_use]
pub fn check(folder: &Folder, disk: Option<Disk>, user: &User, reader: &Reader) -> Vec<Finding> {
    vec![
        permissions(folder, disk, user, reader),
        space(folder, disk, reader),
    ]
}

fn permissions(folder: &Folder, disk: Option<Disk>, user: &User, reader: &Reader) -> Finding {
    const CHECK: &str = "state";
    let path = folder.path.display();
    let name = quoted(&folder.path.to_string_lossy());
    let wrong = |english: &str, japanese: &str, mend: String| {
        let text = reader.say(format!("{path}: {english}"), format!("{path}: {japanese}"));
        Finding::new(CHECK, State::Wrong, text).mend(mend)
    };
    if folder.found.is_some_and(|found| !found.folder) {
        return wrong(
            "is no folder",
            "フォルダーではありません",
            reader.command(&format!("sudo mv {name} {name}.old")),
        );
    }
    if let Some(found) = folder.found {
        if found.uid != user.uid && !user.is_root() {
            return wrong(
                "belongs to another user",
                "別のユーザーのものです",
                reader.command(&format!("sudo chown -R {}: {name}", user.uid)),
            );
        }
        if found.mode & 0o022 != 0 {
            return wrong(
                "other users can put files into it; the program does not start",
                "他のユーザーが書き込めるので、プログラムは起動しません",
                format!("chmod 700 {name}"),
            );
        }
    }
    if let Some((file, _)) = folder.secrets.iter().find(|(_, mode)| mode & 0o077 != 0) {
        let file = file.to_string_lossy();
        let text = reader.say(
            format!("{file}: other users can read it; the program does not start. If the key may have been read, remove it and pair again"),
            format!("{file}: 他のユーザーが読めるので、プログラムは起動しません。鍵を読まれたおそれがあれば、消してペアリングし直してください"),
        );
        return Finding::new(CHECK, State::Wrong, text)
            .mend(format!("chmod 600 {}", quoted(&file)));
    }
    match disk {
        Some(disk) if disk.read_only => {
            let nearest = quoted(&folder.nearest.to_string_lossy());
            wrong(
                "the file system is read-only",
                "ファイルシステムが読み取り専用です",
                reader.command(&format!(
                    "sudo mount -o remount,rw $(df --output=target {nearest} | tail -1)"
                )),
            )
        }
        Some(disk) if !disk.writable && folder.found.is_some() => wrong(
            "cannot be written",
            "書き込めません",
            format!("chmod 700 {name}"),
        ),
        Some(disk) if !disk.writable => wrong(
            "cannot be made here",
            "作れません",
            reader.command(&format!("sudo install -d -m 700 -o {} {name}", user.uid)),
        ),
        None => Finding::new(
            CHECK,
            State::NotCheckable,
            reader.say(
                format!("{path}: the kernel does not tell whether it can be written"),
                format!("{path}: 書き込めるかどうかを調べられません"),
            ),
        ),
        Some(_) => {
            let there = folder.found.is_some();
            let text = if there {
                reader.say(format!("{path}: private"), format!("{path}: 非公開です"))
            } else {
                reader.say(
                    format!("{path}: is made at the first start"),
                    format!("{path}: 最初の起動で作られます"),
                )
            };
            Finding::new(CHECK, State::Ok, text)
        }
    }
}

fn space(folder: &Folder, disk: Option<Disk>, reader: &Reader) -> Finding {
    const CHECK: &str = "disk";
    let nearest = folder.nearest.display();
    let Some(disk) = disk else {
        let text = reader.say(
            format!("{nearest}: the kernel does not tell the free space"),
            format!("{nearest}: 空き容量を調べられません"),
        );
        return Finding::new(CHECK, State::NotCheckable, text);
    };
    let megabytes = disk.free >> 20;
    let state = match disk.free {
        ..FULL => State::Wrong,
        FULL..SHORT => State::Warning,
        SHORT.. => State::Ok,
    };
    let text = reader.say(
        format!("{megabytes} MiB free at {nearest}"),
        format!("{nearest} の空きは {megabytes} MiB です"),
    );
    let found = Finding::new(CHECK, state, text);
    if state == State::Ok {
        return found;
    }
    // Packages that were installed and old logs: what a small box fills itself with.
    found.mend(reader.command("sudo apt clean && sudo journalctl --vacuum-size=50M"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::in_both;
    use super::*;

    const FINE: Disk = Disk {
        writable: true,
        read_only: false,
        free: 1 << 40,
    };

    fn user() -> User {
        User {
            uid: 1000,
            ..User::default()
        }
    }

    fn folder(found: Option<Found>) -> Folder {
        Folder {
            path: "/var/lib/x".into(),
            found,
            nearest: "/var/lib".into(),
            secrets: Vec::new(),
        }
    }

    fn found(mode: u32, uid: u32) -> Option<Found> {
        Some(Found {
            folder: true,
            mode,
            uid,
        })
    }

    fn ask(folder: &Folder, disk: Option<Disk>) -> (Finding, Finding) {
        let mut found = in_both(|reader| check(folder, disk, &user(), reader));
        let disk = found.pop().unwrap();
        (found.pop().unwrap(), disk)
    }

    fn wrong(folder: &Folder, disk: Disk) -> String {
        let (state, _) = ask(folder, Some(disk));
        assert_eq!(state.state, State::Wrong, "{state:?}");
        state.mend.unwrap()
    }

    #[test]
    fn each_fault_of_the_folder_has_its_command() {
        let private = found(0o700, 1000);
        let file = Some(Found {
            folder: false,
            mode: 0o600,
            uid: 1000,
        });
        assert_eq!(
            wrong(&folder(file), FINE),
            "sudo mv /var/lib/x /var/lib/x.old"
        );
        assert_eq!(
            wrong(&folder(found(0o700, 0)), FINE),
            "sudo chown -R 1000: /var/lib/x"
        );
        assert_eq!(
            wrong(&folder(found(0o770, 1000)), FINE),
            "chmod 700 /var/lib/x"
        );
        let closed = Disk {
            writable: false,
            ..FINE
        };
        assert_eq!(
            wrong(&folder(found(0o555, 1000)), closed),
            "chmod 700 /var/lib/x"
        );
        assert_eq!(
            wrong(&folder(None), closed),
            "sudo install -d -m 700 -o 1000 /var/lib/x"
        );
        let mounted = Disk {
            read_only: true,
            ..closed
        };
        assert!(wrong(&folder(private), mounted).contains("remount,rw"));
        let open = Folder {
            secrets: vec![
                ("/var/lib/x/peers.json".into(), 0o600),
                ("/var/lib/x/identity.pem".into(), 0o644),
            ],
            ..folder(private)
        };
        assert_eq!(wrong(&open, FINE), "chmod 600 /var/lib/x/identity.pem");
        assert_eq!(ask(&folder(private), Some(FINE)).0.state, State::Ok);
        assert_eq!(ask(&folder(None), Some(FINE)).0.state, State::Ok);
        assert_eq!(ask(&folder(None), None).0.state, State::NotCheckable);
    }

    #[test]
    fn space_is_ok_short_or_out() {
        let state = |free| ask(&folder(None), Some(Disk { free, ..FINE })).1.state;
        assert_eq!(state(SHORT), State::Ok);
        assert_eq!(state(SHORT - 1), State::Warning);
        assert_eq!(state(FULL - 1), State::Wrong);
        assert_eq!(ask(&folder(None), None).1.state, State::NotCheckable);
    }

    #[test]
    fn a_folder_is_read_without_a_change() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let read = Folder::read(&path);
        assert_eq!((read.found, read.nearest.as_path()), (None, root.path()));
        assert!(!path.exists());
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("identity.pem"), "").unwrap();
        let read = Folder::read(&path);
        assert!(read.found.is_some_and(|found| found.folder) && read.nearest == path);
        assert_eq!(read.secrets.len(), 1);
    }
}
