//! `soft-kvm-server doctor`: what is wrong with this machine as a server, and the commands that mend it.

use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::Path;

use soft_kvm_core::Lang;
use soft_kvm_core::story::{
    CaptureDriver, CaptureParams, EncoderDriver, InputDriver, Story, VideoParams,
};
use soft_kvm_platform::os::{clock, disk, lockdown, probe};
use soft_kvm_service::console;
use soft_kvm_service::doctor::access::{self, User};
use soft_kvm_service::doctor::clock::Clock;
use soft_kvm_service::doctor::firewall::{self, Packet, Readings};
use soft_kvm_service::doctor::lock_in;
use soft_kvm_service::doctor::modules::{self, Module};
use soft_kvm_service::doctor::network::{self, Buffers, PowerSave};
use soft_kvm_service::doctor::ports::{self, Protocol, Wanted};
use soft_kvm_service::doctor::state::{self, Disk, Folder};
use soft_kvm_service::doctor::{Access, Finding, Machine, Node, Reader, Report, State, as_root};

use crate::cli::{DoctorArgs, RunArgs};
use crate::control::local;
use crate::devices::{self, Encoder, Sink};
use crate::run::SOCKET_BUFFER;
use crate::settings;

/// Checks everything and prints it; says whether nothing is wrong.
///
/// # Errors
/// There is no place for the state, or the report cannot be written as JSON.
pub fn run(args: &DoctorArgs, lang: Lang) -> anyhow::Result<bool> {
    let state_dir = console::state_path(args.state_dir.as_deref(), "server")?;
    let machine = Machine::default();
    let user = User::read(&machine);
    let reader = Reader {
        lang,
        root: user.is_root(),
    };
    let (story, mut findings) = story(args, &reader);
    let at = Doctor {
        machine: &machine,
        user: &user,
        reader: &reader,
        story: &story,
    };
    findings.extend(at.devices());
    findings.extend(at.keeping(&state_dir));
    let runs = UnixStream::connect(local::path(&state_dir)).is_ok();
    findings.extend(at.lock_in(runs));
    findings.extend(at.ports(runs));
    findings.extend(at.network());
    let report = Report::new("soft-kvm-server", env!("CARGO_PKG_VERSION"), findings);
    report.print(args.json, lang)?;
    Ok(!report.is_wrong())
}

/// The story that would run; with a broken one the built-in one is looked at further.
fn story(args: &DoctorArgs, reader: &Reader) -> (Story, Vec<Finding>) {
    const CHECK: &str = "story";
    let run = RunArgs {
        story: args.story.clone(),
        source: args.source.clone(),
        port: args.port,
        metrics_port: args.metrics_port,
        ..RunArgs::default()
    };
    match settings::load(&run, reader.lang) {
        Ok(settings) => {
            let root = settings.story.root().to_string();
            let text = reader.say(
                format!("can be run, root {root}"),
                format!("使えます。ルートは {root}"),
            );
            (settings.story, vec![Finding::new(CHECK, State::Ok, text)])
        }
        // What is wrong and how it is mended stands in the message, with file and line.
        Err(error) => {
            let found = Finding::new(CHECK, State::Wrong, error.to_string());
            (Story::embedded(), vec![found])
        }
    }
}

struct Doctor<'a> {
    machine: &'a Machine,
    user: &'a User,
    reader: &'a Reader,
    story: &'a Story,
}

impl Doctor<'_> {
    fn devices(&self) -> Vec<Finding> {
        let (user, reader) = (self.user, self.reader);
        let sources = probe::probe();
        let driver = self.story.capture().driver;
        let screens = sources
            .iter()
            .any(|one| matches!(one.choice, probe::Choice::Kms { .. }));
        let program = std::env::current_exe().unwrap_or_else(|_| "soft-kvm-server".into());
        let mut findings = vec![
            source(&sources, self.story.capture(), reader),
            encoder(&devices::encoders(), self.story.video(), reader),
        ];
        findings.extend(denied(&self.machine.nodes("/dev", "video"), user, reader));
        findings.push(match self.story.input().map(|input| input.driver) {
            Some(InputDriver::Gadget) => {
                let module = Module::read(self.machine, "libcomposite");
                gadget(&devices::gadgets(), module, reader)
            }
            _ => {
                let node = self.machine.node("/dev/uinput");
                let module = Module::read(self.machine, "uinput");
                access::check_uinput(&node, module, user, reader)
            }
        });
        findings.extend(access::check_groups(user, &["input", "video"], reader));
        findings.push(access::check_capabilities(
            user,
            screens,
            driver == CaptureDriver::Kms,
            &program.to_string_lossy(),
            reader,
        ));
        findings.push(access::check_realtime(user, reader));
        let driverless = modules::driverless_cameras(self.machine);
        let module = Module::read(self.machine, "uvcvideo");
        findings.push(modules::check_modules(&driverless, module, reader));
        findings
    }

    fn keeping(&self, state_dir: &Path) -> Vec<Finding> {
        let folder = Folder::read(state_dir);
        let disk = disk::look(&folder.nearest).ok().map(|disk| Disk {
            writable: disk.writable,
            read_only: disk.read_only,
            free: disk.free,
        });
        state::check(&folder, disk, self.user, self.reader)
    }

    fn lock_in(&self, runs: bool) -> Vec<Finding> {
        let version = lockdown::landlock_version();
        let facts = lock_in::Facts::read(self.machine, version, runs);
        lock_in::check(&facts, self.reader)
    }

    fn ports(&self, runs: bool) -> Vec<Finding> {
        let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let own = |protocol| Wanted {
            protocol,
            address: all,
            port: self.story.control().port,
            option: "--port",
        };
        let metrics = self.story.metrics().map(|metrics| Wanted {
            protocol: Protocol::Tcp,
            address: metrics.address,
            port: metrics.port,
            option: "--metrics-port",
        });
        let sockets = ports::bound(self.machine);
        [Some(own(Protocol::Tcp)), Some(own(Protocol::Udp)), metrics]
            .into_iter()
            .flatten()
            .map(|wanted| {
                let facts = ports::Facts::read(self.machine, wanted, sockets.as_deref());
                ports::check(&facts, self.user, runs, self.reader)
            })
            .collect()
    }

    fn firewall(&self, discovery: bool) -> Vec<Finding> {
        let port = self.story.control().port;
        let mut packets = Vec::new();
        for v6 in [false, true] {
            if v6 && !network::has_ipv6(self.machine) {
                continue;
            }
            packets.extend(["tcp", "udp"].map(|protocol| Packet::to(protocol, port, v6)));
            packets.extend(discovery.then(|| Packet::mdns(v6)));
        }
        let readings = Readings::ask(self.machine);
        firewall::check(
            &readings,
            &packets,
            &as_root("soft-kvm-server"),
            self.reader,
        )
    }

    fn network(&self) -> Vec<Finding> {
        let reader = self.reader;
        let interfaces = network::interfaces(self.machine);
        let discovery = self.story.discovery().is_some();
        let mut findings = network::check_multicast(&interfaces, discovery, reader);
        findings.extend(self.firewall(discovery));
        findings.extend(network::check_wifi(&interfaces, PowerSave::ask, reader));
        let wanted = u64::try_from(SOCKET_BUFFER).unwrap_or(u64::MAX);
        findings.extend(network::check_buffers(
            Buffers::read(self.machine),
            wanted,
            reader,
        ));
        let clock = Clock::read(self.machine, clock::wall(), clock::synchronised());
        findings.push(soft_kvm_service::doctor::clock::check(&clock, reader));
        findings
    }
}

/// Where the picture would come from.
fn source(candidates: &[probe::Candidate], params: &CaptureParams, reader: &Reader) -> Finding {
    const CHECK: &str = "source";
    let reasons = |candidates: &[&probe::Candidate]| {
        let reason = |one: &&probe::Candidate| format!("{}: {}", one.name, one.reason);
        candidates.iter().map(reason).collect::<Vec<_>>().join("; ")
    };
    let ok = |name: &str, reason: &str| {
        let text = reader.say(
            format!("{name}: {reason}"),
            format!("{name} を使います: {reason}"),
        );
        Finding::new(CHECK, State::Ok, text)
    };
    let driver = params.driver.as_str();
    if params.driver == CaptureDriver::Testcard {
        return ok(driver, "as the story says");
    }
    if params.driver == CaptureDriver::Auto {
        let chosen = candidates.iter().find(|one| one.chosen);
        return match chosen.filter(|one| one.choice != probe::Choice::Testcard) {
            Some(chosen) => ok(&chosen.name, &chosen.reason),
            None => {
                let others: Vec<_> = candidates.iter().filter(|one| !one.chosen).collect();
                let others = reasons(&others);
                let text = reader.say(
                    format!("no picture to capture, the test card is sent: {others}"),
                    format!("取り込める映像がなく、テストカードを送ります: {others}"),
                );
                Finding::new(CHECK, State::Warning, text)
            }
        };
    }
    let same: Vec<_> = candidates
        .iter()
        .filter(|one| devices::driver(&one.choice) == driver)
        .filter(|one| match (&one.choice, &params.device) {
            (probe::Choice::V4l2 { device } | probe::Choice::Kms { device, .. }, Some(wanted)) => {
                device == Path::new(wanted)
            }
            _ => true,
        })
        .collect();
    // A camera that is named is taken, only not by the automatic choice.
    let taken =
        |one: &&&probe::Candidate| one.usable || (params.device.is_some() && one.v4l2.is_some());
    if let Some(found) = same.iter().find(taken) {
        return ok(&found.name, &found.reason);
    }
    let device = params.device.as_deref().unwrap_or_default();
    let why = reasons(&same);
    let text = reader.say(
        format!("the story wants {driver} {device}, which cannot be used: {why}"),
        format!("ストーリーが指定する {driver} {device} を使えません: {why}"),
    );
    Finding::new(CHECK, State::Wrong, text)
}

/// Which encoder would be taken first, and why not a better one.
fn encoder(encoders: &[Encoder], params: &VideoParams, reader: &Reader) -> Finding {
    const CHECK: &str = "encoder";
    let software = params.driver == EncoderDriver::Openh264;
    let wanted = |one: &&Encoder| match &params.device {
        _ if software => one.is_software(),
        // The reason why a kind of encoder is missing on this machine: nothing that could be mended.
        _ if one.device.is_empty() => false,
        Some(device) => one.is_software() || one.device == *device,
        None => true,
    };
    let rungs: Vec<_> = encoders.iter().filter(wanted).collect();
    let Some(chosen) = rungs.iter().find(|one| one.usable) else {
        let text = reader.say("no encoder", "エンコーダーがありません");
        return Finding::new(CHECK, State::Wrong, text);
    };
    let above: Vec<_> = rungs
        .iter()
        .take_while(|one| !one.usable)
        .map(|one| format!("{}: {}", one.device, one.why))
        .collect();
    let named = format!("{} {}", chosen.name, chosen.device);
    let missing = params
        .device
        .as_ref()
        .filter(|_| chosen.is_software() && !software);
    if above.is_empty() && missing.is_none() {
        let text = reader.say(
            format!("{named}: {}", chosen.why),
            format!("{named} を使います: {}", chosen.why),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    let above = if above.is_empty() {
        missing.cloned().unwrap_or_default()
    } else {
        above.join("; ")
    };
    let text = reader.say(
        format!("{named}, because better ones cannot be used: {above}"),
        format!("{named} を使います。より良いものは使えません: {above}"),
    );
    Finding::new(CHECK, State::Warning, text)
}

/// Capture and encoder nodes that this user may not open.
fn denied(nodes: &[Node], user: &User, reader: &Reader) -> Vec<Finding> {
    const CHECK: &str = "video";
    let nodes = nodes.iter().filter(|node| node.access == Access::Denied);
    let finding = |node: &Node| {
        let path = &node.path;
        let text = reader.say(
            format!("{path}: permission denied; log in again after the command"),
            format!("{path}: 権限がありません。コマンドの後でログインし直してください"),
        );
        let mend = access::open_up(node, "video", user, reader);
        Finding::new(CHECK, State::Warning, text).mend(mend)
    };
    nodes.map(finding).collect()
}

/// Whether this machine can be another one's USB keyboard.
fn gadget(sinks: &[Sink], module: Module, reader: &Reader) -> Finding {
    const CHECK: &str = "gadget";
    if let Some(sink) = sinks.iter().find(|sink| sink.usable) {
        let device = &sink.device;
        let text = reader.say(
            format!("{device} can be a keyboard and mouse"),
            format!("{device} はキーボードとマウスになれます"),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    let why: Vec<_> = sinks.iter().map(|sink| sink.why.as_str()).collect();
    let why = why.join("; ");
    let text = reader.say(
        format!("the story wants a USB gadget: {why}"),
        format!("ストーリーが USB ガジェットを指定していますが、使えません: {why}"),
    );
    let found = Finding::new(CHECK, State::Wrong, text);
    match module {
        Module::Loadable => found.mend(reader.command(
            "sudo modprobe libcomposite && echo libcomposite | sudo tee /etc/modules-load.d/soft-kvm-gadget.conf",
        )),
        Module::There | Module::Absent => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(lang: Lang) -> Reader {
        Reader { lang, root: false }
    }

    /// The finding in English, which has to be the same in Japanese but for its words.
    fn both(check: impl Fn(&Reader) -> Finding) -> Finding {
        let (english, japanese) = (
            check(&reader(Lang::English)),
            check(&reader(Lang::Japanese)),
        );
        assert_eq!(
            (english.state, &english.mend),
            (japanese.state, &japanese.mend)
        );
        assert!(english.message.is_ascii() && !japanese.message.is_ascii());
        english
    }

    fn candidate(
        choice: probe::Choice,
        name: &str,
        usable: bool,
        chosen: bool,
    ) -> probe::Candidate {
        probe::Candidate {
            choice,
            name: name.to_owned(),
            v4l2: None,
            drm_driver: None,
            connectors: Vec::new(),
            usable,
            chosen,
            reason: "because".to_owned(),
        }
    }

    fn video(device: &str, usable: bool, chosen: bool) -> probe::Candidate {
        let choice = probe::Choice::V4l2 {
            device: device.into(),
        };
        candidate(choice, device, usable, chosen)
    }

    fn with(driver: CaptureDriver, device: Option<&str>) -> CaptureParams {
        CaptureParams {
            driver,
            device: device.map(str::to_owned),
            ..Story::embedded().capture().clone()
        }
    }

    #[test]
    fn a_machine_without_a_picture_is_told_why() {
        let testcard = |chosen| candidate(probe::Choice::Testcard, "test card", true, chosen);
        let auto = with(CaptureDriver::Auto, None);
        let ask = |sources: &[probe::Candidate], params: &CaptureParams| {
            both(|reader| source(sources, params, reader))
        };
        let found = ask(&[video("/dev/video0", false, false), testcard(true)], &auto);
        assert_eq!(found.state, State::Warning);
        assert!(
            found.message.contains("/dev/video0: because"),
            "{}",
            found.message
        );
        let found = ask(&[video("/dev/video0", true, true), testcard(false)], &auto);
        assert_eq!(found.state, State::Ok);
        let named = with(CaptureDriver::V4l2, Some("/dev/video7"));
        assert_eq!(
            ask(&[video("/dev/video0", true, true)], &named).state,
            State::Wrong
        );
        assert_eq!(
            ask(&[video("/dev/video7", true, true)], &named).state,
            State::Ok
        );
        assert_eq!(
            ask(&[testcard(true)], &with(CaptureDriver::Kms, None)).state,
            State::Wrong
        );
        assert_eq!(
            ask(&[testcard(true)], &with(CaptureDriver::Testcard, None)).state,
            State::Ok
        );
    }

    fn rung(name: &'static str, device: &str, usable: bool) -> Encoder {
        Encoder {
            name,
            device: device.to_owned(),
            chosen: false,
            usable,
            why: "because".to_owned(),
        }
    }

    #[test]
    fn the_rung_is_named_and_why_not_a_better_one() {
        let params = Story::embedded().video().clone();
        let ask =
            |rungs: &[Encoder], params: &VideoParams| both(|reader| encoder(rungs, params, reader));
        let software = || rung("openh264", "2.5", true);
        let found = ask(&[software()], &params);
        assert_eq!(
            (found.state, found.message.as_str()),
            (State::Ok, "openh264 2.5: because")
        );
        let found = ask(
            &[rung("v4l2m2m", "/dev/video11", true), software()],
            &params,
        );
        assert!(found.state == State::Ok && found.message.starts_with("v4l2m2m /dev/video11"));
        let broken = [rung("v4l2m2m", "/dev/video11", false), software()];
        let found = ask(&broken, &params);
        assert_eq!(found.state, State::Warning);
        assert!(
            found.message.contains("/dev/video11: because"),
            "{}",
            found.message
        );
        let named = VideoParams {
            device: Some("/dev/video12".to_owned()),
            ..params.clone()
        };
        let found = ask(&broken, &named);
        assert!(found.state == State::Warning && found.message.ends_with("/dev/video12"));
        let soft = VideoParams {
            driver: EncoderDriver::Openh264,
            ..params
        };
        assert_eq!(ask(&broken, &soft).state, State::Ok);
    }

    #[test]
    fn what_is_denied_and_what_a_gadget_lacks_has_its_command() {
        let node = |access| Node {
            path: "/dev/video0".to_owned(),
            access,
            gid: Some(44),
            mode: Some(0o660),
        };
        let user = User {
            uid: 1000,
            name: Some("mia".to_owned()),
            groups: vec![access::Group {
                name: "video".to_owned(),
                gid: 44,
                members: Vec::new(),
            }],
            ..User::default()
        };
        let nodes = [node(Access::Denied), node(Access::Granted)];
        let found = both(|reader| denied(&nodes, &user, reader).remove(0));
        assert_eq!(found.mend.as_deref(), Some("sudo usermod -aG video mia"));
        assert_eq!(denied(&nodes, &user, &reader(Lang::English)).len(), 1);
        let sink = |usable| Sink {
            name: "gadget",
            device: "dwc2".to_owned(),
            chosen: false,
            usable,
            why: "none".to_owned(),
        };
        let ask = |usable, module| both(|reader| gadget(&[sink(usable)], module, reader));
        assert_eq!(ask(true, Module::There).state, State::Ok);
        let found = ask(false, Module::Loadable);
        assert!(
            found
                .mend
                .is_some_and(|mend| mend.starts_with("sudo modprobe libcomposite"))
        );
        assert_eq!(ask(false, Module::There).state, State::Wrong);
    }
}
