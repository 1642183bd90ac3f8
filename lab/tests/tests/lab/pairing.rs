//! Finding a server by mDNS and pairing with it by its code.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::kvm::{self, Host, PORT, SOON, Seat, Server, TARGET};

const NAME: &str = "rack-7";
pub(crate) const WRONG: &str = "the code is wrong";
/// A server that says its name and shows the test card.
const STORY: &str = "(import 'default.jsonnet') + {
  control+: { name: 'rack-7' },
  capture+: { driver: 'testcard', size: '320x240', fps: 5 },
}";

/// The server's name leads to both its addresses; a wrong code is refused and costs one of five tries; a name that is
/// paired connects also when only link-local IPv6 is left; who says goodbye is found no more.
pub(crate) fn by_name() -> anyhow::Result<()> {
    let (target, near) = kvm::two_hosts()?;
    let story = guest::folder("story")?.join("rack.jsonnet");
    std::fs::write(&story, STORY)?;
    let mut server = Server::start(
        Host::Namespace(&target),
        &["--story", &story.to_string_lossy()],
    )?;
    let seat = Seat::new(Host::Namespace(&near))?;
    ensure!(server.name()? == NAME, "the story's name is not taken");

    let found = discover_both_families(&near, &seat)?;
    ensure!(found.len() == 1, "not one server: {found:?}");

    // Nobody gets in without pairing.
    let stranger = seat.run(&[
        "--server",
        NAME,
        "--view",
        "none",
        "--once",
        "--seconds",
        "3",
    ]);
    ensure!(stranger.is_err(), "a stranger was let in");
    let code = server.code()?.to_owned();
    refused(&seat, NAME, &wrong(&code), WRONG)?;
    let told = seat.run(&["pair", NAME, "--code", &code])?;
    ensure!(told.contains(NAME), "paired with whom? {told}");
    watch(&seat)?;

    // A window for the next one closes with the fifth wrong code, whatever comes then.
    let other = Seat::named("other", Host::Namespace(&near))?;
    let code = server.new_code(Host::Namespace(&target))?;
    for _ in 0..5 {
        refused(&other, TARGET, &wrong(&code), WRONG)?;
    }
    refused(&other, TARGET, &code, "pairing is not open")?;
    ensure!(
        !server.process.has_ended(),
        "the server ended:\n{}",
        server.process.output()
    );

    // Only link-local IPv6 is left.
    for (host, device, address) in [
        (&target, "seat", "10.1.0.1/24"),
        (&near, "target", "10.1.0.2/24"),
    ] {
        guest::run(
            host.command("ip")
                .args(["address", "del", address, "dev", device]),
        )?;
    }
    watch(&seat)?;

    // Whoever listens while the server ends hears its goodbye.
    let mut listening = seat.start("discover", &["discover", "--json", "--seconds", "4"])?;
    std::thread::sleep(Duration::from_secs(2));
    server.stop()?;
    let left = listening.succeed(SOON)?;
    let left: Vec<Value> = serde_json::from_str(json_of(&left)?)?;
    ensure!(left.is_empty(), "still announced: {left:?}");
    Ok(())
}

/// Asks until the server is announced with an IPv4 and a link-local IPv6 address: a new interface needs about 2 s
/// before it has the latter.
fn discover_both_families(host: &Namespace, seat: &Seat<'_>) -> anyhow::Result<Vec<Value>> {
    let carrier = || {
        let state = host
            .command("cat")
            .arg("/sys/class/net/target/operstate")
            .output();
        state
            .is_ok_and(|output| output.stdout.starts_with(b"up"))
            .then_some(())
    };
    guest::wait_for("the cable", SOON, carrier)?;
    let mut last = String::new();
    for _ in 0..4 {
        last = seat.run(&["discover", "--json", "--seconds", "2"])?;
        let found: Vec<Value> = serde_json::from_str(&last)?;
        let addresses: Vec<&str> = found
            .iter()
            .flat_map(|server| server.get("addresses").and_then(Value::as_array))
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let ipv4 = addresses.contains(&format!("10.1.0.1:{PORT}").as_str());
        let ipv6 = addresses
            .iter()
            .any(|address| address.starts_with("[fe80::") && address.contains('%'));
        if ipv4 && ipv6 {
            return Ok(found);
        }
    }
    anyhow::bail!("not announced with both families: {last}")
}

fn watch(seat: &Seat<'_>) -> anyhow::Result<()> {
    let shown = seat.connect(NAME, &["--seconds", "3"])?.finish()?;
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(decoded > 0, "no picture came: {shown}");
    Ok(())
}

/// Pairs in vain, for this reason.
pub(crate) fn refused(
    seat: &Seat<'_>,
    server: &str,
    code: &str,
    reason: &str,
) -> anyhow::Result<()> {
    let Err(error) = seat.run(&["pair", server, "--code", code]) else {
        anyhow::bail!("the code {code} was taken");
    };
    let told = format!("{error:#}");
    ensure!(told.contains(reason), "refused for another reason: {told}");
    let unpaired = seat.run(&[
        "--server",
        server,
        "--view",
        "none",
        "--once",
        "--seconds",
        "3",
    ]);
    ensure!(unpaired.is_err(), "paired by a refused code");
    Ok(())
}

/// Another code than this one.
pub(crate) fn wrong(code: &str) -> String {
    let last = if code.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", code.get(..5).unwrap_or_default())
}

/// A program's log without the lines before its JSON.
fn json_of(output: &str) -> anyhow::Result<&str> {
    let start = output.find('[').context("no JSON")?;
    output.get(start..).context("no JSON")
}
