//! Files and descriptors that carry secrets: checked before reading, written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::KeyError;

/// Opens a secret file for reading and returns its first `limit` bytes.
///
/// # Errors
/// Missing, not a plain file, readable or writable by group or others, longer than `limit`.
pub(super) fn read_private(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let io = |action| move |source| KeyError::Io { action, path: path.to_owned(), source };
    // Asked before opening, because opening a pipe would wait for its writer.
    let found = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
        _ => io("look at")(source),
    })?;
    if !found.is_file() {
        return Err(KeyError::NotAFile { path: path.to_owned() });
    }
    let mut file = File::open(path).map_err(io("open"))?;
    // The opened file's own permissions count, whatever the name points at by now.
    refuse_loose(path, &file.metadata().map_err(io("look at"))?)?;
    read_bounded(&mut file, limit)
        .map_err(io("read"))?
        .ok_or_else(|| KeyError::TooLong { origin: path.display().to_string(), limit })
}

/// Reads a descriptor that the caller of the program opened for us, to its end.
///
/// The descriptor is opened anew through `/dev/fd`: no `unsafe`, and a plain file is read from its
/// start. The inherited descriptor itself stays open until the program ends.
///
/// # Errors
/// Not open for reading; longer than `limit` bytes.
pub(super) fn read_fd(fd: u32, limit: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut file =
        File::open(format!("/dev/fd/{fd}")).map_err(|source| KeyError::Fd { fd, source })?;
    read_bounded(&mut file, limit)
        .map_err(|source| KeyError::Fd { fd, source })?
        .ok_or_else(|| KeyError::TooLong { origin: format!("descriptor {fd}"), limit })
}

/// Writes a secret to a descriptor that the caller of the program opened for us: a pipe, or a file
/// that nobody else may open.
///
/// # Errors
/// Not open; a file open to other users.
pub(crate) fn write_fd(fd: u32, bytes: &[u8]) -> Result<(), KeyError> {
    let name = format!("/dev/fd/{fd}");
    let failed = |source| KeyError::Fd { fd, source };
    // Appending, because the descriptor that is opened anew does not share the old one's place.
    let mut to = OpenOptions::new().append(true).open(&name).map_err(failed)?;
    let found = to.metadata().map_err(failed)?;
    if found.is_file() {
        refuse_loose(&fs::canonicalize(&name).map_err(failed)?, &found)?;
    }
    to.write_all(bytes).map_err(failed)
}

fn refuse_loose(path: &Path, found: &fs::Metadata) -> Result<(), KeyError> {
    match found.permissions().mode() & 0o7777 {
        mode if mode & 0o077 != 0 => {
            Err(KeyError::LoosePermissions { path: path.to_owned(), mode })
        }
        _ => Ok(()),
    }
}

/// Fails if two of the descriptors are the same: the second reader of a pipe would find it empty.
///
/// # Errors
/// [`KeyError::SharedFd`].
pub(crate) fn distinct_fds<const N: usize>(fds: [Option<u32>; N]) -> Result<(), KeyError> {
    let mut named: Vec<u32> = fds.into_iter().flatten().collect();
    named.sort_unstable();
    match named.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(KeyError::SharedFd(pair[0])),
        None => Ok(()),
    }
}

/// The whole input, or `None` if it is longer than `limit`. The buffer never moves while it grows,
/// so that no copy of a secret is left behind unwiped.
fn read_bounded(from: &mut File, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut buffer = Zeroizing::new(vec![0; limit + 1]);
    let mut filled = 0;
    while filled <= limit {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => {
                buffer.truncate(filled);
                return Ok(Some(buffer));
            }
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Writes a new file of mode 0600: all of it under its name, or nothing.
///
/// The bytes go to a temporary file in the same directory, are synced, and take the name in one
/// step that fails if the name is taken; then the directory is synced.
///
/// # Errors
/// The name is taken; the directory is missing or not writable.
pub(super) fn write_private_new(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    refuse_existing(path)?;
    let directory = parent(path);
    let io = |action| move |source| KeyError::Io { action, path: path.to_owned(), source };
    // tempfile creates with mode 0600 and removes the file if anything below fails.
    let mut temporary = tempfile::Builder::new()
        .prefix(".bursar-")
        .tempfile_in(&directory)
        .map_err(io("create a file beside"))?;
    temporary
        .write_all(bytes)
        .and_then(|()| temporary.as_file().sync_all())
        .map_err(io("write"))?;
    temporary.persist_noclobber(path).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => io("name")(e.error),
    })?;
    File::open(&directory).and_then(|d| d.sync_all()).map_err(io("sync the directory of"))
}

/// Fails if anything, even a dangling link, has this name.
///
/// # Errors
/// [`KeyError::Exists`].
pub(crate) fn refuse_existing(path: &Path) -> Result<(), KeyError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(KeyError::Exists { path: path.to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(KeyError::Io { action: "look at", path: path.to_owned(), source }),
    }
}

/// The directory that holds `path`; the current one for a bare name.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}
