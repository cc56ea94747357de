//! Programs that follow a mounted file: those that hear of each swap and reopen, and those that go deaf.
//!
//! What each kind of inotify mark hears of a swap was measured; see the ways one by one.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::{raw, say, sleep_for_ever};

/// In which way a file is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// Watch the volume's folder, and open the file anew at each swap: hears `MOVED_TO ..data` every time.
    Reopen,
    /// Read the file once, watch the volume's folder, and do nothing.
    Ignore,
    /// Watch the file itself while holding it open: hears `ATTRIB` once, then nothing for ever.
    WatchFile,
    /// Watch what `..data` leads to: hears `DELETE` once, then is bound to the dead folder.
    WatchData,
    /// Watch the link `..data`: hears `DELETE_SELF` once, and the watch is gone.
    WatchLink,
    /// Hold the file open, without a watch.
    Hold,
    /// Map the file, and close it.
    Map,
    /// Read the file once, and close it.
    Once,
}

/// See [`super::Victim::Read`].
///
/// # Errors
/// What the system refuses.
pub fn read(how: How, path: &Path) -> anyhow::Result<()> {
    // A file that is mounted by itself has none, and its readers need none.
    let is_volume = |folder: &&Path| folder.join("..data").exists();
    let folder = path.ancestors().find(is_volume).unwrap_or(path);
    match how {
        How::Reopen => watch(folder, WatchFlags::MOVED_TO, || show(path)),
        How::Ignore => {
            show(path)?;
            watch(folder, WatchFlags::MOVED_TO, || Ok(()))
        }
        How::WatchFile => {
            let held = open(path)?;
            watch(path, WatchFlags::ALL_EVENTS, || show_again(&held))
        }
        How::WatchData => {
            show(path)?;
            watch(&folder.join("..data"), WatchFlags::ALL_EVENTS, || Ok(()))
        }
        How::WatchLink => {
            show(path)?;
            watch(&folder.join("..data"), WatchFlags::ALL_EVENTS | WatchFlags::DONT_FOLLOW, || Ok(()))
        }
        How::Hold => {
            let _held = open(path)?;
            say("ready")?;
            sleep_for_ever()
        }
        How::Map => {
            let first = raw::map_for_ever(&open(path)?).context("cannot map the file")?;
            say(&format!("mapped, first byte {first}"))?;
            say("ready")?;
            sleep_for_ever()
        }
        How::Once => {
            show(path)?;
            say("ready")?;
            sleep_for_ever()
        }
    }
}

/// Says each event, and does something at each that is one of a swap.
fn watch(path: &Path, events: WatchFlags, react: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let queue = inotify::init(CreateFlags::CLOEXEC).context("cannot make an inotify queue")?;
    let watched = inotify::add_watch(&queue, path, events);
    watched.with_context(|| format!("cannot watch {}", path.display()))?;
    react()?;
    say("ready")?;
    let mut buffer = [MaybeUninit::uninit(); 4_096];
    let mut reader = Reader::new(queue.as_fd(), &mut buffer);
    loop {
        let event = reader.next().context("cannot read the inotify queue")?;
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Reading the file makes events of its own.
        let is_own =
            event.events().intersects(ReadFlags::ACCESS | ReadFlags::OPEN | ReadFlags::CLOSE_NOWRITE);
        if is_own || event.events() == ReadFlags::MOVED_TO && name != "..data" {
            continue;
        }
        say(&format!("heard {:?} {name}", event.events()))?;
        react()?;
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn show(path: &Path) -> anyhow::Result<()> {
    let content = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    say(&format!("read {}", content.trim_end().replace('\n', " ")))
}

fn show_again(held: &File) -> anyhow::Result<()> {
    let mut content = [0; 256];
    let length = held.read_at(&mut content, 0).context("cannot read the held file")?;
    say(&format!("read {}", String::from_utf8_lossy(&content[..length]).trim_end()))
}
