//! For trying discovery by hand: `mdns announce NAME PORT` until a line is read, `mdns browse`, `mdns resolve NAME`.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_macros, reason = "a tool for people at a console")]

use std::time::Duration;

use soft_kvm_discovery::{Announcement, Txt, browse, resolve};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let limit = Duration::from_secs(3);
    match words.as_slice() {
        ["announce", name, port] => {
            let txt = Txt {
                version: 1,
                fingerprint: "0123456789abcdef".into(),
                story: "fedcba9876543210".into(),
                features: vec!["h264".into()],
            };
            let announcement = Announcement::start(name, port.parse()?, &txt, |_| true)?;
            std::io::stdin().read_line(&mut String::new())?;
            println!("{announcement:?}");
        }
        ["browse"] => browse(limit)?
            .iter()
            .for_each(|server| println!("{server:?}")),
        ["resolve", name] => println!("{:?}", resolve(name, limit)?),
        _ => return Err("announce NAME PORT | browse | resolve NAME".into()),
    }
    Ok(())
}
