//! System calls by list.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::syscalls;

/// What a thread is for, and so which system calls it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The thread that waits for signals and reads the story again: starts this program in another role.
    Main,
    /// The broker: opens devices, and this program in another role; no connection to the network.
    Broker,
    /// Threads that read what comes from the network: start nothing, ask video devices nothing.
    Network,
    /// Threads that capture and encode: start nothing, open no connection to the network.
    Device,
    /// Any thread of a program with a window: all but what no such program needs.
    Desktop,
}

/// Whether this process is locked.
static LOCKED: AtomicBool = AtomicBool::new(false);

pub(super) fn lock(class: Class) -> io::Result<bool> {
    // SECCOMP_GET_ACTION_AVAIL would ask more exactly; a kernel without seccomp has no such line.
    if !std::fs::read_to_string("/proc/self/status")?.contains("\nSeccomp:") {
        return Ok(false);
    }
    apply(class)?;
    LOCKED.store(true, Ordering::Release);
    Ok(true)
}

pub(super) fn locked() -> bool {
    LOCKED.load(Ordering::Acquire)
}

pub(super) fn apply(class: Class) -> io::Result<()> {
    let program = program(class).map_err(|error| io::Error::other(error.to_string()))?;
    seccompiler::apply_filter(&program).map_err(|error| io::Error::other(error.to_string()))
}

/// What is on no list gets "function not implemented": libraries that try a newer call then take the older one.
fn program(class: Class) -> Result<BpfProgram, seccompiler::BackendError> {
    let (calls, matched, other) = match class {
        Class::Desktop => (
            rules_for(syscalls::DANGEROUS),
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
        ),
        Class::Main | Class::Broker | Class::Network | Class::Device => (
            allowed(class)?,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        ),
    };
    SeccompFilter::new(calls, other, matched, std::env::consts::ARCH.try_into()?)?.try_into()
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules_for(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn allowed(class: Class) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = rules_for(syscalls::COMMON);
    rules.extend(rules_for(syscalls::LEGACY));
    match class {
        Class::Main | Class::Broker => {
            rules.extend(rules_for(syscalls::START));
            rules.extend(rules_for(syscalls::START_LEGACY));
        }
        // Threads, but no processes. `clone3` hides its flags in memory; without it the C library takes `clone`.
        _ => {
            let flag = libc::CLONE_THREAD.unsigned_abs().into();
            rules.insert(
                libc::SYS_clone,
                vec![when(0, SeccompCmpOp::MaskedEq(flag), flag)?],
            );
        }
    }
    let families: &[i32] = match class {
        Class::Broker => &[libc::AF_UNIX],
        Class::Device => &[libc::AF_UNIX, libc::AF_NETLINK],
        _ => &[
            libc::AF_UNIX,
            libc::AF_NETLINK,
            libc::AF_INET,
            libc::AF_INET6,
        ],
    };
    let families = families
        .iter()
        .map(|family| when(0, SeccompCmpOp::Eq, family.unsigned_abs().into()));
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    let kinds = match class {
        Class::Network => syscalls::IOCTL_NETWORK,
        _ => syscalls::IOCTL_ALL,
    };
    let kinds = kinds
        .iter()
        .map(|kind| when(1, SeccompCmpOp::MaskedEq(0xff00), u64::from(*kind) << 8));
    let single = syscalls::IOCTL_SINGLE
        .iter()
        .map(|request| when(1, SeccompCmpOp::Eq, *request));
    rules.insert(
        libc::SYS_ioctl,
        kinds.chain(single).collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

fn when(
    argument: u8,
    how: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        how,
        value,
    )?])
}
