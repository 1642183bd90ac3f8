//! Pairing: a six-digit code that a person carries from one screen to the other becomes a pinned key on both sides.
//!
//! > **The contract.** Inside an established TLS session with an unpinned peer, both sides make a [`Binding`]. The
//! > client calls [`ClientPairing::start`], then gives it each message of the server: [`ClientPairing::share`], then
//! > [`ClientConfirming::conclude`]. The server gives the client's messages to its one [`PairingWindow`]:
//! > [`PairingWindow::answer`], then [`PairingWindow::conclude`], or [`PairingWindow::abandon`] when the connection
//! > ends between the two. The server stores the new peer *before* it sends [`ServerPaired::reply`], so that a client
//! > never believes in a pairing that a full disk lost. Nothing here reads a clock or a socket.
//!
//! SPAKE2 (the exchange of RFC 9382, with the transcript of the `spake2` crate) turns the code into a strong key; a
//! wrong guess costs an on-line try, and a recording of the exchange is worth nothing. Each side then proves that key
//! with an HMAC-SHA256 over its role, the TLS exporter value, both fingerprints, both shares and both names. Someone
//! in the middle has two TLS sessions, so two exporter values and a fingerprint that is not the other end's, and
//! fails even when both people type the right code.
//!
//! The client confirms first: whoever guesses codes against the server learns nothing before the guess is counted.

mod code;
mod exchange;

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::pairing::{
    FromClient, FromServer, HexBytes, PAIRING_VERSION, PeerName, is_shown,
};
use zeroize::Zeroizing;

use self::exchange::{Exchange, Keys, Side};
use crate::Fingerprint;

pub use self::code::{PairingCode, ParseCodeError};

/// Wrong tries that close a window.
pub const MAX_WRONG_TRIES: u8 = 5;

/// How long a window stays open, however it was opened.
pub const OPEN_TIME: Duration = Duration::from_secs(120);

/// The first wrong try's refusal is held back, and the window with it, for so long; each further one's twice as long.
const FIRST_REST: Duration = Duration::from_secs(1);

/// The longest that a refusal is held back.
pub const LONGEST_REST: Duration = Duration::from_secs(8);

/// How long one try may take before the next client gets its turn.
pub const TRY_LIMIT: Duration = Duration::from_secs(10);

/// Why a pairing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairingError {
    /// The other side speaks another version.
    #[error(
        "the other side speaks version {0} of pairing, this one speaks {PAIRING_VERSION}: update the older"
    )]
    Version(u32),
    /// No window is open, its time is over, or five tries were wrong.
    #[error("pairing is not open: start it on the server, then type the new code")]
    Closed,
    /// Another client is being paired at this moment.
    #[error("another client is pairing at this moment: try again in a few seconds")]
    Busy,
    /// The codes differ, or somebody sits between client and server.
    #[error(
        "the code is wrong, or someone else answers in the server's place: read it again from the server"
    )]
    WrongCode,
    /// A message that is malformed or out of turn.
    #[error("the other side sent {0}")]
    BadMessage(&'static str),
    /// The server could not store the pairing.
    #[error("the server could not store the pairing: look at its log")]
    Storage,
    /// The server refused with a word that this version does not know.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The system's random number generator failed.
    #[error("the system gives no random numbers")]
    Random,
}

impl PairingError {
    /// The stable word for [`FromServer::Error`].
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::WrongCode => "wrong-code",
            Self::Storage => "storage",
            Self::BadMessage(_) | Self::Refused(_) | Self::Random => "bad-message",
        }
    }

    /// The message that tells the client.
    #[must_use]
    pub fn to_message(&self) -> FromServer {
        FromServer::Error {
            code: self.code().to_owned(),
            message: self.to_string(),
        }
    }

    fn from_refusal(code: &str, message: &str) -> Self {
        match code {
            "closed" => Self::Closed,
            "busy" => Self::Busy,
            "wrong-code" => Self::WrongCode,
            "storage" => Self::Storage,
            _ => {
                let text = if message.is_empty() { code } else { message };
                Self::Refused(text.chars().filter(|c| is_shown(*c)).take(200).collect())
            }
        }
    }
}

/// What both sides know of the TLS session that they pair in.
#[derive(Clone, Debug)]
pub struct Binding {
    /// [`export_pairing_binding`](crate::tls::export_pairing_binding) of the session.
    pub exporter: Zeroizing<[u8; 32]>,
    /// The client's key: its own on the client, the peer's on the server.
    pub client: Fingerprint,
    /// The server's key.
    pub server: Fingerprint,
}

/// The exchange's result: whose key to pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// The peer's name for people.
    pub name: PeerName,
    /// The peer's key.
    pub fingerprint: Fingerprint,
}

/// A client's side, its first message sent.
#[derive(Debug)]
pub struct ClientPairing {
    spake: Exchange,
    binding: Binding,
    name: PeerName,
}

impl ClientPairing {
    /// Begins; the message goes to the server.
    #[must_use]
    pub fn start(code: &PairingCode, binding: Binding, name: PeerName) -> (Self, FromClient) {
        let spake = Exchange::start(Side::Client, code, &binding);
        let message = FromClient::Start {
            version: PAIRING_VERSION,
            name: name.clone(),
            share: HexBytes(spake.share),
        };
        let pairing = Self {
            spake,
            binding,
            name,
        };
        (pairing, message)
    }

    /// Takes the server's [`FromServer::Share`]; the message goes to the server.
    ///
    /// # Errors
    ///
    /// The server refused, or its message is malformed or out of turn.
    pub fn share(
        self,
        message: FromServer,
    ) -> Result<(ClientConfirming, FromClient), PairingError> {
        let (name, share) = match message {
            FromServer::Share { name, share } => (name, share),
            FromServer::Error { code, message } => {
                return Err(PairingError::from_refusal(&code, &message));
            }
            _ => return Err(PairingError::BadMessage("a message out of turn")),
        };
        let keys = self
            .spake
            .finish(&share.0, &self.binding, [&self.name, &name])?;
        let mac = keys.confirm(Side::Client);
        let confirming = ClientConfirming {
            keys,
            server: Paired {
                name,
                fingerprint: self.binding.server,
            },
        };
        Ok((confirming, FromClient::Confirm { mac }))
    }
}

/// A client's side that has shown the server that it knows the code.
#[derive(Debug)]
pub struct ClientConfirming {
    keys: Keys,
    server: Paired,
}

impl ClientConfirming {
    /// Takes the server's [`FromServer::Confirm`]; the result is to be stored.
    ///
    /// # Errors
    ///
    /// The server refused, does not know the code, or its message is out of turn.
    pub fn conclude(self, message: &FromServer) -> Result<Paired, PairingError> {
        match message {
            FromServer::Confirm { mac } => {
                self.keys.check(Side::Server, mac)?;
                Ok(self.server)
            }
            FromServer::Error { code, message } => Err(PairingError::from_refusal(code, message)),
            _ => Err(PairingError::BadMessage("a message out of turn")),
        }
    }
}

/// A server's readiness to pair: one code, for a limited time and five wrong tries, one client at a time.
#[derive(Debug)]
pub struct PairingWindow {
    code: PairingCode,
    closes: MonoTime,
    rests_until: MonoTime,
    wrong: u8,
    tries: u64,
    busy: Option<(u64, MonoTime)>,
    paired: bool,
}

/// A try that waits for the client's confirmation; goes back to the window that made it.
#[derive(Debug)]
#[must_use = "a try that is not concluded or abandoned keeps other clients waiting"]
pub struct PairingTry {
    number: u64,
    keys: Keys,
    client: Paired,
}

/// A client that knows the code.
#[derive(Debug)]
#[must_use = "store the client, then send the reply"]
pub struct ServerPaired {
    /// The client, to be stored.
    pub client: Paired,
    /// What to send once it is stored; [`PairingError::Storage`] when that fails.
    pub reply: FromServer,
}

impl PairingWindow {
    /// Opens a window with a new code, for [`OPEN_TIME`] from `now`.
    ///
    /// # Errors
    ///
    /// [`PairingError::Random`].
    pub fn open(now: MonoTime) -> Result<Self, PairingError> {
        Ok(Self {
            code: PairingCode::generate()?,
            closes: now + OPEN_TIME,
            rests_until: now,
            wrong: 0,
            tries: 0,
            busy: None,
            paired: false,
        })
    }

    /// The code to show, while the window is open.
    #[must_use]
    pub fn code(&self, now: MonoTime) -> Option<&PairingCode> {
        self.is_open(now).then_some(&self.code)
    }

    /// Whether a client may still pair.
    #[must_use]
    pub fn is_open(&self, now: MonoTime) -> bool {
        now < self.closes && self.wrong < MAX_WRONG_TRIES
    }

    /// When the time is over.
    #[must_use]
    pub fn closes_at(&self) -> MonoTime {
        self.closes
    }

    /// When the refusal of the last wrong try may be told; until then the window takes no other try, so that guessing over
    /// several connections is no faster.
    #[must_use]
    pub fn rests_until(&self) -> MonoTime {
        self.rests_until
    }

    /// Whether a client has shown that it knows a code of this window.
    #[must_use]
    pub fn has_paired(&self) -> bool {
        self.paired
    }

    /// How many wrong tries are left.
    #[must_use]
    pub fn tries_left(&self) -> u8 {
        MAX_WRONG_TRIES.saturating_sub(self.wrong)
    }

    /// Takes a client's [`FromClient::Start`]; the message goes to the client. `name` is the server's own.
    ///
    /// # Errors
    ///
    /// The window is closed, busy or at rest after a wrong try, or the message is malformed, out of turn or of another version.
    /// [`PairingError::to_message`] goes to the client.
    pub fn answer(
        &mut self,
        now: MonoTime,
        binding: &Binding,
        name: &PeerName,
        message: FromClient,
    ) -> Result<(PairingTry, FromServer), PairingError> {
        let FromClient::Start {
            version,
            name: client_name,
            share,
        } = message
        else {
            return Err(PairingError::BadMessage("a message out of turn"));
        };
        if version != PAIRING_VERSION {
            return Err(PairingError::Version(version));
        }
        if !self.is_open(now) {
            return Err(PairingError::Closed);
        }
        if now < self.rests_until || self.busy.is_some_and(|(_, until)| now < until) {
            return Err(PairingError::Busy);
        }
        let spake = Exchange::start(Side::Server, &self.code, binding);
        let reply = FromServer::Share {
            name: name.clone(),
            share: HexBytes(spake.share),
        };
        let keys = spake.finish(&share.0, binding, [&client_name, name])?;
        self.tries += 1;
        self.busy = Some((self.tries, now + TRY_LIMIT));
        let started = PairingTry {
            number: self.tries,
            keys,
            client: Paired {
                name: client_name,
                fingerprint: binding.client,
            },
        };
        Ok((started, reply))
    }

    /// Takes the client's [`FromClient::Confirm`]. A right one renews the code, anything else is a wrong try, whose refusal is
    /// not to be told before [`PairingWindow::rests_until`].
    ///
    /// # Errors
    ///
    /// The client does not know the code, the message is out of turn, or the try took longer than [`TRY_LIMIT`] or
    /// outlived the window. [`PairingError::to_message`] goes to the client.
    pub fn conclude(
        &mut self,
        now: MonoTime,
        started: PairingTry,
        message: &FromClient,
    ) -> Result<ServerPaired, PairingError> {
        let current = self.busy.filter(|(number, _)| *number == started.number);
        if !self.is_open(now) || current.is_none_or(|(_, until)| now >= until) {
            self.abandon(started);
            return Err(PairingError::Closed);
        }
        self.busy = None;
        let checked = match message {
            FromClient::Confirm { mac } => started.keys.check(Side::Client, mac),
            _ => Err(PairingError::BadMessage("a message out of turn")),
        };
        if let Err(error) = checked {
            let rest = FIRST_REST * (1 << self.wrong.min(MAX_WRONG_TRIES));
            self.wrong = self.wrong.saturating_add(1);
            // Nothing more is to be guessed at a closed window.
            if self.is_open(now) {
                self.rests_until = now + rest.min(LONGEST_REST);
            }
            return Err(error);
        }
        // Whoever looked over a shoulder must not pair with what was seen.
        self.code = PairingCode::generate()?;
        self.paired = true;
        let mac = started.keys.confirm(Side::Server);
        Ok(ServerPaired {
            client: started.client,
            reply: FromServer::Confirm { mac },
        })
    }

    /// Lets the next client in after a connection ended in the middle. It is no wrong try: the client was told
    /// nothing that depends on the code.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the try must not be used again"
    )]
    pub fn abandon(&mut self, started: PairingTry) {
        if self
            .busy
            .is_some_and(|(number, _)| number == started.number)
        {
            self.busy = None;
        }
    }
}

#[cfg(test)]
mod tests;
