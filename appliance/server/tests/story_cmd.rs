//! `soft-kvm-server story` as a process, and hostile stories through its confined evaluator.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

fn story(arguments: &[&str], file: Option<&Path>, lang: &str) -> Output {
    timed_story(arguments, file, lang).0
}

/// The same with the CPU time that it took.
fn timed_story(arguments: &[&str], file: Option<&Path>, lang: &str) -> (Output, Duration) {
    // One child at a time: the system adds up all that have ended.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = children_time();
    let output = Command::new(env!("CARGO_BIN_EXE_soft-kvm-server"))
        .arg("story")
        .args(arguments)
        .args(file)
        .env("LC_ALL", lang)
        .output()
        .expect("the server's executable runs");
    (output, children_time().saturating_sub(before))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../core/fixtures")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder can be listed")
        .map(|entry| entry.expect("the entry can be read").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonnet")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Files that can't or should not be in a repository.
fn made_hostile(folder: &Path) -> Vec<PathBuf> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a temporary file is written");
        path
    };
    let inner = folder.join("inner");
    fs::create_dir(&inner).expect("a temporary folder is made");
    write("outside.jsonnet", "import 'default.jsonnet'");
    symlink(folder.join("outside.jsonnet"), inner.join("link.jsonnet")).expect("a link is made");
    symlink("/dev/zero", inner.join("zero.jsonnet")).expect("a link is made");
    vec![
        write("brackets.jsonnet", &"[".repeat(500_000)),
        write("parentheses.jsonnet", &"(".repeat(500_000)),
        write("objects.jsonnet", &"{a:".repeat(300_000)),
        write("locals.jsonnet", &"local a=1;".repeat(100_000)),
        write("minus.jsonnet", &format!("{}1", "-".repeat(1_000_000))),
        write("ifs.jsonnet", &"if true then ".repeat(70_000)),
        write("huge.jsonnet", &" ".repeat(2 * 1024 * 1024)),
        write("binary.jsonnet", "\u{0}\u{1}\u{fffd}"),
        write(
            "absolute.jsonnet",
            &format!("import '{}'", folder.join("outside.jsonnet").display()),
        ),
        write("inner/link-out.jsonnet", "import 'link.jsonnet'"),
        write("inner/link-zero.jsonnet", "importstr 'zero.jsonnet'"),
        inner.join("zero.jsonnet"),
        folder.join("missing.jsonnet"),
        folder.to_owned(),
        PathBuf::from("/dev/zero"),
    ]
}

/// The evaluator itself sets the limits of 900 ms of processor time and 200 MiB; this shows that they hold.
#[test]
fn hostile_stories_end_in_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files = fixtures("hostile");
    files.extend(made_hostile(folder.path()));
    for file in files {
        let started = Instant::now();
        let (output, used) = timed_story(&["check"], Some(&file), "C");
        let taken = started.elapsed();
        let said = text(&output.stderr);
        assert!(
            used < Duration::from_millis(1_000),
            "{}: {used:?}",
            file.display()
        );
        assert!(
            taken < Duration::from_secs(20),
            "{}: {taken:?}",
            file.display()
        );
        assert_eq!(output.status.code(), Some(1), "{}: {said}", file.display());
        assert!(
            said.starts_with(&file.parent().unwrap_or(&file).display().to_string()),
            "{said}"
        );
    }
    let peak_kib = getrusage(UsageWho::RUSAGE_CHILDREN)
        .expect("usage can be read")
        .max_rss();
    assert!(peak_kib < 256 * 1024, "{peak_kib} KiB");
}

/// CPU time of the ended children.
fn children_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage can be read");
    let [user, system] = [usage.user_time(), usage.system_time()].map(|time| {
        let micros = time.num_microseconds();
        Duration::from_micros(u64::try_from(micros).expect("time used is not negative"))
    });
    user + system
}

#[test]
fn the_built_in_story_and_a_file_that_imports_it_are_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mine.jsonnet");
    fs::write(&file, "import 'default.jsonnet'").expect("a temporary file is written");
    let (own, built_in) = (
        story(&["id", "--nodes"], Some(&file), "C"),
        story(&["id", "--nodes"], None, "C"),
    );
    assert_eq!(own.status.code(), Some(0), "{}", text(&own.stderr));
    assert_eq!(text(&own.stdout), text(&built_in.stdout));
    assert_eq!(text(&own.stdout).lines().count(), 8);
}

#[test]
fn errors_name_the_place_in_both_languages() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mine.jsonnet");
    let source = "(import 'default.jsonnet') + {\n  video+: { bitrat_kbps: 8000 },\n}\n";
    fs::write(&file, source).expect("a temporary file is written");
    let english = text(&story(&["check"], Some(&file), "C").stderr);
    assert_eq!(
        english,
        format!(
            "{}:2:13: unknown key 'bitrat_kbps' in node 'video'\n    hint: did you mean 'bitrate_kbps'?\n",
            file.display()
        )
    );
    let japanese = text(&story(&["check"], Some(&file), "ja_JP.UTF-8").stderr);
    assert!(japanese.contains("不明なキー"), "{japanese}");
}

#[test]
fn every_subcommand_answers() {
    let check = story(&["check"], None, "C");
    assert!(text(&check.stdout).starts_with("ok: 7 nodes, root "));
    assert!(text(&story(&["dot"], None, "C").stdout).starts_with("digraph story {"));
    let shown = text(&story(&["show"], None, "C").stdout);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("shown.json");
    fs::write(&file, shown).expect("a temporary file is written");
    assert_eq!(
        story(&["id"], Some(&file), "C").stdout,
        story(&["id"], None, "C").stdout,
        "what `show` prints is the same story"
    );
    assert_eq!(story(&["nonsense"], None, "C").status.code(), Some(2));
}
