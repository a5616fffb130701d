//! Memory of the worker thread for what `h2` takes by value, so that a message costs no allocation
//! of its own.

use crate::forward::head;
use crate::scatter;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, COOKIE, InvalidHeaderName, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::RefCell;
use std::io;

/// Pieces up to this long are copied one after the other into the same memory.
const SMALL: usize = 4 << 10;
/// How much of it there is at a time: this is also what a slow peer's small piece may hold on to.
const SHARED: usize = 16 << 10;
/// How many names and how many field lines are remembered.
const PLACES: usize = 256;
/// Longer names are not.
const LONGEST_NAME: usize = 64;
/// Longer lines are not.
const LONGEST_LINE: usize = 128;
/// A line that was said since is not forgotten for fewer others.
const OTHERS: u8 = 8;

/// How many maps of fields are kept.
const MAPS: usize = 64;
/// How many fields a map has room for at first, as `HeaderMap` counts.
const FIELDS: usize = 24;
/// One with more is not kept.
const MOST_FIELDS: usize = 64;

/// A name with how it was spelled.
type Name = (Box<[u8]>, HeaderName);

/// Field lines that were said before: most lines of a head were, in the head of another message.
pub(super) struct Lines(Vec<Place>);

/// Where a line is remembered.
#[derive(Clone, Default)]
struct Place {
    line: Box<[u8]>,
    field: Option<(HeaderName, HeaderValue)>,
    /// How many other lines belonged here since this one was last said.
    others: u8,
}

thread_local! {
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static NAMES: RefCell<Vec<Option<Name>>> = RefCell::new(vec![None; PLACES]);
    static MAPS_KEPT: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
    static LINES: RefCell<Lines> = RefCell::new(Lines(vec![Place::default(); PLACES]));
}

impl Lines {
    /// Those of this thread.
    pub(super) fn with<T>(f: impl FnOnce(&mut Lines) -> T) -> T {
        LINES.with_borrow_mut(f)
    }

    /// Takes the field that a line says.
    ///
    /// # Errors
    /// When it says none.
    #[inline]
    pub(super) fn field(
        &mut self,
        line: &[u8],
        take: impl FnOnce(&HeaderName, &HeaderValue),
    ) -> io::Result<()> {
        let place = &mut self.0[place_of(line)];
        match &place.field {
            Some((name, value)) if *place.line == *line => {
                place.others = 0;
                take(name, value);
            }
            _ => {
                let (name, value) = place.learn(line)?;
                take(&name, &value);
            }
        }
        Ok(())
    }
}

impl Place {
    /// Reads a line, and remembers it where that is worth it.
    fn learn(&mut self, line: &[u8]) -> io::Result<(HeaderName, HeaderValue)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let (name, text) = head::field(line).ok_or_else(invalid)?;
        let name = header_name(name).map_err(|_| invalid())?;
        let value = HeaderValue::from_maybe_shared(copied(text)).map_err(|_| invalid())?;
        self.others = self.others.saturating_add(1);
        if (self.field.is_none() || self.others >= OTHERS) && may_be_kept(line, &name) {
            // memory of its own, lest it hold on to that of others
            let value = HeaderValue::from_bytes(text).map_err(|_| invalid())?;
            *self = Place { line: line.into(), field: Some((name.clone(), value)), others: 0 };
        }
        Ok((name, value))
    }
}

/// An empty map for the fields of a message.
pub(super) fn take_map() -> HeaderMap {
    MAPS_KEPT.with_borrow_mut(Vec::pop).unwrap_or_else(|| HeaderMap::with_capacity(FIELDS))
}

/// Gives back a map whose fields are no longer needed.
pub(super) fn give_back_map(mut map: HeaderMap) {
    let usual = (1..=MOST_FIELDS).contains(&map.len());
    map.clear();
    MAPS_KEPT.with_borrow_mut(|kept| {
        if usual && kept.len() < MAPS {
            kept.push(map);
        }
    });
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

/// Whether a line is remembered: credentials are not.
fn may_be_kept(line: &[u8], name: &HeaderName) -> bool {
    line.len() <= LONGEST_LINE && ![AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE].contains(name)
}

/// The header name that is spelled so. The same few are said again and again, so it is looked for
/// among those said before: a new one is read byte by byte and may allocate.
///
/// # Errors
/// When it is no token.
pub(super) fn header_name(spelled: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    if spelled.len() > LONGEST_NAME {
        return HeaderName::from_bytes(spelled);
    }
    NAMES.with_borrow_mut(|places| {
        let place = &mut places[place_of(spelled)];
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

/// Where a text is remembered: by its length and both ends.
fn place_of(text: &[u8]) -> usize {
    let ends = match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(32),
        _ => text.iter().fold(0, |all, c| all << 8 | u64::from(*c)),
    };
    scatter::place(ends ^ text.len() as u64, PLACES.ilog2())
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

    fn said(line: &str) -> Option<String> {
        let mut said = None;
        let take = |name: &HeaderName, value: &HeaderValue| {
            said = Some(format!("{name}={}", value.to_str().unwrap()));
        };
        Lines::with(|lines| lines.field(line.as_bytes(), take)).ok()?;
        said
    }

    #[test]
    fn lines_are_the_same_the_second_time() {
        let lines: Vec<String> = (0..3000).map(|i| format!("X-{}:  {} ", i % 7, i / 7 % 100)).collect();
        for _ in 0..3 {
            for (i, line) in lines.iter().enumerate() {
                assert_eq!(said(line).unwrap(), format!("x-{}={}", i % 7, i / 7 % 100));
            }
        }
        for bad in ["", "x", ":x", "a b: c", "x: \0", "x: a\rb"] {
            for _ in 0..2 * OTHERS {
                assert_eq!(said(bad), None, "{bad}");
            }
        }
    }

    #[test]
    fn a_line_is_remembered_while_it_is_said() {
        let remembered =
            |line: &str| Lines::with(|lines| *lines.0[place_of(line.as_bytes())].line == *line.as_bytes());
        let (line, other) = ("x-abcd: 0 and the same end", "x-abcd: 1 and the same end");
        assert_eq!(place_of(line.as_bytes()), place_of(other.as_bytes()));
        said(line);
        for _ in 0..3 {
            for _ in 1..OTHERS {
                said(other);
                assert!(remembered(line));
            }
            said(line);
        }
        (0..OTHERS).for_each(|_| assert!(said(other).is_some()));
        assert!(remembered(other));
        for kept_from in ["cookie: a=b", "Authorization: Basic YTpi", "set-cookie: a=b"] {
            said(kept_from);
            assert!(!remembered(kept_from), "{kept_from}");
        }
    }
}
