//! Real watches and descriptors of this process on volumes written as a kubelet does. What inotify does was
//! measured: a watch on the root lives, one on a held file or on a followed `..data` is bound to what was
//! removed, one on the link itself ends.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::*;
use proc::Look;

const ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

struct Story {
    dir: tempfile::TempDir,
    id: VolumeId,
    device: u32,
    watchers: Watchers,
    listing: Arc<Listing>,
}

impl Story {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let meta = std::fs::metadata(dir.path()).expect("is there");
        let device = rustix::fs::major(meta.dev()) << 20 | rustix::fs::minor(meta.dev());
        let id = VolumeId { device, inode: meta.ino() };
        let mut story =
            Self { dir, id, device, watchers: Watchers::default(), listing: Arc::new(Listing::default()) };
        story.write("..1");
        story
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a generation and renames the link.
    fn write(&mut self, generation: &str) {
        std::fs::create_dir(self.path(generation)).expect("makes a folder");
        std::fs::write(self.path(generation).join("a"), generation).expect("writes");
        std::os::unix::fs::symlink(generation, self.path("..data_tmp")).expect("links");
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).expect("renames");
        let listing = Listing::read(&self.path(generation)).expect("reads").expect("is small");
        self.listing = Arc::new(listing);
    }

    fn look(&self) -> Vec<Seen> {
        let seen = proc::look(Path::new("/proc"), std::process::id(), Look::Everything, &mut 4_096);
        vec![seen.expect("it runs")]
    }

    fn note(&mut self, with_previous: bool) {
        let listing = Arc::clone(&self.listing);
        let seen = self.look();
        let current = Current { id: self.id, shown_device: self.device, listing: Some(&listing) };
        self.watchers.note(current, &seen, with_previous);
    }

    /// Swaps as a kubelet does, with both looks; the reasons found and the generations held.
    fn swap(&mut self, from: &str, to: &str) -> (Vec<String>, bool) {
        let previous = Arc::clone(&self.listing);
        self.write(to);
        self.watchers.swapped(self.id, from, Some(previous));
        self.note(true);
        std::fs::remove_dir_all(self.path(from)).expect("removes");
        let listing = Arc::clone(&self.listing);
        let seen = self.look();
        let current = Current { id: self.id, shown_device: self.device, listing: Some(&listing) };
        let container = ContainerId::parse(ID).expect("an id");
        let looked = self.watchers.compare(current, &container, &seen);
        let shown = |f: &Finding| {
            assert_eq!(f.pid, std::process::id());
            format!("{} {}", f.reason.as_str(), f.generation.as_deref().unwrap_or("gone"))
        };
        (looked.findings.iter().map(shown).collect(), looked.is_deaf)
    }
}

fn watch(path: &Path, flags: WatchFlags) -> std::os::fd::OwnedFd {
    let group = inotify::init(CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&group, path, flags).expect("watches");
    group
}

fn check(deaf: (&[&str], bool), story: (Vec<String>, bool)) {
    assert_eq!((story.0.iter().map(String::as_str).collect::<Vec<_>>(), story.1), (deaf.0.to_vec(), deaf.1));
}

#[test]
fn a_watch_on_the_root_lives_through_every_swap() {
    let mut story = Story::new();
    let _group = watch(story.dir.path(), WatchFlags::MOVED_TO | WatchFlags::CREATE);
    check((&[], false), story.swap("..1", "..2"));
    check((&[], false), story.swap("..2", "..3"));
}

#[test]
fn a_watch_on_a_file_that_is_held_is_deaf_after_its_swap() {
    let mut story = Story::new();
    let _held = std::fs::File::open(story.path("..data/a")).expect("opens");
    let _group = watch(&story.path("..data/a"), WatchFlags::ALL_EVENTS);
    check((&["held_descriptor ..1", "deaf ..1"], true), story.swap("..1", "..2"));
    // It stays so, and is told once.
    check((&[], true), story.swap("..2", "..3"));
}

#[test]
fn a_watch_on_a_file_that_nobody_holds_is_gone_and_deaf_unless_it_is_renewed() {
    let mut story = Story::new();
    let group = watch(&story.path("..data/a"), WatchFlags::ALL_EVENTS);
    check((&["deaf ..1"], true), story.swap("..1", "..2"));
    inotify::add_watch(&group, story.path("..data/a"), WatchFlags::ALL_EVENTS).expect("watches");
    story.note(false);
    let previous = Arc::clone(&story.listing);
    story.write("..3");
    story.watchers.swapped(story.id, "..2", Some(previous));
    story.note(true);
    std::fs::remove_dir_all(story.path("..2")).expect("removes");
    inotify::add_watch(&group, story.path("..data/a"), WatchFlags::ALL_EVENTS).expect("watches");
    let listing = Arc::clone(&story.listing);
    let current = Current { id: story.id, shown_device: story.device, listing: Some(&listing) };
    let container = ContainerId::parse(ID).expect("an id");
    let looked = story.watchers.compare(current, &container, &story.look());
    assert!(looked.findings.is_empty() && looked.is_listening && !looked.is_deaf, "{looked:?}");
}

#[test]
fn a_followed_data_watch_is_deaf_after_its_swap() {
    let mut story = Story::new();
    let _group = watch(&story.path("..data"), WatchFlags::ALL_EVENTS);
    check((&["deaf ..1"], true), story.swap("..1", "..2"));
}

#[test]
fn a_watch_on_the_link_itself_ends_with_it_and_says_so() {
    let mut story = Story::new();
    let _group = watch(&story.path("..data"), WatchFlags::ALL_EVENTS | WatchFlags::DONT_FOLLOW);
    story.note(false);
    check((&[], false), story.swap("..1", "..2"));
}

#[test]
fn what_is_watched_or_held_elsewhere_is_nobodys() {
    let mut story = Story::new();
    let other = tempfile::NamedTempFile::new().expect("a file");
    let _group = watch(other.path(), WatchFlags::ALL_EVENTS);
    let held = std::fs::File::open(other.path()).expect("opens");
    other.close().expect("removes");
    check((&[], false), story.swap("..1", "..2"));
    drop(held);
}
