//! The client from start to stop: the main thread shows or waits, the `control` thread connects and reconnects.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_channel::Sender;
use async_io::Timer;
use futures_lite::FutureExt;
use soft_kvm_core::Lang;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::{clock, process};
use soft_kvm_protocol::handover::ControlRequest;
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, Record};
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::{Identity, PeerStore, StateDir};
use soft_kvm_service::clients::{self, ClientsCommand};
use soft_kvm_service::{Request, Signals, console};

use crate::cli::{ConnectArgs, ControlCommand, TargetArgs, ViewKind};
use crate::clipboard;
use crate::control::Connection;
use crate::control::target::Target;
use crate::force;
use crate::grab::{Grab, GrabOptions};
use crate::record::RecordThread;
use crate::remote::Remote;
use crate::session::decode::DecoderChoice;
use crate::session::outputs::{Outputs, lock};
use crate::session::probe::InputProbe;
use crate::session::relay::Relay;
use crate::session::stats::ProcessReport;
use crate::typing::Typist;
use crate::view::{self, Viewport};
use crate::window;

/// Time for a server's answer about its clients.
const CLIENTS_LIMIT: Duration = Duration::from_secs(5);

/// What the threads of one client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) peers: PeerStore,
    pub(crate) remotes: Vec<Arc<Remote>>,
    pub(crate) name: String,
    pub(crate) once: bool,
    pub(crate) lang: Lang,
    pub(crate) outputs: Arc<Mutex<Outputs>>,
    pub(crate) viewport: Option<Arc<Viewport>>,
    pub(crate) probe: Option<(u32, Arc<Mutex<InputProbe>>)>,
    /// A text that is typed instead of showing anything.
    pub(crate) typist: Option<Arc<Typist>>,
    pub(crate) decoder: DecoderChoice,
    /// This session's clipboard, if it is shared.
    pub(crate) clipboard: Option<Arc<clipboard::Seat>>,
    /// Devices are taken from this seat.
    pub(crate) grabs: bool,
    /// Devices that every server has to know of, announced at every connection.
    pub(crate) devices: Mutex<Vec<DeviceDescriptor>>,
    /// What the grabbed devices are to be felt doing.
    pub(crate) force: Arc<force::Inbox>,
    /// Some server was reached at least once.
    pub(crate) reached: AtomicBool,
    /// When the thread that keeps the connections ran last, in nanoseconds of our clock.
    pub(crate) control_seen: AtomicU64,
    pub(crate) stopped: AtomicBool,
    pub(crate) stop: (Sender<()>, async_channel::Receiver<()>),
}

impl Shared {
    /// The server whose picture is shown.
    pub(crate) fn shown(&self) -> Option<&Arc<Remote>> {
        self.remotes.iter().find(|remote| remote.is_shown())
    }

    /// Shows another server's picture.
    pub(crate) fn show(&self, index: usize) {
        for (other, remote) in self.remotes.iter().enumerate() {
            remote.set_shown(other == index);
        }
    }

    /// Ends everything.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.stop.0.close();
        if let Some(viewport) = &self.viewport {
            viewport.close();
        }
    }

    /// Whether anything of this seat would go to a server.
    pub(crate) fn controls(&self) -> bool {
        self.grabs || !lock(&self.devices).is_empty()
    }

    /// Tells every server of a device; what connects later finds it in `devices`.
    pub(crate) fn announce(&self, device: DeviceDescriptor) {
        // Held until all is told: a connection that begins meanwhile hears of the device once, not twice and not never.
        let mut devices = lock(&self.devices);
        self.tell(|remote| remote.announcement(&device));
        devices.push(device);
    }

    /// Tells every server that a device is gone.
    pub(crate) fn withdraw(&self, device: DeviceId) {
        let mut devices = lock(&self.devices);
        devices.retain(|known| known.id != device);
        let mut message = Vec::new();
        Record::DeviceRemove(device).encode(&mut message);
        self.tell(|_| message.clone());
    }

    /// Sends each server its record on the control channels that there are.
    fn tell(&self, record: impl Fn(&Remote) -> Vec<u8>) {
        for remote in &self.remotes {
            if let Some(records) = lock(&remote.records).as_ref()
                && records.try_send(record(remote)).is_err()
            {
                tracing::warn!("the control channel is full: the connection is made anew");
                records.close();
            }
        }
    }

    /// Whether [`Shared::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Says what this seat wants with keyboard and mouse of the server that is shown.
    pub(crate) fn wish(&self, request: ControlRequest) {
        if let Some(remote) = self.shown() {
            // More wishes than fit are more than anyone means.
            let _ = remote.wishes.0.try_send(request);
        }
    }

    /// Shows who has keyboard and mouse, while there is something to say about it.
    pub(crate) fn show_desk(&self, remote: &Remote) {
        if let Some(viewport) = self.viewport.as_ref().filter(|_| remote.is_shown()) {
            viewport.set_notice(&lock(&remote.desk).notice(clock::now()));
        }
    }

    /// A line over a server's picture, or none.
    pub(crate) fn status(&self, remote: &Remote, text: &str) {
        if let Some(viewport) = self.viewport.as_ref().filter(|_| remote.is_shown()) {
            viewport.set_status(text);
        }
    }
}

/// `soft-kvm-client --server …`.
///
/// # Errors
/// In words for the console.
pub fn connect(args: &ConnectArgs, lang: Lang) -> anyhow::Result<()> {
    let viewport = (args.view != ViewKind::None).then(|| Arc::new(Viewport::new()));
    let outputs = || -> anyhow::Result<Outputs> {
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
            frames: args.view == ViewKind::Kms,
            probe: None,
            refused: None,
            failed: false,
        })
    };
    let grab = Grab::selection(&args.grab)?.map(|selection| GrabOptions {
        selection,
        trial: args.trial,
        chords: args.chord.clone(),
        edges: args.edge.clone(),
    });
    run(args, outputs, grab, None, lang)
}

/// The process that gives grabbed devices back when the client hangs.
///
/// # Errors
/// It was not started by the client.
pub fn guard() -> anyhow::Result<()> {
    crate::grab::guard()
}

/// The process that puts the screen's old picture back when the client is killed.
///
/// # Errors
/// It was not started by the client, or the kernel says no.
pub fn keep_screen(crtc: u32, connector: u32) -> anyhow::Result<()> {
    // A service manager ends what a killed client leaves; the screen comes first, and takes no time.
    let _signals = Signals::new()?;
    view::screen::keep(crtc, connector)
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
        servers: target.server.iter().cloned().collect(),
        state_dir: target.state_dir.clone(),
        view: ViewKind::None,
        seconds,
        ..ConnectArgs::default()
    };
    let outputs = || -> anyhow::Result<Outputs> {
        Ok(Outputs {
            relay: Some(Relay::new(rtp, sdp)?),
            ..nothing()
        })
    };
    run(&args, outputs, None, None, lang)
}

/// Connects for a text only; the typist knows how it went.
pub(crate) fn type_text(
    target: &TargetArgs,
    typist: &Arc<Typist>,
    lang: Lang,
) -> anyhow::Result<()> {
    let args = ConnectArgs {
        servers: target.server.iter().cloned().collect(),
        state_dir: target.state_dir.clone(),
        view: ViewKind::None,
        view_only: true,
        once: true,
        ..ConnectArgs::default()
    };
    run(
        &args,
        || Ok(nothing()),
        None,
        Some(Arc::clone(typist)),
        lang,
    )
}

fn nothing() -> Outputs {
    Outputs {
        viewport: None,
        record: None,
        screenshot: None,
        overwrite: false,
        relay: None,
        decode: false,
        frames: false,
        probe: None,
        refused: None,
        failed: false,
    }
}

fn run(
    args: &ConnectArgs,
    outputs: impl FnOnce() -> anyhow::Result<Outputs>,
    grab: Option<GrabOptions>,
    typist: Option<Arc<Typist>>,
    lang: Lang,
) -> anyhow::Result<()> {
    console::start_logging();
    if let Err(error) = process::keep_secrets() {
        tracing::warn!(%error, "the key may get into a core dump");
    }
    // Before any thread is made, for they take over what this one has.
    if let Err(error) = lockdown::filter_calls(Class::Desktop) {
        tracing::warn!(%error, "no system call is taken away");
    }
    let signals = Signals::new()?;
    if args.servers.is_empty() {
        bail!(
            "{}",
            lang.pick(
                "which server? give --server NAME",
                "--server でサーバーを指定してください"
            )
        );
    }
    let state = StateDir::open(console::state_path(args.state_dir.as_deref(), "client")?)?;
    let peers = PeerStore::open(&state)?;
    let identity = Identity::load_or_create(&state)?;
    if let Err(error) =
        process::keep_all_in_memory().or_else(|_| identity.pin(process::keep_in_memory))
    {
        tracing::warn!(%error, "the key may get into the swap space");
    }
    let mut outputs = outputs()?;
    let probe = args
        .probe_input
        .map(|hz| (hz, Arc::new(Mutex::new(InputProbe::default()))));
    outputs.probe = probe.as_ref().map(|(_, probe)| Arc::clone(probe));
    let viewport = outputs.viewport.clone();
    let force = Arc::new(force::Inbox::default());
    let remotes: anyhow::Result<Vec<_>> = args
        .servers
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let target = Target::new(text, &peers)?;
            Ok(Arc::new(Remote::new(
                target,
                index == 0 && typist.is_none(),
                force::Server::new(Arc::clone(&force), index),
            )))
        })
        .collect();
    let remotes = remotes?;
    let shares = args.view == ViewKind::Window && !args.view_only && !args.no_clipboard;
    let clipboard = shares.then(|| {
        let seat = clipboard::Seat::new(lang, remotes.clone(), viewport.clone());
        Arc::new(seat)
    });
    let shared = Arc::new(Shared {
        identity,
        remotes,
        peers,
        name: process::host_name(),
        once: args.once,
        lang,
        outputs: Arc::new(Mutex::new(outputs)),
        viewport,
        probe,
        typist,
        decoder: args.decoder.clone(),
        clipboard,
        grabs: grab.is_some(),
        devices: Mutex::new(Vec::new()),
        force,
        reached: AtomicBool::new(false),
        control_seen: AtomicU64::new(clock::now().as_nanos()),
        stopped: AtomicBool::new(false),
        stop: async_channel::bounded(1),
    });
    if shared.typist.is_some() {
        lock(&shared.devices).push(Typist::keyboard());
    }
    // A monitor without a window system has no keyboard of its own.
    let sends = !args.view_only && grab.is_none() && args.view != ViewKind::Kms;
    if shared.viewport.is_some() && sends || shared.probe.is_some() {
        *lock(&shared.devices) = vec![
            view::window_keyboard(window::KEYBOARD),
            view::window_pointer(window::POINTER),
        ];
    }
    let grab = grab
        .map(|options| Grab::start(options, Arc::clone(&shared)))
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
            let shown = match args.view {
                ViewKind::Kms => window::run_on_screen(&shared, &viewport, args),
                _ => window::run(&shared, &viewport, sends, args),
            };
            shared.stop();
            shown
        }
        None => Ok(()),
    };
    let outcome = connecting
        .join()
        .map_err(|_| anyhow::anyhow!("the control thread panicked"))?;
    let over = watcher.join().unwrap_or(false);
    drop(grab);
    finish(&shared, args, started, cpu)?;
    shown?;
    outcome?;
    if over && !shared.reached.load(Ordering::Acquire) {
        bail!(
            "{}",
            lang.pick(
                "the time was over before a server was reached",
                "サーバーに接続できないまま時間が過ぎました"
            )
        );
    }
    Ok(())
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
    let process = || ProcessReport {
        cpu_percent: usage.cpu.saturating_sub(cpu_before).as_secs_f64() / seconds.max(1e-9) * 100.0,
        rss_peak_mb: usage.resident_peak as f64 / 1e6,
        seconds,
    };
    if let Some(path) = &args.stats_json {
        let reports = shared
            .remotes
            .iter()
            .map(|remote| lock(&remote.stats).report(remote.cursor.report(), process()));
        let reports: Vec<_> = reports.collect();
        let text = match reports.as_slice() {
            [one] => serde_json::to_string_pretty(one)?,
            several => serde_json::to_string_pretty(several)?,
        };
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if outputs.screenshot.is_some() {
        bail!("no picture came: no screenshot was written");
    }
    if outputs.failed {
        bail!("not everything could be written, see above");
    }
    Ok(())
}

/// Stops the client when it is to end; true when its time was over.
async fn wait_for_end(shared: &Shared, signals: &Signals, end: Option<Duration>) -> bool {
    let asked = async {
        while signals.next().await != Request::Stop {}
        false
    };
    let stopped = async {
        // Only ever closed.
        let _ = shared.stop.1.recv().await;
        false
    };
    let over = async {
        match end {
            Some(end) => {
                Timer::after(end).await;
                true
            }
            None => std::future::pending().await,
        }
    };
    let over = asked.or(stopped).or(over).await;
    shared.stop();
    over
}

/// Types by itself while a probe is wanted, at its rate, until the connection ends.
pub(crate) async fn type_by_itself(shared: &Shared, remote: &Remote) {
    let Some((hz, probe)) = &shared.probe else {
        return std::future::pending().await;
    };
    let interval = Duration::from_secs(1) / (*hz).max(1);
    loop {
        Timer::after(interval).await;
        let now = clock::now();
        if !remote.is_shown() {
            continue;
        }
        let events = lock(probe).next(now);
        if let (Some(events), Some(link)) = (events, remote.link()) {
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
                    // The server keeps what we may do there.
                    role: Role::Control,
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

/// `soft-kvm-client clients`.
///
/// # Errors
/// In words for the console.
pub fn clients(target: &TargetArgs, command: ClientsCommand, lang: Lang) -> anyhow::Result<()> {
    let mut connection = connect_once(target, lang)?;
    let socket = &mut connection.socket;
    let outcome = clients::run(command, lang, |request| {
        let limit = async {
            Timer::after(CLIENTS_LIMIT).await;
            bail!("no answer within {} s", CLIENTS_LIMIT.as_secs())
        };
        async_io::block_on(crate::control::clients::ask(socket, request).or(limit))
    });
    // The server sees the end of the connection in any case.
    let _ = async_io::block_on(socket.close(None));
    outcome
}

/// `soft-kvm-client control`.
///
/// # Errors
/// In words for the console.
pub fn control(target: &TargetArgs, command: &ControlCommand, lang: Lang) -> anyhow::Result<()> {
    let mut connection = connect_once(target, lang)?;
    let socket = &mut connection.socket;
    let outcome = async_io::block_on(crate::control::handover::run(socket, command, lang));
    // The server sees the end of the connection in any case.
    let _ = async_io::block_on(socket.close(None));
    outcome
}

/// A control channel for one command.
fn connect_once(target: &TargetArgs, lang: Lang) -> anyhow::Result<Connection> {
    console::start_logging();
    let server = target.server.as_deref().context(lang.pick(
        "which server? give --server NAME",
        "--server でサーバーを指定してください",
    ))?;
    let state = StateDir::open(console::state_path(target.state_dir.as_deref(), "client")?)?;
    let (identity, peers) = (Identity::load_or_create(&state)?, PeerStore::open(&state)?);
    let target = Target::new(server, &peers)?;
    let (addresses, name) = (target.resolve(&peers)?, process::host_name());
    let open = crate::control::open_first(&identity, &target, addresses, &name);
    async_io::block_on(open)
}

fn ask_for_code(lang: Lang) -> anyhow::Result<String> {
    console::prompt(lang.pick("Code shown by the server: ", "サーバーに表示されたコード: "));
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        bail!("no code was given: type the six digits, or use --code");
    }
    Ok(line.trim().to_owned())
}
