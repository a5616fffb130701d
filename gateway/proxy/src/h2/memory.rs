//! Memory of the worker thread for what `h2` takes by value, so that a message costs no allocation
//! of its own.

use bytes::{Bytes, BytesMut};
use http::HeaderName;
use http::header::InvalidHeaderName;
use std::cell::RefCell;

/// Pieces up to this long are copied one after the other into the same memory.
const SMALL: usize = 4 << 10;
/// How much of it there is at a time: this is also what a slow peer's small piece may hold on to.
const SHARED: usize = 16 << 10;
/// How many names are remembered.
const NAMES: usize = 256;
/// Longer ones are not.
const LONGEST_NAME: usize = 64;

/// A name with how it was spelled.
type Said = (Box<[u8]>, HeaderName);

thread_local! {
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static SAID: RefCell<Vec<Option<Said>>> = RefCell::new(vec![None; NAMES]);
}

/// A copy.
pub(super) fn copied(bytes: &[u8]) -> Bytes {
    if bytes.len() > SMALL {
        return Bytes::copy_from_slice(bytes);
    }
    ROOM.with(|room| {
        let mut room = room.borrow_mut();
        if room.capacity() < bytes.len() && !room.try_reclaim(SMALL) {
            *room = BytesMut::with_capacity(SHARED);
        }
        room.extend_from_slice(bytes);
        room.split().freeze()
    })
}

/// The header name that is spelled so. The same few are said again and again, so it is looked for
/// among those said before: a new one is read byte by byte and may allocate.
///
/// # Errors
/// When it is no token.
pub(super) fn header_name(spelled: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let (Some(first), Some(last), 1..=LONGEST_NAME) = (spelled.first(), spelled.last(), spelled.len()) else {
        return HeaderName::from_bytes(spelled);
    };
    let middle = spelled[spelled.len() / 2];
    let mixed = [*first, middle, *last].iter().fold(spelled.len(), |n, c| n * 31 + usize::from(*c));
    SAID.with(|said| {
        let place = &mut said.borrow_mut()[mixed % NAMES];
        match place {
            Some((before, name)) if **before == *spelled => Ok(name.clone()),
            _ => {
                let name = HeaderName::from_bytes(spelled)?;
                *place = Some((spelled.into(), name.clone()));
                Ok(name)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_what_they_are() {
        let pieces: Vec<Vec<u8>> =
            (0..100u8).map(|i| vec![i; 37 * usize::from(i) * usize::from(i % 7)]).collect();
        let copies: Vec<Bytes> = pieces.iter().map(|p| copied(p)).collect();
        assert_eq!(copies, pieces);
        drop(copies);
        assert_eq!(copied(b"again"), &b"again"[..]);
    }

    #[test]
    fn names_are_the_same_the_second_time() {
        // more than are remembered, so that some take the place of others
        let names: Vec<String> = (0..1000).map(|i| format!("X-{}-{i}", i % 13)).collect();
        for _ in 0..2 {
            for name in &names {
                assert_eq!(header_name(name.as_bytes()).unwrap().as_str(), name.to_ascii_lowercase());
            }
        }
        for bad in ["", "a b", "a:", "\u{e4}"] {
            assert!(header_name(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(header_name("X".repeat(65).as_bytes()).unwrap().as_str(), "x".repeat(65));
    }
}
