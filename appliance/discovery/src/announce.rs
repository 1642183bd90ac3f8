//! The server's side.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use mdns_sd::{DaemonEvent, IfKind, IfPredicate, Receiver, ServiceDaemon, ServiceInfo};

use crate::{DiscoveryError, SERVICE_TYPE, daemon, has_network, shut_down};

/// What the TXT record says (RFC 6763 §6); hints, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txt {
    /// `v`: version of the protocol.
    pub version: u32,
    /// `fp`: first 16 hexadecimal digits of the fingerprint.
    pub fingerprint: String,
    /// `story`: first 16 hexadecimal digits of the story's root id.
    pub story: String,
    /// `features`: words without commas, such as `h264` or `uinput`.
    pub features: Vec<String>,
}

impl Txt {
    fn properties(&self, name: &str) -> Vec<(&'static str, String)> {
        // A TXT string has 255 bytes at most, key and `=` included.
        let fit = |text: &str| text.chars().take(60).collect::<String>();
        vec![
            ("v", self.version.to_string()),
            ("name", fit(name)),
            ("fp", fit(&self.fingerprint)),
            ("story", fit(&self.story)),
            (
                "features",
                self.features.join(",").chars().take(60).collect(),
            ),
        ]
    }
}

/// A server's presence on the link: on interfaces that are or come up, until it is dropped.
///
/// Dropping says goodbye, so that clients forget the server at once.
pub struct Announcement {
    daemon: ServiceDaemon,
    name: Arc<Mutex<String>>,
    port: u16,
}

impl Announcement {
    /// Announces `name` on `port`. The instance is probed first; when another machine has the name, a number is
    /// added. The host name in the records is made from the fingerprint, so it collides with nobody's.
    ///
    /// Only addresses that are `welcome` are told, and spoken and listened at. On a machine that has none yet this succeeds, and
    /// announces once there is one.
    ///
    /// # Errors
    ///
    /// The responder cannot be started, or `name` cannot be a service's name.
    pub fn start(
        name: &str,
        port: u16,
        txt: &Txt,
        welcome: fn(IpAddr) -> bool,
    ) -> Result<Self, DiscoveryError> {
        let daemon = daemon()?;
        let others = IfPredicate::new(move |interface| !welcome(interface.ip()));
        daemon.disable_interface(IfKind::Predicate(others))?;
        let events = daemon.monitor()?;
        daemon.register(info(name, port, txt)?)?;
        let announced = Arc::new(Mutex::new(name.to_owned()));
        let current = Arc::clone(&announced);
        thread::Builder::new()
            .name("mdns-events".into())
            .spawn(move || follow(&events, &current))
            .map_err(|e| mdns_sd::Error::Msg(format!("cannot start a thread: {e}")))?;
        if !has_network() {
            tracing::warn!("no network but loopback: announced by mDNS as soon as there is one");
        }
        Ok(Self {
            daemon,
            name: announced,
            port,
        })
    }

    /// Changes the TXT record, for a new story.
    ///
    /// # Errors
    ///
    /// The responder's thread has ended.
    pub fn update(&self, txt: &Txt) -> Result<(), DiscoveryError> {
        Ok(self.daemon.register(info(&self.name(), self.port, txt)?)?)
    }

    /// The name that is announced: the one asked for, or the one with a number.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        name.clone()
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        shut_down(&self.daemon);
    }
}

impl std::fmt::Debug for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcement")
            .field("name", &self.name())
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn info(name: &str, port: u16, txt: &Txt) -> Result<ServiceInfo, mdns_sd::Error> {
    // An instance label has 63 bytes (RFC 6763 §4.1.1), and a renaming needs some of them.
    let mut label = name.to_owned();
    while label.len() > 56 {
        label.pop();
    }
    let host = format!("soft-kvm-{}.local.", txt.fingerprint);
    let properties = txt.properties(name);
    let info = ServiceInfo::new(SERVICE_TYPE, &label, &host, "", port, properties.as_slice())?;
    Ok(info.enable_addr_auto())
}

/// Logs what the responder does, until it ends.
fn follow(events: &Receiver<DaemonEvent>, current: &Mutex<String>) {
    while let Ok(event) = events.recv() {
        match event {
            DaemonEvent::NameChange(change) => {
                let suffix = format!(".{SERVICE_TYPE}");
                if let Some(name) = change.new_name.strip_suffix(&suffix) {
                    tracing::warn!(name, "another machine on the link has the same name");
                    name.clone_into(&mut current.lock().unwrap_or_else(PoisonError::into_inner));
                }
            }
            DaemonEvent::Announce(service, interface) => {
                tracing::info!(service, interface, "announced by mDNS");
            }
            DaemonEvent::IpAdd(address) => tracing::info!(%address, "interface came up"),
            DaemonEvent::IpDel(address) => tracing::info!(%address, "interface went down"),
            DaemonEvent::Error(error) => tracing::warn!(%error, "mDNS"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txt() -> Txt {
        Txt {
            version: 1,
            fingerprint: "0123456789abcdef".into(),
            story: "fedcba9876543210".into(),
            features: vec!["h264".into(), "uinput".into()],
        }
    }

    #[test]
    fn records_carry_the_hints() {
        let info = info("机 rack.1", 7755, &txt()).unwrap();
        assert_eq!(info.get_hostname(), "soft-kvm-0123456789abcdef.local.");
        assert_eq!(info.get_port(), 7755);
        for (key, value) in [
            ("v", "1"),
            ("name", "机 rack.1"),
            ("fp", "0123456789abcdef"),
            ("story", "fedcba9876543210"),
            ("features", "h264,uinput"),
        ] {
            assert_eq!(info.get_property_val_str(key), Some(value));
        }
    }

    #[test]
    fn long_names_and_lists_fit_their_records() {
        let mut long = txt();
        long.features = vec!["x".repeat(40); 40];
        for name in ["机".repeat(64), "n".repeat(64), String::new()] {
            let info = info(&name, 1, &long).unwrap();
            assert!(info.get_fullname().len() <= 64 + SERVICE_TYPE.len());
        }
    }
}
