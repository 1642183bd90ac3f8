//! When a peer counts as gone.

use std::time::Duration;

use soft_kvm_core::MonoTime;

/// How long a control channel may say nothing while authentic datagrams still come: TCP waits for up to twice the length of an
/// outage before it tries again (RFC 6298 §5.5), UDP is back at once.
pub const MUTE: Duration = Duration::from_secs(12);

/// What was last heard of a peer, on either way.
#[derive(Clone, Copy, Debug)]
pub struct LastHeard {
    /// The last message of the control channel.
    pub message: MonoTime,
    /// The last authentic datagram; [`MonoTime::ZERO`] before the first.
    pub datagram: MonoTime,
}

impl LastHeard {
    /// How long the peer may stay as quiet as it is, when `silence` on both ways means that it is gone; `None` when it is.
    #[must_use]
    pub fn patience(&self, now: MonoTime, silence: Duration) -> Option<Duration> {
        let any = now.since(self.message.max(self.datagram));
        let mute = now.since(self.message);
        let left = silence.saturating_sub(any).min(MUTE.saturating_sub(mute));
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(4);

    fn heard(message: u64, datagram: u64) -> LastHeard {
        let at = |seconds: u64| MonoTime::ZERO + Duration::from_secs(seconds);
        LastHeard {
            message: at(message),
            datagram: at(datagram),
        }
    }

    #[test]
    fn a_peer_that_still_sends_datagrams_is_not_gone_yet() {
        let now = MonoTime::ZERO + Duration::from_secs(100);
        let cases = [
            (heard(99, 0), Some(3)),
            (heard(97, 99), Some(3)),
            (heard(96, 0), None),
            // An outage of TCP alone.
            (heard(92, 99), Some(3)),
            (heard(89, 99), Some(1)),
            (heard(88, 99), None),
            // An outage of UDP alone.
            (heard(99, 10), Some(3)),
            (heard(90, 96), None),
        ];
        for (heard, left) in cases {
            let left = left.map(Duration::from_secs);
            assert_eq!(heard.patience(now, SILENCE), left, "{heard:?}");
        }
    }
}
