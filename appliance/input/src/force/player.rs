//! What the operator's devices play: what the server that has the input wants.

use soft_kvm_protocol::input::{DeviceId, Effect, EffectId, ForceAbilities, ForceChange};

/// The strength of a device that no one has set.
const FULL: u16 = u16::MAX;

/// An effect's number on the operator's device, which its kernel chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalEffect(pub i16);

/// An operator's device that can be felt. A device that is gone does nothing, and says so by its errors.
pub trait ForceDevice {
    /// Makes an effect, or makes the one with the number `old` into this one.
    ///
    /// # Errors
    /// The device has no room for it, does not know the like of it, or is gone.
    fn upload(&mut self, effect: &Effect, old: Option<LocalEffect>)
    -> std::io::Result<LocalEffect>;

    /// Removes an effect, which stops it.
    ///
    /// # Errors
    /// The device is gone.
    fn erase(&mut self, effect: LocalEffect) -> std::io::Result<()>;

    /// Plays an effect so many times; 0 stops it.
    ///
    /// # Errors
    /// The device is gone.
    fn play(&mut self, effect: LocalEffect, count: u32) -> std::io::Result<()>;

    /// Sets the strength of all effects.
    ///
    /// # Errors
    /// The device is gone.
    fn set_gain(&mut self, gain: u16) -> std::io::Result<()>;

    /// Sets how strongly the device centres itself.
    ///
    /// # Errors
    /// The device is gone.
    fn set_auto_centre(&mut self, strength: u16) -> std::io::Result<()>;
}

/// Plays on the operator's devices what the servers want.
///
/// Each server's effects are kept while it is connected, at most 16 for a device. On the devices are those of the server
/// that has the input, and of no other: when it goes elsewhere they are removed, which stops them. When it comes back they
/// are there again, and what was to be played until it is stopped is played on.
#[derive(Debug)]
pub struct Player<D> {
    devices: Vec<Device<D>>,
    place: Option<usize>,
}

#[derive(Debug)]
struct Device<D> {
    id: DeviceId,
    abilities: ForceAbilities,
    device: D,
    wishes: Vec<Wishes>,
    /// What is on the device, by the server's number.
    local: Vec<(EffectId, Effect, LocalEffect)>,
    gain_set: bool,
    centre_set: bool,
    /// A failure was told.
    told: bool,
}

/// What one server wants of one device.
#[derive(Clone, Debug, Default)]
struct Wishes {
    effects: Vec<Wish>,
    gain: Option<u16>,
    auto_centre: Option<u16>,
}

#[derive(Clone, Debug)]
struct Wish {
    effect: Effect,
    /// Times, of the newest play; 0 after a stop.
    plays: u32,
}

impl<D: ForceDevice> Player<D> {
    /// Without devices; no server has the input.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            devices: Vec::new(),
            place: None,
        }
    }

    /// A device is there.
    pub fn add_device(&mut self, id: DeviceId, abilities: ForceAbilities, device: D) {
        self.remove_device(id);
        self.devices.push(Device {
            id,
            abilities,
            device,
            wishes: Vec::new(),
            local: Vec::new(),
            gain_set: false,
            centre_set: false,
            told: false,
        });
    }

    /// A device is gone, or is to be left alone.
    pub fn remove_device(&mut self, id: DeviceId) {
        self.devices.retain_mut(|device| {
            if device.id == id {
                device.rest();
            }
            device.id != id
        });
    }

    /// The input goes to another server, or to none. Gives the devices' first failures.
    pub fn set_place(&mut self, place: Option<usize>) -> Vec<(DeviceId, std::io::Error)> {
        if place == self.place {
            return Vec::new();
        }
        self.place = place;
        self.devices.iter_mut().for_each(Device::rest);
        let Some(server) = place else {
            return Vec::new();
        };
        let devices = self.devices.iter_mut();
        devices
            .filter_map(|device| device.resume(server).map(|error| (device.id, error)))
            .collect()
    }

    /// A server's connection has ended: nothing of it is kept.
    pub fn forget(&mut self, server: usize) {
        for device in &mut self.devices {
            if self.place == Some(server) {
                device.rest();
            }
            if let Some(wishes) = device.wishes.get_mut(server) {
                *wishes = Wishes::default();
            }
        }
    }

    /// A server's program did something with a device. What the device does not have is left out. Gives the device's
    /// first failure.
    pub fn change(
        &mut self,
        server: usize,
        id: DeviceId,
        change: ForceChange,
    ) -> Option<std::io::Error> {
        let device = self.devices.iter_mut().find(|device| device.id == id)?;
        if !device.wish(server, change) || self.place != Some(server) {
            return None;
        }
        let done = device.follow(change);
        device.first(done)
    }

    /// The devices, to look at.
    pub fn devices(&self) -> impl Iterator<Item = (DeviceId, &D)> {
        self.devices
            .iter()
            .map(|device| (device.id, &device.device))
    }
}

impl<D: ForceDevice> Default for Player<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: ForceDevice> Device<D> {
    /// Keeps what a server wants; false if the device does not have it.
    fn wish(&mut self, server: usize, change: ForceChange) -> bool {
        use soft_kvm_protocol::input::codes::ff;

        if self.wishes.len() <= server {
            self.wishes.resize(server + 1, Wishes::default());
        }
        let Some(wishes) = self.wishes.get_mut(server) else {
            return false;
        };
        match change {
            ForceChange::Upload(effect) => {
                if !self.abilities.can_play(&effect) {
                    return false;
                }
                let known = wishes
                    .effects
                    .iter_mut()
                    .find(|wish| wish.effect.id == effect.id);
                match known {
                    Some(wish) => wish.effect = effect,
                    None => wishes.effects.push(Wish { effect, plays: 0 }),
                }
            }
            ForceChange::Erase(id) => wishes.effects.retain(|wish| wish.effect.id != id),
            ForceChange::Play(id, count) => {
                let known = wishes.effects.iter_mut().find(|wish| wish.effect.id == id);
                let Some(wish) = known else {
                    return false;
                };
                wish.plays = count;
            }
            ForceChange::Gain(value) => {
                wishes.gain = Some(value);
                return self.abilities.has(ff::GAIN);
            }
            ForceChange::AutoCentre(value) => {
                wishes.auto_centre = Some(value);
                return self.abilities.has(ff::AUTOCENTER);
            }
        }
        true
    }

    /// Does what the server that has the input wants.
    fn follow(&mut self, change: ForceChange) -> std::io::Result<()> {
        match change {
            ForceChange::Upload(effect) => self.upload(&effect),
            ForceChange::Erase(id) => self.erase(id),
            ForceChange::Play(id, count) => match self.local(id) {
                Some(local) => self.device.play(local, count),
                // It could not be made, which was told.
                None => Ok(()),
            },
            ForceChange::Gain(value) => {
                self.gain_set = true;
                self.device.set_gain(value)
            }
            ForceChange::AutoCentre(value) => {
                self.centre_set = true;
                self.device.set_auto_centre(value)
            }
        }
    }

    fn local(&self, id: EffectId) -> Option<LocalEffect> {
        let mut all = self.local.iter();
        all.find(|(known, ..)| *known == id)
            .map(|(.., local)| *local)
    }

    fn upload(&mut self, effect: &Effect) -> std::io::Result<()> {
        let known = self.local.iter().find(|(id, ..)| *id == effect.id);
        let same = known.is_some_and(|(_, old, _)| effect.kind.replaces(old.kind));
        if !same {
            // The kernel makes no effect into one of another type.
            self.erase(effect.id)?;
        }
        let old = self.local(effect.id);
        let local = self.device.upload(effect, old)?;
        self.local.retain(|(id, ..)| *id != effect.id);
        self.local.push((effect.id, *effect, local));
        Ok(())
    }

    fn erase(&mut self, id: EffectId) -> std::io::Result<()> {
        let Some(local) = self.local(id) else {
            return Ok(());
        };
        self.local.retain(|(known, ..)| *known != id);
        // Some drivers play on what they have removed.
        let _ = self.device.play(local, 0);
        self.device.erase(local)
    }

    /// Nothing is played any more, and nothing of a server is left on the device.
    fn rest(&mut self) {
        for (_, _, local) in std::mem::take(&mut self.local) {
            // A device that is gone plays nothing.
            let _ = self.device.play(local, 0);
            let _ = self.device.erase(local);
        }
        if std::mem::take(&mut self.centre_set) {
            let _ = self.device.set_auto_centre(0);
        }
        if std::mem::take(&mut self.gain_set) {
            let _ = self.device.set_gain(FULL);
        }
    }

    /// The device gets what a server wants of it.
    fn resume(&mut self, server: usize) -> Option<std::io::Error> {
        let wishes = self.wishes.get(server)?.clone();
        let mut done = Ok(());
        let settings = [
            wishes.gain.map(ForceChange::Gain),
            wishes.auto_centre.map(ForceChange::AutoCentre),
        ];
        for setting in settings.into_iter().flatten() {
            if self.wish(server, setting) {
                done = done.and(self.follow(setting));
            }
        }
        for wish in &wishes.effects {
            let made = self.upload(&wish.effect);
            // A short one is over by now; a wheel's spring holds until it is stopped.
            let goes_on = made.is_ok() && wish.plays > 0 && !wish.effect.ends();
            done = done.and(made);
            if goes_on {
                done = done.and(self.follow(ForceChange::Play(wish.effect.id, wish.plays)));
            }
        }
        self.first(done)
    }

    /// A failure that is the device's first: the others are of the same cause.
    fn first(&mut self, done: std::io::Result<()>) -> Option<std::io::Error> {
        let error = done.err()?;
        (!std::mem::replace(&mut self.told, true)).then_some(error)
    }
}
