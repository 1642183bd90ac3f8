//! Messages to the service manager (`sd_notify(3)`).

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells the service manager how the program is; does nothing where there is none (`NOTIFY_SOCKET` unset).
///
/// A message that cannot be delivered is logged and forgotten: no session may end because of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notifier;

impl Notifier {
    /// The program serves, with a line for `systemctl status`.
    pub fn ready(self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// The story is being read again; [`Self::ready`] has to follow.
    pub fn reloading(self) {
        // Without the time, systemd 253 and newer end the service.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot read the clock for the service manager"),
        }
    }

    /// The program ends.
    pub fn stopping(self, status: &str) {
        send(&[
            NotifyState::Stopping,
            NotifyState::Status(&one_line(status)),
        ]);
    }

    /// A line for `systemctl status`.
    pub fn status(self, status: &str) {
        send(&[NotifyState::Status(&one_line(status))]);
    }

    /// The main loop lives; to be called every [`Self::watchdog_interval`].
    pub fn alive(self) {
        send(&[NotifyState::Watchdog]);
    }

    /// How often [`Self::alive`] is due (half of the unit's `WatchdogSec=`), if the unit wants it.
    #[must_use]
    pub fn watchdog_interval(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 2)
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager does not take messages (NOTIFY_SOCKET)");
    }
}

/// A line break would begin another assignment.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn nothing_happens_without_a_service_manager() {
        Notifier.ready("up");
    }

    #[test]
    fn the_service_manager_hears_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "notify::tests::child_sends"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "3000000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        socket.set_nonblocking(true).unwrap();
        let mut messages = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(length) = socket.recv(&mut buffer) {
            messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(messages[0], "READY=1\nSTATUS=two lines\n");
        assert!(messages[1].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(
            messages[2..],
            [
                "STATUS=1 session\n",
                "WATCHDOG=1\n",
                "STOPPING=1\nSTATUS=bye\n"
            ]
        );
    }

    #[test]
    fn child_sends() {
        // Does its work only in the process that the test above starts.
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        assert_eq!(
            Notifier.watchdog_interval(),
            Some(Duration::from_millis(1500))
        );
        Notifier.ready("two\nlines");
        Notifier.reloading();
        Notifier.status("1 session");
        Notifier.alive();
        Notifier.stopping("bye");
    }
}
