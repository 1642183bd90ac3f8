//! The label values that are fixed; the rest is bounded by [`Bounded`].

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// An enum whose variants are label values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the pipeline.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The label's text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

label! {
    /// What a video latency is the latency of.
    VideoStage {
        /// The kernel's stamp of the frame → the frame in our hands.
        Capture => "capture",
        /// Waiting for the encoder in the newest-frame slot.
        Wait => "wait",
        /// Comparing and colour conversion.
        Convert => "convert",
        /// Encoding.
        Encode => "encode",
        /// First to last packet handed to the kernel, pacing included.
        Send => "send",
        /// Last packet sent → last packet received, retransmissions included.
        Network => "network",
        /// Decoding.
        Decode => "decode",
        /// Decoded → handed to the display.
        Present => "present",
        /// The kernel's stamp of the frame → decoded.
        CaptureToDecoded => "capture_to_decoded",
        /// The kernel's stamp of the frame → handed to the display.
        CaptureToPresented => "capture_to_presented",
    }
}

label! {
    /// What an input latency is the latency of.
    InputStage {
        /// The kernel's stamp of the event → the event in our hands.
        Read => "read",
        /// Read → handed to the network.
        Send => "send",
        /// Sent → received, repairs included.
        Network => "network",
        /// Received → written to the sink.
        Inject => "inject",
        /// The operator's event → written to the target's sink.
        EventToInjected => "event_to_injected",
        /// The operator's event → its echo in a decoded picture.
        ToEcho => "to_echo",
    }
}

label! {
    /// What a connection time is the time of.
    ConnectStage {
        /// Finding the address.
        Resolve => "resolve",
        /// TCP handshake.
        Tcp => "tcp",
        /// TLS handshake.
        Tls => "tls",
        /// TLS done → `welcome` received.
        Welcome => "welcome",
        /// `welcome` → first decoded frame.
        FirstFrame => "first_frame",
        /// Known address → first decoded frame.
        Total => "total",
    }
}

label! {
    /// How far frames got.
    FrameStage {
        /// Taken from the source.
        Captured => "captured",
        /// Found equal to the one before, and left there.
        Unchanged => "unchanged",
        /// Encoded.
        Encoded => "encoded",
        /// Handed to the network.
        Sent => "sent",
        /// Received whole.
        Received => "received",
        /// Decoded.
        Decoded => "decoded",
        /// Handed to the display.
        Presented => "presented",
    }
}

label! {
    /// Why a frame was dropped.
    DropReason {
        /// A newer one came before the encoder was free.
        Newer => "newer",
        /// The source delivered a damaged one.
        Source => "source",
        /// The encoder failed.
        Encoder => "encoder",
        /// The socket took it too late.
        Send => "send",
        /// Packets were lost for good.
        Lost => "lost",
        /// It needs a frame that was lost.
        Reference => "reference",
        /// The decoder failed.
        Decoder => "decoder",
        /// A newer one was decoded before it was shown.
        Late => "late",
    }
}

label! {
    /// What happened to media packets.
    Packets {
        /// Sent for the first time.
        Sent => "sent",
        /// Sent again after a NACK.
        Retransmitted => "retransmitted",
        /// Received and accepted.
        Received => "received",
        /// Missing for good.
        Lost => "lost",
        /// Failed authentication, was a replay, or was malformed.
        Rejected => "rejected",
    }
}

label! {
    /// Which part of the program used CPU time.
    CpuPart {
        /// The thread that takes frames from the source.
        Capture => "capture",
        /// The threads that convert and encode.
        Encode => "encode",
        /// Everything else: network, input, waiting on others.
        Other => "other",
    }
}

label! {
    /// Feedback that asks for repair (RFC 4585, RFC 5104), where it is sent and where it is received.
    Feedback {
        /// Packets named in generic NACKs.
        Nack => "nack",
        /// Picture loss indications.
        Pli => "pli",
        /// Full intra requests.
        Fir => "fir",
    }
}

label! {
    /// Why a connection was closed before anything was said on it, or was told nothing.
    RefusedConnection {
        /// From behind a router, or to a public address.
        Routed => "routed",
        /// By the story's lists.
        Listed => "listed",
        /// All places for unfinished connections, or this host's, are taken.
        Full => "full",
        /// This host connects too often.
        Rate => "rate",
        /// Its key is not paired.
        Unpaired => "unpaired",
    }
}

/// Label values from outside, as many as the limit; those after it are `other`.
///
/// Every value is a time series in Prometheus for ever, so a network must not be able to make new ones.
#[derive(Debug)]
pub(crate) struct Bounded {
    seen: Mutex<BTreeSet<String>>,
    limit: usize,
    chars: usize,
}

/// Longest label value in characters, where nothing else is said.
const MAX_VALUE_CHARS: usize = 64;

impl Bounded {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            seen: Mutex::new(BTreeSet::new()),
            limit,
            chars: MAX_VALUE_CHARS,
        }
    }

    /// With another longest value.
    pub(crate) const fn chars(mut self, chars: usize) -> Self {
        self.chars = chars;
        self
    }

    pub(crate) fn admit(&self, value: &str) -> String {
        let value: String = value.chars().take(self.chars).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&value) {
            return value;
        }
        if seen.len() >= self.limit {
            return "other".to_owned();
        }
        seen.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_outside_are_bounded() {
        let bounded = Bounded::new(2);
        assert_eq!(bounded.admit("a"), "a");
        assert_eq!(bounded.admit("b"), "b");
        assert_eq!(bounded.admit("c"), "other");
        assert_eq!(bounded.admit("a"), "a");
        assert_eq!(Bounded::new(1).admit(&"é".repeat(999)).chars().count(), 64);
    }
}
