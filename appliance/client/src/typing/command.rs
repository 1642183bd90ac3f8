//! `soft-kvm-client type`.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use soft_kvm_core::Lang;
use soft_kvm_input::text::{Plan, TypingLayout, place_after};
use soft_kvm_service::console;

use super::keyboard::{self, KeyboardChoice};
use super::typist::{End, Typist};
use crate::cli::TypeArgs;

/// More is not typed in a working day.
const LONGEST: u64 = 1 << 20;
/// Characters that are listed one by one.
const LISTED: usize = 40;

/// Types a file, or what comes in on standard input.
///
/// # Errors
/// In words for the console.
pub fn run(args: &TypeArgs, lang: Lang) -> anyhow::Result<()> {
    let text = read(args.file.as_deref())?;
    let layout = keyboard::load(&KeyboardChoice {
        layout: args.layout.clone(),
        options: args.option.clone(),
        compose: (args.compose != "none").then(|| args.compose.clone()),
    })?;
    let plan = Plan::new(&layout, &text);
    tell_untypable(&plan, args, lang);
    if !plan.untypable.is_empty() && !args.skip_untypable {
        bail!(
            "{}",
            lang.pick(
                "nothing was typed: choose another --layout, or leave these characters out with --skip-untypable",
                "何も入力していません。別の --layout を選ぶか、--skip-untypable で除いてください"
            )
        );
    }
    let typist = Arc::new(Typist::new(plan, args.rate, Duration::from_secs(args.wait)));
    let (_, all) = typist.progress();
    console::err(format!(
        "soft-kvm-client: {all} {} {}, {:.1} s",
        lang.pick("characters as of layout", "文字、配列"),
        args.layout,
        typist.duration().as_secs_f64(),
    ));
    if args.dry_run {
        return Ok(());
    }
    let outcome = crate::run::type_text(&args.target, &typist, lang);
    report(&typist, &layout, &text, outcome, lang)
}

fn report(
    typist: &Typist,
    layout: &TypingLayout,
    text: &str,
    outcome: anyhow::Result<()>,
    lang: Lang,
) -> anyhow::Result<()> {
    let (typed, all) = typist.progress();
    let far = || {
        format!(
            "{} {typed}/{all} ({})",
            lang.pick("typed so far:", "入力済み:"),
            place_after(layout, text, typed)
        )
    };
    match (typist.end(), outcome) {
        (Some(End::Done), _) => {
            console::err(format!(
                "soft-kvm-client: {} {typed}",
                lang.pick("characters typed:", "入力した文字数:")
            ));
            Ok(())
        }
        (Some(End::Refused(reason)), _) => bail!("{reason}; {}", far()),
        (Some(End::Stalled), _) => bail!(
            "{}; {}",
            lang.pick(
                "the server does not answer any more, all keys are let go",
                "サーバーが応答しなくなりました。キーはすべて離しました"
            ),
            far()
        ),
        (Some(End::CapsLock), _) => bail!("{}", End::caps_lock(lang)),
        (None, Err(error)) if typed == 0 => Err(error),
        (None, Err(error)) => Err(error.context(far())),
        (Some(End::Cancelled), _) | (None, Ok(())) => bail!(
            "{}; {}",
            lang.pick(
                "cancelled, all keys are let go",
                "中止しました。キーはすべて離しました"
            ),
            far()
        ),
    }
}

fn tell_untypable(plan: &Plan, args: &TypeArgs, lang: Lang) {
    let count = plan.untypable.len();
    if count == 0 {
        return;
    }
    console::err(format!(
        "soft-kvm-client: {} {}: {count}",
        lang.pick(
            "characters that the layout cannot type,",
            "次の配列で入力できない文字"
        ),
        args.layout,
    ));
    let name = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let name = name.map_or_else(|| "-".to_owned(), |file| file.display().to_string());
    for one in plan.untypable.iter().take(LISTED) {
        let shown = if one.character.is_control() {
            ' '
        } else {
            one.character
        };
        let code = u32::from(one.character);
        console::err(format!("{name}:{}: {shown} U+{code:04X}", one.place));
    }
    if count > LISTED {
        console::err(format!(
            "{} {}",
            lang.pick("and more:", "ほかに:"),
            count - LISTED
        ));
    }
}

fn read(file: Option<&Path>) -> anyhow::Result<String> {
    let file = file.filter(|file| *file != Path::new("-"));
    let name = file.map_or_else(
        || "standard input".to_owned(),
        |file| file.display().to_string(),
    );
    let mut bytes = Vec::new();
    let read = match file {
        Some(file) => std::fs::File::open(file)
            .and_then(|opened| opened.take(LONGEST + 1).read_to_end(&mut bytes)),
        None => std::io::stdin()
            .lock()
            .take(LONGEST + 1)
            .read_to_end(&mut bytes),
    };
    read.with_context(|| format!("{name}: cannot be read"))?;
    if bytes.len() as u64 > LONGEST {
        bail!("{name}: more than 1 MiB is not typed; copy such a file another way");
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: not UTF-8 text at byte {}", good + 1)
    })
}
