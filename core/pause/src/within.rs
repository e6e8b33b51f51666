//! Paths that somebody else may have put links into, followed no further than the directory they begin in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// What is at `path` below `root`; where nothing is, a directory is made. A link that leads out of `root`, for whatever reason
/// and at whatever moment, is an error (openat2(2), RESOLVE_BENEATH).
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match beneath(root, path) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(in_words),
    }
    let mut parent = PathBuf::from(".");
    for part in path {
        let above = beneath(root, &parent).map_err(in_words)?;
        match mkdirat(above.as_fd(), part, Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EEXIST) => parent.push(part),
            Err(error) => return Err(error.into()),
        }
    }
    beneath(root, path).map_err(in_words)
}

fn beneath(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn in_words(error: Errno) -> io::Error {
    match error {
        Errno::EXDEV => io::Error::other("a link leads out of the volume"),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    fn found(root: &Path, path: &str) -> io::Result<PathBuf> {
        use std::os::fd::AsRawFd;
        let fd = open(File::open(root)?.as_fd(), Path::new(path))?;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    #[test]
    fn directories_are_made_and_links_stay_inside() {
        let all = tempfile::tempdir().expect("a directory");
        let (root, secret) = (all.path().join("volume"), all.path().join("secret"));
        fs::create_dir_all(root.join("there")).expect("directories");
        fs::create_dir(&secret).expect("a directory");
        fs::write(root.join("file"), "").expect("a file");
        assert_eq!(found(&root, "made/anew").expect("made"), root.join("made/anew"));
        assert_eq!(found(&root, "file").expect("a file"), root.join("file"));
        symlink("../there", root.join("made/inside")).expect("a link");
        assert_eq!(found(&root, "made/inside/deep").expect("inside"), root.join("there/deep"));
        for out in ["..", "../secret", secret.to_str().expect("UTF-8")] {
            symlink(out, root.join("out")).expect("a link");
            for path in ["out", "out/deep"] {
                let error = found(&root, path).expect_err(path);
                assert_eq!(error.to_string(), "a link leads out of the volume", "{out}");
            }
            fs::remove_file(root.join("out")).expect("removed");
        }
        assert!(fs::read_dir(&secret).expect("listed").next().is_none(), "nothing was made outside");
    }
}
