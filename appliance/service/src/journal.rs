//! Log lines for systemd's journal with their fields, by its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::fmt::{Debug, Write as _};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Standard error, as the kernel names it.
const STDERR: &str = "/proc/self/fd/2";
/// Stands before the names of our fields, so that none can be taken for one of the journal's own.
const PREFIX: &str = "SOFT_KVM_";
/// A longer value is cut: a datagram has to hold the whole line.
const MOST: usize = 16 << 10;

/// Sends each event as one line of the journal. The line's text has the fields, too, as on a console.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    identifier: String,
}

impl Journal {
    /// The journal, if standard error goes there anyway (`$JOURNAL_STREAM` names its device and inode).
    pub(crate) fn connect() -> Option<Self> {
        let named = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = std::fs::metadata(STDERR).ok()?;
        if named != format!("{}:{}", stderr.dev(), stderr.ino()) {
            return None;
        }
        Self::at(Path::new(SOCKET)).ok()
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A full journal must not hold up whoever logs.
        socket.set_nonblocking(true)?;
        let program = std::env::args_os().next().unwrap_or_default();
        let identifier = Path::new(&program).file_name().unwrap_or_default();
        Ok(Self {
            socket,
            identifier: identifier.to_string_lossy().into_owned(),
        })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let about = event.metadata();
        let text = format!("{}{}", line.message, line.words);
        let mut entry = Vec::new();
        put(&mut entry, "MESSAGE", &text);
        put(&mut entry, "PRIORITY", priority(*about.level()));
        put(&mut entry, "SYSLOG_IDENTIFIER", &self.identifier);
        put(&mut entry, "SOFT_KVM_TARGET", about.target());
        entry.extend(line.fields);
        if self.socket.send(&entry).is_err() {
            // Standard error is the journal's as well; nobody is left to tell when that is gone.
            let _ = writeln!(io::stderr(), "{} {}: {text}", about.level(), about.target());
        }
    }
}

/// As syslog counts.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// One field. A value with a line break goes with its length, so that it cannot begin another field.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(MOST);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = value.get(..end).unwrap_or_default();
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// What an event says.
#[derive(Default)]
struct Line {
    message: String,
    /// The fields as words behind the message.
    words: String,
    fields: Vec<u8>,
}

impl Line {
    fn field(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        // Writing to memory does not fail.
        let _ = write!(self.words, " {}={value}", field.name());
        let name: String = field
            .name()
            .chars()
            .map(|letter| match letter {
                'a'..='z' | 'A'..='Z' | '0'..='9' => letter.to_ascii_uppercase(),
                _ => '_',
            })
            .collect();
        put(&mut self.fields, &format!("{PREFIX}{name}"), value);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn an_event_is_one_datagram_with_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let reader = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::at(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(peer = "a\nPRIORITY=0", count = 3, "hello");
        });
        let mut bytes = [0; 4096];
        let length = reader.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(text.contains("\nPRIORITY=4\n"), "{text}");
        assert!(text.contains("\nSOFT_KVM_COUNT=3\n"), "{text}");
        let peer = b"\nSOFT_KVM_PEER\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert!(
            bytes[..length].windows(peer.len()).any(|part| part == peer),
            "{text}"
        );
        // The message has a line break in it, for the field has.
        let message = b"MESSAGE\n\x1f\0\0\0\0\0\0\0hello peer=a\nPRIORITY=0 count=3\n";
        assert!(bytes.starts_with(message), "{text}");
    }

    #[test]
    fn a_long_value_is_cut_between_letters() {
        let mut entry = Vec::new();
        put(&mut entry, "A", &"ぁ".repeat(MOST));
        assert!(entry.len() <= MOST + 3);
        assert!(std::str::from_utf8(&entry).is_ok());
    }
}
