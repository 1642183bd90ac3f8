//! The window itself: winit's event loop and softbuffer's memory, on the main thread.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use soft_kvm_core::lang::Lang;
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_protocol::input::{DeviceId, EventReport};
use soft_kvm_video::cursor::Cursor;
use softbuffer::{Context, SoftBufferError, Surface};
use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::error::{EventLoopError, OsError};
use winit::event::{ElementState, WindowEvent};
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoop, OwnedDisplayHandle};
use winit::platform::wayland::EventLoopBuilderExtWayland;
use winit::platform::x11::EventLoopBuilderExtX11;
use winit::window::{Fullscreen, Window, WindowId};

use super::ViewEvent;
use super::input::{Hotkey, WindowInput, key_code};
use super::paint::{self, Placement, Scaler};
use super::viewport::{Picture, Texts, Viewport};

/// How the window begins.
#[derive(Clone, Copy, Debug)]
pub struct ViewOptions {
    /// This machine's `CLOCK_MONOTONIC`.
    pub now: fn() -> MonoTime,
    /// Send the window's keyboard and pointer; not while devices are grabbed.
    pub send_input: bool,
    /// The id under which the window's keyboard was announced ([`super::window_keyboard`]).
    pub keyboard: DeviceId,
    /// The id under which the window's pointer was announced ([`super::window_pointer`]).
    pub pointer: DeviceId,
    /// The id under which the window's touch screen ([`super::window_touch`]) has to be announced before its first report is sent.
    pub touch: DeviceId,
    /// Begin with the overlay on.
    pub overlay: bool,
    /// Begin with a full screen.
    pub fullscreen: bool,
    /// The window's size until the first picture comes.
    pub size: Size,
    /// For the title.
    pub lang: Lang,
}

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// No window system is named in the environment.
    #[error(
        "no window system: neither WAYLAND_DISPLAY nor DISPLAY is set: start from a desktop session, or use --view none"
    )]
    NoDisplay,
    /// The window system does not answer, or a library of it is missing.
    #[error("the window system cannot be used: {0}; use --view none to go without a window")]
    EventLoop(#[from] EventLoopError),
    /// A library that is loaded at run time is missing.
    #[error(
        "the window system cannot be used: {0}; install libxkbcommon and libxkbcommon-x11, or use --view none"
    )]
    Library(String),
    /// The window system refused the window.
    #[error("no window could be opened: {0}; use --view none to go without a window")]
    Window(#[from] OsError),
    /// The picture cannot be handed to the window system.
    #[error("the picture cannot be shown: {0}; use --view none to go without a window")]
    Surface(#[from] SoftBufferError),
}

/// Opens the window and stays in it until the operator closes it or [`Viewport::close`] is called. Has to run on
/// the program's main thread, once.
///
/// `on_event` is called between drawing: it has to return at once.
///
/// # Errors
/// [`ViewError`].
pub fn run(
    viewport: &Viewport,
    options: ViewOptions,
    on_event: impl FnMut(ViewEvent<'_>),
) -> Result<(), ViewError> {
    open(viewport, options, on_event, false)
}

/// As [`run`] on any thread, for tests: other systems than Linux refuse that.
///
/// # Errors
/// [`ViewError`].
#[doc(hidden)]
pub fn run_on_any_thread(
    viewport: &Viewport,
    options: ViewOptions,
    on_event: impl FnMut(ViewEvent<'_>),
) -> Result<(), ViewError> {
    open(viewport, options, on_event, true)
}

fn open(
    viewport: &Viewport,
    options: ViewOptions,
    on_event: impl FnMut(ViewEvent<'_>),
    any_thread: bool,
) -> Result<(), ViewError> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("WAYLAND_DISPLAY") && !set("WAYLAND_SOCKET") && !set("DISPLAY") {
        return Err(ViewError::NoDisplay);
    }
    // winit panics when a library that it loads at run time is missing.
    let made = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = EventLoop::with_user_event();
        if any_thread {
            EventLoopBuilderExtX11::with_any_thread(&mut builder, true);
            EventLoopBuilderExtWayland::with_any_thread(&mut builder, true);
        }
        builder.build()
    }));
    let event_loop = made.map_err(|panic| ViewError::Library(panic_text(&*panic)))??;
    event_loop.set_control_flow(ControlFlow::Wait);
    let waker = event_loop.create_proxy();
    // An event loop that has ended needs no wake-up.
    viewport.attach(Box::new(move || {
        let _ = waker.send_event(());
    }));
    let mut app = App {
        viewport,
        options,
        on_event,
        shown: None,
        front: Picture::default(),
        texts: Texts::default(),
        cursor: Cursor::default(),
        scaler: Scaler::default(),
        input: WindowInput::new(
            options.keyboard,
            options.pointer,
            options.touch,
            options.send_input,
        ),
        overlay: options.overlay,
        fitted: false,
        fresh: false,
        place: Placement::default(),
        error: None,
    };
    let ended = event_loop.run_app(&mut app);
    viewport.detach();
    match app.error {
        Some(error) => Err(error),
        None => Ok(ended?),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a library is missing".to_owned())
}

struct Shown {
    window: Arc<Window>,
    surface: Surface<OwnedDisplayHandle, Arc<Window>>,
}

struct App<'v, F> {
    viewport: &'v Viewport,
    options: ViewOptions,
    on_event: F,
    shown: Option<Shown>,
    front: Picture,
    texts: Texts,
    cursor: Cursor,
    scaler: Scaler,
    input: WindowInput,
    overlay: bool,
    /// The window has taken the first picture's size.
    fitted: bool,
    /// `front` has not been presented yet.
    fresh: bool,
    place: Placement,
    error: Option<ViewError>,
}

impl<F: FnMut(ViewEvent<'_>)> App<'_, F> {
    fn fail(&mut self, event_loop: &ActiveEventLoop, error: ViewError) {
        self.error.get_or_insert(error);
        event_loop.exit();
    }

    fn open_window(&self, event_loop: &ActiveEventLoop) -> Result<Shown, ViewError> {
        let size = self.options.size;
        let fullscreen = self
            .options
            .fullscreen
            .then_some(Fullscreen::Borderless(None));
        let attributes = Window::default_attributes()
            .with_title("Soft KVM")
            .with_inner_size(PhysicalSize::new(size.width, size.height))
            .with_fullscreen(fullscreen);
        let window = Arc::new(event_loop.create_window(attributes)?);
        let context = Context::new(event_loop.owned_display_handle())?;
        let surface = Surface::new(&context, Arc::clone(&window))?;
        Ok(Shown { window, surface })
    }

    /// The window is as large as the first picture, if the screen is.
    fn fit_window(&mut self) {
        let Some(shown) = &self.shown else {
            return;
        };
        if std::mem::replace(&mut self.fitted, true) || shown.window.fullscreen().is_some() {
            return;
        }
        let screen = shown.window.current_monitor().map(|monitor| monitor.size());
        let Size { width, height } = self.front.size;
        if screen.is_none_or(|screen| width <= screen.width && height <= screen.height) {
            // The answer comes as an event or not at all; drawing scales either way.
            let _ = shown
                .window
                .request_inner_size(PhysicalSize::new(width, height));
        }
    }

    fn set_title(&self) {
        let Some(shown) = &self.shown else {
            return;
        };
        let name = match self.texts.title.as_str() {
            "" => "Soft KVM",
            title => title,
        };
        if self.input.is_sending() {
            shown.window.set_title(name);
        } else {
            let note = self
                .options
                .lang
                .pick("input is not sent", "入力は送られません");
            shown.window.set_title(&format!("{name} ({note})"));
        }
    }

    fn redraw(&self) {
        if let Some(shown) = &self.shown {
            shown.window.request_redraw();
        }
    }

    fn draw(&mut self) -> Result<(), ViewError> {
        let Some(shown) = &mut self.shown else {
            return Ok(());
        };
        let inner = shown.window.inner_size();
        let (Some(width), Some(height)) =
            (NonZeroU32::new(inner.width), NonZeroU32::new(inner.height))
        else {
            return Ok(());
        };
        shown.surface.resize(width, height)?;
        let mut buffer = shown.surface.buffer_mut()?;
        let window = Size::new(inner.width, inner.height);
        self.place = Placement::fit(self.front.size, window);
        self.scaler.draw(
            self.front.size,
            &self.front.pixels,
            self.place,
            window,
            &mut buffer,
        );
        paint::cursor(
            window,
            &mut buffer,
            self.place,
            self.front.size,
            &self.cursor,
        );
        if !self.texts.status.is_empty() {
            paint::status(window, &mut buffer, &self.texts.status);
        }
        if !self.texts.notice.is_empty() {
            paint::notice(window, &mut buffer, &self.texts.notice);
        }
        if self.overlay && !self.texts.overlay.is_empty() {
            paint::overlay(window, &mut buffer, &self.texts.overlay);
        }
        shown.window.pre_present_notify();
        buffer.present()?;
        if std::mem::take(&mut self.fresh) {
            (self.on_event)(ViewEvent::Presented {
                frame: self.front.info,
                at: (self.options.now)(),
                direct: false,
            });
        }
        Ok(())
    }

    fn hotkey(&mut self, event_loop: &ActiveEventLoop, hotkey: Hotkey) {
        match hotkey {
            Hotkey::Overlay => {
                self.overlay = !self.overlay;
                self.redraw();
            }
            Hotkey::SendInput => {
                let sending = !self.input.is_sending();
                let (now, mut send) = ((self.options.now)(), sender(&mut self.on_event));
                self.input.set_sending(sending, now, &mut send);
                drop(send);
                (self.on_event)(ViewEvent::SendInput(sending));
                self.set_title();
            }
            Hotkey::FullScreen => {
                if let Some(Shown { window, .. }) = &self.shown {
                    let full = window.fullscreen().is_none();
                    window.set_fullscreen(full.then_some(Fullscreen::Borderless(None)));
                }
            }
            Hotkey::Paste => {
                // The chord's own keys are down on the target.
                let now = (self.options.now)();
                self.input.lift(now, &mut sender(&mut self.on_event));
                (self.on_event)(ViewEvent::Paste);
            }
            Hotkey::Control(wish) => (self.on_event)(ViewEvent::Control(wish)),
            Hotkey::Quit => self.close(event_loop),
        }
    }

    fn close(&mut self, event_loop: &ActiveEventLoop) {
        self.input
            .focus_lost((self.options.now)(), &mut sender(&mut self.on_event));
        (self.on_event)(ViewEvent::Closed);
        event_loop.exit();
    }
}

fn sender<F: FnMut(ViewEvent<'_>)>(on_event: &mut F) -> impl FnMut(EventReport<'_>) {
    |report| on_event(ViewEvent::Input(report))
}

impl<F: FnMut(ViewEvent<'_>)> ApplicationHandler<()> for App<'_, F> {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if self.shown.is_some() {
            return;
        }
        match self.open_window(event_loop) {
            Ok(shown) => self.shown = Some(shown),
            Err(error) => return self.fail(event_loop, error),
        }
        self.set_title();
        self.redraw();
    }

    fn user_event(&mut self, event_loop: &ActiveEventLoop, (): ()) {
        self.viewport.awake();
        if self.viewport.is_closed() {
            return event_loop.exit();
        }
        let picture = self.viewport.take(&mut self.front);
        if picture {
            self.fresh = true;
            self.fit_window();
        }
        let texts = self.viewport.update(&mut self.texts);
        if texts {
            self.set_title();
        }
        let cursor = self.viewport.take_cursor(&mut self.cursor);
        if picture || texts || cursor {
            self.redraw();
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let now = (self.options.now)();
        let mut send = sender(&mut self.on_event);
        match event {
            WindowEvent::CloseRequested => {
                drop(send);
                self.close(event_loop);
            }
            WindowEvent::RedrawRequested => {
                drop(send);
                if let Err(error) = self.draw() {
                    self.fail(event_loop, error);
                }
            }
            WindowEvent::Resized(_) => {
                drop(send);
                self.redraw();
            }
            WindowEvent::Focused(false) => self.input.focus_lost(now, &mut send),
            // Synthetic ones tell what was held before or after the window had the keyboard.
            WindowEvent::KeyboardInput {
                event,
                is_synthetic: false,
                ..
            } if !event.repeat => {
                let down = event.state == ElementState::Pressed;
                let hotkey = key_code(event.physical_key)
                    .and_then(|key| self.input.key(key, down, now, &mut send));
                drop(send);
                if let Some(hotkey) = hotkey {
                    self.hotkey(event_loop, hotkey);
                }
            }
            WindowEvent::CursorMoved { position, .. } if self.place.size.pixels() > 0 => {
                let place = self.place.to_absolute(position.x, position.y);
                self.input.pointer_moved(place);
            }
            WindowEvent::Touch(touch) if self.place.size.pixels() > 0 => {
                let place = self.place.to_absolute(touch.location.x, touch.location.y);
                self.input
                    .touch(touch.phase, touch.id, place, now, &mut send);
            }
            WindowEvent::MouseInput { state, button, .. } => {
                let down = state == ElementState::Pressed;
                self.input.button(button, down, now, &mut send);
            }
            WindowEvent::MouseWheel { delta, .. } => {
                let scale = self.shown.as_ref().map_or(1.0, |s| s.window.scale_factor());
                self.input.scroll(delta, scale, now, &mut send);
            }
            _ => {}
        }
    }

    fn about_to_wait(&mut self, _: &ActiveEventLoop) {
        let now = (self.options.now)();
        self.input.flush(now, &mut sender(&mut self.on_event));
    }
}
