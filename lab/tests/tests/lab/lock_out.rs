//! The operator always gets keyboard and mouse back, whatever the client is doing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::input::{ESC, Event, Hardware, KEY_A, LEFT_CTRL, RIGHT_CTRL, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Lab Keyboard";
/// The guard takes a program for hung after this.
const STALL: Duration = Duration::from_secs(2);
const ENTER: u16 = 28;
const PANIC: [u16; 3] = [LEFT_CTRL, RIGHT_CTRL, ESC];

/// A keyboard that a client has taken, and what the local system hears of it.
struct Scene {
    keyboard: Hardware,
    local: Reader,
    server: Server,
    hosts: (Namespace, Namespace),
}

impl Scene {
    fn new() -> anyhow::Result<Self> {
        let keyboard = Hardware::keyboard(KEYBOARD)?;
        let local = Reader::start(keyboard.node())?;
        let hosts = kvm::two_hosts()?;
        let server = Server::start(Host::Namespace(&hosts.0), SMALL)?;
        Ok(Self {
            keyboard,
            local,
            server,
            hosts,
        })
    }

    fn seat(&self) -> anyhow::Result<Seat<'_>> {
        let seat = Seat::new(Host::Namespace(&self.hosts.1))?;
        seat.pair(TARGET, self.server.code()?)?;
        Ok(seat)
    }

    /// Whether the local system hears the keyboard now.
    fn is_free(&self) -> anyhow::Result<bool> {
        let before = self.local.events().len();
        self.keyboard.tap(KEY_A)?;
        std::thread::sleep(Duration::from_millis(10));
        Ok(self.local.events().len() > before)
    }

    /// Waits until the local system hears the keyboard; tells how long that took.
    fn await_free(&self, what: &str, limit: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        while !self.is_free()? {
            ensure!(start.elapsed() < limit, "{what}: no key for {limit:?}");
        }
        Ok(start.elapsed())
    }

    fn await_taken(&self, what: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.is_free()? {
            ensure!(start.elapsed() < SOON, "{what}: not taken again");
        }
        Ok(())
    }

    fn press(&self, keys: &[u16], down: bool) -> anyhow::Result<()> {
        keys.iter()
            .try_for_each(|key| self.keyboard.report(&[Event::key(*key, down)]))
    }
}

/// Threads that are not run while this lives (control group freezer, version 1: it stops single threads).
struct Frozen(PathBuf);

impl Frozen {
    fn threads(process: u32, choose: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        let root = guest::folder("freezer")?;
        if !root.join("tasks").exists() {
            let mut mount = Command::new("mount");
            guest::run(
                mount
                    .args(["-t", "cgroup", "-o", "freezer", "none"])
                    .arg(&root),
            )?;
        }
        let group = root.join("client");
        fs::create_dir_all(&group)?;
        let mut count = 0;
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?;
            let name = fs::read_to_string(thread.path().join("comm"))?;
            if choose(name.trim()) {
                let id = thread.file_name();
                fs::write(group.join("tasks"), id.as_encoded_bytes()).context("freezer")?;
                count += 1;
            }
        }
        ensure!(count > 0, "no such thread");
        let frozen = Self(group);
        frozen.set("FROZEN")?;
        guest::wait_for("the freezer", SOON, || {
            let state = fs::read_to_string(frozen.0.join("freezer.state")).ok()?;
            (state.trim() == "FROZEN").then_some(())
        })?;
        Ok(frozen)
    }

    fn set(&self, state: &str) -> anyhow::Result<()> {
        fs::write(self.0.join("freezer.state"), state).context("freezer")
    }

    fn thaw(self) -> anyhow::Result<()> {
        self.set("THAWED")?;
        let tasks = fs::read_to_string(self.0.join("tasks"))?;
        let root = self.0.parent().unwrap_or(Path::new("/"));
        for id in tasks.lines() {
            fs::write(root.join("tasks"), id)?;
        }
        Ok(())
    }
}

/// Whatever thread hangs, or all of them: the panic chord works, and without it the devices come back by themselves.
pub(crate) fn hung() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    let seat = scene.seat()?;

    guest::log("every loop but the one that reads the devices");
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let frozen = Frozen::threads(client.process.id(), |name| name != "input")?;
    ensure!(!scene.is_free()?, "not taken");
    scene.press(&PANIC, true)?;
    let took = scene.await_free("panic chord, main loop stopped", SOON)?;
    ensure!(took < STALL, "{took:?}: the chord did nothing");
    scene.press(&PANIC, false)?;
    frozen.thaw()?;
    client.process.wait_line("yours again", SOON)?;
    client.stop()?;

    guest::log("all of it, with the chord");
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let frozen = Frozen::threads(client.process.id(), |_| true)?;
    scene.press(&PANIC, true)?;
    let took = scene.await_free("panic chord, all stopped", SOON)?;
    ensure!(took < STALL, "{took:?}: the chord did nothing");
    scene.press(&PANIC, false)?;
    frozen.thaw()?;
    client.process.wait_line("yours again", SOON)?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(scene.is_free()?, "taken again without being asked");
    client.stop()?;

    guest::log("the thread that reads the devices, without the chord");
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let frozen = Frozen::threads(client.process.id(), |name| name == "input")?;
    scene.await_free("input thread stopped", SOON)?;
    frozen.thaw()?;
    scene.await_taken("the input thread runs again")?;

    guest::log("the connections' thread, without the chord");
    let frozen = Frozen::threads(client.process.id(), |name| name == "control")?;
    scene.await_free("control thread stopped", SOON)?;
    frozen.thaw()?;
    scene.await_taken("the control thread runs again")?;

    guest::log("stopped by a signal");
    client.process.send_signal("STOP")?;
    let took = scene.await_free("SIGSTOP", SOON)?;
    ensure!(took < STALL, "{took:?}: stopping is seen at once");
    client.process.send_signal("CONT")?;
    scene.await_taken("SIGCONT")?;
    client.stop()?;
    scene.await_free("the end", SOON)?;
    scene.server.stop().map(drop)
}

/// Killing the client or its guard frees the devices at once.
pub(crate) fn killed() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    let seat = scene.seat()?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let guard = children(client.process.id())?;
    ensure!(guard.len() == 1, "{guard:?}");
    client.process.kill()?;
    scene.await_free("kill -9", SOON)?;
    guest::wait_for("the guard's end", SOON, || {
        let mut ended = guard.iter().map(|id| !Path::new("/proc").join(id).exists());
        ended.all(|ended| ended).then_some(())
    })?;

    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let guard = children(client.process.id())?;
    ensure!(guard.len() == 1, "{guard:?}");
    guest::run(Command::new("kill").arg("-9").args(&guard))?;
    scene.await_free("guard killed", SOON)?;
    client.process.wait_line("given back", SOON)?;
    client.stop()?;
    scene.server.stop().map(drop)
}

/// A trial ends by itself, and does not once it is confirmed.
pub(crate) fn trial() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    let seat = scene.seat()?;
    let mut client = seat.connect(TARGET, &["--grab", "all", "--trial", "2s"])?;
    client.process.wait_line("2 s", SOON)?;
    await_grabs(&mut client, 1)?;
    client.process.wait_line("yours again", SOON)?;
    scene.await_free("after the trial", SOON)?;
    client.stop()?;

    let mut client = seat.connect(TARGET, &["--grab", "all", "--trial", "2s"])?;
    await_grabs(&mut client, 1)?;
    scene.press(&[LEFT_CTRL, RIGHT_CTRL, ENTER], true)?;
    scene.press(&[LEFT_CTRL, RIGHT_CTRL, ENTER], false)?;
    client.process.wait_line("Confirmed", SOON)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(!scene.is_free()?, "given back though confirmed");
    client.stop()?;
    scene.server.stop().map(drop)
}

fn children(process: u32) -> anyhow::Result<Vec<String>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if parent.and_then(|id| id.trim().parse().ok()) == Some(process) {
            children.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(children)
}
