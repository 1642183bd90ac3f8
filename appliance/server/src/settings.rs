//! The story with what the command line says on top.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::{Value, json};
use soft_kvm_core::Lang;
use soft_kvm_core::story::{Kind, Story, StoryErrors};

use crate::cli::RunArgs;
use crate::story_cmd;

/// A checked story and the files that it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) story: Story,
    pub(crate) files: Vec<PathBuf>,
}

/// Loads the story and applies the options; errors are texts for the console.
pub(crate) fn load(args: &RunArgs, lang: Lang) -> anyhow::Result<Settings> {
    let loaded =
        story_cmd::load_with_files(args.story.as_deref()).map_err(|errors| told(&errors, lang))?;
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
    if let Some(source) = &args.source {
        let (driver, device) = match source.split_once(':') {
            Some((_, "")) => bail!("--source {source}: a device is missing after the colon"),
            Some((driver, device)) => (driver, Some(device)),
            None => (source.as_str(), None),
        };
        all.push((Kind::Source, "driver", json!(driver), "--source"));
        if let Some(device) = device {
            all.push((Kind::Source, "device", json!(device), "--source"));
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
