//! Whatever happens to client, server, network or device at whatever moment: no key stays down on the target, and the
//! operator gets the devices back.
//!
//! `SOFT_KVM_LAB_ROUNDS` says how many rounds there are (200, or fewer where they take [`TIME`]), `SOFT_KVM_LAB_SEED` repeats a run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::input::{
    self, BTN_LEFT, Event, Hardware, LEFT_CTRL, LEFT_SHIFT, REL_X, RIGHT_CTRL, Reader,
};
use crate::keyboard::SMALL;
use crate::kvm::{Client, Host, SOON, Seat, Server, TARGET};
use crate::switching::{SECOND, Scene};

const ROUNDS: &str = "SOFT_KVM_LAB_ROUNDS";
const SEED: &str = "SOFT_KVM_LAB_SEED";
/// When their number is not given: so many.
const USUAL: usize = 200;
/// And no new one after this time, on a machine that is slow.
const TIME: Duration = Duration::from_secs(400);
/// What the design promises: the lease and a margin.
const LIFTED: Duration = Duration::from_millis(300);
/// The operator's devices come back in this time when the client or the server ends or stops.
const FREE: Duration = Duration::from_secs(2);
/// And in this when the network ends without a word: the client waits 4 s for a sign of life.
const FREE_AFTER_CUT: Duration = Duration::from_secs(6);
const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
const TAB: u16 = 15;
const F1: u16 = 59;
const LEFT_ALT: u16 = 56;

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    KillClient,
    KillServer,
    /// The cable to the server is pulled; for so long that the client gives up, or shorter.
    Cut {
        long: bool,
    },
    /// A device is pulled.
    Unplug {
        mouse: bool,
    },
    Switch,
    /// The client is stopped by a signal, as before a suspend, and goes on later.
    Stop,
}

impl Act {
    const ALL: [Self; 8] = [
        Self::KillClient,
        Self::KillServer,
        Self::Cut { long: false },
        Self::Cut { long: true },
        Self::Unplug { mouse: false },
        Self::Unplug { mouse: true },
        Self::Switch,
        Self::Stop,
    ];
}

/// SplitMix64 (Steele, Lea, Flood 2014): a run can be repeated from its seed.
struct Random(u64);

impl Random {
    /// Below `end`, which is above zero.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or(0) % end
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn sleep(&mut self, most: Duration) {
        let micros = self.below(
            usize::try_from(most.as_micros())
                .unwrap_or(usize::MAX)
                .max(1),
        );
        std::thread::sleep(Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
    }

    /// A key or button that is in no chord.
    fn key(&mut self) -> u16 {
        let keys = (16..26).chain(30..39).chain(44..51);
        let others = [LEFT_SHIFT, LEFT_ALT, BTN_LEFT, BTN_LEFT + 1];
        let keys: Vec<u16> = keys.chain(others).collect();
        keys.get(self.below(keys.len())).copied().unwrap_or(F1)
    }
}

const fn is_button(code: u16) -> bool {
    code >= BTN_LEFT
}

/// A device under the operator's hand, and what the local system hears of it.
struct Device {
    hardware: Hardware,
    local: Reader,
}

impl Device {
    fn plug(hardware: Hardware) -> anyhow::Result<Self> {
        let local = Reader::start(hardware.node())?;
        Ok(Self { hardware, local })
    }

    /// Whether the local system hears it now.
    fn is_free(&self, probe: &[Event]) -> anyhow::Result<bool> {
        let before = self.local.events().len();
        for event in probe {
            self.hardware.report(&[*event])?;
        }
        std::thread::sleep(Duration::from_millis(10));
        Ok(self.local.events().len() > before)
    }
}

/// The operator.
struct Hands {
    keyboard: Option<Device>,
    mouse: Option<Device>,
    held: Vec<u16>,
}

impl Hands {
    fn new() -> anyhow::Result<Self> {
        let mut hands = Self {
            keyboard: None,
            mouse: None,
            held: Vec::new(),
        };
        hands.plug()?;
        Ok(hands)
    }

    /// Plugs in what is unplugged.
    fn plug(&mut self) -> anyhow::Result<()> {
        if self.keyboard.is_none() {
            self.keyboard = Some(Device::plug(Hardware::keyboard(KEYBOARD)?)?);
        }
        if self.mouse.is_none() {
            self.mouse = Some(Device::plug(Hardware::mouse(MOUSE)?)?);
        }
        Ok(())
    }

    fn unplug(&mut self, mouse: bool) {
        let device = if mouse {
            &mut self.mouse
        } else {
            &mut self.keyboard
        };
        *device = None;
        self.held.retain(|code| is_button(*code) != mouse);
    }

    fn set(&mut self, code: u16, down: bool) -> anyhow::Result<()> {
        let device = if is_button(code) {
            &self.mouse
        } else {
            &self.keyboard
        };
        self.held.retain(|held| *held != code);
        if let Some(device) = device {
            device.hardware.report(&[Event::key(code, down)])?;
            if down {
                self.held.push(code);
            }
        }
        Ok(())
    }

    /// Presses and lifts at random for a while; something is held at the end.
    fn type_on(&mut self, random: &mut Random) -> anyhow::Result<()> {
        for _ in 0..random.below(25) {
            let code = random.key();
            self.set(code, !self.held.contains(&code))?;
            random.sleep(Duration::from_millis(2));
        }
        self.set(random.key(), true)
    }

    fn lift(&mut self) -> anyhow::Result<()> {
        for code in self.held.clone() {
            self.set(code, false)?;
        }
        Ok(())
    }

    /// Whether the local system hears all of its devices, or with `false` none of them.
    fn are_all(&self, free: bool) -> anyhow::Result<bool> {
        let tap = [Event::key(F1, true), Event::key(F1, false)];
        let nudge = [Event::motion(REL_X, 1)];
        for (device, probe) in [(&self.keyboard, &tap[..]), (&self.mouse, &nudge[..])] {
            if let Some(device) = device
                && device.is_free(probe)? != free
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Two servers and a client.
struct Machines<'a> {
    hosts: &'a [Namespace; 3],
    servers: [Option<Server>; 2],
    seat: Seat<'a>,
    client: Option<Client>,
    /// The server that has the input.
    here: usize,
}

impl Machines<'_> {
    fn start_what_ended(&mut self) -> anyhow::Result<()> {
        for (index, name) in ["server", "second"].into_iter().enumerate() {
            if self.servers[index].is_none() {
                let host = Host::Namespace(&self.hosts[index]);
                self.servers[index] = Some(Server::start_named(name, host, SMALL)?);
            }
        }
        if self.client.is_none() {
            self.here = 0;
            let arguments = ["--server", SECOND, "--grab", "all"];
            self.client = Some(self.seat.connect(TARGET, &arguments)?);
        }
        Ok(())
    }

    fn cable(&self, state: &str) -> anyhow::Result<()> {
        let mut ip = self.hosts[self.here].command("ip");
        guest::run(ip.args(["link", "set", "seat", state])).map(drop)
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let client = self.client.as_ref().context("no client")?;
        client.process.send_signal(signal)
    }

    fn do_it(&mut self, act: Act) -> anyhow::Result<()> {
        match act {
            Act::KillClient => {
                if let Some(mut client) = self.client.take() {
                    client.process.kill()?;
                }
            }
            Act::KillServer => {
                if let Some(mut server) = self.servers[self.here].take() {
                    server.process.kill()?;
                }
            }
            Act::Cut { .. } => self.cable("down")?,
            Act::Stop => self.signal("STOP")?,
            Act::Unplug { .. } | Act::Switch => {}
        }
        Ok(())
    }

    fn outputs(&self) -> String {
        let servers = self.servers.iter().flatten().map(|server| &server.process);
        let client = self.client.iter().map(|client| &client.process);
        servers
            .chain(client)
            .map(|process| format!("---\n{}", process.output()))
            .collect()
    }
}

/// What is down on the servers, by virtual device.
fn down() -> BTreeMap<PathBuf, Vec<u16>> {
    input::twin_keys()
        .filter(|(_, keys)| !keys.is_empty())
        .collect()
}

/// How long something took, over all rounds of an act.
#[derive(Default)]
struct Times {
    rounds: usize,
    lifted: Duration,
    free: Option<Duration>,
}

struct Bench<'a> {
    hands: Hands,
    machines: Machines<'a>,
    random: Random,
}

impl Bench<'_> {
    /// All programs run, all devices are taken, nothing is down.
    fn make_ready(&mut self) -> anyhow::Result<()> {
        self.hands.plug()?;
        self.machines.start_what_ended()?;
        let start = Instant::now();
        while input::twin_keys().count() != 4 || !self.hands.are_all(false)? {
            ensure!(start.elapsed() < SOON, "not all devices are taken again");
        }
        lifted(|| down().is_empty())?;
        Ok(())
    }

    fn round(&mut self, act: Act, times: &mut Times) -> anyhow::Result<()> {
        let was = self.hold(act)?;
        let start = match act {
            Act::Unplug { mouse } => {
                self.hands.unplug(mouse);
                Instant::now()
            }
            Act::Switch => {
                for code in [LEFT_CTRL, RIGHT_CTRL, TAB] {
                    self.hands.set(code, true)?;
                }
                Instant::now()
            }
            _ => was.1,
        };
        let clean = || match act {
            Act::Unplug { mouse } => down()
                .values()
                .flatten()
                .all(|code| is_button(*code) != mouse),
            Act::Switch => was.0.keys().all(|node| !down().contains_key(node)),
            _ => down().is_empty(),
        };
        times.rounds += 1;
        times.lifted = times.lifted.max(watch(start, clean)?);
        let limit = match act {
            Act::KillClient | Act::KillServer | Act::Stop => Some(FREE),
            Act::Cut { long: true } => Some(FREE_AFTER_CUT),
            _ => None,
        };
        if let Some(limit) = limit {
            while !self.hands.are_all(true)? {
                ensure!(start.elapsed() < limit, "not free after {limit:?}");
            }
            times.free = times.free.max(Some(start.elapsed()));
        }
        ensure!(clean(), "down again: {:?}", down());
        self.recover(act)?;
        self.make_ready()
    }

    /// Holds something down, and where the act goes on meanwhile, does it; tells what was down on the target before, and
    /// when it was done.
    fn hold(&mut self, act: Act) -> anyhow::Result<(BTreeMap<PathBuf, Vec<u16>>, Instant)> {
        let Self {
            hands,
            machines,
            random,
        } = self;
        let by_hand = matches!(act, Act::Unplug { .. } | Act::Switch);
        if !by_hand && random.coin() {
            let mut other = Random(random.0 ^ 1);
            let done = std::thread::scope(|scope| {
                let typist = scope.spawn(|| hands.type_on(random));
                other.sleep(Duration::from_millis(30));
                machines.do_it(act)?;
                let done = Instant::now();
                let typed = typist.join();
                typed.map_err(|_| anyhow::anyhow!("the typist panicked"))??;
                anyhow::Ok(done)
            });
            return Ok((BTreeMap::new(), done?));
        }
        for _ in 0..=random.below(4) {
            let code = random.key();
            hands.set(code, true)?;
            random.sleep(Duration::from_millis(5));
        }
        if let Act::Unplug { mouse } = act {
            hands.set(if mouse { BTN_LEFT } else { input::KEY_A }, true)?;
        }
        if act == Act::Switch || random.coin() {
            let count = hands.held.len();
            guest::wait_for("what is held to be down on the target", SOON, || {
                (down().values().flatten().count() == count).then_some(())
            })?;
        }
        let before = down();
        machines.do_it(act)?;
        Ok((before, Instant::now()))
    }

    /// The operator lets go, and what was cut or stopped goes on.
    fn recover(&mut self, act: Act) -> anyhow::Result<()> {
        let early = self.random.coin();
        if early {
            self.hands.lift()?;
        }
        match act {
            Act::Cut { long } => {
                if !long {
                    self.random.sleep(Duration::from_millis(500));
                }
                self.machines.cable("up")?;
            }
            Act::Stop => self.machines.signal("CONT")?,
            Act::Switch => self.machines.here = 1 - self.machines.here,
            _ => {}
        }
        self.hands.lift()
    }
}

fn lifted(clean: impl Fn() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !clean() {
        ensure!(start.elapsed() < LIFTED, "still down: {:?}", down());
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Waits for as long as keys may stay down after `start`, or after the last one arrived that was on its way then; tells
/// when they were up.
fn watch(start: Instant, clean: impl Fn() -> bool) -> anyhow::Result<Duration> {
    let (mut since, mut lifted) = (start, Duration::ZERO);
    let mut before = down();
    while start.elapsed() < LIFTED || !clean() {
        let now = down();
        if now
            .iter()
            .any(|(node, keys)| before.get(node).is_none_or(|old| old.len() < keys.len()))
        {
            since = Instant::now();
        }
        before = now;
        if !clean() {
            lifted = start.elapsed();
            ensure!(since.elapsed() < LIFTED, "still down: {before:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(lifted)
}

/// Rounds of everything that may happen.
pub(crate) fn keys() -> anyhow::Result<()> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number(SEED).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default().subsec_nanos().into()
    });
    guest::tell(format!("seed {seed} ({SEED})"));
    let rounds = number(ROUNDS).and_then(|rounds| usize::try_from(rounds).ok());
    let scene = Scene::new()?;
    let ([first, second], seat) = scene.servers()?;
    let mut bench = Bench {
        hands: Hands::new()?,
        machines: Machines {
            hosts: &scene.hosts,
            servers: [Some(first), Some(second)],
            seat,
            client: None,
            here: 0,
        },
        random: Random(seed),
    };
    bench.make_ready()?;
    let start = Instant::now();
    let mut seen: BTreeMap<Act, Times> = BTreeMap::new();
    let mut acts = Vec::new();
    for round in 0.. {
        let slow = rounds.is_none() && start.elapsed() > TIME;
        if slow || round >= rounds.unwrap_or(USUAL) {
            break;
        }
        if acts.is_empty() {
            acts = Act::ALL.to_vec();
        }
        let act = acts.swap_remove(bench.random.below(acts.len()));
        let outcome = bench.round(act, seen.entry(act).or_default());
        outcome.with_context(|| {
            format!(
                "round {round} of seed {seed}: {act:?} with {:?} held{}",
                bench.hands.held,
                bench.machines.outputs()
            )
        })?;
    }
    for (act, times) in seen {
        guest::tell(format!(
            "{act:?}: {} rounds, lifted within {:?}, free within {:?}",
            times.rounds, times.lifted, times.free
        ));
    }
    Ok(())
}
