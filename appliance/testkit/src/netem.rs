//! A lossy network in virtual time: loss, delay, jitter (so reordering) and duplication, all from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use soft_kvm_core::MonoTime;

/// What one direction of a network does to datagrams. Probabilities are from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NetemConfig {
    /// Share of datagrams that vanish.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
    /// Share of datagrams that are held back by up to `reorder_by`.
    pub reorder: f64,
    /// How long held back datagrams are late at most.
    pub reorder_by: Duration,
    /// Every datagram's way.
    pub delay: Duration,
}

/// One direction of a network. Equal seeds and equal calls give equal results.
#[derive(Clone, Debug)]
pub struct Netem {
    config: NetemConfig,
    random: Random,
    /// Under way, by arrival and then by the order of sending.
    queue: BTreeMap<(MonoTime, u64), Vec<u8>>,
    sent: u64,
    lost: u64,
}

impl Netem {
    /// A network that is decided by `seed`.
    #[must_use]
    pub fn new(config: NetemConfig, seed: u64) -> Self {
        Self {
            config,
            random: Random::new(seed),
            queue: BTreeMap::new(),
            sent: 0,
            lost: 0,
        }
    }

    /// Changes the network for the datagrams from now on.
    pub fn set_config(&mut self, config: NetemConfig) {
        self.config = config;
    }

    /// Gives a datagram to the network at `now`.
    pub fn send(&mut self, now: MonoTime, datagram: Vec<u8>) {
        self.sent += 1;
        if self.random.chance(self.config.loss) {
            self.lost += 1;
            return;
        }
        if self.random.chance(self.config.duplicate) {
            let at = self.arrival(now);
            self.queue
                .insert((at, self.sent << 1 | 1), datagram.clone());
        }
        let at = self.arrival(now);
        self.queue.insert((at, self.sent << 1), datagram);
    }

    /// The next datagram that has arrived by `now`.
    pub fn receive(&mut self, now: MonoTime) -> Option<Vec<u8>> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<MonoTime> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    /// Datagrams given to the network.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Datagrams that vanished.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn arrival(&mut self, now: MonoTime) -> MonoTime {
        let held = if self.random.chance(self.config.reorder) {
            self.config.reorder_by.mul_f64(self.random.unit())
        } else {
            Duration::ZERO
        };
        now + self.config.delay + held
    }
}

/// A small seeded generator (SplitMix64); not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that is decided by `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to but without 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit in the mantissa")]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number below `end`; zero when `end` is.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let config = NetemConfig {
            loss: 0.1,
            duplicate: 0.1,
            reorder: 0.2,
            reorder_by: Duration::from_millis(3),
            delay: Duration::from_millis(1),
        };
        let run = |seed| {
            let mut net = Netem::new(config, seed);
            for i in 0..2_000u32 {
                net.send(
                    MonoTime::from_nanos(u64::from(i) * 1_000_000),
                    i.to_be_bytes().to_vec(),
                );
            }
            let mut out = Vec::new();
            while let Some(at) = net.next_arrival() {
                assert_eq!(net.receive(at - Duration::from_nanos(1)), None);
                out.push(net.receive(at).unwrap());
            }
            (out, net.lost())
        };
        let (out, lost) = run(7);
        assert_eq!((out.clone(), lost), run(7));
        assert_ne!(out, run(8).0);
        assert!((100..300).contains(&lost), "{lost}");
        assert!(out.len() > 1_850 && !out.is_sorted());
    }
}
