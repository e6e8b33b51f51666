//! Namespaces by handle, by path and by process.

mod world;

use std::os::unix::fs::PermissionsExt;

use switchyard_kernel::Netns;
use world::isolated;

#[test]
fn a_namespace_has_an_identity_and_a_name() {
    isolated("a_namespace_has_an_identity_and_a_name", || {
        let here = Netns::current().unwrap();
        let new = Netns::create().unwrap();
        assert_ne!(here.identity(), new.identity());
        assert_eq!(Netns::current().unwrap().identity(), here.identity(), "the caller stays where it is");
        assert_eq!(new.run(|| Netns::current().unwrap().identity()).unwrap(), new.identity());
        assert_eq!(Netns::of_pid(std::process::id()).unwrap().identity(), here.identity());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod");
        new.bind(&path).unwrap();
        let identity = new.identity();
        drop(new);
        assert_eq!(Netns::open(&path).unwrap().identity(), identity, "the name keeps it alive");
        Netns::unbind(&path).unwrap();
        Netns::unbind(&path).unwrap();
        assert!(!path.exists());

        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Netns::open(&file).unwrap_err().to_string().contains("no namespace"));
        assert!(Netns::open("/proc/self/ns/mnt").unwrap_err().to_string().contains("no network namespace"));
        let other = Netns::create().unwrap();
        other.bind(&file).unwrap();
        Netns::unbind(&file).unwrap();
        let third = folder.path().join("third");
        other.bind(&third).unwrap();
        rustix::mount::unmount(&third, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(std::fs::metadata(&third).unwrap().permissions().mode() & 0o777, 0o600);
    });
}
