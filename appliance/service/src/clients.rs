//! `clients list|role|revoke|rename` of both programs: the words, and what is printed.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use soft_kvm_core::Lang;
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_protocol::roles::{ClientsAnswer, ClientsRequest, ListedClient, PairingCode, Role};

use crate::{console, qr};

/// What to do with the paired clients.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientsCommand {
    /// List the paired clients, what each may do, and whether it is connected.
    List {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Open a pairing window for one more client, and print its code.
    Pair {
        /// What the client may do: view, control or admin; control if left out, or what it could do before.
        #[arg(long)]
        role: Option<Role>,
    },
    /// Let a client do more or less: view (watch), control (type and point too), admin (also say what others may do).
    Role {
        /// Its name, or the first eight or more digits of its fingerprint.
        client: String,
        /// view, control or admin.
        role: Role,
    },
    /// Forget a client's key: its session is cut, and it is a stranger from now on.
    Revoke {
        /// Its name, or the first eight or more digits of its fingerprint.
        client: String,
    },
    /// Call a client something else.
    Rename {
        /// Its name, or the first eight or more digits of its fingerprint.
        client: String,
        /// The new name.
        name: String,
    },
}

/// Asks by `ask`, and prints what is answered.
///
/// # Errors
/// The request was refused, `ask` failed, or the answer does not fit.
pub fn run(
    command: ClientsCommand,
    lang: Lang,
    mut ask: impl FnMut(ClientsRequest) -> anyhow::Result<ClientsAnswer>,
) -> anyhow::Result<()> {
    let request = match command {
        ClientsCommand::List { json } => {
            let clients = list(&mut ask)?;
            console::out(if json {
                serde_json::to_string_pretty(&clients)?
            } else {
                table(&clients, lang)
            });
            return Ok(());
        }
        ClientsCommand::Pair { role } => ClientsRequest::Pair { role },
        ClientsCommand::Role { client, role } => ClientsRequest::Role { client, role },
        ClientsCommand::Revoke { client } => ClientsRequest::Revoke { client },
        ClientsCommand::Rename { client, name } => ClientsRequest::Rename {
            client,
            name: PeerName::new(&name).with_context(|| format!("{name:?} is no name"))?,
        },
    };
    let revoked = matches!(request, ClientsRequest::Revoke { .. });
    match ask(request)? {
        ClientsAnswer::Done(client) => {
            let key = short(&client.fingerprint);
            let (name, role) = (&client.name, client.role);
            console::out(if revoked {
                let words = lang.pick("is revoked: its key is forgotten", "の鍵を取り消しました");
                format!("{name} ({key}) {words}")
            } else {
                format!("{name} ({key}): {role}")
            });
            Ok(())
        }
        ClientsAnswer::Code(PairingCode { code, uri }) => {
            if let Some(picture) = qr::for_people(&uri) {
                console::out(picture);
            }
            let words = lang.pick("Pairing code:", "ペアリングコード:");
            console::out(format!("{words} {code}"));
            Ok(())
        }
        ClientsAnswer::Refused(why) => bail!("{why}"),
        other => bail!("the answer does not fit the request: {other:?}"),
    }
}

/// All of the list, however many answers it takes.
fn list(
    ask: &mut impl FnMut(ClientsRequest) -> anyhow::Result<ClientsAnswer>,
) -> anyhow::Result<Vec<ListedClient>> {
    let mut all = Vec::new();
    loop {
        let from = u32::try_from(all.len()).context("too many clients")?;
        match ask(ClientsRequest::List { from })? {
            ClientsAnswer::List { clients, total } => {
                let end = clients.is_empty() || all.len() + clients.len() >= total as usize;
                all.extend(clients);
                if end {
                    return Ok(all);
                }
            }
            ClientsAnswer::Refused(why) => bail!("{why}"),
            other => bail!("the answer does not fit the request: {other:?}"),
        }
    }
}

fn table(clients: &[ListedClient], lang: Lang) -> String {
    if clients.is_empty() {
        return lang
            .pick(
                "No client is paired. soft-kvm-server pair prints a code for one.",
                "ペアリング済みのクライアントはありません。soft-kvm-server pair でコードを表示できます。",
            )
            .to_owned();
    }
    let rows = clients.iter().map(|client| {
        let connected = match client.connected {
            true => lang.pick("connected", "接続中"),
            false => "",
        };
        let (name, role) = (client.name.as_str(), client.role.as_str());
        let (key, since) = (short(&client.fingerprint), &client.paired_at);
        format!("{name:<24} {role:<8} {key}  {since}  {connected}")
            .trim_end()
            .to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

/// The first digits of a fingerprint, as they are shown to people.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> ListedClient {
        ListedClient {
            name: PeerName::new(&format!("seat {number}")).unwrap(),
            fingerprint: format!("{number:064x}"),
            role: Role::Control,
            paired_at: "2026-11-25".to_owned(),
            connected: number == 0,
        }
    }

    #[test]
    fn a_long_list_takes_several_answers() {
        let clients: Vec<_> = (0..7).map(client).collect();
        let mut asked = Vec::new();
        let all = list(&mut |request| {
            asked.push(request.clone());
            let ClientsRequest::List { from } = request else {
                bail!("{request:?}");
            };
            let page = clients.iter().skip(from as usize).take(3);
            Ok(ClientsAnswer::List {
                clients: page.cloned().collect(),
                total: 7,
            })
        });
        assert_eq!(all.unwrap(), clients);
        let expected = [0, 3, 6].map(|from| ClientsRequest::List { from });
        assert_eq!(asked, expected);
        let shown = table(&clients, Lang::English);
        assert_eq!(shown.lines().count(), 7);
        assert_eq!(shown.matches("connected").count(), 1);
    }

    #[test]
    fn refusals_are_errors_and_a_server_without_end_is_not_followed() {
        let refuse = |_| Ok(ClientsAnswer::Refused("only admins may do that".to_owned()));
        let revoke = ClientsCommand::Revoke {
            client: "desk".to_owned(),
        };
        let error = run(revoke, Lang::English, refuse).unwrap_err();
        assert!(error.to_string().contains("only admins"));
        let nothing = |_| {
            Ok(ClientsAnswer::List {
                clients: Vec::new(),
                total: u32::MAX,
            })
        };
        assert!(list(&mut { nothing }).unwrap().is_empty());
    }
}
