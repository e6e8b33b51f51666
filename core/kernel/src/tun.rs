//! TUN interfaces, which rtnetlink cannot make.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use switchyard_netstate::IfName;

/// Makes a persistent layer 3 interface in the calling thread's namespace.
pub(crate) fn create(name: &IfName) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: a name of 16 bytes, then a union that starts with the flags.
    let mut request = [0u8; 40];
    request[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is 40 bytes, and `request` lives through the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, request.as_mut_ptr()) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TUNSETPERSIST takes a plain number.
    let kept = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, 1) };
    if kept < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
