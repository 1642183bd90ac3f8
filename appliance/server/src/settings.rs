//! The story with what the command line says on top.

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::{Value, json};
use soft_kvm_core::Lang;
use soft_kvm_core::story::{Kind, Story, StoryErrors};

use crate::cli::RunArgs;
use crate::story_cmd;

/// The machine's own story, taken where the command line names none.
pub(crate) const MACHINE: &str = "/etc/soft-kvm/story.jsonnet";

/// A checked story and the files that it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) story: Story,
    pub(crate) files: Vec<PathBuf>,
}

/// Loads the story and applies the options; errors are texts for the console.
pub(crate) fn load(args: &RunArgs, lang: Lang) -> anyhow::Result<Settings> {
    let machine = Path::new(MACHINE);
    let named = args.story.as_deref();
    let file = named.or_else(|| machine.exists().then_some(machine));
    let mut loaded = story_cmd::load_with_files(file).map_err(|errors| told(&errors, lang))?;
    if file.is_none() {
        // It may be written later.
        loaded.files.push(machine.to_owned());
    }
    let mut story = loaded.story;
    for (kind, key, value, option) in overrides(args)? {
        story = story
            .with(kind, key, value, option)
            .map_err(|errors| told(&errors, lang))?;
    }
    Ok(Settings {
        story,
        files: loaded.files,
    })
}

fn told(errors: &StoryErrors, lang: Lang) -> anyhow::Error {
    anyhow::anyhow!(
        "{}\n{}",
        lang.pick("the story cannot be used:", "ストーリーを使えません:"),
        errors.render(lang)
    )
}

fn overrides(args: &RunArgs) -> anyhow::Result<Vec<(Kind, &'static str, Value, &'static str)>> {
    let mut all = Vec::new();
    let with_device = [
        (Kind::Source, &args.source, "--source"),
        (Kind::Encoder, &args.encoder, "--encoder"),
    ];
    for (kind, given, option) in with_device {
        let Some(given) = given else { continue };
        let (driver, device) = match given.split_once(':') {
            Some((_, "")) => bail!("{option} {given}: a device is missing after the colon"),
            Some((driver, device)) => (driver, Some(device)),
            None => (given.as_str(), None),
        };
        all.push((kind, "driver", json!(driver), option));
        if let Some(device) = device {
            all.push((kind, "device", json!(device), option));
        }
    }
    if let Some(size) = args.size {
        all.push((Kind::Source, "size", json!(size.to_string()), "--size"));
    }
    if let Some(fps) = args.fps {
        all.push((Kind::Source, "fps", json!(fps), "--fps"));
    }
    if let Some(content) = &args.content {
        all.push((Kind::Source, "content", json!(content), "--content"));
    }
    if let Some(port) = args.port {
        all.push((Kind::Control, "port", json!(port), "--port"));
    }
    if let Some(port) = args.metrics_port {
        all.push((Kind::Metrics, "port", json!(port), "--metrics-port"));
    }
    if args.allow_routed {
        all.push((Kind::Control, "allow_routed", json!(true), "--allow-routed"));
    }
    if args.no_discovery {
        all.push((Kind::Discovery, "enabled", json!(false), "--no-discovery"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_change_the_story_and_its_ids() {
        let args = RunArgs {
            source: Some("v4l2:/dev/video7".to_owned()),
            fps: Some(60),
            no_discovery: true,
            ..RunArgs::default()
        };
        let settings = load(&args, Lang::English).expect("options that the story takes");
        assert_eq!(
            settings.story.capture().device.as_deref(),
            Some("/dev/video7")
        );
        assert_eq!(settings.story.capture().fps.as_hz(), 60);
        assert_ne!(settings.story.root(), Story::embedded().root());
    }

    #[test]
    fn a_wrong_option_names_itself() {
        let args = RunArgs {
            source: Some("floppy".to_owned()),
            ..RunArgs::default()
        };
        let error = load(&args, Lang::English)
            .expect_err("there is no such driver")
            .to_string();
        assert!(
            error.contains("--source") && error.contains("floppy"),
            "{error}"
        );
        let args = RunArgs {
            source: Some("v4l2:".to_owned()),
            ..RunArgs::default()
        };
        assert!(load(&args, Lang::English).is_err());
    }
}
