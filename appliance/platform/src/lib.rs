//! The operating system, behind one switch.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
pub use soft_kvm_platform_linux as os;
pub use soft_kvm_platform_openh264 as openh264;

#[cfg(not(target_os = "linux"))]
compile_error!("Soft KVM runs on Linux so far: no back end for this operating system yet");
