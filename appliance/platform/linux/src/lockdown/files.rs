//! Landlock: which files and TCP ports are left.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::Keep;

/// The newest version whose rights are used; what an older kernel lacks is left out.
const VERSION: ABI = ABI::V6;

pub(super) fn restrict(keep: &Keep) -> io::Result<u8> {
    let failed = |error: landlock::RulesetError| io::Error::other(error.to_string());
    let rules = || -> Result<RulesetCreated, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))?
            .handle_access(AccessNet::ConnectTcp)?
            .scope(Scope::Signal)?
            .create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = (AccessFs::from_all(VERSION) & !AccessFs::IoctlDev)
            & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
        let device = read | AccessFs::WriteFile | AccessFs::IoctlDev;
        for (paths, access) in [
            (&keep.read, read),
            (&keep.write, write),
            (&keep.devices, device),
            (&keep.execute, AccessFs::Execute | AccessFs::ReadFile),
        ] {
            for path in paths {
                rules = add(rules, path, access)?;
            }
        }
        // Names of devices, not what is behind them.
        rules = add(rules, Path::new("/dev"), AccessFs::ReadDir.into())?;
        Ok(rules)
    };
    let status = rules()
        .and_then(RulesetCreated::restrict_self)
        .map_err(failed)?;
    Ok(number(status.landlock))
}

/// No TCP port at all for the calling thread: neither to listen on nor to connect to.
pub(super) fn no_ports() -> io::Result<()> {
    let rules = || {
        Ruleset::default()
            .handle_access(AccessNet::from_all(VERSION))?
            .create()?
            .restrict_self()
    };
    rules()
        .map(drop)
        .map_err(|error: landlock::RulesetError| io::Error::other(error.to_string()))
}

fn add(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(fd) = PathFd::new(path) else {
        return Ok(rules);
    };
    // A folder's rights mean nothing on a file, and the kernel refuses them.
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(VERSION)
    };
    rules.add_rule(PathBeneath::new(fd, access))
}

pub(super) fn version() -> u8 {
    const VERSION_ONLY: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no pointer and changes nothing (landlock_create_ruleset(2)).
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION_ONLY,
        )
    };
    u8::try_from(version).unwrap_or(0)
}

fn number(status: LandlockStatus) -> u8 {
    match status {
        LandlockStatus::Available { effective_abi, .. } => {
            // The variants are numbered as the kernel's versions are.
            u8::try_from(effective_abi as i32).unwrap_or(u8::MAX)
        }
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    }
}

/// The loader that the kernel opens to start `program` (`PT_INTERP` of a 64-bit ELF file of this machine's byte order).
pub(super) fn interpreter(program: &Path) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let file = fs::File::open(program).ok()?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    let u16_at = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
    let table = u64::from_ne_bytes(header.get(32..40)?.try_into().ok()?);
    let (size, count) = (u16_at(54)?, u16_at(56)?);
    (0..u64::from(count)).find_map(|index| {
        let mut entry = [0; 40];
        file.read_exact_at(&mut entry, table.checked_add(index * u64::from(size))?)
            .ok()?;
        if u32::from_ne_bytes(entry.get(..4)?.try_into().ok()?) != PT_INTERP {
            return None;
        }
        let start = u64::from_ne_bytes(entry.get(8..16)?.try_into().ok()?);
        let length = u64::from_ne_bytes(entry.get(32..40)?.try_into().ok()?);
        let mut name = vec![
            0;
            usize::try_from(length)
                .ok()
                .filter(|length| *length < 4096)?
        ];
        file.read_exact_at(&mut name, start).ok()?;
        let name = name.strip_suffix(&[0]).unwrap_or(&name);
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
    })
}
