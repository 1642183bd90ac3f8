//! Packages of programs that only tell what they are, made by dpkg-deb and installed by dpkg into a root of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::control::{self, About, SCRIPTS};
use super::notices::{self, Crate};
use super::{pack, shell, stage, text};

/// A time that is long past.
const EPOCH: &str = "1700000000";

fn about(version: &str) -> About {
    About {
        version: version.to_owned(),
        architecture: "all",
        libraries: "libc6 (>= 2.36)".to_owned(),
    }
}

/// Programs that are shell scripts, in a folder.
fn content(folder: &Path) -> stage::Content {
    let programs = ["soft-kvm-server", "soft-kvm-client"].map(|name| {
        let file = folder.join(name);
        fs::write(&file, format!("echo {name} \"$@\"\n")).unwrap();
        // Read by a shell: a file that has just been written cannot always be executed.
        stage::Program::ask(name, file, &["sh".to_owned()]).unwrap()
    });
    stage::Content {
        programs: programs.into(),
        notices: "notices\n".to_owned(),
    }
}

fn package(folder: &Path, version: &str) -> PathBuf {
    let content = content(folder);
    let (tree, out) = (folder.join("tree"), folder.join("out"));
    pack(&content, &about(version), &tree, &out, EPOCH, "xz").unwrap()
}

fn output(program: &str, words: &[&str], file: &Path) -> String {
    shell::output(
        Command::new(program)
            .args(words)
            .arg(file)
            .env("LC_ALL", "C"),
    )
    .unwrap()
}

#[test]
fn libraries_of_the_cross_compiler_have_the_targets_names() {
    let told = "libc6:arm64 (>= 2.36), libgcc-s1-arm64-cross (>= 4.2), libstdc++6:arm64";
    let named = control::as_on_target(told, "arm64");
    assert_eq!(named, "libc6 (>= 2.36), libgcc-s1 (>= 4.2), libstdc++6");
    let native = "libc6 (>= 2.36), libgcc-s1 (>= 4.2)";
    assert_eq!(control::as_on_target(native, "amd64"), native);
}

#[test]
fn every_file_is_in_its_place_with_its_mode_and_belongs_to_root() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path(), "1.2.3-4");
    assert!(package.ends_with("out/soft-kvm_1.2.3-4_all.deb"));
    let listed = output("dpkg-deb", &["--contents"], &package);
    let mut files = Vec::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (mode, owner, path) = (words[0], words[1], words[words.len() - 1]);
        assert_eq!(owner, "root/root", "{line}");
        if path.ends_with('/') {
            assert_eq!(mode, "drwxr-xr-x", "{line}");
        } else {
            let program = path.starts_with("./usr/bin/");
            assert_eq!(
                mode,
                if program { "-rwxr-xr-x" } else { "-rw-r--r--" },
                "{line}"
            );
            files.push(path.trim_start_matches("./usr/"));
        }
    }
    files.sort_unstable();
    assert_eq!(
        files,
        [
            "bin/soft-kvm-client",
            "bin/soft-kvm-server",
            "lib/systemd/system/soft-kvm-broker.service",
            "lib/systemd/system/soft-kvm-broker.socket",
            "lib/systemd/system/soft-kvm-client@.service",
            "lib/systemd/system/soft-kvm-seat@.service",
            "lib/systemd/system/soft-kvm.service",
            "lib/systemd/system/soft-kvm.socket",
            "lib/sysusers.d/soft-kvm.conf",
            "lib/tmpfiles.d/soft-kvm.conf",
            "lib/udev/hwdb.d/70-soft-kvm.hwdb",
            "lib/udev/rules.d/70-soft-kvm.rules",
            "share/bash-completion/completions/soft-kvm-client",
            "share/bash-completion/completions/soft-kvm-server",
            "share/doc/soft-kvm/README.Debian",
            "share/doc/soft-kvm/changelog.Debian.gz",
            "share/doc/soft-kvm/changelog.gz",
            "share/doc/soft-kvm/copyright",
            "share/doc/soft-kvm/examples/default.jsonnet",
            "share/doc/soft-kvm/third-party.gz",
            "share/fish/vendor_completions.d/soft-kvm-client.fish",
            "share/fish/vendor_completions.d/soft-kvm-server.fish",
            "share/lintian/overrides/soft-kvm",
            "share/man/man1/soft-kvm-client.1.gz",
            "share/man/man1/soft-kvm-server.1.gz",
            "share/zsh/vendor-completions/_soft-kvm-client",
            "share/zsh/vendor-completions/_soft-kvm-server",
        ]
    );
}

#[test]
fn what_a_program_tells_of_itself_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path(), "1.2.3-4");
    let root = folder.path().join("unpacked");
    shell::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &root]),
    )
    .unwrap();
    let share = root.join("usr/share");
    let manual = share.join("man/man1/soft-kvm-server.1.gz");
    assert_eq!(output("gzip", &["-dc"], &manual), "soft-kvm-server man\n");
    for (path, shell) in [
        ("bash-completion/completions/soft-kvm-client", "bash"),
        ("fish/vendor_completions.d/soft-kvm-client.fish", "fish"),
        ("zsh/vendor-completions/_soft-kvm-client", "zsh"),
    ] {
        let text = fs::read_to_string(share.join(path)).unwrap();
        assert_eq!(text, format!("soft-kvm-client completions {shell}\n"));
    }
}

#[test]
fn dpkg_reads_the_fields_and_sums_that_we_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path(), "1.2.3-4");
    let field = |name: &str| {
        let command = &mut Command::new("dpkg-deb");
        let said = shell::output(command.arg("--field").arg(&package).arg(name)).unwrap();
        said.trim().to_owned()
    };
    assert_eq!(field("Package"), "soft-kvm");
    assert_eq!(field("Version"), "1.2.3-4");
    assert_eq!(field("Architecture"), "all");
    assert!(field("Depends").starts_with("libc6 (>= 2.36), systemd |"));
    assert!(field("Installed-Size").parse::<u32>().unwrap() >= 22);
    let control = output("dpkg-deb", &["--field"], &package);
    assert!(
        !control.contains('@') || control.matches('@').count() == 1,
        "{control}"
    );
    let (tree, control) = (
        folder.path().join("unpacked"),
        folder.path().join("control"),
    );
    for (what, to) in [("--extract", &tree), ("--control", &control)] {
        shell::run(Command::new("dpkg-deb").arg(what).args([&package, to])).unwrap();
    }
    let mut check = Command::new("md5sum");
    check
        .current_dir(&tree)
        .args(["--check", "--strict", "--quiet"]);
    shell::run(check.arg(control.join("md5sums"))).unwrap();
    let sums = fs::read_to_string(control.join("md5sums")).unwrap();
    assert_eq!(sums.lines().count(), stage::files(&tree).unwrap().len());
}

#[test]
fn the_same_programs_make_the_same_package() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packages = [&one, &other].map(|folder| package(folder.path(), "1.2.3-4"));
    let [first, second] = packages.map(|package| fs::read(package).unwrap());
    assert!(first == second);
}

/// A root with dpkg's data base, and tools that note down how they are called instead of acting.
struct Root {
    folder: TempDir,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("root/var/lib/dpkg");
        for name in ["info", "updates", "triggers"] {
            fs::create_dir_all(data.join(name)).unwrap();
        }
        fs::write(data.join("status"), "").unwrap();
        // Made by another process: no thread of ours has them open when they are executed.
        let script = "mkdir tools && cd tools && for name in systemctl systemd-hwdb systemd-sysusers systemd-tmpfiles udevadm \
            deb-systemd-helper deb-systemd-invoke; do cat >$name && chmod 755 $name; done";
        let tool = "#!/bin/sh\necho \"${0##*/} $*\" >>\"$NOTES\"\n\
            case \"$*\" in *was-enabled*) [ ! -e \"$NOTES.disabled\" ] ;; esac\n";
        let script = script.replace("cat", &format!("printf '%s' '{tool}'"));
        let mut command = Command::new("sh");
        shell::run(command.current_dir(folder.path()).args(["-c", &script])).unwrap();
        Self { folder }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs dpkg for this root; what the scripts called.
    fn dpkg(&self, words: &[&str]) -> String {
        let notes = self.path("notes");
        fs::write(&notes, "").unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.path("tools").display());
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", self.path("root").display()))
            .arg("--force-not-root,script-chrootless,depends,bad-path,unsafe-io,architecture")
            .args(words)
            .env("PATH", path)
            .env("NOTES", &notes);
        shell::output(&mut command).unwrap();
        fs::read_to_string(notes).unwrap()
    }
}

#[test]
fn state_outlives_upgrade_and_removal_and_is_purged() {
    let root = Root::new();
    let (old, new) = (root.path("old"), root.path("new"));
    for folder in [&old, &new] {
        fs::create_dir(folder).unwrap();
    }
    let old = package(&old, "1.0.0-1");
    let new = package(&new, "1.0.0-2");
    let place = root.path("root");
    let called = root.dpkg(&["--install", old.to_str().unwrap()]);
    for call in [
        format!("systemd-sysusers --root={} soft-kvm.conf", place.display()),
        format!("systemd-hwdb --root={} --usr update", place.display()),
        "deb-systemd-helper enable soft-kvm.service".to_owned(),
    ] {
        assert!(called.contains(&call), "{called}");
    }
    // Another root's services and devices are not this machine's.
    for other in ["systemctl", "udevadm", "deb-systemd-invoke"] {
        assert!(!called.contains(other), "{called}");
    }
    let server = root.path("root/usr/bin/soft-kvm-server");
    assert!(server.is_file());
    let state = root.path("root/var/lib/soft-kvm/identity.pem");
    let seat = root.path("root/var/lib/soft-kvm-seat/identity.pem");
    let story = root.path("root/etc/soft-kvm/story.jsonnet");
    for file in [&state, &seat, &story] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "kept").unwrap();
    }
    // The administrator has disabled it.
    fs::write(root.path("notes.disabled"), "").unwrap();
    let called = root.dpkg(&["--install", new.to_str().unwrap()]);
    assert!(called.contains("update-state soft-kvm.service"), "{called}");
    assert!(!called.contains("helper enable"), "{called}");
    assert!(state.is_file() && seat.is_file() && story.is_file());
    // One that the administrator has made is made anew as well.
    let own = root.path("root/etc/udev/hwdb.bin");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "").unwrap();
    let called = root.dpkg(&["--remove", "soft-kvm"]);
    let updates = called
        .lines()
        .filter(|call| call.starts_with("systemd-hwdb"));
    let updates: Vec<bool> = updates.map(|call| call.contains(" --usr ")).collect();
    assert_eq!(updates, [true, false], "{called}");
    assert!(!server.exists());
    assert!(state.is_file() && seat.is_file() && story.is_file());
    let called = root.dpkg(&["--purge", "soft-kvm"]);
    assert!(called.contains("helper purge soft-kvm.service"), "{called}");
    assert!(!state.parent().unwrap().exists() && !seat.parent().unwrap().exists());
    assert!(story.is_file(), "a story is the administrator's");
}

#[test]
fn purging_leaves_no_empty_folder_and_no_link_to_a_seat() {
    let root = Root::new();
    let package = package(root.folder.path(), "1.0.0-1");
    root.dpkg(&["--install", package.to_str().unwrap()]);
    let stories = root.path("root/etc/soft-kvm");
    let wants = root.path("root/etc/systemd/system/multi-user.target.wants");
    for folder in [&stories, &wants] {
        fs::create_dir_all(folder).unwrap();
    }
    let seat = wants.join("soft-kvm-seat@rack-1.service");
    let other = wants.join("other.service");
    for link in [&seat, &other] {
        std::os::unix::fs::symlink("/nowhere", link).unwrap();
    }
    root.dpkg(&["--purge", "soft-kvm"]);
    assert!(!stories.exists() && !seat.is_symlink() && other.is_symlink());
}

#[test]
fn a_plain_installation_that_goes_before_the_package_is_told() {
    let install = shell::root().join("appliance/service/src/install.rs");
    let install = fs::read_to_string(install).unwrap();
    let mark = "# Written by soft-kvm-server --install-service";
    assert!(install.contains(mark) && text("postinst").unwrap().contains(mark));
    // What --install-service looks for.
    assert!(install.contains("\"usr/lib/systemd/system/soft-kvm.service\""));
}

#[test]
fn the_scripts_are_shell_and_the_units_run_what_is_packed() {
    for name in SCRIPTS {
        let path = shell::root().join(super::TEXTS).join(name);
        output("sh", &["-n"], &path);
        let script = text(name).unwrap();
        assert!(
            script.starts_with("#!/bin/sh\n") && script.contains("\nset -e\n"),
            "{name}"
        );
    }
    for unit in [
        "soft-kvm.service",
        "soft-kvm-broker.service",
        "soft-kvm-seat@.service",
    ] {
        let path = shell::root().join("systemd").join(unit);
        let unit = fs::read_to_string(path).unwrap();
        assert!(unit.contains("\nExecStart=/usr/bin/soft-kvm-"));
    }
}

#[test]
fn the_debian_version_is_that_of_the_programs() {
    let version = control::version(&text("changelog").unwrap()).unwrap();
    let (upstream, _) = version.rsplit_once('-').unwrap();
    assert_eq!(upstream, env!("CARGO_PKG_VERSION"));
    assert!(control::version("soft-kvm 0.1.0\n").is_err());
    assert!(control::version("").is_err());
}

#[test]
fn each_licence_stands_once_with_the_crates_that_it_is_of() {
    let one = |name: &str, license: Option<&str>| Crate {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        license: license.map(str::to_owned),
        authors: vec!["A. Author".to_owned()],
        source: None,
        manifest_path: PathBuf::new(),
    };
    let crates = [
        (one("a", Some("MIT")), vec!["Text of MIT".to_owned()]),
        (one("b", Some("MIT")), vec!["Text of MIT".to_owned()]),
        (one("c", None), Vec::new()),
    ];
    let text = notices::render(&crates);
    assert_eq!(text.matches("Text of MIT").count(), 1);
    assert!(
        text.contains("\na 1.0.0, b 1.0.0\n\nText of MIT\n"),
        "{text}"
    );
    assert!(text.contains("c 1.0.0: see below; A. Author"), "{text}");
}
