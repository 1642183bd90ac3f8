//! An X display as a [`VideoSource`].

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::frame::{Colorimetry, Damage, Frame, FrameInfo, FramePool, PixelFormat, Rect};
use soft_kvm_video::source::{Captured, SourceError, SourceInfo, VideoSource};
use x11rb::connection::Connection;
use x11rb::errors::{ConnectError, ReplyError};
use x11rb::protocol::damage::{self, ConnectionExt as _, ReportLevel};
use x11rb::protocol::shm::{self, ConnectionExt as _};
use x11rb::protocol::xfixes::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{ConnectionExt as _, ImageFormat, Screen};
use x11rb::rust_connection::RustConnection;
use x11rb::{COPY_FROM_PARENT as NONE, errors::ConnectionError};

use super::X11Options;
use super::pool::{PICTURES, SharedPictures};
use crate::clock;

/// The pointer as it was drawn last.
#[derive(Debug, Default)]
struct Cursor {
    position: (i32, i32),
    hot: (i32, i32),
    size: (u32, u32),
    /// Premultiplied alpha, red, green, blue from the top bits.
    pixels: Vec<u32>,
    serial: Option<u32>,
}

impl Cursor {
    fn area(&self, size: Size) -> Option<Rect> {
        let (x, y) = (self.position.0 - self.hot.0, self.position.1 - self.hot.1);
        let end = |start: i32, len: u32, most: u32| {
            let end = i64::from(start) + i64::from(len);
            u32::try_from(end.clamp(0, i64::from(most))).unwrap_or(0)
        };
        let (right, bottom) = (
            end(x, self.size.0, size.width),
            end(y, self.size.1, size.height),
        );
        let (left, top) = (end(x, 0, size.width), end(y, 0, size.height));
        (right > left && bottom > top).then(|| Rect {
            x: left,
            y: top,
            width: right - left,
            height: bottom - top,
        })
    }
}

/// An X display.
#[derive(Debug)]
pub struct X11Source {
    connection: RustConnection,
    screen: Screen,
    info: SourceInfo,
    format: PixelFormat,
    damage: damage::Damage,
    region: xfixes::Region,
    pool: Arc<SharedPictures>,
    segments: Vec<shm::Seg>,
    /// What changed since each picture was filled.
    stale: [Option<Rect>; PICTURES],
    /// What changed since the last frame.
    changed: Option<Rect>,
    cursor: Cursor,
    sequence: u64,
    next_at: MonoTime,
}

impl X11Source {
    /// Connects to the display.
    ///
    /// # Errors
    /// [`SourceError`]: no such display, not allowed, or a display without DAMAGE, XFixes or 32 bits a pixel.
    #[expect(clippy::needless_pass_by_value, reason = "as the other sources")]
    pub fn open(options: X11Options) -> Result<Self, SourceError> {
        let name = options.display.clone();
        let device = name
            .or_else(|| std::env::var("DISPLAY").ok())
            .unwrap_or_else(|| "X display".to_owned());
        let (connection, number) =
            x11rb::connect(options.display.as_deref()).map_err(|e| refused(&device, &e))?;
        let unsupported = |what: &str| SourceError::Unsupported {
            device: device.clone(),
            what: what.to_owned(),
        };
        let screen = connection.setup().roots.get(number).cloned();
        let screen = screen.ok_or_else(|| unsupported("has no such screen"))?;
        let format = pixel_format(&connection, &screen).ok_or_else(|| {
            unsupported("has not 32 bits a pixel: start the display with depth 24")
        })?;
        let prepared = prepare(&connection, &screen).map_err(|error| lost(&device, &error))?;
        let (damage, region) = prepared;
        let size = Size::new(
            screen.width_in_pixels.into(),
            screen.height_in_pixels.into(),
        );
        let info = SourceInfo {
            driver: "x11",
            device: device.clone(),
            size,
            rate: options.rate,
            pixel_format: format!("{format:?}"),
        };
        let (pool, segments) = shared(&connection, &device, size)?;
        let mut source = Self {
            connection,
            screen,
            info,
            format,
            damage,
            region,
            pool,
            segments,
            stale: [None; PICTURES],
            changed: None,
            cursor: Cursor::default(),
            sequence: 0,
            next_at: clock::now(),
        };
        source.mark(whole(size));
        Ok(source)
    }

    fn mark(&mut self, area: Rect) {
        for stale in self.stale.iter_mut().chain([&mut self.changed]) {
            *stale = Some(stale.map_or(area, |old| union(old, area)));
        }
    }

    /// Waits until the next picture is due, or less long when nothing happens.
    fn pace(&self, timeout: Duration) -> bool {
        let due = self.next_at.since(clock::now());
        std::thread::sleep(due.min(timeout));
        due <= timeout
    }

    fn look(&mut self) -> Result<(), ReplyError> {
        let mut events = false;
        while self.connection.poll_for_event()?.is_some() {
            events = true;
        }
        let (geometry, pointer) = {
            let geometry = self.connection.get_geometry(self.screen.root)?;
            let pointer = self.connection.query_pointer(self.screen.root)?;
            (geometry.reply()?, pointer.reply()?)
        };
        if events {
            // Moves the damage so far into the region in one step, so that none is lost in between.
            self.connection
                .damage_subtract(self.damage, NONE, self.region)?;
            let extents = self
                .connection
                .xfixes_fetch_region(self.region)?
                .reply()?
                .extents;
            let area = Rect {
                x: u32::try_from(extents.x).unwrap_or(0),
                y: u32::try_from(extents.y).unwrap_or(0),
                width: extents.width.into(),
                height: extents.height.into(),
            };
            if let Some(area) = clip(area, self.info.size) {
                self.mark(area);
            }
        }
        let size = Size::new(geometry.width.into(), geometry.height.into());
        if size != self.info.size {
            self.info.size = size;
        }
        let position = (i32::from(pointer.root_x), i32::from(pointer.root_y));
        if events || position != self.cursor.position || self.cursor.serial.is_none() {
            self.look_at_cursor()?;
        }
        Ok(())
    }

    fn look_at_cursor(&mut self) -> Result<(), ReplyError> {
        let image = self.connection.xfixes_get_cursor_image()?.reply()?;
        let position = (i32::from(image.x), i32::from(image.y));
        if position == self.cursor.position && Some(image.cursor_serial) == self.cursor.serial {
            return Ok(());
        }
        let before = self.cursor.area(self.info.size);
        self.cursor = Cursor {
            position,
            hot: (image.xhot.into(), image.yhot.into()),
            size: (image.width.into(), image.height.into()),
            pixels: image.cursor_image,
            serial: Some(image.cursor_serial),
        };
        let after = self.cursor.area(self.info.size);
        for area in [before, after].into_iter().flatten() {
            self.mark(area);
        }
        Ok(())
    }

    fn fill(&mut self, index: usize) -> Result<(), ReplyError> {
        let Some(area) = self.stale[index] else {
            return Ok(());
        };
        let size = self.pool.size;
        let stride = size.width as usize * 4;
        // Whole lines, so that they lie in the picture as the server writes them.
        let offset = area.y as usize * stride;
        let lines = u16::try_from(area.height).unwrap_or(u16::MAX);
        let y = i16::try_from(area.y).unwrap_or(0);
        let width = u16::try_from(size.width).unwrap_or(u16::MAX);
        let root = self.screen.root;
        let kind = ImageFormat::Z_PIXMAP;
        if let Some(segment) = self.segments.get(index) {
            let at = u32::try_from(offset).unwrap_or(0);
            let kind = kind.into();
            self.connection
                .shm_get_image(root, 0, y, width, lines, u32::MAX, kind, *segment, at)?
                .reply()?;
        } else {
            let image = self
                .connection
                .get_image(kind, root, 0, y, width, lines, u32::MAX)?;
            let data = image.reply()?.data;
            // SAFETY: `index` was claimed by the caller and its frame is not made yet.
            let pixels = unsafe { self.pool.pixels(index) };
            if let Some(target) = pixels.get_mut(offset..offset + data.len()) {
                target.copy_from_slice(&data);
            }
        }
        // SAFETY: as above, and the server has answered, so it writes no more.
        let pixels = unsafe { self.pool.pixels(index) };
        draw(
            &self.cursor,
            pixels,
            size,
            self.format,
            area.y..area.y + area.height,
        );
        self.stale[index] = None;
        Ok(())
    }

    fn reopen(&mut self, size: Size) -> Result<(), SourceError> {
        for segment in self.segments.drain(..) {
            let _ = self.connection.shm_detach(segment);
        }
        let device = self.info.device.clone();
        (self.pool, self.segments) = shared(&self.connection, &device, size)?;
        self.mark(whole(size));
        self.stale = [Some(whole(size)); PICTURES];
        self.changed = Some(whole(size));
        Ok(())
    }
}

impl VideoSource for X11Source {
    fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    fn next(&mut self, timeout: Duration) -> Result<Captured, SourceError> {
        if !self.pace(timeout) {
            return Ok(Captured::Nothing);
        }
        self.next_at = clock::now() + self.info.rate.interval();
        let device = self.info.device.clone();
        let taken = clock::now();
        self.look().map_err(|error| lost(&device, &error))?;
        if self.info.size != self.pool.size {
            self.reopen(self.info.size)?;
        }
        let Some(changed) = self.changed else {
            return Ok(Captured::Nothing);
        };
        let Some(index) = self.pool.claim() else {
            return Ok(Captured::Nothing);
        };
        if let Err(error) = self.fill(index) {
            self.pool.release(u32::try_from(index).unwrap_or(0));
            return match error {
                // The screen became smaller between the look and the picture.
                ReplyError::X11Error(_) => Ok(Captured::Nothing),
                error @ ReplyError::ConnectionError(_) => Err(lost(&device, &error)),
            };
        }
        self.changed = None;
        self.sequence += 1;
        let info = FrameInfo {
            format: self.format,
            size: self.pool.size,
            sequence: self.sequence,
            captured: taken,
            damage: Damage::Within(changed),
            cpu_bytes: 0,
            color: Colorimetry::RGB,
        };
        let pool: Arc<dyn FramePool> = self.pool.clone();
        let buffer = u32::try_from(index).unwrap_or(0);
        Ok(Captured::Frame(Frame::new(info, pool, buffer)))
    }
}

fn prepare(
    connection: &RustConnection,
    screen: &Screen,
) -> Result<(damage::Damage, xfixes::Region), ReplyError> {
    connection.xfixes_query_version(5, 0)?.reply()?;
    connection.damage_query_version(1, 1)?.reply()?;
    let id = || {
        connection
            .generate_id()
            .map_err(|_| ConnectionError::UnsupportedExtension)
    };
    let (damage, region) = (id()?, id()?);
    connection
        .damage_create(damage, screen.root, ReportLevel::NON_EMPTY)?
        .check()?;
    connection.xfixes_create_region(region, &[])?.check()?;
    let mask = xfixes::CursorNotifyMask::DISPLAY_CURSOR;
    connection
        .xfixes_select_cursor_input(screen.root, mask)?
        .check()?;
    Ok((damage, region))
}

/// Pictures, shared with the server if it can; without segments they are copied over the connection.
fn shared(
    connection: &RustConnection,
    device: &str,
    size: Size,
) -> Result<(Arc<SharedPictures>, Vec<shm::Seg>), SourceError> {
    if !size.is_supported() {
        return Err(SourceError::Unsupported {
            device: device.to_owned(),
            what: format!("a screen of {size}"),
        });
    }
    let (pool, fds) = SharedPictures::new(size).map_err(|source| SourceError::Io {
        device: device.to_owned(),
        action: "making shared memory",
        source,
    })?;
    let attach = |fd| -> Result<shm::Seg, ReplyError> {
        let id = connection.generate_id();
        let segment = id.map_err(|_| ConnectionError::UnsupportedExtension)?;
        connection.shm_attach_fd(segment, fd, false)?.check()?;
        Ok(segment)
    };
    let segments: Result<Vec<_>, _> = fds.into_iter().map(attach).collect();
    let segments = segments.unwrap_or_else(|error| {
        tracing::warn!(device, %error, "no shared memory with the display: pictures are copied");
        Vec::new()
    });
    Ok((Arc::new(pool), segments))
}

fn pixel_format(connection: &RustConnection, screen: &Screen) -> Option<PixelFormat> {
    let setup = connection.setup();
    let formats = setup.pixmap_formats.iter();
    let bits = formats
        .filter(|format| format.depth == screen.root_depth)
        .map(|f| f.bits_per_pixel);
    let depth = screen
        .allowed_depths
        .iter()
        .find(|depth| depth.depth == screen.root_depth)?;
    let visual = depth
        .visuals
        .iter()
        .find(|visual| visual.visual_id == screen.root_visual)?;
    let little = u8::from(setup.image_byte_order) == 0;
    if !little || bits.into_iter().next() != Some(32) {
        return None;
    }
    match (visual.red_mask, visual.blue_mask) {
        (0xff_0000, 0xff) => Some(PixelFormat::Bgrx),
        (0xff, 0xff_0000) => Some(PixelFormat::Rgbx),
        _ => None,
    }
}

/// Draws the cursor over fresh `lines` of the picture (premultiplied alpha); twice would darken it.
fn draw(cursor: &Cursor, pixels: &mut [u8], size: Size, format: PixelFormat, lines: Range<u32>) {
    let Some(area) = cursor.area(size) else {
        return;
    };
    let (left, top) = (
        cursor.position.0 - cursor.hot.0,
        cursor.position.1 - cursor.hot.1,
    );
    for y in area.y.max(lines.start)..(area.y + area.height).min(lines.end) {
        for x in area.x..area.x + area.width {
            let row = usize::try_from(i64::from(y) - i64::from(top)).unwrap_or(0);
            let column = usize::try_from(i64::from(x) - i64::from(left)).unwrap_or(0);
            let Some(argb) = cursor.pixels.get(row * cursor.size.0 as usize + column) else {
                continue;
            };
            let [blue, green, red, alpha] = argb.to_le_bytes();
            let over = match format {
                PixelFormat::Rgbx => [red, green, blue],
                _ => [blue, green, red],
            };
            let at = (y as usize * size.width as usize + x as usize) * 4;
            for (under, over) in pixels.iter_mut().skip(at).take(3).zip(over) {
                let rest = u16::from(*under) * u16::from(255 - alpha) / 255;
                *under = u8::try_from(rest + u16::from(over)).unwrap_or(u8::MAX);
            }
        }
    }
}

fn whole(size: Size) -> Rect {
    Rect {
        x: 0,
        y: 0,
        width: size.width,
        height: size.height,
    }
}

fn union(a: Rect, b: Rect) -> Rect {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    Rect {
        x,
        y,
        width: (a.x + a.width).max(b.x + b.width) - x,
        height: (a.y + a.height).max(b.y + b.height) - y,
    }
}

fn clip(area: Rect, size: Size) -> Option<Rect> {
    let width = area.width.min(size.width.checked_sub(area.x)?);
    let height = area.height.min(size.height.checked_sub(area.y)?);
    (width > 0 && height > 0).then_some(Rect {
        width,
        height,
        ..area
    })
}

fn refused(device: &str, error: &ConnectError) -> SourceError {
    SourceError::Unsupported {
        device: device.to_owned(),
        what: format!("cannot connect to the display: {error}; set DISPLAY and XAUTHORITY"),
    }
}

fn lost(device: &str, error: &ReplyError) -> SourceError {
    let device = device.to_owned();
    match error {
        ReplyError::ConnectionError(ConnectionError::UnsupportedExtension) => {
            SourceError::Unsupported {
                device,
                what: "has no DAMAGE or XFixes extension".to_owned(),
            }
        }
        ReplyError::ConnectionError(_) => SourceError::Gone { device },
        ReplyError::X11Error(error) => SourceError::Unsupported {
            device,
            what: format!("the display refused: {error:?}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_join_and_clip() {
        let size = Size::new(100, 50);
        let rect = |x, y, width, height| Rect {
            x,
            y,
            width,
            height,
        };
        assert_eq!(
            union(rect(1, 2, 3, 4), rect(10, 1, 5, 2)),
            rect(1, 1, 14, 5)
        );
        assert_eq!(clip(rect(90, 40, 20, 20), size), Some(rect(90, 40, 10, 10)));
        assert_eq!(clip(rect(101, 0, 1, 1), size), None);
        assert_eq!(clip(rect(0, 0, 0, 1), size), None);
    }

    #[test]
    fn a_cursor_at_the_edge_is_cut() {
        let cursor = Cursor {
            position: (0, 0),
            hot: (1, 1),
            size: (2, 2),
            pixels: vec![0xff11_2233; 4],
            serial: Some(1),
        };
        let size = Size::new(16, 16);
        let mut pixels = vec![0; size.pixels() * 4];
        draw(&cursor, &mut pixels, size, PixelFormat::Bgrx, 0..16);
        assert_eq!(pixels[..5], [0x33, 0x22, 0x11, 0, 0]);
        assert_eq!(pixels[64..68], [0, 0, 0, 0]);
    }
}
