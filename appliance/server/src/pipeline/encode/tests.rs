use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use soft_kvm_core::story::{CaptureParams, Story};
use soft_kvm_input::echo::EchoState;
use soft_kvm_video::codec::{CodedFormat, I420Ref};
use soft_kvm_video::frame::{Damage, DmaBuf, DmaPlane, FrameInfo, FramePool, PixelFormat, Plane};

use super::*;

const SIZE: Size = Size::new(64, 32);
const LONG: Duration = Duration::from_secs(30);

/// Drivers that fail; each failure takes one word out.
type Failures = Arc<Mutex<Vec<&'static str>>>;

fn fails(failures: &Failures, driver: &'static str, what: &str) -> Result<(), CodecError> {
    let mut failures = failures.lock().expect("no test panics with it");
    let Some(index) = failures.iter().position(|name| *name == driver) else {
        return Ok(());
    };
    failures.remove(index);
    Err(CodecError {
        codec: driver,
        what: what.to_owned(),
    })
}

/// A hardware and a software encoder.
#[derive(Default)]
struct Two {
    imports: bool,
    /// What imports looks at the pixels nevertheless.
    looks: bool,
    opens: AtomicUsize,
    open: Failures,
    encode: Failures,
}

impl Two {
    fn open(&self, rung: &Rung) -> Result<Box<Fake>, CodecError> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        let name = rung.driver.as_str();
        fails(&self.open, name, "ENODEV")?;
        let failures = Arc::clone(&self.encode);
        Ok(Box::new(Fake {
            name,
            failures,
            looks: self.looks,
            cpu: Duration::ZERO,
        }))
    }
}

impl Encoders for Two {
    fn rungs(&self, _: &VideoParams) -> Vec<Rung> {
        let rung = |driver| Rung {
            driver,
            device: None,
        };
        [EncoderDriver::V4l2m2m, EncoderDriver::Openh264]
            .map(rung)
            .into()
    }

    fn import(
        &self,
        rung: &Rung,
        _: EncoderConfig,
        _: &Frame,
    ) -> Result<Box<dyn FrameEncoder>, CodecError> {
        if !self.imports {
            let refusal = Arc::new(Mutex::new(vec![rung.driver.as_str()]));
            fails(&refusal, rung.driver.as_str(), "imports nothing")?;
        }
        Ok(self.open(rung)?)
    }

    fn pictures(&self, rung: &Rung, _: EncoderConfig) -> Result<Box<dyn VideoEncoder>, CodecError> {
        Ok(self.open(rung)?)
    }
}

/// Its access units are its name.
struct Fake {
    name: &'static str,
    failures: Failures,
    looks: bool,
    cpu: Duration,
}

/// CPU time that a fake encoder's own thread takes for a picture.
const THREAD: Duration = Duration::from_millis(2);

impl Fake {
    fn unit(&mut self, idr: bool, out: &mut Vec<u8>) -> Result<Encoded, CodecError> {
        fails(&self.failures, self.name, "EIO")?;
        self.cpu += THREAD;
        out.clear();
        out.extend_from_slice(self.name.as_bytes());
        Ok(Encoded { idr })
    }
}

impl VideoEncoder for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn encode(
        &mut self,
        _: I420Ref<'_>,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        self.unit(idr, out)
    }

    fn set_bitrate(&mut self, _: Bitrate) -> Result<(), CodecError> {
        Ok(())
    }

    fn other_cpu(&self) -> Duration {
        self.cpu
    }
}

impl FrameEncoder for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn format(&self) -> CodedFormat {
        CodedFormat::H264
    }

    fn encode(
        &mut self,
        frame: &Frame,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        if self.looks {
            // Twice is no more than once: the counter is of planes that were given.
            assert!(frame.plane(0).is_some() && frame.plane(0).is_some());
        }
        self.unit(idr, out)
    }

    fn set_bitrate(&mut self, _: Bitrate) -> Result<(), CodecError> {
        Ok(())
    }

    fn other_cpu(&self) -> Duration {
        self.cpu
    }
}

#[derive(Default)]
struct Seen {
    units: Mutex<Vec<(String, bool)>>,
    announced: Mutex<Vec<VideoInfo>>,
}

impl Seen {
    /// Who encoded each picture, and whether it was an IDR.
    fn units(&self) -> Vec<(String, bool)> {
        self.units.lock().expect("no test panics with it").clone()
    }

    fn first_reason(&self) -> String {
        let announced = self.announced.lock().expect("no test panics with it");
        announced
            .first()
            .map(|info| info.why.clone())
            .unwrap_or_default()
    }
}

impl Viewers for Seen {
    fn cursor(&self, _: &soft_kvm_video::cursor::Cursor) {}

    fn deliver(&self, unit: &AccessUnit<'_>) {
        let name = String::from_utf8_lossy(unit.data).into_owned();
        let mut units = self.units.lock().expect("no test panics with it");
        units.push((name, unit.info.idr));
    }

    fn announce(&self, info: VideoInfo) {
        let mut announced = self.announced.lock().expect("no test panics with it");
        announced.push(info);
    }
}

/// Pixels with a descriptor: what an importing encoder asks for.
#[derive(Debug)]
struct Memory {
    file: File,
    pixels: Vec<u8>,
}

impl FramePool for Memory {
    fn plane(&self, _: u32, plane: usize) -> Option<Plane<'_>> {
        (plane == 0).then_some(Plane {
            data: &self.pixels,
            stride: SIZE.width as usize * 4,
        })
    }

    fn dma_buf(&self, _: u32) -> Option<DmaBuf<'_>> {
        let plane = DmaPlane {
            fd: self.file.as_fd(),
            offset: 0,
            stride: SIZE.width * 4,
            length: SIZE.width * SIZE.height * 4,
        };
        Some(DmaBuf {
            fourcc: u32::from_le_bytes(*b"XR24"),
            modifier: DmaBuf::LINEAR,
            planes: [Some(plane), None, None, None],
        })
    }

    fn release(&self, _: u32) {}
}

/// A frame whose bytes are all `number`.
fn frame(number: u8) -> Frame {
    let memory = Memory {
        file: File::open("/dev/null").expect("every system has it"),
        pixels: vec![number; (SIZE.width * SIZE.height * 4) as usize],
    };
    let info = FrameInfo {
        format: PixelFormat::Bgrx,
        color: Colorimetry::RGB,
        size: SIZE,
        sequence: number.into(),
        captured: clock::now(),
        damage: Damage::Unknown,
        cpu_bytes: 0,
    };
    Frame::new(info, Arc::new(memory), 0)
}

fn shared(retry: Duration) -> Shared {
    let story = Story::embedded();
    let video = VideoParams {
        retry,
        ..story.video().clone()
    };
    let echo = Arc::new(Mutex::new(EchoState::default()));
    let shared = Shared::new(story.capture().clone(), video, echo, "test".to_owned());
    shared.watch(true);
    shared
}

/// Encodes `frames` different pictures.
fn run(two: &Two, shared: &Shared, seen: &Seen, frames: u8) {
    let mut stage = Stage::new(shared, seen, two);
    for number in 0..frames {
        stage.take_frame(frame(number));
        stage.encode_if_due();
    }
}

fn hardware(idr: bool) -> (String, bool) {
    ("v4l2m2m".to_owned(), idr)
}

fn software(idr: bool) -> (String, bool) {
    ("openh264".to_owned(), idr)
}

fn cpu_bytes(shared: &Shared) -> u64 {
    shared.counters.cpu_bytes.load(Ordering::Relaxed)
}

#[test]
fn imported_frames_are_not_touched() {
    let two = Two {
        imports: true,
        ..Two::default()
    };
    let (shared, seen) = (shared(LONG), Seen::default());
    run(&two, &shared, &seen, 3);
    assert_eq!(
        seen.units(),
        [hardware(true), hardware(false), hardware(false)]
    );
    assert_eq!(cpu_bytes(&shared), 0);
    assert_eq!(shared.encoder(), Some(EncoderDriver::V4l2m2m));
}

#[test]
fn what_an_importing_encoder_looks_at_is_counted() {
    let two = Two {
        imports: true,
        looks: true,
        ..Two::default()
    };
    let (shared, seen) = (shared(LONG), Seen::default());
    run(&two, &shared, &seen, 3);
    let area = u64::from(SIZE.width * SIZE.height);
    assert_eq!(cpu_bytes(&shared), 3 * area * 4);
}

#[test]
fn frames_that_cannot_be_imported_are_copied_for_the_same_encoder() {
    let (two, shared, seen) = (Two::default(), shared(LONG), Seen::default());
    run(&two, &shared, &seen, 2);
    assert_eq!(seen.units(), [hardware(true), hardware(false)]);
    let area = u64::from(SIZE.width * SIZE.height);
    // Each picture is read and kept (4 + 4), and its canvas written and read again (1.5 + 1.5); the second is
    // compared with the first before: a line of each of the two rows of tiles tells the difference.
    let compared = 2 * 2 * u64::from(SIZE.width) * 4;
    assert_eq!(cpu_bytes(&shared), 2 * area * 11 + compared);
    assert!(seen.first_reason().contains("imports nothing"));
}

/// Whether a GPU converts is found out when an encoder is opened: a story that changes it opens a new one.
#[test]
fn another_choice_of_the_gpu_opens_the_encoder_again() {
    let two = Two {
        imports: true,
        ..Two::default()
    };
    let (shared, seen) = (shared(LONG), Seen::default());
    let mut stage = Stage::new(&shared, &seen, &two);
    for (number, gpu) in [GpuMode::Auto, GpuMode::Always, GpuMode::Always]
        .into_iter()
        .enumerate()
    {
        let capture = Story::embedded().capture().clone();
        shared.set_capture(CaptureParams { gpu, ..capture });
        stage.take_frame(frame(u8::try_from(number).expect("it is small")));
        stage.encode_if_due();
    }
    assert_eq!(
        seen.units(),
        [hardware(true), hardware(true), hardware(false)]
    );
    assert_eq!(two.opens.load(Ordering::Relaxed), 2);
}

/// Also when an encoder is left for another, whose threads begin at zero.
#[test]
fn the_time_of_an_encoders_own_threads_is_counted_once() {
    for imports in [true, false] {
        let two = Two {
            imports,
            ..Two::default()
        };
        let (shared, seen) = (shared(LONG), Seen::default());
        let mut stage = Stage::new(&shared, &seen, &two);
        for number in 0..4 {
            if number == 2 {
                let mut failures = two.encode.lock().expect("no test panics with it");
                failures.extend(["v4l2m2m"; 2]);
            }
            stage.take_frame(frame(number));
            stage.encode_if_due();
        }
        let counted = shared.counters.encode_cpu.load(Ordering::Relaxed);
        assert_eq!(Duration::from_nanos(counted), 4 * THREAD);
    }
}

/// The thread's own time is counted each round, and no other thread's.
#[test]
fn the_encode_threads_time_is_counted() {
    let two = Two::default();
    let (shared, seen) = (shared(LONG), Seen::default());
    let slot = Arc::new(NewestSlot::default());
    shared.attach(Arc::clone(&slot));
    std::thread::scope(|scope| {
        scope.spawn(|| super::run(&shared, &slot, &seen, &two));
        let grows = (0..5_000_u32).any(|number| {
            slot.put(frame(number.to_le_bytes()[0]));
            std::thread::sleep(Duration::from_millis(2));
            let counted = shared.counters.encode_cpu.load(Ordering::Relaxed);
            // What the fake's threads used is counted before their picture is delivered.
            let threads = THREAD * u32::try_from(seen.units().len() + 1).unwrap_or(u32::MAX);
            Duration::from_nanos(counted) > threads
        });
        shared.stop();
        assert!(grows, "the thread's own time is not counted");
    });
}

#[test]
fn an_encoder_that_does_not_open_is_left_at_once() {
    let two = Two {
        imports: true,
        open: Arc::new(Mutex::new(vec!["v4l2m2m"; 2])),
        ..Two::default()
    };
    let (shared, seen) = (shared(LONG), Seen::default());
    run(&two, &shared, &seen, 2);
    assert_eq!(seen.units(), [software(true), software(false)]);
    assert_eq!(shared.counters.encoder_falls.load(Ordering::Relaxed), 1);
    let why = seen.first_reason();
    assert!(why.contains("v4l2m2m failed: v4l2m2m: ENODEV"), "{why}");
}

#[test]
fn no_picture_is_lost_when_an_encoder_fails_in_the_middle() {
    for imports in [true, false] {
        let two = Two {
            imports,
            ..Two::default()
        };
        let (shared, seen) = (shared(LONG), Seen::default());
        let mut stage = Stage::new(&shared, &seen, &two);
        stage.take_frame(frame(0));
        stage.encode_if_due();
        two.encode
            .lock()
            .expect("no test panics with it")
            .extend(["v4l2m2m"; 2]);
        for number in 1..3 {
            stage.take_frame(frame(number));
            stage.encode_if_due();
        }
        assert_eq!(
            seen.units(),
            [hardware(true), software(true), software(false)],
            "imports: {imports}"
        );
        // The first, the one more, and the software.
        assert_eq!(two.opens.load(Ordering::Relaxed), 3, "imports: {imports}");
    }
}

#[test]
fn a_climb_that_fails_costs_no_key_frame_and_a_later_one_succeeds() {
    let two = Two {
        imports: true,
        // An import that fails is tried as a copy: two for each climb.
        open: Arc::new(Mutex::new(vec!["v4l2m2m"; 4])),
        ..Two::default()
    };
    let (shared, seen) = (shared(Duration::from_millis(20)), Seen::default());
    let mut stage = Stage::new(&shared, &seen, &two);
    for number in 0..3 {
        stage.take_frame(frame(number));
        stage.encode_if_due();
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!(
        seen.units(),
        [software(true), software(false), hardware(true)]
    );
    assert_eq!(shared.encoder(), Some(EncoderDriver::V4l2m2m));
}

#[test]
fn a_still_picture_is_encoded_again_from_the_kept_frame() {
    let two = Two {
        imports: true,
        ..Two::default()
    };
    let (shared, seen) = (shared(LONG), Seen::default());
    let mut stage = Stage::new(&shared, &seen, &two);
    stage.take_frame(frame(0));
    stage.encode_if_due();
    stage.encode_if_due();
    shared.request_key_frame();
    stage.encode_if_due();
    assert_eq!(seen.units(), [hardware(true), hardware(true)]);
    assert_eq!(shared.counters.refreshed.load(Ordering::Relaxed), 1);
}
