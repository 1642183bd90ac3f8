//! Capture of an X display, in a server of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use soft_kvm_core::Size;
use soft_kvm_platform_linux::x11::{X11Options, X11Source};
use soft_kvm_video::frame::{Damage, Frame};
use soft_kvm_video::source::{Captured, SourceError, VideoSource};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{ConnectionExt as _, CreateGCAux, Rectangle};
use x11rb::wrapper::ConnectionExt as _;

struct Xvfb(Child, String);

impl Xvfb {
    fn start() -> Self {
        let mut child = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "640x480x24",
                "-nolisten",
                "tcp",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("Xvfb tells its number");
        Self(child, format!(":{}", line.trim()))
    }
}

impl Drop for Xvfb {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn next_frame(source: &mut X11Source) -> Option<Frame> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Captured::Frame(frame) = source.next(Duration::from_millis(100)).expect("Xvfb stays")
        {
            return Some(frame);
        }
    }
    None
}

fn pixel(frame: &Frame, x: usize, y: usize) -> [u8; 3] {
    let plane = frame.plane(0).expect("one plane");
    let at = y * plane.stride + x * 4;
    [plane.data[at + 2], plane.data[at + 1], plane.data[at]]
}

#[test]
#[ignore = "needs Xvfb"]
fn pixels_damage_cursor_and_the_end() {
    let server = Xvfb::start();
    let (connection, screen) = x11rb::connect(Some(&server.1)).expect("Xvfb answers");
    let root = connection.setup().roots[screen].root;
    let fill = |colour: u32, x: i16, y: i16, width: u16, height: u16| {
        let gc = connection.generate_id().expect("an id");
        let aux = CreateGCAux::new().foreground(colour);
        connection.create_gc(gc, root, &aux).expect("sent");
        let area = [Rectangle {
            x,
            y,
            width,
            height,
        }];
        connection
            .poly_fill_rectangle(root, gc, &area)
            .expect("sent");
        connection.sync().expect("done");
    };
    let place = |x: i16, y: i16| {
        connection
            .warp_pointer(x11rb::NONE, root, 0, 0, 0, 0, x, y)
            .expect("sent");
        connection.sync().expect("done");
    };
    place(600, 400);
    fill(0x10_2030, 0, 0, 640, 480);
    let mut source = X11Source::open(X11Options::new(Some(server.1.clone()))).expect("opens");
    assert_eq!(source.info().size, Size::new(640, 480));
    let frame = next_frame(&mut source).expect("the first frame comes at once");
    assert_eq!(pixel(&frame, 5, 5), [0x10, 0x20, 0x30]);
    drop(frame);
    // Lets the damage of the drawing above go by.
    while !matches!(
        source.next(Duration::from_millis(100)),
        Ok(Captured::Nothing)
    ) {}

    fill(0xff_8040, 100, 200, 50, 20);
    let frame = next_frame(&mut source).expect("damage makes a frame");
    assert_eq!(pixel(&frame, 100, 200), [0xff, 0x80, 0x40]);
    assert_eq!(pixel(&frame, 99, 200), [0x10, 0x20, 0x30]);
    let Damage::Within(area) = frame.info().damage else {
        panic!("damage is known");
    };
    assert!(
        area.x <= 100 && area.y <= 200 && area.width >= 50 && area.height >= 20,
        "{area:?}"
    );
    assert!(area.width < 640 && area.height < 480, "{area:?}");
    drop(frame);

    place(300, 300);
    let frame = next_frame(&mut source).expect("a move of the pointer makes a frame");
    let drawn = |frame: &Frame, x: usize, y: usize| {
        (y - 20..y + 20).any(|y| (x - 20..x + 20).any(|x| pixel(frame, x, y) != [0x10, 0x20, 0x30]))
    };
    assert!(drawn(&frame, 300, 300), "the cursor is in the picture");
    drop(frame);
    place(300, 100);
    let frame = next_frame(&mut source).expect("a move of the pointer makes a frame");
    assert!(drawn(&frame, 300, 100) && !drawn(&frame, 300, 300));
    drop(frame);

    drop(server);
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match source.next(Duration::from_millis(100)) {
            Err(SourceError::Gone { .. }) => break,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
    }
}
