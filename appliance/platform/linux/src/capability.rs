//! `CAP_SYS_ADMIN`, effective only around the calls that need it.
//!
//! Capabilities belong to threads: what [`lower`] drops is dropped for the calling thread and for those that it starts
//! later. It stays permitted, so that [`Raised`] can have it for a moment.

use std::io;

use nix::errno::Errno;

/// `_LINUX_CAPABILITY_VERSION_3` of `<linux/capability.h>`.
const VERSION: u32 = 0x2008_0522;
/// `CAP_SYS_ADMIN` is number 21.
const SYS_ADMIN: u32 = 1 << 21;
/// `CAP_IPC_LOCK` is number 14.
const IPC_LOCK: u32 = 1 << 14;

/// `struct __user_cap_header_struct`.
#[repr(C)]
#[derive(Debug)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 of the capabilities.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What the calling thread may do about `CAP_SYS_ADMIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysAdmin {
    /// It is in force.
    Effective,
    /// It can be put in force.
    Permitted,
    /// It is gone for good.
    Missing,
}

/// Whether the calling thread has `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's, which has none for this call since Linux 2.6.26.
pub fn sys_admin() -> io::Result<SysAdmin> {
    let [low, _] = get()?;
    Ok(if low.effective & SYS_ADMIN != 0 {
        SysAdmin::Effective
    } else if low.permitted & SYS_ADMIN != 0 {
        SysAdmin::Permitted
    } else {
        SysAdmin::Missing
    })
}

/// Whether the calling thread may lock any amount of memory (`CAP_IPC_LOCK`).
///
/// # Errors
/// As [`sys_admin`].
pub(crate) fn locks_memory() -> io::Result<bool> {
    let [low, _] = get()?;
    Ok(low.effective & IPC_LOCK != 0)
}

/// Takes `CAP_SYS_ADMIN` out of force for the calling thread and those it starts later.
///
/// # Errors
/// As [`sys_admin`].
pub fn lower() -> io::Result<()> {
    let [mut low, high] = get()?;
    if low.effective & SYS_ADMIN != 0 {
        low.effective &= !SYS_ADMIN;
        set([low, high])?;
    }
    Ok(())
}

/// Gives `CAP_SYS_ADMIN` up for good, for the calling thread and those it starts later.
///
/// # Errors
/// As [`sys_admin`].
pub fn give_up() -> io::Result<()> {
    let [mut low, high] = get()?;
    low.effective &= !SYS_ADMIN;
    low.permitted &= !SYS_ADMIN;
    low.inheritable &= !SYS_ADMIN;
    set([low, high])
}

/// `CAP_SYS_ADMIN` in force on this thread until dropped, if it is permitted at all.
#[derive(Debug)]
pub struct Raised {
    lower: bool,
    /// Capabilities are the thread's own: the guard stays on it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Raised {
    /// Puts it in force. Where it is not permitted nothing changes: the calls that need it say so.
    #[must_use]
    pub fn new() -> Self {
        let raised = || -> io::Result<bool> {
            let [mut low, high] = get()?;
            if low.effective & SYS_ADMIN != 0 || low.permitted & SYS_ADMIN == 0 {
                return Ok(false);
            }
            low.effective |= SYS_ADMIN;
            set([low, high])?;
            Ok(true)
        };
        Self {
            lower: raised().unwrap_or(false),
            _not_send: std::marker::PhantomData,
        }
    }
}

impl Default for Raised {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if self.lower
            && let Err(error) = lower()
        {
            tracing::error!(%error, "CAP_SYS_ADMIN stays in force");
        }
    }
}

fn get() -> io::Result<[Sets; 2]> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: capget(2) of version 3 reads one header and writes two data structs, which these are.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(done)?;
    Ok(sets)
}

fn set(sets: [Sets; 2]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: capset(2) of version 3 reads one header and two data structs, which these are.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_kernel() {
        assert_eq!(size_of::<Header>(), 8);
        assert_eq!(size_of::<[Sets; 2]>(), 24);
    }

    #[test]
    fn it_is_in_force_only_while_raised() {
        // A thread of its own: the others keep what they have.
        let thread = std::thread::spawn(|| {
            let had = sys_admin().expect("the kernel tells");
            lower().expect("lowering is allowed");
            if had == SysAdmin::Missing {
                drop(Raised::new());
                assert_eq!(sys_admin().expect("it tells"), SysAdmin::Missing);
                return;
            }
            assert_eq!(sys_admin().expect("it tells"), SysAdmin::Permitted);
            {
                let _outer = Raised::new();
                {
                    let _inner = Raised::new();
                    assert_eq!(sys_admin().expect("it tells"), SysAdmin::Effective);
                }
                assert_eq!(sys_admin().expect("it tells"), SysAdmin::Effective);
            }
            assert_eq!(sys_admin().expect("it tells"), SysAdmin::Permitted);
            give_up().expect("giving up is allowed");
            drop(Raised::new());
            assert_eq!(sys_admin().expect("it tells"), SysAdmin::Missing);
        });
        thread.join().expect("the thread ends well");
    }
}
