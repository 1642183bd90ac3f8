//! An X server without a screen.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_core::Size;
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{
    ClientMessageEvent, ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, ImageFormat,
    Rectangle, WindowClass,
};
use x11rb::wrapper::ConnectionExt as _;

use crate::media::Rgb;
use crate::process::{Process, until};
use crate::stage::Stage;

/// A running Xvfb, on a display number of its own choice.
#[derive(Debug)]
pub struct Xvfb {
    display: String,
    _process: Process,
}

impl Xvfb {
    /// Starts one with a screen `WIDTHxHEIGHTxDEPTH`.
    ///
    /// # Errors
    /// It does not answer within 10 s.
    pub fn start(stage: &Stage, screen: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("Xvfb");
        // It writes the number that it took to standard output once it listens.
        command.args(["-displayfd", "1", "-nolisten", "tcp", "-noreset"]);
        let process = stage.start("xvfb", command.args(["-screen", "0", screen]))?;
        until("Xvfb is ready", Duration::from_secs(10), || {
            Ok(process.stdout().ends_with('\n'))
        })?;
        Ok(Self {
            display: format!(":{}", process.stdout().trim()),
            _process: process,
        })
    }

    /// Makes a command use this screen.
    pub fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("DISPLAY", &self.display)
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("XAUTHORITY")
    }

    /// Runs xdotool; what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn xdotool(&self, stage: &Stage, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("xdotool");
        let run = self.on(command.args(words));
        Ok(stage
            .run("xdotool", Duration::from_secs(10), run)?
            .success()?
            .stdout)
    }

    /// The client's window, which has the keyboard from now on.
    ///
    /// # Errors
    /// There is none, or xdotool's.
    pub fn focus(&self, stage: &Stage) -> anyhow::Result<String> {
        let search = ["search", "--onlyvisible", "--name", "Soft KVM"];
        let windows = self.xdotool(stage, &search)?;
        let window = windows.lines().next().context("no window")?.to_owned();
        self.xdotool(stage, &["windowfocus", "--sync", &window])?;
        Ok(window)
    }

    /// Asks a window to close, as the cross of a window manager does (ICCCM §4.2.8.1).
    ///
    /// # Errors
    /// The X server's, or no such window.
    pub fn close(&self, window: u32) -> anyhow::Result<()> {
        let (connection, _) = x11rb::connect(Some(&self.display))?;
        let atom = |name: &[u8]| -> anyhow::Result<u32> {
            Ok(connection.intern_atom(false, name)?.reply()?.atom)
        };
        let data = [atom(b"WM_DELETE_WINDOW")?, x11rb::CURRENT_TIME, 0, 0, 0];
        let message = ClientMessageEvent::new(32, window, atom(b"WM_PROTOCOLS")?, data);
        connection
            .send_event(false, window, EventMask::NO_EVENT, message)?
            .check()?;
        Ok(())
    }

    /// Covers the screen with a window of colored rectangles (x, y, width, height, 0xRRGGBB). They stay when the
    /// connection is closed: the window is kept.
    ///
    /// # Errors
    /// The X server's.
    pub fn draw(&self, rectangles: &[(i16, i16, u16, u16, u32)]) -> anyhow::Result<()> {
        let (connection, screen) = x11rb::connect(Some(&self.display))?;
        let screen = connection.setup().roots.get(screen).context("no screen")?;
        connection.set_close_down_mode(x11rb::protocol::xproto::CloseDown::RETAIN_PERMANENT)?;
        let (picture, context) = (connection.generate_id()?, connection.generate_id()?);
        let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
        connection.create_pixmap(screen.root_depth, picture, screen.root, width, height)?;
        connection.create_gc(context, picture, &CreateGCAux::new())?;
        for &(x, y, width, height, color) in rectangles {
            let color = x11rb::protocol::xproto::ChangeGCAux::new().foreground(color);
            connection.change_gc(context, &color)?;
            let rectangle = Rectangle {
                x,
                y,
                width,
                height,
            };
            connection.poly_fill_rectangle(picture, context, &[rectangle])?;
        }
        let window = connection.generate_id()?;
        connection.create_window(
            screen.root_depth,
            window,
            screen.root,
            0,
            0,
            width,
            height,
            0,
            WindowClass::INPUT_OUTPUT,
            screen.root_visual,
            &CreateWindowAux::new()
                .background_pixmap(picture)
                .override_redirect(1),
        )?;
        connection.map_window(window)?;
        connection.sync()?;
        Ok(())
    }

    /// What is on the screen.
    ///
    /// # Errors
    /// The X server's, or a screen without 32 bits for each pixel.
    pub fn picture(&self) -> anyhow::Result<Rgb> {
        let (connection, screen) = x11rb::connect(Some(&self.display))?;
        let screen = connection.setup().roots.get(screen).context("no screen")?;
        let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
        let image = connection
            .get_image(ImageFormat::Z_PIXMAP, screen.root, 0, 0, width, height, !0)?
            .reply()?;
        let bytes = usize::from(width) * usize::from(height) * 4;
        ensure!(image.data.len() == bytes, "not 32 bits for each pixel");
        let pixels = image
            .data
            .chunks_exact(4)
            .filter_map(|pixel| pixel.first_chunk::<3>())
            .flat_map(|&[blue, green, red]| [red, green, blue])
            .collect();
        Ok(Rgb::new(Size::new(width.into(), height.into()), pixels))
    }
}
