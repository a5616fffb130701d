//! Folders as users change them: with editors, with `mv`, and as Kubernetes swaps a mounted ConfigMap.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that unwraps says what it expects by failing"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_source::{Folder, Loaded};
use tokio::time::timeout;

/// No change takes longer to be seen; it is far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// When nothing is to happen, this long is waited.
const NOTHING: Duration = Duration::from_millis(400);

fn gateway(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  servers:\n  - port: {{number: {port}, name: http, protocol: HTTP}}\n    hosts: ['*']\n---\n"
    )
}

/// `name:port` of each gateway, in order.
fn shown(loaded: &Loaded) -> Vec<String> {
    let gateways = loaded.objects.gateways();
    gateways.iter().map(|(o, g)| format!("{}:{}", o.reference.name, g.servers[0].port.number)).collect()
}

fn codes(loaded: &Loaded) -> Vec<&'static str> {
    loaded.diagnostics.iter().map(|d| d.code).collect()
}

fn folder(dir: &TempDir) -> Folder {
    Folder::open(vec![dir.path().to_owned()])
}

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

async fn next(folder: &mut Folder) -> Loaded {
    timeout(PATIENCE, folder.changed()).await.expect("a change is seen");
    folder.load()
}

/// Loads until the gateways are `expected`: a burst may come as more than one change on a slow machine.
async fn until(folder: &mut Folder, expected: &[&str]) -> Loaded {
    let start = Instant::now();
    loop {
        let loaded = next(folder).await;
        if shown(&loaded) == expected {
            return loaded;
        }
        assert!(start.elapsed() < PATIENCE, "is {:?}", shown(&loaded));
    }
}

#[test]
fn every_file_and_nothing_hidden() {
    let dir = TempDir::new().unwrap();
    write(&dir, "b.yaml", &gateway("b", 1));
    write(&dir, "a.yml", &gateway("z", 2));
    write(
        &dir,
        "c/a.json",
        r#"{"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "c"}, "spec": {"servers": [{"port": {"number": 3, "name": "a", "protocol": "TCP"}, "hosts": []}]}}"#,
    );
    for ignored in [".a.yaml", "a.yaml~", "a.yaml.swp", "#a.yaml#", "4913", ".git/a.yaml", "README.md"] {
        write(&dir, ignored, &gateway("ignored", 9));
    }
    symlink(dir.path(), dir.path().join("c/circle")).unwrap();
    let loaded = folder(&dir).load();
    assert_eq!(shown(&loaded), ["b:1", "c:3", "z:2"]);
    assert_eq!(codes(&loaded), ["file-skipped"]);

    let (b, a) = (dir.path().join("b.yaml"), dir.path().join("a.yml"));
    assert_eq!(shown(&Folder::open(vec![b, a]).load()), ["b:1", "z:2"], "only what was named");
}

#[test]
fn the_last_in_path_order_wins() {
    let dir = TempDir::new().unwrap();
    let first = write(&dir, "a.yaml", &format!("{}{}", gateway("x", 1), gateway("other", 1)));
    let last = write(&dir, "b.yaml", &gateway("x", 2).repeat(2));
    let loaded = folder(&dir).load();
    assert_eq!(shown(&loaded), ["other:1", "x:2"], "as if applied in that order");
    let lines = gateway("x", 2).lines().count();
    let at = lines + 1;
    let same = format!(
        "warning {0}:1:1 Gateway/default/x -: is written again at {0}:{at}:1, which wins because it is later; remove one of the two",
        last.display(),
    );
    let expected = format!(
        "warning {}:1:1 Gateway/default/x -: is written again at {}:{at}:1, which wins because it is later in path order; remove one of the two",
        first.display(),
        last.display()
    );
    assert_eq!(loaded.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected, same]);
}

#[test]
fn what_looks_like_config_and_is_not_read_is_said() {
    let dir = TempDir::new().unwrap();
    for name in ["VS.YAML", ".vs.yaml", "vs.yaml~", "README.md", ".vs.yaml.swp"] {
        write(&dir, name, &gateway("x", 1));
    }
    let said = folder(&dir).load().diagnostics;
    let said: Vec<_> = said.iter().map(|d| (d.origin.file.rsplit('/').next().unwrap(), d.code)).collect();
    assert_eq!(said, [(".vs.yaml", "file-skipped"), ("VS.YAML", "file-skipped")]);
}

#[test]
fn a_path_that_is_not_there_is_an_error() {
    let loaded = Folder::open(vec!["/nowhere/at/all".into()]).load();
    assert_eq!(codes(&loaded), ["unreadable"]);
    assert!(loaded.objects.is_empty());
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects() {
    let dir = TempDir::new().unwrap();
    let text = [gateway("a", 1), gateway("b", 1), gateway("c", 1)].concat();
    let path = write(&dir, "a.yaml", &text);
    let mut folder = folder(&dir);
    assert_eq!(shown(&folder.load()), ["a:1", "b:1", "c:1"]);

    // One object is no YAML: it may be any of those that are missing.
    fs::write(&path, [gateway("a", 2), "x: [\n---\n".into(), gateway("c", 2)].concat()).unwrap();
    let loaded = next(&mut folder).await;
    assert_eq!(shown(&loaded), ["a:2", "b:1", "c:2"]);
    assert_eq!(codes(&loaded), ["invalid-yaml", "last-good"]);

    // One object has an error.
    fs::write(&path, [gateway("a", 3), gateway("b", 3).replace("hosts:", "nme: x\n    hosts:")].concat())
        .unwrap();
    let loaded = next(&mut folder).await;
    assert_eq!(shown(&loaded), ["a:3", "b:1"]);
    assert_eq!(codes(&loaded), ["unknown-field", "last-good"]);
    assert_eq!(loaded.refused.len(), 1);
    let at = loaded.diagnostics.iter().map(|d| d.origin.line).collect::<Vec<_>>();
    assert_eq!(at, [15, 15], "the note stands where the error is");

    fs::write(&path, b"a: 1\nb: \xff").unwrap();
    let loaded = next(&mut folder).await;
    assert_eq!(shown(&loaded), ["a:3", "b:1"]);
    assert_eq!(codes(&loaded), ["not-utf8", "last-good", "last-good"]);
    let at = &loaded.diagnostics[0].origin;
    assert_eq!((at.line, at.column), (2, 4));

    fs::write(&path, gateway("a", 4)).unwrap();
    let loaded = next(&mut folder).await;
    assert_eq!(shown(&loaded), ["a:4"]);
    assert_eq!(loaded.diagnostics, []);
}

#[tokio::test]
async fn an_object_that_is_broken_while_it_moves_stays() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "a.yaml", &gateway("a", 1));
    let mut folder = folder(&dir);
    folder.load();
    write(&dir, "b.yaml", &gateway("a", 2).replace("hosts:", "nme: x\n    hosts:"));
    fs::remove_file(path).unwrap();
    let loaded = next(&mut folder).await;
    assert_eq!(shown(&loaded), ["a:1"]);
    assert_eq!(codes(&loaded), ["unknown-field", "last-good"]);
}

#[tokio::test]
async fn edits_renames_and_deletions_are_seen() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "a.yaml", &gateway("a", 1));
    let mut folder = folder(&dir);
    folder.load();

    fs::write(&path, gateway("a", 2)).unwrap();
    assert_eq!(shown(&next(&mut folder).await), ["a:2"], "edited in place");

    let new = write(&dir, ".a.yaml.tmp", &gateway("a", 3));
    fs::rename(new, &path).unwrap();
    assert_eq!(shown(&next(&mut folder).await), ["a:3"], "renamed into place");

    write(&dir, "new/below/b.yaml", &gateway("b", 1));
    until(&mut folder, &["a:3", "b:1"]).await;
    write(&dir, "new/below/b.yaml", &gateway("b", 2));
    until(&mut folder, &["a:3", "b:2"]).await;

    fs::remove_dir_all(dir.path().join("new")).unwrap();
    until(&mut folder, &["a:3"]).await;
    fs::remove_file(path).unwrap();
    assert!(shown(&next(&mut folder).await).is_empty(), "deleted");
}

#[tokio::test]
async fn what_is_not_new_is_no_change() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "a.yaml", &gateway("a", 1));
    let mut folder = folder(&dir);
    let before = folder.load();
    fs::read(&path).unwrap();
    write(&dir, ".b.yaml.swp", "x");
    assert!(timeout(NOTHING, folder.changed()).await.is_err());

    // The same text again is read and changes no object.
    fs::write(&path, gateway("a", 1)).unwrap();
    let after = next(&mut folder).await;
    let object = |loaded: &Loaded| loaded.objects.iter().next().unwrap().clone();
    assert!(std::sync::Arc::ptr_eq(&object(&before), &object(&after)));
}

#[tokio::test]
async fn a_file_is_read_when_it_is_complete() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "a.yaml", &gateway("a", 1));
    let mut folder = folder(&dir);
    folder.load();

    let text = [gateway("a", 2), gateway("b", 2)].concat();
    let mut file = File::create(&path).unwrap();
    for part in text.as_bytes().chunks(40) {
        file.write_all(part).unwrap();
        let early = timeout(Duration::from_millis(30), folder.changed()).await;
        // On a slow machine more than 100 ms may have passed, and then it counts as complete.
        if early.is_ok() {
            return;
        }
        assert_eq!(shown(&folder.load()), ["a:1"], "half written");
    }
    drop(file);
    assert_eq!(shown(&next(&mut folder).await), ["a:2", "b:2"], "closed");

    let mut file = File::create(&path).unwrap();
    file.write_all(gateway("a", 3).as_bytes()).unwrap();
    assert_eq!(shown(&next(&mut folder).await), ["a:3"], "never closed, but untouched for a while");
    drop(file);
}

/// A folder as Kubernetes mounts a ConfigMap.
fn swap(dir: &Path, version: &str, files: &[(&str, String)]) {
    let real = dir.join(format!("..{version}"));
    fs::create_dir(&real).unwrap();
    for (name, text) in files {
        fs::write(real.join(name), text).unwrap();
        let link = dir.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(format!("..{version}"), dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test]
async fn a_config_map_is_swapped_as_one() {
    let dir = TempDir::new().unwrap();
    let both = |port| [("a.yaml", gateway("a", port)), ("b.yaml", gateway("b", port))];
    swap(dir.path(), "v1", &both(1));
    let mut folder = folder(&dir);
    let loaded = folder.load();
    assert_eq!(shown(&loaded), ["a:1", "b:1"]);
    assert_eq!(loaded.diagnostics, [], "nothing is read twice");
    for version in 2..5 {
        swap(dir.path(), &format!("v{version}"), &both(version));
        fs::remove_dir_all(dir.path().join(format!("..v{}", version - 1))).unwrap();
        let loaded = next(&mut folder).await;
        assert_eq!(shown(&loaded), [format!("a:{version}"), format!("b:{version}")], "one change");
        assert_eq!(loaded.diagnostics, []);
        assert!(timeout(NOTHING, folder.changed()).await.is_err(), "and no second one");
    }
}

#[tokio::test]
async fn files_behind_symlinks_are_watched() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let target = write(&elsewhere, "real.yaml", &gateway("a", 1));
    symlink(&target, dir.path().join("a.yaml")).unwrap();
    let mut folder = folder(&dir);
    assert_eq!(shown(&folder.load()), ["a:1"]);
    fs::write(&target, gateway("a", 2)).unwrap();
    assert_eq!(shown(&next(&mut folder).await), ["a:2"]);
}

#[tokio::test]
async fn a_folder_may_go_and_come_back() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("config");
    write(&dir, "config/a.yaml", &gateway("a", 1));
    let mut folder = Folder::open(vec![root.clone()]);
    folder.load();

    fs::rename(&root, dir.path().join("gone")).unwrap();
    let loaded = next(&mut folder).await;
    assert_eq!(shown(&loaded), ["a:1"], "what was good stays");
    assert_eq!(codes(&loaded), ["unreadable"]);

    write(&dir, "config/a.yaml", &gateway("a", 2));
    let loaded = until(&mut folder, &["a:2"]).await;
    assert_eq!(loaded.diagnostics, []);
    write(&dir, "config/a.yaml", &gateway("a", 3));
    assert_eq!(shown(&next(&mut folder).await), ["a:3"], "and is watched again");
}

#[tokio::test]
async fn a_symlink_to_a_folder_that_is_gone_is_said_and_keeps_its_objects() {
    let (dir, real) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let team = real.path().join("team");
    fs::create_dir(&team).unwrap();
    fs::write(team.join("a.yaml"), gateway("a", 1)).unwrap();
    symlink(&team, dir.path().join("team")).unwrap();
    let mut folder = folder(&dir);
    assert_eq!(shown(&folder.load()), ["a:1"]);
    fs::rename(&team, real.path().join("gone")).unwrap();
    let loaded = folder.load();
    assert_eq!(codes(&loaded), ["unreadable"]);
    assert_eq!(shown(&loaded), ["a:1"]);
}
