//! The server from start to stop.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_io::Timer;
use futures_lite::FutureExt;
use soft_kvm_core::Lang;
use soft_kvm_core::story::Story;
use soft_kvm_input::echo::EchoState;
use soft_kvm_monitoring::Metrics;
use soft_kvm_platform::os::net::{UdpOptions, UdpSocket};
use soft_kvm_platform::os::{clock, process};
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_security::{Identity, PeerStore, StateDir};
use soft_kvm_service::{Notifier, Request, Signals, console};

use crate::cli::RunArgs;
use crate::context::{Context, Running, lock};
use crate::control::local;
use crate::network::{Control, Network};
use crate::pipeline::{Pipeline, Shared};
use crate::session::{MediaReceiver, MediaTransmitter, Sessions, SinkChoice};
use crate::settings::{self, Settings};
use crate::stats::Sampler;

/// A key frame of 1080p text is about 200 kB; several clients may get theirs at once.
const SOCKET_BUFFER: usize = 4 << 20;
/// Seconds from the NTP epoch (1900) to the Unix epoch (1970), RFC 5905 §6.
const NTP_TO_UNIX: Duration = Duration::from_secs(2_208_988_800);

/// Runs until it is told to stop.
///
/// # Errors
/// In words for the console: what could not be started, and what to do.
pub fn run(args: &RunArgs, lang: Lang) -> anyhow::Result<()> {
    console::start_logging();
    let signals = Signals::new()?;
    let settings = settings::load(args, lang)?;
    let server = Server::start(args, settings, lang)?;
    server.announce_on_console();
    if let Some(path) = &args.ready_file {
        server.write_ready_file(path)?;
    }
    Notifier.ready("serving");
    let outcome = async_io::block_on(server.supervise(args, &signals));
    Notifier.stopping("stopping");
    server.stop(args)?;
    outcome
}

struct Server {
    context: Arc<Context>,
    pipeline: Arc<Shared>,
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
        let story = Arc::new(settings.story);
        let name = server_name(&story)?;
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
        let echo = Arc::new(Mutex::new(EchoState::default()));
        let pipeline = Arc::new(Shared::new(
            story.capture().clone(),
            *story.video(),
            Arc::clone(&echo),
            name.to_string(),
        ));
        let sinks = SinkChoice::new(story.input(), echo, Arc::clone(&pipeline.echo_shown))?;
        let sessions = Arc::new(Sessions::new(Arc::clone(&pipeline)));
        let listener = Control::bind(args.listen, story.control().port)?;
        let control_port = listener.local_addr()?.port();
        let socket = Arc::new(bind_media(args, control_port)?);
        let context = Arc::new(Context {
            udp_port: socket.local_address()?.port(),
            control_port,
            ntp_minus_mono_ns: ntp_minus_mono(),
            identity,
            peers,
            name,
            sessions: Arc::clone(&sessions),
            metrics,
            lang,
            running: Mutex::new(Running {
                story: Arc::clone(&story),
                sinks,
            }),
            pairing: Mutex::new(None),
            random: ring::rand::SystemRandom::new(),
        });
        context.metrics.set_story(&story.root().to_string());
        let rx = MediaReceiver::start(Arc::clone(&sessions), Arc::clone(&socket))?;
        let tx = MediaTransmitter::start(Arc::clone(&sessions), socket)?;
        let encoding = Pipeline::start(Arc::clone(&pipeline), sessions)?;
        let control = Control::start(&context, listener, local)?;
        let network = Network::start(&context, &control, &story)?;
        if args.pair || context.peers.list()?.is_empty() {
            context.open_pairing()?;
        }
        Ok(Self {
            context,
            pipeline,
            files: Mutex::new(settings.files),
            sampler: Mutex::new(Sampler::new()),
            network: Mutex::new(network),
            control,
            state_dir,
            _threads: (rx, tx, encoding),
        })
    }

    /// Waits for signals, file changes and the end of the time; samples each second.
    async fn supervise(&self, args: &RunArgs, signals: &Signals) -> anyhow::Result<()> {
        let end = args
            .seconds
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut stamps = file_stamps(&lock(&self.files));
        loop {
            let tick = async {
                Timer::after(Duration::from_secs(1)).await;
                None
            };
            match async { Some(signals.next().await) }.or(tick).await {
                Some(Request::Stop) => return Ok(()),
                Some(Request::Reload) => {
                    self.reload(args);
                    stamps = file_stamps(&lock(&self.files));
                }
                None => {
                    lock(&self.sampler).sample(
                        &self.context.metrics,
                        &self.pipeline,
                        &self.context.sessions,
                    );
                    Notifier.alive();
                    let now = file_stamps(&lock(&self.files));
                    if now != stamps {
                        self.reload(args);
                        stamps = file_stamps(&lock(&self.files));
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
                *lock(&self.files) = settings.files;
                let outcome = lock(&self.network).reload(
                    &self.context,
                    &self.control,
                    &self.pipeline,
                    settings.story,
                    args.listen,
                );
                if let Err(error) = outcome {
                    tracing::error!("reload: {error:#}");
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
            self.context.name,
            self.context.identity.fingerprint().short(),
            lang.pick("port", "ポート"),
            self.context.control_port,
            lang.pick("story", "ストーリー"),
            self.context.story().root().short(),
        ));
        if let Some(code) = self.pairing_code() {
            console::out(format!(
                "{} {code}",
                lang.pick("Pairing code:", "ペアリングコード:")
            ));
            console::out(format!(
                "  soft-kvm-client pair {}",
                shell_word(&self.context.name.to_string())
            ));
            if let Some(picture) = qr(&format!(
                "soft-kvm:pair?name={}&port={}&code={code}&fp={}",
                percent(&self.context.name.to_string()),
                self.context.control_port,
                self.context.identity.fingerprint()
            )) {
                console::out(picture);
            }
        }
    }

    fn pairing_code(&self) -> Option<String> {
        let pairing = lock(&self.context.pairing);
        let window = pairing.as_ref()?;
        Some(window.code(clock::now())?.reveal().to_owned())
    }

    fn write_ready_file(&self, path: &Path) -> anyhow::Result<()> {
        let ready = serde_json::json!({
            "name": self.context.name.to_string(),
            "port": self.context.control_port,
            "udp_port": self.context.udp_port,
            "metrics_port": lock(&self.network).metrics_port(),
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
            let stats = lock(&self.sampler).report(
                &self.pipeline,
                &self.context.sessions,
                self.context.story().root().to_string(),
            );
            std::fs::write(path, serde_json::to_string_pretty(&stats)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        drop(self.network);
        for session in self.context.sessions.all() {
            self.context.sessions.remove(&session);
        }
        self.control.stop();
        // A socket that is left behind is replaced at the next start.
        let _ = std::fs::remove_file(local::path(&self.state_dir));
        Ok(())
    }
}

fn server_name(story: &Story) -> anyhow::Result<PeerName> {
    let name = story
        .control()
        .name
        .clone()
        .unwrap_or_else(process::host_name);
    PeerName::new(&name).with_context(|| format!("the server's name {name:?}"))
}

fn bind_media(args: &RunArgs, port: u16) -> anyhow::Result<UdpSocket> {
    let address = args
        .listen
        .unwrap_or(std::net::Ipv6Addr::UNSPECIFIED.into());
    let options = UdpOptions {
        receive_buffer: Some(SOCKET_BUFFER),
        send_buffer: Some(SOCKET_BUFFER),
        dscp: Some(34),
        hop_limit: None,
    };
    UdpSocket::bind((address, port).into(), &options).with_context(|| {
        format!("UDP port {port} cannot be used: stop the program that has it, or give --port")
    })
}

fn ntp_minus_mono() -> u64 {
    let (mono, wall) = (clock::now(), clock::wall());
    let nanos = (wall + NTP_TO_UNIX)
        .as_nanos()
        .saturating_sub(u128::from(mono.as_nanos()));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Modification time and length of each file; `None` for one that is missing for the moment.
fn file_stamps(files: &[PathBuf]) -> Vec<Option<(std::time::SystemTime, u64)>> {
    files
        .iter()
        .map(|file| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
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

fn qr(text: &str) -> Option<String> {
    let code = qrcode::QrCode::new(text).ok()?;
    let picture = code
        .render::<qrcode::render::unicode::Dense1x2>()
        .dark_color(qrcode::render::unicode::Dense1x2::Light)
        .light_color(qrcode::render::unicode::Dense1x2::Dark)
        .build();
    Some(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_shells_and_uris() {
        assert_eq!(shell_word("rack-1"), "rack-1");
        assert_eq!(shell_word("Bob's box"), r"'Bob'\''s box'");
        assert_eq!(percent("Bob's box/ä"), "Bob%27s%20box%2F%C3%A4");
        assert!(
            qr("soft-kvm:pair?code=123456").is_some_and(|picture| picture.lines().count() > 10)
        );
    }
}
