//! The client from start to stop: the main thread shows or waits, the `control` thread connects and reconnects.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_channel::Sender;
use async_io::Timer;
use futures_lite::FutureExt;
use soft_kvm_core::Lang;
use soft_kvm_platform::os::{clock, process};
use soft_kvm_protocol::input::DeviceDescriptor;
use soft_kvm_security::{Identity, PeerStore, StateDir};
use soft_kvm_service::{Request, Signals, console};

use crate::cli::{ConnectArgs, TargetArgs, ViewKind};
use crate::control::target::Target;
use crate::grab::Grab;
use crate::record::RecordThread;
use crate::session::link::InputLink;
use crate::session::outputs::{Outputs, lock};
use crate::session::probe::InputProbe;
use crate::session::relay::Relay;
use crate::session::stats::{ProcessReport, Stats};
use crate::view::{self, Viewport};
use crate::window;

/// What the threads of one client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) peers: PeerStore,
    pub(crate) target: Target,
    pub(crate) name: String,
    pub(crate) once: bool,
    pub(crate) lang: Lang,
    pub(crate) outputs: Arc<Mutex<Outputs>>,
    pub(crate) stats: Arc<Mutex<Stats>>,
    pub(crate) viewport: Option<Arc<Viewport>>,
    pub(crate) probe: Option<(u32, Arc<Mutex<InputProbe>>)>,
    /// The way to the server while there is one.
    pub(crate) link: Mutex<Option<Arc<InputLink>>>,
    /// Devices that a server has to know of, announced at every connection.
    pub(crate) devices: Mutex<Vec<DeviceDescriptor>>,
    /// Input records for the control channel of the current connection.
    pub(crate) records: Mutex<Option<Sender<Vec<u8>>>>,
    /// LEDs and auto-repeat that the server told, for the grabbed devices.
    pub(crate) feedback: (Sender<Vec<u8>>, async_channel::Receiver<Vec<u8>>),
    pub(crate) stopped: AtomicBool,
    pub(crate) stop: (Sender<()>, async_channel::Receiver<()>),
}

impl Shared {
    /// The way to the server, if there is one now.
    pub(crate) fn link(&self) -> Option<Arc<InputLink>> {
        lock(&self.link).clone()
    }

    /// Ends everything.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.stop.0.close();
        if let Some(viewport) = &self.viewport {
            viewport.close();
        }
    }

    /// Whether [`Shared::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// A line over the picture, or none.
    pub(crate) fn status(&self, text: &str) {
        if let Some(viewport) = &self.viewport {
            viewport.set_status(text);
        }
    }
}

/// `soft-kvm-client --server …`.
///
/// # Errors
/// In words for the console.
pub fn connect(args: &ConnectArgs, lang: Lang) -> anyhow::Result<()> {
    let viewport = (args.view == ViewKind::Window).then(|| Arc::new(Viewport::new()));
    let outputs = |stats| -> anyhow::Result<Outputs> {
        Ok(Outputs {
            viewport: viewport.clone(),
            record: args
                .record
                .as_deref()
                .map(|path| RecordThread::start(path, args.force))
                .transpose()?,
            screenshot: args.screenshot.clone(),
            overwrite: args.force,
            relay: None,
            decode: true,
            stats,
            probe: None,
            failed: false,
        })
    };
    let grab = Grab::selection(&args.grab)?;
    run(&args.target, args, outputs, grab, lang)
}

/// `soft-kvm-client relay …`.
///
/// # Errors
/// In words for the console.
pub fn relay(
    target: &TargetArgs,
    rtp: std::net::SocketAddr,
    sdp: &Path,
    seconds: Option<u64>,
    lang: Lang,
) -> anyhow::Result<()> {
    let args = ConnectArgs {
        target: target.clone(),
        view: ViewKind::None,
        seconds,
        ..ConnectArgs::default()
    };
    let outputs = |stats| -> anyhow::Result<Outputs> {
        Ok(Outputs {
            viewport: None,
            record: None,
            screenshot: None,
            overwrite: false,
            relay: Some(Relay::new(rtp, sdp)?),
            decode: false,
            stats,
            probe: None,
            failed: false,
        })
    };
    run(target, &args, outputs, None, lang)
}

fn run(
    target: &TargetArgs,
    args: &ConnectArgs,
    outputs: impl FnOnce(Arc<Mutex<Stats>>) -> anyhow::Result<Outputs>,
    grab: Option<soft_kvm_platform::os::evdev::Selection>,
    lang: Lang,
) -> anyhow::Result<()> {
    console::start_logging();
    let signals = Signals::new()?;
    let Some(text) = target.server.as_deref() else {
        bail!(
            "{}",
            lang.pick(
                "which server? give --server NAME",
                "--server でサーバーを指定してください"
            )
        );
    };
    let state = StateDir::open(console::state_path(target.state_dir.as_deref(), "client")?)?;
    let peers = PeerStore::open(&state)?;
    let stats = Arc::new(Mutex::new(Stats::new()));
    let mut outputs = outputs(Arc::clone(&stats))?;
    let probe = args
        .probe_input
        .map(|hz| (hz, Arc::new(Mutex::new(InputProbe::default()))));
    outputs.probe = probe.as_ref().map(|(_, probe)| Arc::clone(probe));
    let viewport = outputs.viewport.clone();
    let shared = Arc::new(Shared {
        identity: Identity::load_or_create(&state)?,
        target: Target::new(text, &peers)?,
        peers,
        name: process::host_name(),
        once: args.once,
        lang,
        outputs: Arc::new(Mutex::new(outputs)),
        stats,
        viewport,
        probe,
        link: Mutex::new(None),
        devices: Mutex::new(Vec::new()),
        records: Mutex::new(None),
        feedback: async_channel::bounded(64),
        stopped: AtomicBool::new(false),
        stop: async_channel::bounded(1),
    });
    let sends = !args.view_only && grab.is_none();
    if shared.viewport.is_some() && sends || shared.probe.is_some() {
        *lock(&shared.devices) = vec![
            view::window_keyboard(window::KEYBOARD),
            view::window_pointer(window::POINTER),
        ];
    }
    let grab = grab
        .map(|selection| Grab::start(selection, Arc::clone(&shared)))
        .transpose()?;
    let connecting = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let outcome = async_io::block_on(crate::control::drive::run(&shared));
                shared.stop();
                outcome
            })?
    };
    let started = Instant::now();
    let cpu = process::usage(None)?.cpu;
    let watcher = {
        let (shared, end) = (Arc::clone(&shared), args.seconds.map(Duration::from_secs));
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || async_io::block_on(wait_for_end(&shared, &signals, end)))?
    };
    let shown = match shared.viewport.clone() {
        Some(viewport) => {
            let shown = window::run(&shared, &viewport, sends);
            shared.stop();
            shown
        }
        None => Ok(()),
    };
    let outcome = connecting
        .join()
        .map_err(|_| anyhow::anyhow!("the control thread panicked"))?;
    let _ = watcher.join();
    drop(grab);
    finish(&shared, args, started, cpu)?;
    shown?;
    outcome
}

/// Writes what has to be written at the end.
fn finish(
    shared: &Shared,
    args: &ConnectArgs,
    started: Instant,
    cpu_before: Duration,
) -> anyhow::Result<()> {
    let mut outputs = lock(&shared.outputs);
    if let Some(record) = outputs.record.take() {
        record.finish()?;
    }
    let usage = process::usage(None)?;
    let seconds = started.elapsed().as_secs_f64();
    #[expect(
        clippy::cast_precision_loss,
        reason = "memory sizes are far below 2^52 bytes"
    )]
    let report = lock(&shared.stats).report(ProcessReport {
        cpu_percent: usage.cpu.saturating_sub(cpu_before).as_secs_f64() / seconds.max(1e-9) * 100.0,
        rss_peak_mb: usage.resident_peak as f64 / 1e6,
        seconds,
    });
    if let Some(path) = &args.stats_json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if outputs.screenshot.is_some() {
        bail!("no picture came: no screenshot was written");
    }
    if outputs.failed {
        bail!("not everything could be written, see above");
    }
    Ok(())
}

async fn wait_for_end(shared: &Shared, signals: &Signals, end: Option<Duration>) {
    let asked = async { while signals.next().await != Request::Stop {} };
    let stopped = async {
        // Only ever closed.
        let _ = shared.stop.1.recv().await;
    };
    let over = async {
        match end {
            Some(end) => {
                Timer::after(end).await;
            }
            None => std::future::pending().await,
        }
    };
    asked.or(stopped).or(over).await;
    shared.stop();
}

/// Types by itself while a probe is wanted, at its rate, until the connection ends.
pub(crate) async fn type_by_itself(shared: &Shared) {
    let Some((hz, probe)) = &shared.probe else {
        return std::future::pending().await;
    };
    let interval = Duration::from_secs(1) / (*hz).max(1);
    loop {
        Timer::after(interval).await;
        let now = clock::now();
        let events = lock(probe).next(now);
        if let (Some(events), Some(link)) = (events, shared.link()) {
            link.push(
                now,
                crate::session::probe::report(window::KEYBOARD, now, &events),
            );
        }
    }
}

/// `soft-kvm-client discover`.
///
/// # Errors
/// The network cannot be asked.
pub fn discover(json: bool, seconds: u64, lang: Lang) -> anyhow::Result<()> {
    let servers = soft_kvm_discovery::browse(Duration::from_secs(seconds))?;
    if json {
        let list: Vec<_> = servers
            .iter()
            .map(|server| {
                serde_json::json!({
                    "name": server.name,
                    "host": server.host,
                    "addresses": server.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "port": server.port,
                    "txt": server.txt,
                })
            })
            .collect();
        console::out(serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    if servers.is_empty() {
        console::out(lang.pick(
            "No server answered. Is soft-kvm-server running on this network? Without multicast, connect by address.",
            "応答がありません。同じネットワークで soft-kvm-server が動いていますか。アドレスでも接続できます。",
        ));
    }
    for server in servers {
        let addresses: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        console::out(format!("{:<24} {}", server.name, addresses.join(" ")));
    }
    Ok(())
}

/// `soft-kvm-client pair`.
///
/// # Errors
/// In words for the console.
pub fn pair(
    text: &str,
    code: Option<String>,
    state_dir: Option<&Path>,
    lang: Lang,
) -> anyhow::Result<()> {
    console::start_logging();
    let state = StateDir::open(console::state_path(state_dir, "client")?)?;
    let identity = Identity::load_or_create(&state)?;
    let peers = PeerStore::open(&state)?;
    let addresses = crate::control::target::resolve_unpaired(text)?;
    let code = match code {
        Some(code) => code,
        None => ask_for_code(lang)?,
    };
    let code = code.parse()?;
    let name = soft_kvm_protocol::pairing::PeerName::new(&process::host_name())?;
    let mut failure = anyhow::anyhow!("{text} has no address");
    for address in addresses {
        let paired = async_io::block_on(crate::control::pair::pair(
            &identity,
            address,
            &code,
            name.clone(),
        ));
        match paired {
            Ok(paired) => {
                peers.add(soft_kvm_security::Peer {
                    name: paired.name.clone(),
                    fingerprint: paired.fingerprint,
                    role: "admin".to_owned(),
                    paired_at: console::today(clock::wall()),
                    address: Some(address.to_string()),
                })?;
                console::out(format!(
                    "{} {} ({}). soft-kvm-client --server {}",
                    lang.pick("Paired with", "ペアリングしました:"),
                    paired.name,
                    paired.fingerprint.short(),
                    paired.name
                ));
                return Ok(());
            }
            // Another address of the same machine would use up another try with the same code.
            Err(error) if error.is::<soft_kvm_security::pairing::PairingError>() => {
                return Err(error);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn ask_for_code(lang: Lang) -> anyhow::Result<String> {
    console::prompt(lang.pick("Code shown by the server: ", "サーバーに表示されたコード: "));
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        bail!("no code was given: type the six digits, or use --code");
    }
    Ok(line.trim().to_owned())
}
