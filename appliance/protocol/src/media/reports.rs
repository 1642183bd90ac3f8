//! What a receiver report says: loss, jitter and the times for the sender's round trip (RFC 3550 §6.4.1, A.3, A.8).

use soft_kvm_core::MonoTime;

use super::rtcp::ReportBlock;
use super::rtp::{NtpTime, Ssrc};

/// Statistics of one received stream.
#[derive(Debug)]
pub(crate) struct Reception {
    ssrc: Ssrc,
    first: Option<u64>,
    highest: u64,
    /// Packets that came by themselves.
    received: u64,
    expected_before: u64,
    received_before: u64,
    fraction_lost: u8,
    transit: Option<u32>,
    /// Sixteen times the jitter, in RTP ticks.
    jitter: u64,
    sender_report: Option<(u32, MonoTime)>,
}

impl Reception {
    pub(crate) const fn new(ssrc: Ssrc) -> Self {
        Self {
            ssrc,
            first: None,
            highest: 0,
            received: 0,
            expected_before: 0,
            received_before: 0,
            fraction_lost: 0,
            transit: None,
            jitter: 0,
            sender_report: None,
        }
    }

    /// The index of the packet that came first.
    pub(crate) const fn first_index(&self) -> Option<u64> {
        self.first
    }

    pub(crate) fn packet(&mut self, now: MonoTime, index: u64, timestamp: u32, repaired: bool) {
        self.first.get_or_insert(index);
        self.highest = self.highest.max(index);
        if repaired {
            return;
        }
        self.received += 1;
        let transit = ticks(now).wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let difference = transit.wrapping_sub(before).cast_signed().unsigned_abs();
            // A jump of a second or more is a clock that was set or a stream that paused, not jitter.
            if difference < 90_000 {
                self.jitter = self.jitter + u64::from(difference) - ((self.jitter + 8) >> 4);
            }
        }
    }

    pub(crate) fn sender_report(&mut self, now: MonoTime, ntp: NtpTime) {
        self.sender_report = Some((ntp.middle(), now));
    }

    /// The report block, once a packet came; `close` begins the next interval of `fraction_lost`.
    pub(crate) fn report(&mut self, now: MonoTime, close: bool) -> Option<ReportBlock> {
        let expected = self.highest + 1 - self.first?;
        if close {
            let expected_now = expected.saturating_sub(self.expected_before);
            let received_now = self.received.saturating_sub(self.received_before);
            let lost = expected_now.saturating_sub(received_now);
            let fraction = (lost * 256).checked_div(expected_now).unwrap_or(0);
            self.fraction_lost = u8::try_from(fraction).unwrap_or(u8::MAX);
            self.expected_before = expected;
            self.received_before = self.received;
        }
        let lost = expected.saturating_sub(self.received).min(0x007f_ffff);
        let (last_sender_report, delay_since_last) =
            self.sender_report.map_or((0, 0), |(sr, at)| {
                let delay = (now.since(at).as_nanos() << 16) / 1_000_000_000;
                (sr, u32::try_from(delay).unwrap_or(u32::MAX))
            });
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: self.fraction_lost,
            cumulative_lost: u32::try_from(lost).unwrap_or(u32::MAX),
            highest_sequence: low_32(self.highest),
            jitter: u32::try_from(self.jitter >> 4).unwrap_or(u32::MAX),
            last_sender_report,
            delay_since_last,
        })
    }
}

fn ticks(time: MonoTime) -> u32 {
    let ticks = u128::from(time.as_nanos()) * 9 / 100_000;
    low_32(u64::try_from(ticks).unwrap_or(u64::MAX))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the wire counts modulo 2^32"
)]
const fn low_32(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reports_count_repaired_packets_as_lost() {
        let mut reception = Reception::new(Ssrc(1));
        assert_eq!(reception.report(MonoTime::ZERO, true), None);
        let mut now = MonoTime::from_nanos(1_000_000_000);
        for i in 0..8u32 {
            now = now + Duration::from_millis(10);
            reception.packet(now, 70_000 + u64::from(i), 900 * i, i == 3 || i == 4);
        }
        reception.sender_report(now, NtpTime(0x1111_2222_3333_4444));
        let block = reception
            .report(now + Duration::from_millis(500), true)
            .unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), (64, 2));
        assert_eq!(block.highest_sequence, 70_007);
        assert_eq!(
            (block.last_sender_report, block.delay_since_last),
            (0x2222_3333, 1 << 15)
        );
        assert_eq!(block.jitter, 0);
        reception.packet(now, 70_008, 900 * 8, false);
        let block = reception.report(now, true).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 2));
        assert_eq!(block.jitter, 900 / 16);
    }
}
