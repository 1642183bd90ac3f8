//! The server from start to stop.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_io::{Async, Timer};
use futures_lite::FutureExt;
use soft_kvm_core::Lang;
use soft_kvm_core::story::Story;
use soft_kvm_input::echo::EchoState;
use soft_kvm_monitoring::Metrics;
use soft_kvm_platform::os::broker::use_broker_at;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::net::{AddressChanges, UdpOptions, UdpSocket};
use soft_kvm_platform::os::uinput::Bell;
use soft_kvm_platform::os::{capability, clock, process};
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_security::audit::Event;
use soft_kvm_security::policy::By;
use soft_kvm_security::{Identity, PeerStore, StateDir};
use soft_kvm_service::{Notifier, Request, Signals, console, qr};

use crate::audit::Audit;
use crate::broker;
use crate::cli::RunArgs;
use crate::clipboard;
use crate::context::{self, Context, Running};
use crate::control::{Control, Sockets, local};
use crate::lan;
use crate::lock;
use crate::network::{Network, handover_rule};
use crate::pipeline::{Pipeline, Shared};
use crate::session::{Devices, MediaReceiver, MediaTransmitter, Sessions, SinkChoice};
use crate::settings::{self, Settings};
use crate::stats::Sampler;

/// A key frame of 1080p text is about 200 kB; several clients may get theirs at once.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;
/// Seconds from the NTP epoch (1900) to the Unix epoch (1970), RFC 5905 §6.
const NTP_TO_UNIX: Duration = Duration::from_secs(2_208_988_800);

/// Runs until it is told to stop.
///
/// # Errors
/// In words for the console: what could not be started, and what to do.
pub fn run(args: &RunArgs, lang: Lang) -> anyhow::Result<()> {
    console::start_logging();
    if let Err(error) = process::keep_secrets() {
        tracing::warn!(%error, "the key may get into a core dump");
    }
    // Before any thread is made, for they take over what this one has.
    if let Err(error) = capability::lower() {
        tracing::warn!(%error, "CAP_SYS_ADMIN stays in force");
    }
    let settings = settings::load(args, lang)?;
    if let Some(user) = &args.user {
        let state_dir = console::state_path(args.state_dir.as_deref(), "server")?;
        leave_root(args, &state_dir, user)?;
    }
    if let Some(place) = &args.broker {
        ask_broker(place)?;
    }
    let server = Server::start(args, settings, lang)?;
    server.announce_on_console();
    if let Some(path) = &args.ready_file {
        server.write_ready_file(path)?;
    }
    Notifier.ready("serving");
    let outcome = async_io::block_on(server.supervise(args));
    Notifier.stopping("stopping");
    if let Devices::Gadget(gadget) = server.context.sinks().devices {
        gadget.unplug();
    }
    server.stop(args)?;
    outcome
}

/// From here on another process has the devices, and this one is `user`.
fn leave_root(args: &RunArgs, state_dir: &Path, user: &str) -> anyhow::Result<()> {
    // Made before it is given away.
    StateDir::open(state_dir)?;
    let refused = || format!("--user {user}: start as root, and name a user of this machine");
    process::hand_over(state_dir, user).with_context(refused)?;
    broker::start(args).context("cannot start the broker")?;
    process::become_user(user).with_context(refused)?;
    tracing::info!(
        user,
        "the broker opens the devices; this process has no right to any"
    );
    Ok(())
}

/// From here on another process opens the devices.
fn ask_broker(place: &Path) -> anyhow::Result<()> {
    use_broker_at(place).with_context(|| {
        format!(
            "--broker {}: nobody opens devices there; systemctl start soft-kvm-broker.socket",
            place.display()
        )
    })?;
    tracing::info!(broker = %place.display(), "the broker opens the devices");
    Ok(())
}

/// The key at least; where the system lets us, also all copies of it and of the sessions' keys.
fn keep_out_of_swap(identity: &Identity) {
    let Err(error) = process::keep_all_in_memory() else {
        return;
    };
    tracing::info!(%error, "only the key is kept out of the swap space; LimitMEMLOCK=infinity keeps the sessions' keys out too");
    if let Err(error) = identity.pin(process::keep_in_memory) {
        tracing::warn!(%error, "the key may get into the swap space");
    }
}

struct Server {
    context: Arc<Context>,
    pipeline: Arc<Shared>,
    signals: Signals,
    files: Mutex<Vec<PathBuf>>,
    sampler: Mutex<Sampler>,
    network: Mutex<Network>,
    control: Control,
    state_dir: PathBuf,
    _threads: (MediaReceiver, MediaTransmitter, Pipeline),
}

impl Server {
    fn start(args: &RunArgs, settings: Settings, lang: Lang) -> anyhow::Result<Self> {
        let state_dir = console::state_path(args.state_dir.as_deref(), "server")?;
        let state = StateDir::open(&state_dir)?;
        let identity = Identity::load_or_create(&state)?;
        let peers = PeerStore::open(&state)?;
        let local = local::bind(&state_dir)?;
        let control = settings.story.control();
        let sockets = Sockets::first(args.listen, control.port, control.allow_routed)?;
        let control_port = sockets.port;
        keep_out_of_swap(&identity);
        lock::lock(args, &settings, &state_dir);
        start_async_io()?;
        let signals = Signals::new()?;
        let audit = Audit::start(&state)?;
        let story = Arc::new(settings.story);
        let name = server_name(&story)?;
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
        let echo = Arc::new(Mutex::new(EchoState::default()));
        let pipeline = Arc::new(Shared::new(
            story.capture().clone(),
            story.video().clone(),
            Arc::clone(&echo),
            name.to_string(),
        ));
        let sinks = SinkChoice {
            devices: Devices::new(story.input(), None)?,
            echo,
            echo_shown: Arc::clone(&pipeline.echo_shown),
            turns: Arc::default(),
            bell: Some(Bell::new()?),
        };
        let bell = sinks.bell.clone();
        sinks.turns.set_rule(handover_rule(&story));
        let clipboards = Arc::clone(&pipeline.clipboards);
        clipboards.set_rule(clipboard::rule(story.control().clipboard));
        let sessions = Arc::new(Sessions::new(Arc::clone(&pipeline)));
        let socket = Arc::new(bind_media(
            args,
            control_port,
            story.control().allow_routed,
        )?);
        let context = Arc::new(Context {
            udp_port: socket.local_address()?.port(),
            ntp_minus_mono_ns: ntp_minus_mono(),
            identity,
            peers,
            audit,
            sessions: Arc::clone(&sessions),
            clipboards,
            metrics,
            lang,
            running: Mutex::new(Running {
                story: Arc::clone(&story),
                name,
                control_port,
                sinks,
            }),
            pairing: Mutex::new(None),
            random: ring::rand::SystemRandom::new(),
        });
        context.metrics.set_story(&story.root().to_string());
        context.audit.record(Event::Started {
            version: env!("CARGO_PKG_VERSION"),
            story: story.root().to_string(),
        });
        let rx = MediaReceiver::start(Arc::clone(&sessions), Arc::clone(&socket), bell)?;
        let tx = MediaTransmitter::start(Arc::clone(&sessions), Arc::clone(&socket))?;
        let encoding = Pipeline::start(Arc::clone(&pipeline), sessions)?;
        let control = Control::start(&context, sockets, local)?;
        let network = Network::start(&context, &control, &story, socket)?;
        if args.pair || context.peers.list()?.is_empty() {
            context.open_pairing(None, By::Console)?;
        }
        Ok(Self {
            context,
            pipeline,
            signals,
            files: Mutex::new(settings.files),
            sampler: Mutex::new(Sampler::new()),
            network: Mutex::new(network),
            control,
            state_dir,
            _threads: (rx, tx, encoding),
        })
    }

    /// Waits for signals, file changes and the end of the time; samples each second.
    async fn supervise(&self, args: &RunArgs) -> anyhow::Result<()> {
        let end = args
            .seconds
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut stamps = file_stamps(&context::lock(&self.files));
        let addresses = Async::new(AddressChanges::new().context("hearing of addresses")?)?;
        loop {
            let moved = async {
                while addresses.readable().await.is_ok() {
                    addresses.get_ref().drain();
                    self.control.follow_addresses(&self.context);
                }
                // Without notices the listeners stay where they are.
                futures_lite::future::pending().await
            };
            let tick = async {
                Timer::after(Duration::from_secs(1)).await;
                None
            };
            let signal = async { Some(self.signals.next().await) };
            match signal.or(tick).or(moved).await {
                Some(Request::Stop) => return Ok(()),
                Some(Request::Reload) => {
                    self.reload(args);
                    stamps = file_stamps(&context::lock(&self.files));
                }
                None => {
                    context::lock(&self.sampler).sample(
                        &self.context.metrics,
                        &self.pipeline,
                        &self.context.sessions,
                    );
                    self.context.record_handovers();
                    self.control.retry(&self.context);
                    Notifier.alive();
                    let now = file_stamps(&context::lock(&self.files));
                    if now != stamps {
                        self.reload(args);
                        stamps = file_stamps(&context::lock(&self.files));
                    }
                }
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
        }
    }

    /// Takes a changed story over; one that cannot be used changes nothing.
    fn reload(&self, args: &RunArgs) {
        Notifier.reloading();
        match settings::load(args, self.context.lang) {
            Ok(settings) => {
                *context::lock(&self.files) = settings.files;
                let before = self.context.story().root().to_string();
                let outcome = context::lock(&self.network).reload(
                    &self.context,
                    &self.control,
                    &self.pipeline,
                    settings.story,
                    args.listen,
                );
                if let Err(error) = outcome {
                    tracing::error!("reload: {error:#}");
                }
                let story = self.context.story().root().to_string();
                if story != before {
                    self.context.audit.record(Event::Story { story });
                }
            }
            Err(error) => tracing::error!("reload: {error:#}: the story before stays in force"),
        }
        Notifier.ready("serving");
    }

    fn announce_on_console(&self) {
        let lang = self.context.lang;
        console::out(format!(
            "{} {} ({}), {} {}, {} {}",
            lang.pick("Soft KVM server", "Soft KVM サーバー"),
            self.context.name(),
            self.context.identity.fingerprint().short(),
            lang.pick("port", "ポート"),
            self.context.control_port(),
            lang.pick("story", "ストーリー"),
            self.context.story().root().short(),
        ));
        if self.context.story().control().allow_routed {
            console::out(lang.pick(
                "Clients behind routers are let in (allow_routed).",
                "ルーターの向こうのクライアントも受け入れます（allow_routed）。",
            ));
        }
        if let Some(code) = self.pairing_code() {
            console::out(format!(
                "{} {code}",
                lang.pick("Pairing code:", "ペアリングコード:")
            ));
            console::out(format!(
                "  soft-kvm-client pair {}",
                shell_word(&self.context.name().to_string())
            ));
            if let Some(picture) = qr::lines(&pairing_uri(&self.context, &code)) {
                console::out(picture);
            }
            console::out(lang.pick(
                "Pairing is open for 2 minutes; soft-kvm-server pair opens it again.",
                "ペアリングは 2 分間開いています。閉じた後は soft-kvm-server pair で開き直せます。",
            ));
        }
    }

    fn pairing_code(&self) -> Option<String> {
        let pairing = context::lock(&self.context.pairing);
        let (window, _) = pairing.as_ref()?;
        Some(window.code(clock::now())?.reveal().to_owned())
    }

    fn write_ready_file(&self, path: &Path) -> anyhow::Result<()> {
        let ready = serde_json::json!({
            "name": self.context.name().to_string(),
            "port": self.context.control_port(),
            "udp_port": self.context.udp_port,
            "metrics_port": context::lock(&self.network).metrics_port(),
            "fingerprint": self.context.identity.fingerprint().to_string(),
            "story": self.context.story().root().to_string(),
            "pairing_code": self.pairing_code(),
            "pid": std::process::id(),
        });
        // Written beside and renamed: whoever waits for the file never reads half of it.
        let part = path.with_extension("part");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(ready.to_string().as_bytes())?;
            std::fs::rename(&part, path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    fn stop(self, args: &RunArgs) -> anyhow::Result<()> {
        if let Some(path) = &args.stats_json {
            let stats = context::lock(&self.sampler).report(
                &self.pipeline,
                &self.context.sessions,
                self.context.story().root().to_string(),
            );
            std::fs::write(path, serde_json::to_string_pretty(&stats)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.context.record_handovers();
        drop(self.network);
        for session in self.context.sessions.all() {
            self.context.sessions.remove(&session);
        }
        self.control.stop();
        self.context.audit.record(Event::Stopped {});
        self.context.audit.close();
        // A socket that is left behind is replaced at the next start.
        let _ = std::fs::remove_file(local::path(&self.state_dir));
        Ok(())
    }
}

/// The story's name for the server, or the machine's.
///
/// # Errors
/// It is too long.
pub(crate) fn server_name(story: &Story) -> anyhow::Result<PeerName> {
    let name = story
        .control()
        .name
        .clone()
        .unwrap_or_else(process::host_name);
    PeerName::new(&name).with_context(|| format!("the server's name {name:?}"))
}

fn bind_media(args: &RunArgs, port: u16, allow_routed: bool) -> anyhow::Result<UdpSocket> {
    let address = args
        .listen
        .unwrap_or(std::net::Ipv6Addr::UNSPECIFIED.into());
    let options = UdpOptions {
        receive_buffer: Some(SOCKET_BUFFER),
        send_buffer: Some(SOCKET_BUFFER),
        dscp: Some(34),
        hop_limit: lan::hops(allow_routed),
    };
    UdpSocket::bind((address, port).into(), &options).with_context(|| {
        format!("UDP port {port} cannot be used: stop the program that has it, or give --port")
    })
}

/// The thread that waits for sockets and timers starts here, as narrow as those that it wakes.
fn start_async_io() -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("start".into()).spawn(|| {
        lockdown::narrow(Class::Network);
        async_io::block_on(Timer::after(Duration::ZERO))
    })?;
    thread
        .join()
        .map(drop)
        .map_err(|_| std::io::Error::other("a thread panicked"))
}

fn ntp_minus_mono() -> u64 {
    let (mono, wall) = (clock::now(), clock::wall());
    let nanos = (wall + NTP_TO_UNIX)
        .as_nanos()
        .saturating_sub(u128::from(mono.as_nanos()));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Modification time and length of each file; `None` for one that is missing for the moment.
pub(crate) fn file_stamps(files: &[PathBuf]) -> Vec<Option<(std::time::SystemTime, u64)>> {
    files
        .iter()
        .map(|file| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}

/// What the QR code says to a client.
pub(crate) fn pairing_uri(context: &Context, code: &str) -> String {
    format!(
        "soft-kvm:pair?name={}&port={}&code={code}&fp={}",
        percent(&context.name().to_string()),
        context.control_port(),
        context.identity.fingerprint()
    )
}

/// The text as one word for a POSIX shell.
fn shell_word(text: &str) -> String {
    if text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Percent-encoding of everything but unreserved characters (RFC 3986 §2.3).
fn percent(text: &str) -> String {
    use std::fmt::Write as _;

    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_shells_and_uris() {
        assert_eq!(shell_word("rack-1"), "rack-1");
        assert_eq!(shell_word("Bob's box"), r"'Bob'\''s box'");
        assert_eq!(percent("Bob's box/ä"), "Bob%27s%20box%2F%C3%A4");
    }
}
