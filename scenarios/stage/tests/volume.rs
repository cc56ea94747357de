//! The writer of volumes against the recorded folders of a real kubelet: names, kinds, modes and link targets.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aftertrace_stage::kubelet::atomic_writer::{self, Payload};
use aftertrace_stage::kubelet::volume;
use aftertrace_stage::replay::recording::recordings_folder;

/// Name to `<mode> [-> target]`, with the time-stamped folder called `..ts`.
type Layout = BTreeMap<String, String>;

/// Replaces a time-stamped name such as `..2026_11_20_10_55_33.4095618964`.
fn unstamped(name: &str) -> String {
    if name.starts_with("..2") { "..ts".to_owned() } else { name.to_owned() }
}

/// Reads one folder's section out of the text of `ls -laR`.
fn recorded(text: &str, folder: &str) -> Layout {
    let section = text.split("\n\n").find(|section| {
        section.lines().next().is_some_and(|first| first.trim_end_matches(':').ends_with(folder))
    });
    let lines = section.into_iter().flat_map(|section| section.lines().skip(2));
    let entries = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [mode, _, _, _, _, _, _, _, name, rest @ ..] = fields.as_slice() else { return None };
        let target = rest.get(1).map(|target| format!(" -> {}", unstamped(target))).unwrap_or_default();
        (*name != "..").then(|| (unstamped(name), format!("{mode}{target}")))
    });
    entries.collect()
}

fn written(folder: &Path) -> std::io::Result<Layout> {
    let mut layout = Layout::from([(".".to_owned(), describe(folder)?)]);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        layout.insert(unstamped(&entry.file_name().to_string_lossy()), describe(&entry.path())?);
    }
    Ok(layout)
}

fn describe(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::symlink_metadata(path)?;
    let kind = if metadata.is_symlink() {
        'l'
    } else if metadata.is_dir() {
        'd'
    } else {
        '-'
    };
    let bits = metadata.permissions().mode();
    let letters = (0..9).map(|bit| if bits & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] });
    let target = match std::fs::read_link(path) {
        Ok(target) => format!(" -> {}", unstamped(&target.to_string_lossy())),
        Err(_) => String::new(),
    };
    Ok(format!("{kind}{}{target}", letters.collect::<String>()))
}

#[test]
fn the_folders_are_those_of_a_real_kubelet() {
    let recording = recordings_folder().join("s03-volume-swap");
    if !recording.exists() {
        println!("SKIPPED: no recording at {}; set AFTERTRACE_SHARED", recording.display());
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("cfg");
    volume::create_folder(&folder).unwrap();
    let steps: [(&str, &[(&str, &str)]); 4] = [
        ("before", &[("app.conf", "v1"), ("other.txt", "same")]),
        ("afterv2", &[("app.conf", "v2"), ("other.txt", "same")]),
        ("afterv3", &[("app.conf", "v3"), ("added.txt", "new")]),
        ("afterv4", &[("app.conf", "v4"), ("added.txt", "new")]),
    ];
    for (moment, files) in steps {
        let payload: Payload =
            files.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect();
        assert!(atomic_writer::write(&folder, &payload).unwrap().is_some(), "{moment}: swapped");
        assert!(
            atomic_writer::write(&folder, &payload).unwrap().is_none(),
            "{moment}: unchanged, not renamed"
        );
        let text = std::fs::read_to_string(recording.join(format!("volumes.vol-pod.{moment}.lsR"))).unwrap();
        let expected = recorded(&text, "kubernetes.io~configmap/cfg");
        assert_eq!(expected.len(), 5, "{moment}: {expected:?}");
        assert_eq!(written(&folder).unwrap(), expected, "{moment}");
    }
}
