//! What a hostile HTTP/2 client sends, written as frames, and what it hears.

use anyhow::{Context, Result};
use serde::Deserialize;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
/// With no table on our side the first field of a response is always written out or in the static table.
const NO_TABLE: &[u8] = b"\0\x01\0\0\0\0";

/// A frame, or a group of them that is repeated.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub(super) enum Item {
    Group {
        repeat: u32,
        /// How much the numbers of the streams grow each time.
        stream_step: u32,
        frames: Vec<Item>,
    },
    Frame {
        #[serde(rename = "type")]
        kind: Kind,
        flags: u8,
        stream: u32,
        payload_hex: String,
        /// The length to claim instead of the payload's.
        length: Option<u32>,
        /// `self_dependency`: a payload of PRIORITY that names its own stream.
        payload_from: Option<String>,
    },
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub(super) enum Kind {
    Name(String),
    Number(u8),
}

impl Kind {
    fn number(&self) -> Result<u8> {
        const NAMES: [&str; 10] = [
            "DATA",
            "HEADERS",
            "PRIORITY",
            "RST_STREAM",
            "SETTINGS",
            "PUSH_PROMISE",
            "PING",
            "GOAWAY",
            "WINDOW_UPDATE",
            "CONTINUATION",
        ];
        match self {
            Kind::Number(n) => Ok(*n),
            Kind::Name(name) => {
                let at = NAMES.iter().position(|n| n == name);
                Ok(u8::try_from(at.with_context(|| format!("no frame {name}"))?)?)
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// The client's preface and its SETTINGS, where a script has none of its own.
pub(super) fn preface(raw: Option<&str>, settings: bool) -> Result<Vec<u8>> {
    let mut bytes = raw.map_or_else(|| Ok(PREFACE.to_vec()), hex)?;
    if settings {
        bytes.extend(frame(SETTINGS, 0, 0, 6, NO_TABLE));
    }
    Ok(bytes)
}

/// SETTINGS with one setting.
pub(super) fn settings(setting: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, 6, &[&setting.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A whole request.
pub(super) fn get_head(stream: u32) -> Vec<u8> {
    // :method GET, :scheme http, :path /, :authority
    let block = b"\x82\x86\x84\x01\x09a.example";
    frame(1, 5, stream, block.len() as u32, block)
}

/// The frames as bytes.
pub(super) fn frames(items: &[Item], offset: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for item in items {
        match item {
            Item::Group { repeat, stream_step, frames: inner } => {
                for n in 0..*repeat {
                    bytes.extend(frames(inner, offset + n * stream_step)?);
                }
            }
            Item::Frame { kind, flags, stream, payload_hex, length, payload_from } => {
                let stream = if *stream == 0 { 0 } else { stream + offset };
                let payload = match payload_from.as_deref() {
                    Some("self_dependency") => [&stream.to_be_bytes()[..], &[16]].concat(),
                    Some(other) => anyhow::bail!("no payload from {other}"),
                    None => hex(payload_hex)?,
                };
                let length = length.unwrap_or(u32::try_from(payload.len())?);
                bytes.extend(frame(kind.number()?, *flags, stream, length, &payload));
            }
        }
    }
    Ok(bytes)
}

/// HEADERS and CONTINUATION of a request that does not end, with a field of that many bytes.
pub(super) fn long_head(stream: u32, length: usize) -> Vec<u8> {
    const FRAME: usize = 16 << 10;
    // :method POST, :scheme http, :path /, :authority, and a name whose value's length has two bytes behind 127
    let mut block = b"\x83\x86\x84\x01\x09a.example\x00\x05x-pad\x7f".to_vec();
    let rest = length - 127;
    block.extend([(rest & 0x7f) as u8 | 0x80, (rest >> 7 & 0x7f) as u8 | 0x80, (rest >> 14) as u8]);
    block.resize(block.len() + length, b'y');
    let mut bytes = Vec::new();
    let last = block.chunks(FRAME).len() - 1;
    for (n, part) in block.chunks(FRAME).enumerate() {
        let (kind, flags) = (if n == 0 { 1 } else { 9 }, if n == last { 4 } else { 0 });
        bytes.extend(frame(kind, flags, stream, part.len() as u32, part));
    }
    bytes
}

/// How many requests are sent whole, by their HEADERS alone.
pub(super) fn whole_requests(items: &[Item]) -> usize {
    let whole = |item: &&Item| matches!(item, Item::Frame { kind, flags, .. } if kind.number().is_ok_and(|k| k == 1) && flags & 1 != 0);
    items.iter().filter(whole).count()
}

/// What came back.
#[derive(Default, Debug)]
pub(super) struct Heard {
    bytes: Vec<u8>,
    /// The code of GOAWAY.
    pub(super) goaway: Option<u32>,
    pub(super) resets: usize,
    pub(super) statuses: Vec<u16>,
    /// The status of an answer in HTTP/1.
    pub(super) http1: Option<u16>,
    pub(super) closed: bool,
}

impl Heard {
    /// Takes more bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.starts_with(b"HTTP/1.") {
            self.http1 = super::upstream::statuses(&self.bytes).first().copied();
            return;
        }
        while let Some((payload, kind, flags, rest)) = next(&self.bytes) {
            match kind {
                7 => self.goaway = payload.get(4..8).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]])),
                3 => self.resets += 1,
                1 => self.statuses.extend(status(payload, flags)),
                _ => {}
            }
            let rest = self.bytes.len() - rest;
            self.bytes.drain(..rest);
        }
    }

    /// Whether there is something to judge by.
    pub(super) fn anything(&self) -> bool {
        self.goaway.is_some() || self.resets > 0 || !self.statuses.is_empty() || self.http1.is_some()
    }
}

/// The payload of the first frame, its type, its flags, and how many bytes follow it.
fn next(bytes: &[u8]) -> Option<(&[u8], u8, u8, usize)> {
    let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = bytes else { return None };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    Some((rest.get(..length)?, *kind, *flags, rest.len() - length))
}

/// The status of a response, which is its first field (RFC 7541 6); `None` for trailers.
fn status(mut block: &[u8], flags: u8) -> Option<u16> {
    if flags & 0x8 != 0 {
        block = &block[1..];
    }
    if flags & 0x20 != 0 {
        block = &block[5..];
    }
    // changes of the table's size
    while block.first()? & 0xe0 == 0x20 {
        block = &block[1..];
    }
    let known = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [at @ 0x88..=0x8e, ..] => Some(known[usize::from(at - 0x88)]),
        [0x48 | 0x08 | 0x18, 3, digits @ ..] => std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok(),
        [0x48 | 0x08 | 0x18, 0x82, a, b, ..] => Some(three_digits([*a, *b, 0])),
        [0x48 | 0x08 | 0x18, 0x83, a, b, c, ..] => Some(three_digits([*a, *b, *c])),
        _ => None,
    }
}

/// Three digits in Huffman's code (RFC 7541 B): 0, 1 and 2 have five bits, the others six.
fn three_digits([a, b, c]: [u8; 3]) -> u16 {
    let (mut code, mut number) = (u32::from_be_bytes([a, b, c, 0]), 0);
    for _ in 0..3 {
        let (five, six) = (code >> 27, code >> 26);
        let (digit, bits) = if five < 3 { (five, 5) } else { (six.saturating_sub(22), 6) };
        number = number * 10 + digit;
        code <<= bits;
    }
    u16::try_from(number).unwrap_or(0)
}

#[test]
fn statuses_are_read() {
    for (block, flags, expected) in [
        (&b"\x88"[..], 4, Some(200)),
        (b"\x20\x8d\x00", 4, Some(404)),
        (b"\x20\x48\x83\x69\x90\xff", 4, Some(431)),
        (b"\x08\x82\x6c\x02", 4, Some(502)),
        (b"\x48\x82\x08\x19", 4, Some(103)),
        (b"\x00\x00\x00\x00\x00\x08\x03503", 0x24, Some(503)),
        (b"\x00\x01a\x01b", 5, None),
    ] {
        assert_eq!(status(block, flags), expected, "{block:x?}");
    }
}
