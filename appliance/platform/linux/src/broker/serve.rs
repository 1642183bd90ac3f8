//! The process that opens.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};

use super::wire::{Answer, QUESTION_LEN, Question};
use super::{Grants, Kind, open_here};
use crate::kms::{self, Fb2};
use crate::{display, evdev, gadget, v4l2};

/// Major number of DRM cards (`<drm/drm.h>`, `DRM_MAJOR`).
const DRM_MAJOR: u64 = 226;

/// The other end is closed: nobody will ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

/// Answers until the other end closes. What may be handed over is asked anew for each question.
///
/// # Errors
/// The socket fails.
pub fn serve(socket: BorrowedFd<'_>, mut grants: impl FnMut() -> Grants) -> io::Result<Ended> {
    let mut held = Held::default();
    let mut bytes = [0; QUESTION_LEN + 1];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(Ended),
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let question = Question::parse(bytes.get(..length).unwrap_or_default());
        let (answer, fds) = match question {
            Some(question) => answer(&question, &grants(), &mut held),
            None => {
                tracing::warn!(length, "broker: what was asked is no question");
                let error = libc::EPROTO;
                (
                    Answer {
                        error,
                        ..Answer::default()
                    },
                    Vec::new(),
                )
            }
        };
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(&answer.bytes())],
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(Ended),
            other => other.map(drop)?,
        }
    }
}

/// What the broker keeps for the one who asks.
#[derive(Default)]
struct Held {
    /// The card whose framebuffers were asked for last: an own file, so that its handles are nobody else's.
    card: Option<(PathBuf, kms::Card)>,
    /// Unplugged at the end.
    gadget: Option<gadget::Composite>,
}

fn answer(question: &Question, grants: &Grants, held: &mut Held) -> (Answer, Vec<OwnedFd>) {
    let node = question.path();
    let outcome = if grants.lets(question.kind, node) {
        take(question, grants, held)
    } else {
        Err(libc::EACCES)
    };
    let number = question.number;
    match outcome {
        Ok((fb, fds)) => (
            Answer {
                number,
                error: 0,
                fb,
            },
            fds,
        ),
        Err(error) => {
            if error == libc::EACCES {
                tracing::warn!(?question, "broker: refused, the story does not name it");
            }
            let fb = Fb2::default();
            (Answer { number, error, fb }, Vec::new())
        }
    }
}

fn take(question: &Question, grants: &Grants, held: &mut Held) -> Result<(Fb2, Vec<OwnedFd>), i32> {
    let node = question.path();
    let code = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let one = |fd| Ok((Fb2::default(), vec![fd]));
    match question.kind {
        Kind::Video => {
            let fd = open_here(node).map_err(code)?;
            let memory_to_memory =
                v4l2::is_memory_to_memory(fd.as_fd()).map_err(|errno| errno as i32)?;
            if !grants.lets_video(node, memory_to_memory) {
                return Err(libc::EACCES);
            }
            one(fd)
        }
        Kind::Media | Kind::Memory => {
            let metadata = node.metadata().map_err(code)?;
            if !metadata.file_type().is_char_device() {
                return Err(libc::EACCES);
            }
            one(open_here(node).map_err(code)?)
        }
        Kind::Uinput => one(open_here(node).map_err(code)?),
        Kind::Gadget => {
            let fds = gadget::obey(&mut held.gadget, node, question.id)?;
            Ok((Fb2::default(), fds))
        }
        Kind::Button => {
            let (device, key) = grants.button.as_ref().ok_or(libc::EACCES)?;
            one(
                evdev::open_button(device, key).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => libc::ENOENT,
                    _ => code(error),
                })?,
            )
        }
        Kind::Monitor => {
            let connector = grants.monitor.as_deref().ok_or(libc::EACCES)?;
            one(display::open_master(connector).map_err(code)?)
        }
        Kind::Screen => one(card(node)?.into()),
        Kind::Framebuffer => {
            if held.card.as_ref().is_none_or(|(of, _)| of != node) {
                held.card = Some((node.to_owned(), card(node)?));
            }
            let (_, card) = held.card.as_ref().ok_or(libc::EIO)?;
            let taken = kms::take_framebuffer(card, question.id);
            if matches!(taken, Err(libc::ENODEV | libc::ENXIO)) {
                // Pulled: a card with this name later is another one.
                held.card = None;
            }
            taken
        }
    }
}

fn card(node: &Path) -> Result<kms::Card, i32> {
    let metadata = node
        .metadata()
        .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    if !metadata.file_type().is_char_device() || libc::major(metadata.rdev()) as u64 != DRM_MAJOR {
        return Err(libc::EACCES);
    }
    kms::Card::open_here(node).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}
