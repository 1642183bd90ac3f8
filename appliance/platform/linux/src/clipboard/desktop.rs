//! Which displays a desktop session has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A desktop session's displays, of which one at least is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desktop {
    /// The socket of its Wayland compositor.
    pub wayland: Option<PathBuf>,
    /// The name of its X display, e.g. `:0`, which beside a Wayland compositor is Xwayland.
    pub display: Option<String>,
}

impl Desktop {
    /// The session that this process runs in; `None` outside of any.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        Self::of(|name| std::env::var_os(name))
    }

    /// An X display. The compositor that belongs to it is known only of the environment's own.
    #[must_use]
    pub fn of_display(display: Option<String>) -> Self {
        let own = Self::of_environment().unwrap_or_default();
        if display.is_none() || display == own.display {
            return own;
        }
        Self {
            wayland: None,
            display,
        }
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let folder = set("XDG_RUNTIME_DIR").map(PathBuf::from);
        let wayland = set("WAYLAND_DISPLAY").and_then(|name| {
            let folder = folder.unwrap_or_default();
            // An absolute name stands for itself.
            Some(folder.join(name)).filter(|socket| Path::is_absolute(socket))
        });
        let display = set("DISPLAY").and_then(|display| display.into_string().ok());
        (wayland.is_some() || display.is_some()).then_some(Self { wayland, display })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<(Option<PathBuf>, Option<String>)> {
        let desktop = Desktop::of(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.into())
        });
        desktop.map(|desktop| (desktop.wayland, desktop.display))
    }

    #[test]
    fn variables_name_the_displays() {
        let socket = |path: &str| Some(PathBuf::from(path));
        let run = ("XDG_RUNTIME_DIR", "/run/user/1000");
        assert_eq!(of(&[run]), None);
        assert_eq!(of(&[run, ("DISPLAY", ""), ("WAYLAND_DISPLAY", "")]), None);
        let x11 = ("DISPLAY", ":0");
        assert_eq!(of(&[x11]), Some((None, Some(":0".to_owned()))));
        assert_eq!(
            of(&[run, x11, ("WAYLAND_DISPLAY", "wayland-1")]),
            Some((socket("/run/user/1000/wayland-1"), Some(":0".to_owned())))
        );
        let absolute = ("WAYLAND_DISPLAY", "/tmp/w");
        assert_eq!(of(&[run, absolute]), Some((socket("/tmp/w"), None)));
        assert_eq!(of(&[absolute]), Some((socket("/tmp/w"), None)));
        // Where it would be is not known.
        assert_eq!(of(&[("WAYLAND_DISPLAY", "wayland-1")]), None);
    }

    #[test]
    fn another_display_has_no_compositor_that_is_known() {
        let other = Some(":no-such-display".to_owned());
        let desktop = Desktop::of_display(other.clone());
        assert_eq!((desktop.wayland, desktop.display), (None, other));
    }
}
