//! Pictures in memory that is shared with the X server.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;
use soft_kvm_core::Size;
use soft_kvm_video::frame::{FramePool, Plane};

/// One being filled, one in the hand-over slot, one at the encoder.
pub(super) const PICTURES: usize = 3;

#[derive(Debug)]
struct Picture {
    start: NonNull<libc::c_void>,
    lent: AtomicBool,
}

/// Pictures of 32 bits a pixel without gaps between lines.
#[derive(Debug)]
pub(super) struct SharedPictures {
    pub(super) size: Size,
    len: usize,
    pictures: Vec<Picture>,
}

// SAFETY: the mappings are owned; pixels are written only through `Claim`, of which there is one for a
// picture at most (`lent`), and read only through the frame that the claim becomes.
unsafe impl Send for SharedPictures {}
// SAFETY: as above.
unsafe impl Sync for SharedPictures {}

impl SharedPictures {
    /// Makes the memory; the descriptors are for the X server.
    pub(super) fn new(size: Size) -> io::Result<(Self, Vec<OwnedFd>)> {
        let len = size.pixels() * 4;
        let whole = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let mut own = Self {
            size,
            len,
            pictures: Vec::new(),
        };
        let mut fds = Vec::new();
        for _ in 0..PICTURES {
            let fd = memfd_create(c"soft-kvm-x11", MFdFlags::MFD_CLOEXEC)?;
            ftruncate(&fd, i64::try_from(len).map_err(|_| Errno::EOVERFLOW)?)?;
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
            let start = unsafe { mmap(None, whole, access, MapFlags::MAP_SHARED, &fd, 0) }?;
            own.pictures.push(Picture {
                start,
                lent: AtomicBool::new(false),
            });
            fds.push(fd);
        }
        Ok((own, fds))
    }

    /// A picture that nobody uses; `None` while all are lent out.
    pub(super) fn claim(&self) -> Option<usize> {
        self.pictures
            .iter()
            .position(|picture| !picture.lent.swap(true, Ordering::AcqRel))
    }

    /// The claimed picture's pixels, for writing before its frame is made.
    ///
    /// # Safety
    /// `index` has to come from [`Self::claim`], its frame may not exist yet, and no other borrow of it.
    #[expect(
        clippy::mut_from_ref,
        reason = "the claim is the exclusive right, see Safety"
    )]
    pub(super) unsafe fn pixels(&self, index: usize) -> &mut [u8] {
        let Some(picture) = self.pictures.get(index) else {
            return &mut [];
        };
        // SAFETY: the mapping is `len` bytes long and lives as long as `self`; the caller has the only right
        // to it. The X server writes only while our request for this picture is under way.
        unsafe { slice::from_raw_parts_mut(picture.start.as_ptr().cast(), self.len) }
    }
}

impl FramePool for SharedPictures {
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>> {
        let picture = self.pictures.get(buffer as usize)?;
        (plane == 0).then(|| Plane {
            // SAFETY: the mapping is `len` bytes long and lives as long as `self`; the caller holds the
            // picture's frame, so nobody writes to it.
            data: unsafe { slice::from_raw_parts(picture.start.as_ptr().cast(), self.len) },
            stride: self.size.width as usize * 4,
        })
    }

    fn release(&self, buffer: u32) {
        if let Some(picture) = self.pictures.get(buffer as usize) {
            picture.lent.store(false, Ordering::Release);
        }
    }
}

impl Drop for SharedPictures {
    fn drop(&mut self) {
        for picture in &self.pictures {
            // SAFETY: the mapping is ours, and nothing borrows it any more.
            let _ = unsafe { munmap(picture.start, self.len) };
        }
    }
}
