use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> MonoTime {
    MonoTime::ZERO + Duration::from_millis(millis)
}

fn peer(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).unwrap()
}

/// Sessions 1, 2 and 3 of an admin, of one who may control, and of one who may watch.
fn three() -> Handover {
    let mut handover = Handover::default();
    handover.join(1, peer(1), name("boss"), Role::Admin);
    handover.join(2, peer(2), name("desk"), Role::Control);
    handover.join(3, peer(3), name("tv"), Role::View);
    handover
}

fn asks(handover: &mut Handover, session: SessionId, millis: u64) -> ControlAnswer {
    wants(handover, session, millis, &ControlRequest::Request {})
}

/// Answers a request, with every key lifted at once.
fn wants(
    handover: &mut Handover,
    session: SessionId,
    millis: u64,
    request: &ControlRequest,
) -> ControlAnswer {
    let (answer, old) = handover.request(session, at(millis), request);
    if old.is_some() {
        handover.lifted(at(millis));
    }
    answer
}

fn refused(answer: &ControlAnswer, word: &str) -> bool {
    matches!(answer, ControlAnswer::Refused(why) if why.contains(word))
}

#[test]
fn the_first_who_types_has_it_until_still_for_a_second() {
    let mut handover = three();
    assert_eq!(handover.claim(1, at(0), true, true), Claim::Granted);
    let in_use = Claim::InUse("boss".to_owned());
    assert_eq!(handover.claim(2, at(9_000), true, true), in_use);
    assert_eq!(handover.claim(2, at(9_000), false, false), Claim::Refused);
    assert_eq!(handover.claim(1, at(9_100), false, false), Claim::Granted);
    assert_eq!(handover.claim(2, at(9_200), true, true), Claim::Refused);
    // Still for long enough, but this key went down before.
    assert_eq!(handover.claim(2, at(10_100), false, false), Claim::Refused);
    assert_eq!(handover.claim(2, at(10_101), true, true), Claim::Granted);
    let controls = |how| What::Controls(how);
    let whats: Vec<_> = handover.take_changes().iter().map(|c| c.what).collect();
    assert_eq!(whats, [controls(How::Typed), controls(How::Typed)]);
}

#[test]
fn who_asked_for_it_keeps_it_longer_and_grants_or_refuses() {
    let mut handover = three();
    assert_eq!(asks(&mut handover, 2, 0), ControlAnswer::Given);
    let kept = Claim::Kept("desk".to_owned());
    assert_eq!(handover.claim(1, at(5_000), true, false), kept);
    assert_eq!(asks(&mut handover, 1, 5_000), ControlAnswer::Asked);
    assert_eq!(asks(&mut handover, 1, 5_001), ControlAnswer::Asked);
    let state = handover.state_for(2).unwrap();
    assert_eq!(state.asking.len(), 1);
    assert_eq!(state.you, Standing::Controls);
    assert_eq!(handover.state_for(1).unwrap().you, Standing::Asks);
    assert_eq!(handover.state_for(3).unwrap().you, Standing::Watches);
    let refuse = ControlRequest::Refuse { client: None };
    assert!(refused(
        &wants(&mut handover, 1, 5_002, &refuse),
        "does not have"
    ));
    assert_eq!(wants(&mut handover, 2, 5_003, &refuse), ControlAnswer::Done);
    assert!(refused(
        &wants(&mut handover, 2, 5_004, &refuse),
        "no such client"
    ));
    assert_eq!(asks(&mut handover, 1, 5_005), ControlAnswer::Asked);
    let grant = |client: &str| ControlRequest::Grant {
        client: Some(client.to_owned()),
    };
    assert!(refused(
        &wants(&mut handover, 2, 5_006, &grant("tv")),
        "no such client"
    ));
    let to_boss = grant("0101010101");
    assert_eq!(
        wants(&mut handover, 2, 5_007, &to_boss),
        ControlAnswer::Done
    );
    assert_eq!(handover.controller(), Some(peer(1)));
    // A minute of stillness is enough for who only types.
    assert_eq!(handover.claim(2, at(65_000), true, false), {
        Claim::Kept("boss".to_owned())
    });
    assert_eq!(handover.claim(2, at(65_007), true, false), Claim::Granted);
}

#[test]
fn only_admins_take_and_who_watches_gets_nothing() {
    let mut handover = three();
    assert_eq!(handover.claim(2, at(0), true, true), Claim::Granted);
    let take = ControlRequest::Take {};
    for request in [ControlRequest::Request {}, take.clone()] {
        assert!(refused(&wants(&mut handover, 3, 1, &request), "only watch"));
    }
    assert_eq!(handover.claim(3, at(90_000), true, true), Claim::Refused);
    assert_eq!(
        wants(&mut handover, 2, 2, &take),
        ControlAnswer::Given,
        "who has it need not take it"
    );
    assert_eq!(wants(&mut handover, 1, 3, &take), ControlAnswer::Given);
    assert!(refused(&wants(&mut handover, 2, 4, &take), "only admins"));
    // The key that was down when it was taken away does not come back with the next turn.
    assert_eq!(
        handover.claim(2, at(5), false, true),
        Claim::Kept("boss".to_owned())
    );
    assert_eq!(asks(&mut handover, 2, 6), ControlAnswer::Asked);
    let grant = ControlRequest::Grant { client: None };
    assert_eq!(wants(&mut handover, 1, 7, &grant), ControlAnswer::Done);
    assert_eq!(handover.claim(2, at(8), false, false), Claim::Refused);
    assert_eq!(handover.claim(2, at(9), true, true), Claim::Granted);
}

#[test]
fn nobody_is_heard_until_the_keys_are_up() {
    let mut handover = three();
    assert_eq!(handover.claim(2, at(0), true, true), Claim::Granted);
    let (answer, old) = handover.request(1, at(1), &ControlRequest::Take {});
    assert_eq!((answer, old), (ControlAnswer::Given, Some(peer(2))));
    assert_eq!(handover.claim(1, at(2), true, true), Claim::Refused);
    assert_eq!(handover.claim(2, at(2), true, true), Claim::Refused);
    assert_eq!(handover.state_for(1), None);
    assert!(!handover.take_changed());
    handover.lifted(at(3));
    assert!(handover.take_changed());
    assert_eq!(handover.claim(1, at(4), true, true), Claim::Granted);
}

#[test]
fn who_vanishes_frees_the_place_for_who_has_asked() {
    let mut handover = three();
    handover.join(4, peer(2), name("desk"), Role::Control);
    handover.set_rule(HandoverRule::Ask);
    assert_eq!(handover.claim(2, at(0), true, false), Claim::Granted);
    assert_eq!(
        handover.claim(1, at(3_600_000), true, false),
        Claim::Kept("desk".to_owned())
    );
    assert_eq!(asks(&mut handover, 1, 3_600_000), ControlAnswer::Asked);
    handover.leave(2, at(3_600_001));
    assert_eq!(handover.controller(), Some(peer(2)), "it has another one");
    handover.leave(4, at(3_600_002));
    assert_eq!(handover.controller(), Some(peer(1)));
    handover.leave(1, at(3_600_003));
    assert_eq!(handover.controller(), None);
    assert_eq!(handover.state_for(3).unwrap().controller, None);
}

#[test]
fn the_queue_and_the_rate_have_an_end() {
    let mut handover = three();
    assert_eq!(asks(&mut handover, 1, 0), ControlAnswer::Given);
    for number in 10..30 {
        handover.join(u64::from(number), peer(number), name("many"), Role::Control);
        let answer = asks(&mut handover, u64::from(number), 1);
        let full = usize::from(number) >= 10 + MAX_ASKING;
        assert_eq!(refused(&answer, "too many clients"), full, "{number}");
    }
    let many = ControlRequest::Grant {
        client: Some("MANY".to_owned()),
    };
    assert!(refused(&wants(&mut handover, 1, 2, &many), "several"));
    let count = |handover: &mut Handover, millis| {
        let answers = (0..50).map(|_| wants(handover, 2, millis, &ControlRequest::Show {}));
        answers.filter(|a| *a == ControlAnswer::Done).count()
    };
    assert_eq!(count(&mut handover, 20_000), 20);
    assert_eq!(count(&mut handover, 29_999), 0);
    assert_eq!(count(&mut handover, 30_000), 20);
}

const SESSIONS: [(SessionId, u8, Role); 6] = [
    (1, 1, Role::Admin),
    (2, 1, Role::Admin),
    (3, 2, Role::Control),
    (4, 2, Role::Control),
    (5, 3, Role::Admin),
    (6, 4, Role::View),
];

#[derive(Clone, Debug)]
enum Op {
    Join(usize),
    Leave(usize),
    /// A key goes down or up.
    Key(usize, u8, bool),
    Want(usize, ControlRequest),
    /// What is being lifted is up.
    Lift,
    Wait(u64),
    Rule(HandoverRule),
}

fn op() -> impl Strategy<Value = Op> {
    let session = || 0..SESSIONS.len();
    let request = prop::sample::select(vec![
        ControlRequest::Request {},
        ControlRequest::Request {},
        ControlRequest::Grant { client: None },
        ControlRequest::Grant {
            client: Some("p2".to_owned()),
        },
        ControlRequest::Refuse { client: None },
        ControlRequest::Release {},
        ControlRequest::Take {},
    ]);
    prop_oneof![
        2 => session().prop_map(Op::Join),
        1 => session().prop_map(Op::Leave),
        8 => (session(), 0_u8..3, any::<bool>()).prop_map(|(s, k, d)| Op::Key(s, k, d)),
        5 => (session(), request).prop_map(|(s, r)| Op::Want(s, r)),
        4 => Just(Op::Lift),
        2 => prop::sample::select(vec![1_u64, 500, 1_000, 61_000]).prop_map(Op::Wait),
        1 => prop::sample::select(vec![HandoverRule::Still, HandoverRule::Ask]).prop_map(Op::Rule),
    ]
}

/// The server's part around the state machine, with a kernel that knows whose keys are down.
#[derive(Default)]
struct Model {
    handover: Handover,
    now: u64,
    joined: BTreeSet<usize>,
    /// What each session's client holds, heard or not.
    held: BTreeSet<(usize, u8)>,
    kernel: BTreeSet<(usize, u8)>,
    lifting: Option<Fingerprint>,
}

impl Model {
    fn key(&mut self, session: usize, key: u8, down: bool) {
        let begins = !self.held.iter().any(|(owner, _)| *owner == session);
        let changed = if down {
            self.held.insert((session, key))
        } else {
            self.held.remove(&(session, key))
        };
        if !changed || !self.joined.contains(&session) {
            return;
        }
        let busy = self.held.iter().any(|(owner, _)| *owner == session);
        let id = SESSIONS[session].0;
        if self.handover.claim(id, at(self.now), begins, busy) == Claim::Granted {
            if down {
                self.kernel.insert((session, key));
            } else {
                self.kernel.remove(&(session, key));
            }
        }
    }

    fn lift(&mut self) {
        if let Some(old) = self.lifting.take() {
            self.kernel
                .retain(|(session, _)| peer(SESSIONS[*session].1) != old);
            self.handover.lifted(at(self.now));
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Join(s) => {
                if self.joined.insert(*s) {
                    self.held.retain(|(owner, _)| owner != s);
                    let (id, byte, role) = SESSIONS[*s];
                    let name = name(&format!("p{byte}"));
                    self.handover.join(id, peer(byte), name, role);
                }
            }
            Op::Leave(s) => {
                if self.joined.remove(s) {
                    // A session's end lifts its keys first.
                    self.kernel.retain(|(owner, _)| owner != s);
                    self.handover.leave(SESSIONS[*s].0, at(self.now));
                }
            }
            Op::Key(s, key, down) => self.key(*s, *key, *down),
            Op::Want(s, request) => {
                let id = SESSIONS[*s].0;
                let (_, old) = self.handover.request(id, at(self.now), request);
                assert!(old.is_none() || self.lifting.is_none());
                self.lifting = self.lifting.or(old);
            }
            Op::Lift => self.lift(),
            Op::Wait(millis) => self.now += millis,
            Op::Rule(rule) => self.handover.set_rule(*rule),
        }
    }

    fn check(&self) {
        let controller = self.handover.controller();
        let owners: BTreeSet<u8> = self.kernel.iter().map(|(s, _)| SESSIONS[*s].1).collect();
        assert!(owners.len() <= 1, "keys of two clients are down");
        for owner in owners {
            let owner = Some(peer(owner));
            assert!(owner == controller || owner == self.lifting);
        }
        if let Some(controller) = controller {
            let of = |s: &&usize| peer(SESSIONS[**s].1) == controller;
            assert!(self.joined.iter().any(|s| of(&s)), "it has vanished");
            assert_ne!(controller, peer(4), "who may only watch");
            assert_eq!(self.lifting, None);
        } else if self.lifting.is_none() {
            let nobody = self.handover.state_for(6);
            assert!(nobody.is_none_or(|state| state.asking.is_empty()));
        }
        let mut controllers = BTreeSet::new();
        for (id, byte, role) in SESSIONS {
            let Some(state) = self.handover.state_for(id) else {
                continue;
            };
            if state.you == Standing::Controls {
                controllers.insert(byte);
            }
            assert_eq!(state.you == Standing::Watches, role == Role::View);
            let has = state.controller.as_ref().map(|seat| seat.key.clone());
            assert_eq!(has, controller.map(|peer| peer.short()));
            assert!(
                state
                    .asking
                    .iter()
                    .all(|seat| Some(&seat.key) != has.as_ref())
            );
        }
        assert!(controllers.len() <= 1, "two controllers");
    }
}

proptest! {
    #[test]
    fn never_two_controllers_and_no_key_of_the_old_one(ops in prop::collection::vec(op(), 1..120)) {
        let mut model = Model::default();
        for op in &ops {
            model.run(op);
            model.check();
        }
        // Who vanishes frees the place, at any moment.
        model.lift();
        for session in 0..SESSIONS.len() {
            model.run(&Op::Leave(session));
            model.check();
        }
        prop_assert_eq!(model.handover.controller(), None);
        prop_assert!(model.kernel.is_empty());
    }
}
