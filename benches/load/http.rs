//! As much of HTTP/1.1 as measuring needs: one request, one response with a `Content-Length`.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Target;

/// The lock's name in a request.
enum Name {
    None,
    New,
    /// A new name in base64.
    New64,
    /// One of a fixed number of names.
    Of,
}

/// A request without its name.
pub(crate) struct Template {
    /// The name is put between each two.
    pieces: Vec<Vec<u8>>,
    name: Name,
    /// Names are the images of consecutive numbers under a bijection: random to look at, and never
    /// twice.
    number: u64,
    random: u64,
    among: u64,
    expect: Vec<u8>,
    buffer: Vec<u8>,
}

impl Template {
    /// Makes the template for the connection with this index.
    pub(crate) fn new(target: &Target, index: usize) -> Self {
        let new_name = "a".repeat(17);
        let body = target.body.replace("{new64}", &STANDARD.encode(&new_name));
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            target.method, target.path, target.address
        );
        if !target.token.is_empty() {
            let credentials =
                STANDARD.encode(format!("{}:", target.token[index % target.token.len()]));
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
        let (name, mark) = [
            (Name::New, "{new}"),
            (Name::New64, "{new64}"),
            (Name::Of, "{of}"),
        ]
        .into_iter()
        .find(|(_, mark)| text.contains(mark))
        .unwrap_or((Name::None, ""));
        let pieces = match name {
            Name::None => vec![text.into_bytes()],
            _ => text
                .split(mark)
                .map(|piece| piece.as_bytes().to_vec())
                .collect(),
        };
        Self {
            pieces,
            name,
            number: rand::random(),
            random: rand::random::<u64>() | 1,
            among: target.among.max(1),
            expect: target.expect.clone().into(),
            buffer: Vec::new(),
        }
    }

    fn next_request(&mut self) -> &[u8] {
        let mut space = [0; 24];
        let len = match self.name {
            Name::None => 0,
            Name::New => {
                space[..17].copy_from_slice(&new_name(&mut self.number));
                17
            }
            Name::New64 => STANDARD
                .encode_slice(new_name(&mut self.number), &mut space)
                .expect("24 are enough for 17"),
            Name::Of => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                let mut number = self.random % self.among;
                space[0] = b'k';
                for digit in space[1..9].iter_mut().rev() {
                    *digit = b'0' + (number % 10) as u8;
                    number /= 10;
                }
                9
            }
        };
        self.buffer.clear();
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                self.buffer.extend_from_slice(&space[..len]);
            }
            self.buffer.extend_from_slice(piece);
        }
        &self.buffer
    }
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
        let mut filled = 0;
        let (head, whole) = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(head) = find(&self.buffer[..filled], b"\r\n\r\n") {
                break (head, head + 4 + content_length(&self.buffer[..head + 2])?);
            }
        };
        while filled < whole {
            if whole > self.buffer.len() {
                return Err(Error::new(
                    ErrorKind::InvalidData,
                    "the response is too long",
                ));
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
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        Ok(Response {
            status: status.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no status"))?,
            is_expected: find(&self.buffer[head + 4..whole], &template.expect).is_some(),
        })
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len().max(1))
        .position(|window| window == what)
}

fn content_length(head: &[u8]) -> std::io::Result<usize> {
    head.split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:")
                .then_some(value)
        })
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "a response without Content-Length"))
}
