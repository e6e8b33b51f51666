//! Takes from a thread what no pure function needs: files, sockets, threads, programs. For a conformance kit, which has a child ask
//! its plugin under these terms.
//!
//! The kernel (seccomp(2)) raises SIGSYS at such a system call; the handler tells the host which one it was, in a
//! reply of its own status, and ends the process.
#![allow(unsafe_code, reason = "a seccomp filter and a signal handler")]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// A status of our own, beside those of the boundary: the plugin made a system call, whose number is the message.
pub(crate) const SYSTEM_CALL: i32 = i32::MIN + 1;

/// What is refused, with its name.
#[rustfmt::skip]
const REFUSED: &[(libc::c_long, &str)] = &[
    (libc::SYS_openat, "openat"), (libc::SYS_openat2, "openat2"), (libc::SYS_socket, "socket"),
    (libc::SYS_socketpair, "socketpair"), (libc::SYS_connect, "connect"), (libc::SYS_bind, "bind"),
    (libc::SYS_clone, "clone"), (libc::SYS_clone3, "clone3"), (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"), (libc::SYS_unshare, "unshare"), (libc::SYS_setns, "setns"),
    (libc::SYS_mount, "mount"), (libc::SYS_ptrace, "ptrace"), (libc::SYS_bpf, "bpf"), (libc::SYS_chdir, "chdir"),
    (libc::SYS_getrandom, "getrandom"), (libc::SYS_pipe2, "pipe2"), (libc::SYS_memfd_create, "memfd_create"),
    (libc::SYS_newfstatat, "newfstatat"), (libc::SYS_statx, "statx"), (libc::SYS_readlinkat, "readlinkat"),
    (libc::SYS_nanosleep, "nanosleep"), (libc::SYS_clock_nanosleep, "clock_nanosleep"),
];

/// Those that newer architectures left out.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const REFUSED_HERE: &[(libc::c_long, &str)] = &[
    (libc::SYS_open, "open"), (libc::SYS_creat, "creat"), (libc::SYS_fork, "fork"), (libc::SYS_vfork, "vfork"),
    (libc::SYS_pipe, "pipe"), (libc::SYS_stat, "stat"), (libc::SYS_readlink, "readlink"),
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[(libc::c_long, &str)] = &[];

/// Where the handler writes.
static HOST: AtomicI32 = AtomicI32::new(-1);

/// The name of a refused system call.
pub(crate) fn name(number: &str) -> String {
    let known = REFUSED.iter().chain(REFUSED_HERE).find(|(known, _)| known.to_string() == number);
    known.map_or_else(|| format!("system call {number}"), |(_, name)| (*name).to_owned())
}

/// From now on the calling thread may compute, and speak over the descriptors it has. `host` is where it tells what it tried.
pub(crate) fn this_thread(host: RawFd) -> io::Result<()> {
    HOST.store(host, Ordering::Relaxed);
    // BPF of linux/filter.h: load the number, and for each refused one jump to the trap.
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let refused: Vec<_> = REFUSED.iter().chain(REFUSED_HERE).collect();
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut filter = vec![step(LOAD_NUMBER, 0, 0)];
    for (index, (number, _)) in refused.iter().enumerate() {
        let to_trap = u8::try_from(refused.len() - index).expect("a short table");
        filter.push(step(JUMP_IF_EQUAL, to_trap, u32::try_from(*number).expect("numbers are small")));
    }
    filter.push(step(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(step(RETURN, 0, libc::SECCOMP_RET_TRAP));
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).expect("short"), filter: filter.as_mut_ptr() };

    // SAFETY: the handler makes two system calls and no other; the structure is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = tell as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the pointers are valid for the calls; the kernel copies the program.
    let outcome = unsafe {
        match libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) {
            0 => match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
                0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0),
                failed => failed,
            },
            failed => failed,
        }
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Says which system call it was, as a reply in the messages of the process, and ends.
extern "C" fn tell(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// `siginfo_t` of SIGSYS, which libc does not spell out.
    #[repr(C)]
    struct OfSystemCall {
        head: [libc::c_int; 4],
        address: *const libc::c_void,
        number: libc::c_int,
    }
    // SAFETY: the kernel fills in this form for SIGSYS; siginfo_t is larger than it.
    let mut number = unsafe { (*info.cast::<OfSystemCall>()).number }.unsigned_abs();
    // Nothing here may allocate: eight bytes of head, and the number in ten digits at most.
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            break;
        }
    }
    let mut message = [0u8; 18];
    message[..4].copy_from_slice(&SYSTEM_CALL.to_le_bytes());
    message[4..8].copy_from_slice(&((digits.len() - at) as u32).to_le_bytes());
    let length = 8 + digits.len() - at;
    message[8..length].copy_from_slice(&digits[at..]);
    // SAFETY: both are safe in a signal handler.
    unsafe {
        libc::write(HOST.load(Ordering::Relaxed), message.as_ptr().cast(), length);
        libc::_exit(1)
    }
}
