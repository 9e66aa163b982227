//! As much of HTTP/1.1 as measuring needs: one request, one response with a `Content-Length`.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::Target;

/// How the lock's name of a request is drawn.
#[derive(Clone, Copy)]
enum Name {
    None,
    New,
    /// A new name in base64.
    New64,
    /// One of a fixed number of names.
    Of,
    /// Each of a fixed number of names once, whichever connection draws it.
    Each,
    /// The connection's own.
    Own,
}

const NAMES: [(Name, &str); 5] = [
    (Name::New, "{new}"),
    (Name::New64, "{new64}"),
    (Name::Of, "{of}"),
    (Name::Each, "{each}"),
    (Name::Own, "{own}"),
];
const LEASE_ID: &str = "{id}";

/// A part of a request.
enum Piece {
    Text(Vec<u8>),
    Name,
    /// The id of the name's lease.
    LeaseId,
}

/// The number of names that `{each}` has become.
static DRAWN: AtomicU64 = AtomicU64::new(0);
/// A prime. Its multiples visit all remainders of a smaller number once, in an order that looks
/// random.
const STRIDE: u64 = 2_654_435_761;

/// The requests of a connection without a name: one, or two in turns about the same name.
pub(crate) struct Template {
    requests: Vec<Vec<Piece>>,
    next: usize,
    kind: Name,
    has_lease_id: bool,
    /// Names are the images of consecutive numbers under a bijection: random to look at, and never
    /// twice.
    number: u64,
    random: u64,
    among: u64,
    index: u64,
    name: Vec<u8>,
    lease_id: [u8; 36],
    expect: Vec<u8>,
    buffer: Vec<u8>,
}

impl Template {
    /// Makes the template for the connection with this index.
    pub(crate) fn new(target: &Target, index: usize) -> Self {
        let texts: Vec<_> = std::iter::once(&target.path)
            .chain(&target.then)
            .map(|path| request_text(target, path, index))
            .collect();
        let contains = |mark: &str| texts.iter().any(|text| text.contains(mark));
        let (kind, mark) = NAMES
            .into_iter()
            .find(|(_, mark)| contains(mark))
            .unwrap_or((Name::None, ""));
        Self {
            requests: texts.iter().map(|text| pieces(text, mark)).collect(),
            next: 0,
            kind,
            has_lease_id: contains(LEASE_ID),
            number: rand::random(),
            random: rand::random::<u64>() | 1,
            among: target.among.max(1),
            index: index as u64,
            name: Vec::new(),
            lease_id: [0; 36],
            expect: target.expect.clone().into(),
            buffer: Vec::new(),
        }
    }

    fn next_request(&mut self) -> &[u8] {
        if self.next == 0 {
            self.draw();
        }
        self.buffer.clear();
        for piece in &self.requests[self.next] {
            self.buffer.extend_from_slice(match piece {
                Piece::Text(text) => text,
                Piece::Name => &self.name,
                Piece::LeaseId => &self.lease_id,
            });
        }
        self.next = (self.next + 1) % self.requests.len();
        &self.buffer
    }

    /// Draws the name of the next requests, and the id of its lease: new, except for `{each}`,
    /// whose locks are held by leases with ids that follow from their numbers.
    fn draw(&mut self) {
        self.name.clear();
        let mut lease_id = None;
        match self.kind {
            Name::None => {}
            Name::New => self.name.extend(new_name(&mut self.number)),
            Name::New64 => {
                let mut space = [0; 24];
                let len = STANDARD
                    .encode_slice(new_name(&mut self.number), &mut space)
                    .expect("24 are enough for 17");
                self.name.extend(&space[..len]);
            }
            Name::Of => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.name
                    .extend(numbered_name(b'k', self.random % self.among));
            }
            Name::Each => {
                let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
                // No lock has the names after the last one, and their responses are unexpected.
                let number = if drawn < self.among {
                    drawn.wrapping_mul(STRIDE) % self.among
                } else {
                    drawn
                };
                self.name.extend(numbered_name(b'k', number));
                lease_id = Some(Uuid::from_u64_pair(0x4000, 1 << 63 | number));
            }
            Name::Own => self.name.extend(numbered_name(b'o', self.index)),
        }
        if self.has_lease_id {
            let lease_id = lease_id.unwrap_or_else(new_lease_id);
            lease_id.hyphenated().encode_lower(&mut self.lease_id);
        }
    }
}

/// The text of a request, with the marks for its name and lease id.
fn request_text(target: &Target, path: &str, index: usize) -> String {
    let new_name = "a".repeat(17);
    let body = target.body.replace("{new64}", &STANDARD.encode(&new_name));
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\n",
        target.method, path, target.address
    );
    if !target.token.is_empty() {
        let credentials = STANDARD.encode(format!("{}:", target.token[index % target.token.len()]));
        text.push_str(&format!("Authorization: Basic {credentials}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    text.push_str("\r\n");
    text.push_str(&target.body);
    text
}

/// Takes a request apart at its marks.
fn pieces(text: &str, name: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let found = [(name, Piece::Name), (LEASE_ID, Piece::LeaseId)]
            .into_iter()
            .filter(|(mark, _)| !mark.is_empty())
            .filter_map(|(mark, piece)| Some((rest.find(mark)?, mark, piece)))
            .min_by_key(|(at, ..)| *at);
        let Some((at, mark, piece)) = found else {
            pieces.push(Piece::Text(rest.into()));
            return pieces;
        };
        pieces.push(Piece::Text(rest[..at].into()));
        pieces.push(piece);
        rest = &rest[at + mark.len()..];
    }
}

/// A lease id that no request had before.
pub(crate) fn new_lease_id() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// A letter and eight decimal digits; with `k` the name of a lock that script/bench makes.
fn numbered_name(letter: u8, mut number: u64) -> [u8; 9] {
    let mut name = [letter; 9];
    for digit in name[1..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    name
}

/// `a` and sixteen hexadecimal digits.
fn new_name(number: &mut u64) -> [u8; 17] {
    *number = number.wrapping_add(1);
    // The finalizer of splitmix64 (Steele, Lea, Flood 2014), a bijection.
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let mut name = [b'a'; 17];
    for digit in &mut name[1..] {
        *digit = b"0123456789abcdef"[(z & 15) as usize];
        z >>= 4;
    }
    name
}

/// A response to a request.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) is_expected: bool,
}

/// A kept connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

impl Connection {
    pub(crate) async fn open(socket_address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(socket_address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 4096].into(),
        })
    }

    pub(crate) async fn send(&mut self, template: &mut Template) -> std::io::Result<Response> {
        self.stream.write_all(template.next_request()).await?;
        let (status, _, body) = self.receive().await?;
        Ok(Response {
            status,
            is_expected: find(body, &template.expect).is_some(),
        })
    }

    /// Sends a request that is written out, and returns the status, the head and the body of its
    /// response.
    pub(crate) async fn call(&mut self, request: &[u8]) -> std::io::Result<(u16, &[u8], &[u8])> {
        self.stream.write_all(request).await?;
        self.receive().await
    }

    async fn receive(&mut self) -> std::io::Result<(u16, &[u8], &[u8])> {
        let mut filled = 0;
        let (head, whole) = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(head) = find(&self.buffer[..filled], b"\r\n\r\n") {
                let length = number_in(&self.buffer[..head + 2], "content-length");
                let length = length.ok_or_else(|| invalid("a response without Content-Length"))?;
                break (head, head + 4 + length as usize);
            }
        };
        while filled < whole {
            if whole > self.buffer.len() {
                return Err(invalid("the response is too long"));
            }
            let read = self.stream.read(&mut self.buffer[filled..whole]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        }
        let status = self
            .buffer
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or_else(|| invalid("no status"))?;
        Ok((
            status,
            &self.buffer[..head + 2],
            &self.buffer[head + 4..whole],
        ))
    }
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

pub(crate) fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len().max(1))
        .position(|window| window == what)
}

/// The value of a header that is a number.
pub(crate) fn number_in(head: &[u8], header: &str) -> Option<u64> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(header.len())?;
        let value = value.strip_prefix(b":")?;
        name.eq_ignore_ascii_case(header.as_bytes())
            .then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    })
}
