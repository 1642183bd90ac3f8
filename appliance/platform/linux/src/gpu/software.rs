//! CPUs that draw, which Mesa calls GPUs too.

use std::os::fd::BorrowedFd;

use soft_kvm_video::frame::DmaBuf;

/// Whether it is a CPU that draws. The names are those of Mesa and SwiftShader.
pub(super) fn is_software(renderer: &str) -> bool {
    const NAMES: [&str; 6] = [
        "llvmpipe",
        "softpipe",
        "swrast",
        "lavapipe",
        "swiftshader",
        "software",
    ];
    let renderer = renderer.to_ascii_lowercase();
    NAMES.iter().any(|name| renderer.contains(name))
}

/// Whether a software renderer on `card` reads this memory. It maps what it imports as the card's own memory, which the kernel
/// refuses for that of other devices (`drm_gem_dumb_map_offset`); Mesa 22.3 does not look, and the process ends.
///
/// # Errors
/// The kernel's words.
pub(super) fn maps(card: BorrowedFd<'_>, memory: &DmaBuf<'_>) -> Result<(), String> {
    for plane in memory.planes.iter().flatten() {
        let handle = drm_ffi::gem::fd_to_handle(card, plane.fd)
            .map_err(|why| format!("the memory is not imported: {why}"))?
            .handle;
        // A handle that stays is the one that the renderer gets for this memory, and closes.
        if let Err(why) = drm_ffi::mode::dumbbuffer::map(card, handle, 0, 0) {
            let _ = drm_ffi::gem::close(card, handle);
            return Err(format!(
                "software renderers read no memory of another device: {why}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_renders_in_software() {
        for (name, software) in [
            ("llvmpipe (LLVM 15.0.6, 256 bits)", true),
            ("softpipe", true),
            ("Software Rasterizer", true),
            ("zink Vulkan 1.3 (llvmpipe (LLVM 15.0.6, 256 bits))", true),
            ("Google SwiftShader", true),
            ("V3D 4.2.14.0", false),
            ("VC4 V3D 2.1", false),
            ("Mesa Intel(R) UHD Graphics 620 (KBL GT2)", false),
            ("AMD Radeon Graphics (radeonsi, renoir, LLVM 15.0.6)", false),
            ("Mali-G52 (Panfrost)", false),
        ] {
            assert_eq!(is_software(name), software, "{name}");
        }
    }
}
