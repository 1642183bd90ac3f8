//! The test card as a source: draws a frame, then sleeps until the next one's time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use soft_kvm_core::story::{CaptureParams, TestcardContent};
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_input::echo::EchoState;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::input::echo::EchoSnapshot;
use soft_kvm_video::source::{Captured, Content, SourceError, SourceInfo, VideoSource};
use soft_kvm_video::testcard::{TestCard, TestCardConfig};

/// Size of the test card unless the story says another.
const DEFAULT_SIZE: Size = Size::new(1920, 1080);

/// The test card with a clock.
pub(super) struct TestCardSource {
    card: TestCard,
    echo: Arc<Mutex<EchoState>>,
    seen: EchoSnapshot,
    next: MonoTime,
}

impl TestCardSource {
    pub(super) fn new(params: &CaptureParams, echo: Arc<Mutex<EchoState>>, name: String) -> Self {
        let content = match params.content {
            TestcardContent::Typing => Content::Typing,
            TestcardContent::Scroll => Content::Scroll,
            TestcardContent::Motion => Content::Motion,
            TestcardContent::Static => Content::Static,
        };
        let card = TestCard::new(TestCardConfig {
            size: params.size.unwrap_or(DEFAULT_SIZE),
            rate: params.fps,
            content,
            name,
            still: content == Content::Static,
        });
        Self {
            card,
            echo,
            seen: EchoSnapshot::default(),
            next: clock::now(),
        }
    }
}

impl VideoSource for TestCardSource {
    fn info(&self) -> SourceInfo {
        let config = self.card.config();
        SourceInfo {
            driver: "testcard",
            device: config.content.to_string(),
            size: config.size,
            rate: config.rate,
            pixel_format: "BGRX".to_owned(),
        }
    }

    fn next(&mut self, timeout: Duration) -> Result<Captured, SourceError> {
        let wait = self.next.since(clock::now());
        std::thread::sleep(wait.min(timeout));
        let now = clock::now();
        if now < self.next {
            return Ok(Captured::Nothing);
        }
        // Keep the rhythm, but do not catch up on frames that were missed.
        let interval = self.card.config().rate.interval();
        self.next = self.next + interval;
        if self.next < now {
            self.next = now + interval;
        }
        self.echo
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .snapshot_into(&mut self.seen);
        Ok(self
            .card
            .draw_frame(now, &self.seen)
            .map_or(Captured::Nothing, Captured::Frame))
    }
}
