//! Software H.264 over Cisco's OpenH264: constrained baseline, one access unit for each picture, no delay.
//!
//! Built from source with its assembly; the build fails without `nasm` on x86. Building from source
//! does not carry Cisco's royalty cover (openh264.org, FAQ); packagers may want Cisco's own binary.

mod decoder;
mod encoder;
mod nal;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use nal::MAX_ACCESS_UNIT;

use soft_kvm_video::codec::CodecError;

/// Name of both, as in the story and the metrics.
pub const NAME: &str = "openh264";

/// The library's version, e.g. `2.6.0`.
#[must_use]
pub fn version() -> String {
    let mut version = openh264_sys2::OpenH264Version::default();
    let api = openh264_sys2::DynamicAPI::from_source();
    // SAFETY: the function fills the struct in, which lives until the call returns.
    unsafe { openh264_sys2::API::WelsGetCodecVersionEx(&api, &raw mut version) };
    format!(
        "{}.{}.{}",
        version.uMajor, version.uMinor, version.uRevision
    )
}

fn error(what: impl Into<String>) -> CodecError {
    CodecError {
        codec: NAME,
        what: what.into(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_has_three_parts() {
        let version = super::version();
        assert_eq!(version.split('.').count(), 3, "{version}");
    }

    /// Without the assembly this does not even link.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    #[test]
    fn the_library_was_built_with_its_assembly() {
        unsafe extern "C" {
            /// codec/common/x86/cpuid.asm: whether the processor has CPUID.
            fn WelsCPUIdVerify() -> i32;
        }
        // SAFETY: takes nothing, touches nothing, returns an int.
        assert_ne!(unsafe { WelsCPUIdVerify() }, 0);
    }
}
