//! The device lab's tests. See `lab/README.md`.
#![forbid(unsafe_code)]

mod boot;
mod compete;
mod compositor;
mod convert;
mod dongle;
mod dropped;
mod fallback;
mod force;
mod front;
mod gadget;
mod gpu;
mod hostile;
mod input;
mod input_equal;
mod install;
mod keyboard;
mod kms;
mod kvm;
mod ladder;
mod lan;
mod latency;
mod lock_out;
mod login;
mod m2m;
mod media;
mod pairing;
mod picture;
mod plug;
mod pointer;
mod privsep;
mod probe;
mod recording;
mod roles;
mod routes;
#[path = "../../../../appliance/platform/linux/tests/screen/mod.rs"]
mod screen;
mod service;
mod stall;
mod stuck;
mod switching;
mod system;
mod touch;
mod typing;
mod vaapi;
mod viewer;
mod vivid;
mod vkms;
mod wire;
mod xvfb;

use std::process::ExitCode;
use std::time::Duration;

use soft_kvm_lab_tests::{LabTest, host};

const TESTS: &[LabTest] = &[
    LabTest {
        modules: &["vivid"],
        ..LabTest::new("boot", &[boot::kernel])
    },
    LabTest {
        programs: &["tc"],
        ..LabTest::new("namespaces", &[boot::namespaces])
    },
    LabTest::new("wire", &[wire::left, wire::right]),
    LabTest {
        programs: &["v4l2-ctl"],
        ..LabTest::new("vivid_640x480", &[vivid::hdmi_640x480])
    },
    LabTest::new("vivid_1280x720", &[vivid::hdmi_1280x720]),
    LabTest {
        programs: &["v4l2-ctl"],
        ..LabTest::new("vivid_dongle", &[vivid::dongle_640x480])
    },
    LabTest {
        modules: &["vimc"],
        programs: &["media-ctl", "v4l2-ctl"],
        timeout: Duration::from_secs(120),
        ..LabTest::new("media-controller", &[media::pipeline])
    },
    LabTest {
        modules: &["dummy_hcd", "raw_gadget"],
        programs: &["gcc", "ffmpeg"],
        timeout: dongle::LIMIT,
        ..LabTest::new("uvc-dongle", &[dongle::uvc])
    },
    LabTest::new("hotplug_vivid", &[vivid::unplugged]),
    LabTest {
        programs: &["v4l2-ctl"],
        ..LabTest::new("signal_states", &[vivid::states])
    },
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        programs: &["v4l2-ctl"],
        ..LabTest::new("signal_modes", &[vivid::modes])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("vkms", &[vkms::console])
    },
    LabTest::new("vkms_second_card", &[vkms::console_on_second_card]),
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("privsep-screen", &[vkms::console_by_broker])
    },
    LabTest::new("privsep", &[privsep::video_and_input]),
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        timeout: Duration::from_secs(90),
        ..LabTest::new("privsep-m2m", &[privsep::to_the_hardware_encoder])
    },
    LabTest {
        modules: &["vkms", "vim2m", "vicodec"],
        ..LabTest::new("privsep-converter", &[routes::converted_by_broker])
    },
    LabTest {
        modules: &["vkms", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("privsep-memory", &[routes::by_cpu_into_imported_memory])
    },
    LabTest {
        modules: &["vgem", "vkms"],
        va_driver: true,
        ..LabTest::new("privsep-vaapi", &[routes::vaapi_by_broker])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("viewer::on_the_metal", &[viewer::on_the_metal])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("viewer::from_the_decoder", &[viewer::from_the_decoder])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("viewer::cursor", &[viewer::cursor])
    },
    LabTest {
        modules: &["vicodec"],
        own_modules: &["virtual-h264"],
        programs: &["v4l2-compliance"],
        ..LabTest::new("m2m::virtual_h264_compliance", &[m2m::compliance])
    },
    LabTest {
        modules: &["vivid", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("m2m::faults", &[m2m::faults])
    },
    LabTest {
        modules: &["vivid", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("m2m::colours_added", &[m2m::colours_added])
    },
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("m2m::cpu_memory", &[m2m::cpu_memory])
    },
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        programs: &["dmesg"],
        ..LabTest::new("m2m::intra_refresh", &[m2m::intra_refresh])
    },
    LabTest {
        modules: &["vivid", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        programs: &["dmesg"],
        ..LabTest::new("m2m::low_delay", &[m2m::low_delay])
    },
    LabTest {
        modules: &["vivid", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        programs: &["ffmpeg"],
        ..LabTest::new("zero-copy::vivid_virtual_h264", &[m2m::every_pixel])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("gpu::always", &[gpu::screen])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("privsep-gpu", &[gpu::screen_by_broker])
    },
    LabTest {
        modules: &["vgem", "vkms"],
        va_driver: true,
        ..LabTest::new("gpu::to_vaapi", &[gpu::to_vaapi])
    },
    LabTest {
        modules: &["vkms", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("gpu::to_m2m", &[gpu::to_m2m])
    },
    LabTest {
        modules: &["vkms", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("privsep-gpu-to-m2m", &[gpu::to_m2m_by_broker])
    },
    LabTest {
        modules: &["vkms", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("gpu::not_in_software", &[gpu::not_in_software])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("gpu::without_egl", &[gpu::without_egl])
    },
    LabTest {
        modules: &["vgem"],
        va_driver: true,
        programs: &["ffmpeg"],
        ..LabTest::new("vaapi::every_sample", &[vaapi::every_sample])
    },
    LabTest {
        modules: &["vgem"],
        va_driver: true,
        ..LabTest::new("vaapi::faults", &[vaapi::faults])
    },
    LabTest {
        modules: &["vgem", "vivid"],
        va_driver: true,
        ..LabTest::new("vaapi::imports", &[vaapi::imports])
    },
    LabTest {
        modules: &["vgem"],
        va_driver: true,
        ..LabTest::new("vaapi::without_libva", &[vaapi::without_libva])
    },
    LabTest {
        modules: &["vgem", "vkms"],
        va_driver: true,
        ..LabTest::new(
            "zero-copy::screen_through_vaapi",
            &[routes::screen_through_vaapi],
        )
    },
    LabTest {
        modules: &["vgem"],
        va_driver: true,
        ..LabTest::new("ladder::vaapi_at_the_start", &[ladder::vaapi_at_the_start])
    },
    LabTest {
        modules: &["vgem", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        va_driver: true,
        timeout: Duration::from_secs(120),
        ..LabTest::new("ladder::vaapi_between", &[ladder::vaapi_between])
    },
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        timeout: Duration::from_secs(90),
        ..LabTest::new("ladder::falls_and_climbs", &[ladder::falls_and_climbs])
    },
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("ladder::falls_at_the_start", &[ladder::falls_at_the_start])
    },
    LabTest {
        modules: &["v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        ..LabTest::new("zero-copy::to_the_client", &[m2m::to_the_client])
    },
    LabTest {
        modules: &["vkms", "vim2m", "vicodec"],
        ..LabTest::new("zero-copy::vkms_vim2m_vicodec", &[convert::screen])
    },
    LabTest::new(
        "zero-copy::vicodec_to_vicodec",
        &[routes::vicodec_to_vicodec],
    ),
    LabTest {
        modules: &["vkms", "vim2m", "vicodec"],
        ..LabTest::new(
            "zero-copy::screen_to_the_client",
            &[routes::screen_through_a_converter],
        )
    },
    LabTest {
        modules: &["vgem", "vkms", "vim2m", "vicodec", "v4l2-mem2mem"],
        own_modules: &["virtual-h264"],
        va_driver: true,
        timeout: Duration::from_secs(180),
        ..LabTest::new("zero-copy::routes_side_by_side", &[routes::side_by_side])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("kms::cursor", &[kms::cursor])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("kms::wake", &[kms::wake])
    },
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("kms::unreadable", &[kms::unreadable])
    },
    LabTest {
        timeout: Duration::from_secs(90),
        ..LabTest::new("lan-only", &[lan::only])
    },
    LabTest::new("lan-only-links", &[lan::links]),
    LabTest::new("lan-only-public", &[lan::public]),
    LabTest::new("lan-only-mdns", &[lan::announced]),
    LabTest {
        timeout: Duration::from_secs(90),
        ..LabTest::new("lan-only-lists", &[lan::lists])
    },
    LabTest {
        systemd: true,
        ..LabTest::new("service", &[service::lives])
    },
    LabTest {
        systemd: true,
        timeout: Duration::from_secs(150),
        ..LabTest::new("install", &[install::package])
    },
    LabTest {
        systemd: true,
        timeout: Duration::from_secs(120),
        ..LabTest::new("install-plain", &[install::plain_binary])
    },
    LabTest::new("roles", &[roles::reach_the_kernel]),
    LabTest {
        programs: &["tc"],
        timeout: Duration::from_secs(120),
        ..LabTest::new("hostile", &[hostile::flood])
    },
    LabTest {
        systemd: true,
        timeout: Duration::from_secs(150),
        ..LabTest::new("plug", &[plug::starts])
    },
    LabTest::new("pairing_mdns", &[pairing::by_name]),
    LabTest {
        modules: &["vkms"],
        timeout: Duration::from_secs(240),
        ..LabTest::new("pairing_button_and_screen", &[front::button_and_screen])
    },
    LabTest {
        modules: &["vkms"],
        timeout: Duration::from_secs(240),
        ..LabTest::new("pairing-front-broker", &[front::by_broker])
    },
    LabTest {
        systemd: true,
        timeout: Duration::from_secs(240),
        ..LabTest::new("pairing-front-service", &[front::by_service])
    },
    LabTest::new("type", &[typing::through_uinput]),
    LabTest {
        programs: &["Xvfb", "xclip", "xdotool"],
        ..LabTest::new("paste", &[typing::pasted])
    },
    LabTest::new("keyboard", &[keyboard::on_one_kernel]),
    LabTest::new("keyboard_unplugged", &[keyboard::unplugged]),
    LabTest::new("input-equal-events", &[input_equal::events]),
    LabTest {
        programs: &["libinput", "udevadm"],
        udev: true,
        ..LabTest::new("input-equal-libinput", &[input_equal::libinput])
    },
    LabTest {
        programs: &["libinput", "udevadm"],
        udev: true,
        ..LabTest::new("touch-window", &[touch::window])
    },
    LabTest {
        programs: &["Xvfb", "xdotool"],
        ..LabTest::new("pointer-window", &[pointer::window])
    },
    LabTest::new("input-dropped", &[dropped::axes_and_buttons]),
    LabTest {
        programs: &["tc"],
        ..LabTest::new("stall", &[stall::backlog])
    },
    LabTest::new("input-two-clients", &[compete::two_clients]),
    LabTest {
        timeout: Duration::from_secs(120),
        ..LabTest::new("input-handed-over", &[compete::handed_over])
    },
    LabTest {
        systemd: true,
        programs: &["loginctl"],
        timeout: Duration::from_secs(120),
        ..LabTest::new("lock-out-session", &[login::only_while_shown])
    },
    LabTest {
        // Long enough for 200 rounds.
        timeout: Duration::from_secs(900),
        ..LabTest::new("stuck-keys", &[stuck::keys])
    },
    LabTest {
        timeout: Duration::from_secs(90),
        ..LabTest::new("lock-out-hung", &[lock_out::hung])
    },
    LabTest {
        timeout: Duration::from_secs(90),
        ..LabTest::new("gadget", &[gadget::through_usb])
    },
    LabTest {
        timeout: Duration::from_secs(90),
        ..LabTest::new("gadget-broker", &[gadget::by_broker])
    },
    LabTest::new("lock-out-killed", &[lock_out::killed]),
    LabTest::new("lock-out-trial", &[lock_out::trial]),
    LabTest::new("switching-chords", &[switching::chords]),
    LabTest::new("switching-joystick", &[switching::joystick]),
    LabTest::new("force-feedback", &[force::effects_of_programs]),
    LabTest::new("force-feedback-switching", &[force::follows_the_input]),
    LabTest::new("switching-edges", &[switching::edges]),
    LabTest::new(
        "two_kernels",
        &[keyboard::target_kernel, keyboard::seat_kernel],
    ),
    LabTest {
        programs: &["tc"],
        ..LabTest::new("input_without_udp", &[fallback::over_the_control_channel])
    },
    LabTest {
        programs: &["tc"],
        ..LabTest::new(
            "input_without_tcp",
            &[fallback::without_the_control_channel],
        )
    },
    LabTest {
        programs: &["tc"],
        ..LabTest::new("loss_one_kernel", &[latency::on_one_kernel])
    },
    LabTest {
        programs: &["tc"],
        ..LabTest::new(
            "loss_two_kernels",
            &[latency::target_kernel, latency::seat_kernel],
        )
    },
];

fn main() -> ExitCode {
    host::main(TESTS)
}
