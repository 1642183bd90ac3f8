//! What is said at the start of the chords: all of them, the default ones and those that were given.

use soft_kvm_core::Lang;
use soft_kvm_input::{Action, Binding, Wish};

/// The chords of an action, for people; empty when it has none.
pub(crate) fn of(bindings: &[Binding], action: Action, lang: Lang) -> String {
    let chords = bindings
        .iter()
        .filter(|binding| binding.action == action)
        .map(|binding| binding.chord.to_string());
    let text: Vec<_> = chords.collect();
    text.join(lang.pick(" or ", " または "))
}

/// A line for each chord that means something with these servers, the one that always helps first.
pub(crate) fn introduction(bindings: &[Binding], servers: &[&str], lang: Lang) -> Vec<String> {
    let panic = lang.pick(
        "gives keyboard and mouse back at any moment.",
        "で、いつでもキーボードとマウスを取り戻せます。",
    );
    let mut lines = vec![format!("{} {panic}", of(bindings, Action::Panic, lang))];
    let mut add = |action, what: &str| {
        let chord = of(bindings, action, lang);
        if !chord.is_empty() {
            lines.push(format!("{chord}: {what}"));
        }
    };
    add(Action::Local, lang.pick("this machine", "このマシン"));
    if let [only] = servers {
        add(Action::Next, only);
    } else {
        add(Action::Next, lang.pick("next server", "次のサーバー"));
        add(
            Action::Previous,
            lang.pick("previous server", "前のサーバー"),
        );
        for (number, server) in (1..=9).zip(servers) {
            add(Action::Server(number), server);
        }
    }
    for wish in Wish::ALL {
        add(Action::Wish(wish), meaning(wish, lang));
    }
    lines
}

/// What becomes of keyboard and mouse where several clients share a server.
fn meaning(wish: Wish, lang: Lang) -> &'static str {
    match wish {
        Wish::Request => lang.pick(
            "ask another client for keyboard and mouse",
            "他のクライアントにキーボードとマウスを求める",
        ),
        Wish::Grant => lang.pick("give them to who asked", "求めた人に渡す"),
        Wish::Refuse => lang.pick("keep them though one asked", "求められても渡さない"),
        Wish::Release => lang.pick("give them up", "手放す"),
        Wish::Take => lang.pick("take them at once, as an admin", "管理者として直ちに取る"),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_input::bindings;

    use super::*;

    #[test]
    fn every_chord_that_means_something_is_told_once() {
        let given = ["next=LEFTMETA+N".parse().expect("a binding")];
        let all = bindings(&given).expect("no conflict");
        for servers in [&["desk"][..], &["desk", "rack"]] {
            let lines = introduction(&all, servers, Lang::English);
            let told = |binding: &&Binding| {
                let chord = binding.chord.to_string();
                lines.iter().filter(|line| line.contains(&chord)).count()
            };
            for binding in &all {
                let means = match binding.action {
                    // Told with the trial that it confirms.
                    Action::Keep => false,
                    Action::Previous => servers.len() > 1,
                    Action::Server(number) => {
                        servers.len() > 1 && usize::from(number) <= servers.len()
                    }
                    _ => true,
                };
                assert_eq!(
                    told(&binding),
                    usize::from(means),
                    "{binding:?}: {lines:#?}"
                );
            }
            assert!(lines[0].contains("LEFTCTRL+RIGHTCTRL+ESC or LEFTSHIFT+RIGHTSHIFT+ESC"));
            assert!(lines.iter().any(|line| line.starts_with("LEFTMETA+N: ")));
        }
        let lines = introduction(&all, &["desk", "rack"], Lang::English);
        assert!(
            lines.contains(&"LEFTCTRL+RIGHTCTRL+2: rack".to_owned()),
            "{lines:#?}"
        );
    }

    #[test]
    fn all_lines_are_in_the_language_of_the_reader() {
        let all = bindings(&[]).expect("no conflict");
        for line in introduction(&all, &["机"], Lang::Japanese) {
            assert!(!line.is_ascii(), "{line}");
        }
    }
}
