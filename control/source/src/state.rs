//! The objects that were accepted last, kept in a file for a start without their source.
//!
//! The file has a line that says what it is, and one for each object. It has the contents of Secrets, so only its owner
//! may read it. It is replaced whole, by a rename after the bytes are on the disk.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_api::{Object, Objects, Position, Value, restore};

/// The file in the folder.
const NAME: &str = "last-good.jsonl";
/// What the first line says.
const FORMAT: &str = "tidegate-last-good";
const VERSION: u32 = 1;
/// More is no file of ours.
const MAX_SIZE: u64 = 1 << 30;

/// What was kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// How many there are that this version of the gateway does not take.
    pub refused: usize,
    /// When they were written.
    pub written: Option<SystemTime>,
}

/// Why nothing was kept, or could be read: the file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}: {1}")]
pub struct StateError(pub PathBuf, pub io::Error);

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Of all lines that follow.
    crc32: u32,
    /// Seconds since 1970.
    written: u64,
}

/// The line of an object.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    file: Arc<str>,
    line: u32,
    column: u32,
    object: T,
}

/// A folder where objects are kept.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

impl StateFolder {
    /// This one; it is made when it is written to.
    pub fn new(folder: PathBuf) -> Self {
        StateFolder(folder)
    }

    /// The file in it.
    pub fn file(&self) -> PathBuf {
        self.0.join(NAME)
    }

    /// What was kept; nothing where nothing ever was.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it was written.
    pub fn load(&self) -> Result<Kept, StateError> {
        let path = self.file();
        match File::open(&path) {
            Ok(file) => Kept::read(file).map_err(|e| StateError(path, e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(e) => Err(StateError(path, e)),
        }
    }

    /// Keeps these objects in place of others.
    ///
    /// # Errors
    /// When they cannot be written: what was kept before still is.
    pub fn save(&self, objects: &Objects) -> Result<(), StateError> {
        self.write(objects).map_err(|e| StateError(self.file(), e))
    }

    fn write(&self, objects: &Objects) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let beside = self.0.join(format!(".{NAME}.new"));
        let replaced = replace(&beside, &self.file(), &Kept::write(objects)?);
        if replaced.is_err() {
            // what is left of it is of no use, and may fill the disk
            let _ = fs::remove_file(&beside);
        }
        replaced
    }
}

impl Kept {
    /// The objects as they are kept.
    ///
    /// # Errors
    /// When one cannot be written as JSON.
    pub fn write(objects: &Objects) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        for object in objects.iter() {
            let Position { line, column } = object.written.at();
            let kept: Line<Value> = Line { file: object.file.clone(), line, column, object: object.whole() };
            serde_json::to_writer(&mut lines, &kept)?;
            lines.push(b'\n');
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            crc32: crc32fast::hash(&lines),
            written: now.as_secs(),
        };
        let mut whole = serde_json::to_vec(&header)?;
        whole.push(b'\n');
        whole.append(&mut lines);
        Ok(whole)
    }

    /// Reads what [`Kept::write`] gave.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(from: impl Read) -> io::Result<Kept> {
        let corrupt = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut text = Vec::new();
        from.take(MAX_SIZE).read_to_end(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| corrupt("it is no text"))?;
        let (first, rest) = text.split_once('\n').ok_or_else(|| corrupt("it is cut short"))?;
        let header: Header =
            serde_json::from_str(first).map_err(|_| corrupt("it is no file of a gateway"))?;
        if (&*header.format, header.version) != (FORMAT, VERSION) {
            return Err(corrupt(&format!("it is of version {} of {:?}", header.version, header.format)));
        }
        if header.crc32 != crc32fast::hash(rest.as_bytes()) {
            return Err(corrupt("it is not as it was written"));
        }
        let written = UNIX_EPOCH.checked_add(Duration::from_secs(header.written));
        let mut kept = Kept { written, ..Kept::default() };
        for line in rest.lines() {
            let line: Line<&RawValue> = serde_json::from_str(line)?;
            let at = Position { line: line.line, column: line.column };
            match restore(&line.file, at, line.object.get()) {
                Some(object) => kept.objects.push(Arc::new(object)),
                None => kept.refused += 1,
            }
        }
        Ok(kept)
    }
}

fn replace(beside: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    // one that is left of a process that was killed may have other permissions
    match fs::remove_file(beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    // the name is on the disk once its folder is
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn objects() -> Objects {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: very private}\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n";
        tidegate_api::read("/etc/a.yaml", text).objects.into_iter().collect()
    }

    #[test]
    fn what_is_saved_is_loaded_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::new(dir.path().join("deep/state"));
        assert!(state.load().unwrap().objects.is_empty(), "nothing yet");
        state.save(&Objects::new()).unwrap();
        state.save(&objects()).unwrap();
        let kept = state.load().unwrap();
        let mut known: Vec<_> =
            kept.objects.iter().map(|o| (o.reference.to_string(), o.origin().to_string())).collect();
        known.sort();
        let expected = [("Namespace//team", "/etc/a.yaml:6:1"), ("Secret/default/s", "/etc/a.yaml:1:1")];
        assert_eq!(known, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(kept.refused == 0 && kept.written.is_some());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state.file()), mode(&state.0)), (0o600, 0o700));
        let names: Vec<_> = fs::read_dir(&state.0).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [NAME], "nothing is left beside it");
    }

    #[test]
    fn what_is_not_as_it_was_written_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::new(dir.path().to_owned());
        state.save(&objects()).unwrap();
        let whole = fs::read(state.file()).unwrap();
        let broken: [(&str, Vec<u8>); 6] = [
            ("cut short", Vec::new()),
            ("cut short", whole[..20].to_vec()),
            ("no file of a gateway", b"{}\n".to_vec()),
            ("as it was written", whole[..whole.len() - 1].to_vec()),
            ("as it was written", [&whole[..whole.len() - 3], b"xx\n"].concat()),
            ("of version 2", String::from_utf8(whole).unwrap().replacen(":1,", ":2,", 1).into_bytes()),
        ];
        for (why, bytes) in broken {
            fs::write(state.file(), bytes).unwrap();
            let error = state.load().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        fs::remove_file(state.file()).unwrap();
        fs::create_dir(state.file()).unwrap();
        assert!(state.load().is_err());
        assert!(state.save(&objects()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
