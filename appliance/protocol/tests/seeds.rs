//! What the fuzzing of control messages starts from: each message about who has keyboard and mouse, and about the clipboard.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use soft_kvm_protocol::control::{FromClient, FromServer};
use soft_kvm_protocol::fuzzing;

#[test]
fn every_seed_is_a_message_and_every_message_has_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/control_messages");
    let (mut clients, mut servers) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(&folder).expect("the folder of the seeds") {
        let path = entry.expect("a file").path();
        let text = std::fs::read(&path).expect("a seed");
        fuzzing::control_messages(&text);
        let from_client = serde_json::from_slice::<FromClient>(&text).ok();
        let from_server = serde_json::from_slice::<FromServer>(&text).ok();
        assert!(
            from_client.is_some() || from_server.is_some(),
            "{} is no message",
            path.display()
        );
        clients.extend(from_client.as_ref().and_then(from_clients));
        servers.extend(from_server.as_ref().and_then(from_servers));
    }
    // The words of docs/WIRE.md.
    let requests = ["show", "request", "grant", "refuse", "release", "take"];
    let wanted = requests.map(|word| format!("control {word}")).into_iter();
    let clipboard = ["share", "unshare", "text"].map(|word| format!("clipboard {word}"));
    assert_eq!(clients, wanted.chain(clipboard).collect());
    let answers = ["given", "asked", "done", "refused"].map(|word| format!("control {word}"));
    let states = ["controller", "nobody"].map(|word| format!("control {word}"));
    let refusals = [
        "too-long",
        "servers-too-long",
        "characters",
        "role",
        "turn",
        "off",
        "no-clipboard",
        "too-often",
        "other",
    ];
    let refusals = refusals.map(|word| format!("clipboard {word}"));
    let wanted = answers.into_iter().chain(states).chain(refusals);
    assert_eq!(
        servers,
        wanted.chain(["clipboard text".to_owned()]).collect()
    );
}

/// The word that tells these messages of a client apart.
fn from_clients(message: &FromClient) -> Option<String> {
    let json = match message {
        FromClient::Control(_) | FromClient::Clipboard(_) => serde_json::to_value(message),
        _ => return None,
    };
    let json = json.expect("it was read");
    Some(format!("{} {}", word(&json["type"]), word(&json["do"])))
}

/// The same of a server's.
fn from_servers(message: &FromServer) -> Option<String> {
    let json = match message {
        FromServer::Control { .. } | FromServer::ControlAnswer { .. } => {
            serde_json::to_value(message)
        }
        FromServer::Clipboard(_) => serde_json::to_value(message),
        _ => return None,
    };
    let json = json.expect("it was read");
    if json["type"] == "clipboard" {
        let why = if json["do"] == "refused" {
            &json["why"]
        } else {
            &json["do"]
        };
        return Some(format!("clipboard {}", word(why)));
    }
    let what = match (&json["answer"], &json["state"]) {
        (Value::String(answer), _) => answer.clone(),
        (Value::Object(answer), _) => answer.keys().next().cloned().unwrap_or_default(),
        (_, state) if state["controller"].is_object() => "controller".to_owned(),
        _ => "nobody".to_owned(),
    };
    Some(format!("control {what}"))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
