//! What the pod and its containers see of the file system: the host's, with a few mounts over it that only they see.
//!
//! Nothing is ever created on the host's file system. A mount point that is missing there is made in a tmpfs of the pod's own:
//! directly if its parent lies in it, below an overlay of the nearest directory that exists otherwise, and for a new entry of `/`
//! in a new root that holds every entry of the old one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::protocol::{Mount, Sandbox};
use crate::within;

/// Longest chain of symbolic links that is followed, the kernel's own limit.
const MAX_LINKS: u32 = 40;
const NONE: Option<&str> = None;
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The pod's own file systems.
pub(crate) struct Tree {
    /// The pod's tmpfs, as mounted in the mount namespace that is worked on.
    scratch: OwnedFd,
    mask: PathBuf,
    /// Device numbers on which directories may be made.
    ours: Vec<u64>,
    /// Names the next overlay.
    next: u32,
    prefix: String,
    /// The pod's directory, made invisible to containers.
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Directory,
    File,
}

/// A step that failed, in words.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Says what was being done.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| format!("{}: {}", what(), error.into()))
    }
}

// === impl Tree ===

impl Tree {
    /// Builds the pod's view. Called in its own mount namespace, by process 1 of its pid namespace.
    pub(crate) fn build(sandbox: &Sandbox) -> Result<Self> {
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .context(|| "make the mounts private".into())?;
        let dir = detached(&sandbox.dir, false).context(|| format!("open {}", sandbox.dir.display()))?;
        // The other pods' namespaces are mounted below the run directory; each pod would carry a copy of every such mount.
        match umount2(&sandbox.run_dir, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(format!("detach {}: {error}", sandbox.run_dir.display())),
        }
        mount_tmpfs(&sandbox.mask)?;
        fs::create_dir_all(&sandbox.dir).context(|| format!("make {}", sandbox.dir.display()))?;
        move_mount(dir.as_fd(), &sandbox.dir).context(|| format!("mount {}", sandbox.dir.display()))?;
        let device = fs::metadata(&sandbox.mask).context(|| "look at the pod's tmpfs".into())?.dev();
        let mut tree = Self {
            scratch: open_dir(&sandbox.mask).context(|| format!("open {}", sandbox.mask.display()))?,
            mask: sandbox.mask.clone(),
            ours: vec![device],
            next: 0,
            prefix: "pod".into(),
            dir: sandbox.dir.clone(),
        };
        let proc_flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), proc_flags, NONE).context(|| "mount /proc".into())?;
        tree.run()?;
        tree.dev()?;
        for (path, content) in [
            ("/etc/hosts", &sandbox.hosts),
            ("/etc/resolv.conf", &sandbox.resolv_conf),
            ("/etc/hostname", &format!("{}\n", sandbox.hostname)),
        ] {
            tree.file(path, content)?;
        }
        Ok(tree)
    }

    /// Mounts for a container. Called by the container's own process, in its own mount namespace, which is what tells its
    /// processes from another container's later.
    pub(crate) fn enter_container(&mut self, name: &str, mounts: &[Mount]) -> Result<()> {
        self.prefix = name.to_owned();
        self.next = 0;
        self.reopen()?;
        // Sources first: an overlay may come to lie over them.
        let mut sources = Vec::with_capacity(mounts.len());
        for wanted in mounts {
            let inner = wanted.within.as_deref().unwrap_or(Path::new(""));
            let what = || format!("volume source {}", wanted.source.join(inner).display());
            let (source, kind) = source(&wanted.source, inner).context(what)?;
            sources.push((source, kind));
        }
        // Parents before what lies in them, whatever the order of the container's list.
        let mut order: Vec<usize> = (0..mounts.len()).collect();
        order.sort_by_key(|&n| mounts[n].target.components().count());
        for n in order {
            let (wanted, (source, kind)) = (&mounts[n], &sources[n]);
            let what = || format!("mount point {}", wanted.target.display());
            let target = self.mount_point(&wanted.target, *kind).map_err(|error| format!("{}: {error}", what()))?;
            move_mount(source.as_fd(), &target).context(what)?;
            if wanted.read_only {
                read_only(&target).context(what)?;
            }
        }
        umount2(&self.dir, MntFlags::MNT_DETACH).or_else(ignore_gone).context(|| "hide the pod's directory".into())
    }

    fn run(&mut self) -> Result<()> {
        let run = self.inside("run")?;
        fs::create_dir_all(run.join("lock")).context(|| "make /run".into())?;
        if Path::new("/run").is_dir() {
            bind(&run, Path::new("/run"))?;
        }
        Ok(())
    }

    /// A /dev of the pod's own: the harmless devices, its own terminals, its own shared memory.
    fn dev(&mut self) -> Result<()> {
        let dev = self.inside("dev")?;
        for name in ["pts", "shm"] {
            fs::create_dir_all(dev.join(name)).context(|| format!("make /dev/{name}"))?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            symlink(target, dev.join(name)).context(|| format!("make /dev/{name}"))?;
        }
        for name in DEVICES {
            let host = Path::new("/dev").join(name);
            if host.symlink_metadata().is_ok_and(|meta| meta.file_type().is_char_device()) {
                File::create(dev.join(name)).context(|| format!("make /dev/{name}"))?;
                bind(&host, &dev.join(name))?;
            }
        }
        let options = Some("newinstance,ptmxmode=0666,mode=0620");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("devpts"), &dev.join("pts"), Some("devpts"), flags, options).context(|| "mount /dev/pts".into())?;
        mount(Some(&dev), "/dev", NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).context(|| "mount /dev".into())
    }

    fn file(&mut self, path: &str, content: &str) -> Result<()> {
        let name = Path::new(path).file_name().expect("the paths above end in names");
        let own = self.inside("etc")?.join(name);
        fs::write(&own, content).context(|| format!("write {path}"))?;
        let target = self.mount_point(Path::new(path), Kind::File)?;
        bind(&own, &target)
    }

    /// Makes a directory of the pod's tmpfs, and says how to reach it whatever is mounted over it.
    fn inside(&self, name: &str) -> Result<PathBuf> {
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", self.scratch.as_raw_fd()));
        fs::create_dir_all(&path).context(|| format!("make {name} in the pod's tmpfs"))?;
        Ok(path)
    }

    /// Finds or makes the place `path` for a mount, and returns it without symbolic links.
    fn mount_point(&mut self, path: &Path, kind: Kind) -> Result<PathBuf> {
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err("must be absolute and without '..'".into());
        }
        self.ensure(path, kind, 0)
    }

    fn ensure(&mut self, path: &Path, kind: Kind, links: u32) -> Result<PathBuf> {
        match fs::canonicalize(path) {
            Ok(there) => {
                let is_dir = there.is_dir();
                return match kind {
                    Kind::Directory if !is_dir => Err("is a file, must be a directory".into()),
                    Kind::File if is_dir => Err("is a directory, must be a file".into()),
                    _ => Ok(there),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err("has no parent directory".into());
        };
        let parent = self.ensure(parent, Kind::Directory, links)?;
        let place = parent.join(name);
        if let Ok(link) = fs::read_link(&place) {
            if links >= MAX_LINKS {
                return Err("too many symbolic links".into());
            }
            return self.ensure(&parent.join(link), kind, links + 1);
        }
        let device = fs::metadata(&parent).context(|| format!("look at {}", parent.display()))?.dev();
        if !self.ours.contains(&device) {
            if parent == Path::new("/") { self.new_root()? } else { self.overlay(&parent)? }
        }
        match kind {
            Kind::Directory => fs::create_dir(&place),
            Kind::File => File::create(&place).map(drop),
        }
        .context(|| format!("make {}", place.display()))?;
        Ok(place)
    }

    fn fresh(&mut self, what: &str) -> Result<PathBuf> {
        self.next += 1;
        let name = format!("{what}/{}.{}", self.prefix, self.next);
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", self.scratch.as_raw_fd()));
        let _ = fs::remove_dir_all(&path);
        self.inside(&name)
    }

    /// Lays a writable layer of the pod's tmpfs over a directory. What the host has mounted below it is not seen any more.
    fn overlay(&mut self, dir: &Path) -> Result<()> {
        let layer = self.fresh("layers")?;
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        for path in [&upper, &work] {
            fs::create_dir(path).context(|| format!("make a layer for {}", dir.display()))?;
        }
        // By number, as a path may hold the commas and colons that separate options.
        let open = |path: &Path| File::open(path).context(|| format!("open {}", path.display()));
        let (lower, upper, work) = (open(dir)?, open(&upper)?, open(&work)?);
        let number = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let options = format!("lowerdir={},upperdir={},workdir={}", number(&lower), number(&upper), number(&work));
        mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .context(|| format!("overlay {}", dir.display()))?;
        self.ours.push(fs::metadata(dir).context(|| format!("look at {}", dir.display()))?.dev());
        Ok(())
    }

    /// Replaces `/` by a directory that holds every entry of the old one, and has room for more.
    fn new_root(&mut self) -> Result<()> {
        let what = || "make a new root".to_owned();
        let mut moved = Vec::new();
        for entry in fs::read_dir("/").context(what)? {
            let entry = entry.context(what)?;
            let kind = entry.file_type().context(what)?;
            let path = entry.path();
            let tree = if kind.is_symlink() { None } else { Some(detached(&path, true).context(what)?) };
            moved.push((path, kind, tree));
        }
        let root = self.fresh("root")?;
        mount_tmpfs(&root)?;
        let root = File::open(&root).context(what)?;
        let inside = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let device = root.metadata().context(what)?.dev();
        for (path, kind, tree) in moved {
            let place = inside.join(path.file_name().expect("an entry of a directory has a name"));
            match tree {
                None => symlink(fs::read_link(&path).context(what)?, &place).context(what)?,
                Some(tree) => {
                    if kind.is_dir() { fs::create_dir(&place) } else { File::create(&place).map(drop) }
                        .context(what)?;
                    move_mount(tree.as_fd(), &place).context(what)?;
                }
            }
        }
        nix::unistd::fchdir(&root).context(what)?;
        nix::unistd::pivot_root(".", ".").context(what)?;
        umount2(".", MntFlags::MNT_DETACH).context(what)?;
        nix::unistd::chdir("/").context(what)?;
        self.ours.push(device);
        self.reopen()
    }

    /// The kernel mounts only what belongs to the mount namespace, and to the tree, of the process.
    fn reopen(&mut self) -> Result<()> {
        self.scratch = open_dir(&self.mask).context(|| format!("open {}", self.mask.display()))?;
        Ok(())
    }
}

fn mount_tmpfs(at: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("mode=0755,size=50%"))
        .context(|| format!("mount a tmpfs on {}", at.display()))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)
        .context(|| format!("bind {} on {}", source.display(), target.display()))
}

fn ignore_gone(error: Errno) -> nix::Result<()> {
    // EINVAL: no mount (any more); ENOENT: an overlay or a new root hides it already.
    if matches!(error, Errno::EINVAL | Errno::ENOENT) { Ok(()) } else { Err(error) }
}

/// A detached copy of a volume, or of what is at `inner` in it.
fn source(volume: &Path, inner: &Path) -> io::Result<(OwnedFd, Kind)> {
    let mut at = File::from(open_path(volume)?);
    if !inner.as_os_str().is_empty() {
        at = within::open(at.as_fd(), inner)?.into();
    }
    let kind = if at.metadata()?.is_dir() { Kind::Directory } else { Kind::File };
    Ok((open_tree(at.as_fd(), true)?, kind))
}

/// A detached copy of what is mounted at `path`.
fn detached(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(open_path(path)?.as_fd(), recursive)
}

fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// The same of what a descriptor stands for, as open_tree(2) makes it.
fn open_tree(at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is an empty C string, and the call writes nothing to our memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a detached mount, as move_mount(2) does.
fn move_mount(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // A target below /proc/self/fd is reached through a magic link, which is followed only when asked for.
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_SYMLINKS;
    // SAFETY: both paths are C strings that outlive the call, and the call writes nothing to our memory.
    let result = unsafe {
        let number = libc::SYS_move_mount;
        libc::syscall(number, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags)
    };
    Errno::result(result)?;
    Ok(())
}

/// Makes a mount and all below it read-only without saying its other flags again, which a user namespace may not change.
fn read_only(target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    let mut attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: path and attributes outlive the call; the size given is that of the structure.
    let result = unsafe {
        let number = libc::SYS_mount_setattr;
        let size = size_of::<libc::mount_attr>();
        libc::syscall(number, libc::AT_FDCWD, target.as_ptr(), libc::AT_RECURSIVE, &raw mut attributes, size)
    };
    Errno::result(result)?;
    Ok(())
}

/// Opens a directory only to reach what lies below it, whatever is mounted over it later.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(path)?;
    Ok(file.into())
}
