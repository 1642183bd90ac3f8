use proptest::prelude::*;

use soft_kvm_protocol::pairing::{CONFIRMATION_LEN, SHARE_LEN};

use super::*;

const NOW: MonoTime = MonoTime::from_nanos(1_000_000_000);

fn name(text: &str) -> PeerName {
    PeerName::new(text).unwrap()
}

fn binding() -> Binding {
    Binding {
        exporter: Zeroizing::new([7; 32]),
        client: Fingerprint::from_bytes([1; 32]),
        server: Fingerprint::from_bytes([2; 32]),
    }
}

fn other_code(code: &PairingCode) -> PairingCode {
    let number: u32 = code.reveal().parse().unwrap();
    format!("{:06}", (number + 1) % PairingCode::COUNT)
        .parse()
        .unwrap()
}

/// Runs the four messages as soon as the window takes them; what each side ended with.
fn pair(
    window: &mut PairingWindow,
    code: &PairingCode,
    client: Binding,
    server: &Binding,
) -> (Result<Paired, PairingError>, Result<Paired, PairingError>) {
    let now = window.rests_until();
    let (pairing, start) = ClientPairing::start(code, client, name("desk"));
    let (started, share) = window.answer(now, server, &name("rack"), start).unwrap();
    let (confirming, confirm) = pairing.share(share).unwrap();
    match window.conclude(now, started, &confirm) {
        Ok(paired) => (confirming.conclude(&paired.reply), Ok(paired.client)),
        Err(error) => (confirming.conclude(&error.to_message()), Err(error)),
    }
}

#[test]
fn the_right_code_pairs_both_sides_and_is_spent() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let code = window.code(NOW).unwrap().clone();
    let (client, server) = pair(&mut window, &code, binding(), &binding());
    let desk = Paired {
        name: name("desk"),
        fingerprint: binding().client,
    };
    let rack = Paired {
        name: name("rack"),
        fingerprint: binding().server,
    };
    assert_eq!((client, server), (Ok(rack), Ok(desk)));
    assert!(window.has_paired());
    assert_eq!(window.tries_left(), MAX_WRONG_TRIES);
    // One in a million runs draws the same code twice.
    if window.code(NOW) != Some(&code) {
        let (_, server) = pair(&mut window, &code, binding(), &binding());
        assert_eq!(server, Err(PairingError::WrongCode));
    }
}

#[test]
fn five_wrong_codes_close_the_window_even_for_the_right_one() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let right = window.code(NOW).unwrap().clone();
    let wrong = other_code(&right);
    for left in (0..MAX_WRONG_TRIES).rev() {
        let (client, server) = pair(&mut window, &wrong, binding(), &binding());
        assert_eq!(client, Err(PairingError::WrongCode));
        assert_eq!(server, Err(PairingError::WrongCode));
        assert_eq!(window.tries_left(), left);
    }
    assert!(window.code(NOW).is_none());
    let (_, start) = ClientPairing::start(&right, binding(), name("desk"));
    let error = window.answer(NOW, &binding(), &name("rack"), start);
    assert_eq!(error.unwrap_err(), PairingError::Closed);
}

#[test]
fn a_window_is_open_for_two_minutes() {
    let window = PairingWindow::open(NOW).unwrap();
    let end = NOW + Duration::from_secs(120);
    assert_eq!(window.closes_at(), end);
    assert!(window.code(end - Duration::from_nanos(1)).is_some());
    assert!(window.code(end).is_none());
}

#[test]
fn each_wrong_code_keeps_everybody_waiting_twice_as_long() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let right = window.code(NOW).unwrap().clone();
    let wrong = other_code(&right);
    let start = || ClientPairing::start(&right, binding(), name("desk")).1;
    let mut now = NOW;
    for seconds in [1, 2, 4, 8] {
        let (_, server) = pair(&mut window, &wrong, binding(), &binding());
        assert_eq!(server, Err(PairingError::WrongCode));
        let until = now + Duration::from_secs(seconds);
        assert_eq!(window.rests_until(), until);
        // Over another connection, too.
        let early = until - Duration::from_nanos(1);
        let busy = window.answer(early, &binding(), &name("rack"), start());
        assert_eq!(busy.unwrap_err(), PairingError::Busy);
        let (started, _) = window
            .answer(until, &binding(), &name("rack"), start())
            .unwrap();
        window.abandon(started);
        now = until;
    }
    let (_, server) = pair(&mut window, &right, binding(), &binding());
    assert!(server.is_ok());
    assert_eq!(window.rests_until(), now, "no waiting after the right one");
}

#[test]
fn someone_in_the_middle_fails_with_the_right_code() {
    // Both legs end at the attacker: its own key towards each side, and each leg has its own exporter value.
    let middle = Fingerprint::from_bytes([3; 32]);
    let legs = [
        (
            Binding {
                server: middle,
                ..binding()
            },
            Binding {
                client: middle,
                ..binding()
            },
        ),
        (
            Binding {
                exporter: Zeroizing::new([8; 32]),
                ..binding()
            },
            binding(),
        ),
    ];
    for (client_leg, server_leg) in legs {
        let mut window = PairingWindow::open(NOW).unwrap();
        let code = window.code(NOW).unwrap().clone();
        let (client, server) = pair(&mut window, &code, client_leg, &server_leg);
        assert_eq!(client, Err(PairingError::WrongCode));
        assert_eq!(server, Err(PairingError::WrongCode));
        assert_eq!(window.tries_left(), MAX_WRONG_TRIES - 1);
        assert!(!window.has_paired());
    }
}

#[test]
fn real_tls_sessions_bind_the_exchange() {
    use crate::{Identity, tls};
    let ours = Identity::ephemeral().unwrap();
    let theirs = Identity::ephemeral().unwrap();
    let thief = Identity::ephemeral().unwrap();
    let session = |client: &Identity, server: &Identity| {
        let (c, s) = tls::tests::connect(
            tls::unpinned_client_config(client).unwrap(),
            tls::server_config(server).unwrap(),
        )
        .unwrap();
        let client_end = Binding {
            exporter: tls::export_pairing_binding(&c).unwrap(),
            client: client.fingerprint(),
            server: tls::peer_fingerprint(&c).unwrap(),
        };
        let server_end = Binding {
            exporter: tls::export_pairing_binding(&s).unwrap(),
            client: tls::peer_fingerprint(&s).unwrap(),
            server: server.fingerprint(),
        };
        (client_end, server_end)
    };
    let mut window = PairingWindow::open(NOW).unwrap();
    let code = window.code(NOW).unwrap().clone();
    let (client_end, _) = session(&ours, &thief);
    let (_, server_end) = session(&thief, &theirs);
    let (client, server) = pair(&mut window, &code, client_end, &server_end);
    assert_eq!(client, Err(PairingError::WrongCode));
    assert_eq!(server, Err(PairingError::WrongCode));
    let (client_end, server_end) = session(&ours, &theirs);
    let (client, server) = pair(&mut window, &code, client_end, &server_end);
    assert_eq!(client.unwrap().fingerprint, theirs.fingerprint());
    assert_eq!(server.unwrap().fingerprint, ours.fingerprint());
}

#[test]
fn reflected_and_replayed_messages_fail() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let code = window.code(NOW).unwrap().clone();

    // A server without the code sends the client's own share and confirmation back.
    let (pairing, start) = ClientPairing::start(&code, binding(), name("desk"));
    let FromClient::Start { share, .. } = start.clone() else {
        unreachable!("a client starts with `Start`")
    };
    let mirrored = |share| FromServer::Share {
        name: name("rack"),
        share,
    };
    let error = pairing.share(mirrored(share)).unwrap_err();
    assert!(matches!(error, PairingError::BadMessage(_)), "{error}");
    let (pairing, start2) = ClientPairing::start(&code, binding(), name("desk"));
    let FromClient::Start {
        share: mut relabelled,
        ..
    } = start2
    else {
        unreachable!("a client starts with `Start`")
    };
    relabelled.0[0] = 0x42;
    let (confirming, confirm) = pairing.share(mirrored(relabelled)).unwrap();
    let FromClient::Confirm { mac } = confirm else {
        unreachable!("a client confirms second")
    };
    let error = confirming.conclude(&FromServer::Confirm { mac });
    assert_eq!(error, Err(PairingError::WrongCode));

    // The whole client side of an exchange is sent again: the server's new share makes another key.
    let (pairing, start) = ClientPairing::start(&code, binding(), name("desk"));
    let (started, share) = window
        .answer(NOW, &binding(), &name("rack"), start.clone())
        .unwrap();
    let (_, confirm) = pairing.share(share).unwrap();
    window.abandon(started);
    let (started, _) = window
        .answer(NOW, &binding(), &name("rack"), start)
        .unwrap();
    let error = window.conclude(NOW, started, &confirm).unwrap_err();
    assert_eq!(error, PairingError::WrongCode);
}

#[test]
fn a_changed_name_fails() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let code = window.code(NOW).unwrap().clone();
    let (pairing, start) = ClientPairing::start(&code, binding(), name("desk"));
    let (started, share) = window
        .answer(NOW, &binding(), &name("rack"), start)
        .unwrap();
    let FromServer::Share { share, .. } = share else {
        unreachable!("a server answers with its share")
    };
    let renamed = FromServer::Share {
        name: name("bank"),
        share,
    };
    let (_, confirm) = pairing.share(renamed).unwrap();
    let error = window.conclude(NOW, started, &confirm).unwrap_err();
    assert_eq!(error, PairingError::WrongCode);
}

#[test]
fn one_client_at_a_time_and_none_for_ever() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let code = window.code(NOW).unwrap().clone();
    let start = || ClientPairing::start(&code, binding(), name("desk"));
    let (pairing, message) = start();
    let (slow, share) = window
        .answer(NOW, &binding(), &name("rack"), message)
        .unwrap();
    let busy = window.answer(NOW, &binding(), &name("rack"), start().1);
    assert_eq!(busy.unwrap_err(), PairingError::Busy);
    let later = NOW + TRY_LIMIT;
    let (next, _) = window
        .answer(later, &binding(), &name("rack"), start().1)
        .unwrap();
    let (_, confirm) = pairing.share(share).unwrap();
    let late = window.conclude(later, slow, &confirm).unwrap_err();
    assert_eq!(late, PairingError::Closed);
    let busy = window.answer(later, &binding(), &name("rack"), start().1);
    assert_eq!(
        busy.unwrap_err(),
        PairingError::Busy,
        "the late one freed another's turn"
    );
    window.abandon(next);
    assert_eq!(window.tries_left(), MAX_WRONG_TRIES);
    let closed = window.answer(NOW + OPEN_TIME, &binding(), &name("rack"), start().1);
    assert_eq!(closed.unwrap_err(), PairingError::Closed);
}

#[test]
fn messages_out_of_turn_and_of_other_versions_are_errors() {
    let mut window = PairingWindow::open(NOW).unwrap();
    let code = window.code(NOW).unwrap().clone();
    let mac = HexBytes([0; CONFIRMATION_LEN]);
    let early = window.answer(NOW, &binding(), &name("rack"), FromClient::Confirm { mac });
    assert!(matches!(early, Err(PairingError::BadMessage(_))));
    let (pairing, mut start) = ClientPairing::start(&code, binding(), name("desk"));
    let again = start.clone();
    if let FromClient::Start { version, .. } = &mut start {
        *version = 9;
    }
    let error = window.answer(NOW, &binding(), &name("rack"), start);
    assert_eq!(error.unwrap_err(), PairingError::Version(9));
    let (started, _) = window
        .answer(NOW, &binding(), &name("rack"), again.clone())
        .unwrap();
    let error = window.conclude(NOW, started, &again).unwrap_err();
    assert!(matches!(error, PairingError::BadMessage(_)));
    assert_eq!(window.tries_left(), MAX_WRONG_TRIES - 1);
    let error = pairing.share(FromServer::Confirm { mac }).unwrap_err();
    assert!(matches!(error, PairingError::BadMessage(_)));
}

#[test]
fn refusals_reach_the_client_without_control_characters() {
    for error in [
        PairingError::Closed,
        PairingError::Busy,
        PairingError::WrongCode,
        PairingError::Storage,
    ] {
        let (pairing, _) = ClientPairing::start(&code("000000"), binding(), name("desk"));
        assert_eq!(pairing.share(error.to_message()).unwrap_err(), error);
    }
    let (pairing, _) = ClientPairing::start(&code("000000"), binding(), name("desk"));
    let hostile = FromServer::Error {
        code: "new".into(),
        message: "a\x1b[2J\u{202e}b".into(),
    };
    let error = pairing.share(hostile).unwrap_err();
    assert_eq!(error, PairingError::Refused("a[2Jb".into()));
}

fn code(text: &str) -> PairingCode {
    text.parse().unwrap()
}

#[test]
fn codes_are_read_as_people_type_them_and_not_shown_by_debug() {
    for text in ["012345", " 012 345\n", "012-345", "０１２　３４５"] {
        assert_eq!(code(text).reveal(), "012345");
    }
    for bad in ["", "12345", "1234567", "12345a", "+12345"] {
        assert_eq!(bad.parse::<PairingCode>(), Err(ParseCodeError), "{bad}");
    }
    let window = PairingWindow::open(NOW).unwrap();
    let digits = window.code(NOW).unwrap().reveal();
    assert_eq!(digits.len(), 6);
    assert!(!format!("{window:?}").contains(digits));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_share_and_any_confirmation_is_an_error(
        letter in prop_oneof![Just(0x41_u8), Just(0x42), any::<u8>()],
        point: [u8; 32],
        mac: [u8; CONFIRMATION_LEN],
    ) {
        let mut share = [letter; SHARE_LEN];
        share[1..].copy_from_slice(&point);
        let mut window = PairingWindow::open(NOW).unwrap();
        let start = FromClient::Start {
            version: PAIRING_VERSION,
            name: name("desk"),
            share: HexBytes(share),
        };
        if let Ok((started, _)) = window.answer(NOW, &binding(), &name("rack"), start) {
            let confirm = FromClient::Confirm { mac: HexBytes(mac) };
            prop_assert!(window.conclude(NOW, started, &confirm).is_err());
        }
        let (pairing, _) = ClientPairing::start(&code("123456"), binding(), name("desk"));
        let message = FromServer::Share { name: name("rack"), share: HexBytes(share) };
        if let Ok((confirming, _)) = pairing.share(message) {
            let confirm = FromServer::Confirm { mac: HexBytes(mac) };
            prop_assert!(confirming.conclude(&confirm).is_err());
        }
    }
}
