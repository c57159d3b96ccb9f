//! Heads of HTTP/1.1 messages, for bodies that go straight from a file to a socket
//! and from a socket to a buffer.
//!
//! Everything here is read from bytes that a stranger sent: a head has at most
//! [`HEAD_BYTES_MAX`] bytes and 64 fields, a body's length is given once in plain
//! digits or there is none. Does no I/O but [`Conversation`], which reads heads and
//! bodies of one connection in turn.

use std::io;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest head, bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most fields of a head.
const FIELDS_MAX: usize = 64;
/// Bytes read at once while a head is expected: most heads, and little of a body.
const HEAD_READ_BYTES: usize = 2 << 10;

/// Bytes that are no head of HTTP/1.1 as it is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a head of HTTP/1.1 that is understood here")]
pub struct BadHead;

/// The fields of a head, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(fields: &[httparse::Header<'_>]) -> Result<Self, BadHead> {
        let text = |field: &httparse::Header<'_>| {
            let value = std::str::from_utf8(field.value).map_err(|_| BadHead)?;
            Ok((field.name.to_ascii_lowercase(), value.to_owned()))
        };
        fields.iter().map(text).collect::<Result<_, _>>().map(Self)
    }

    /// The first value of a field; `name` in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the sender closes the connection after this message.
    fn closes(&self) -> bool {
        self.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body's length; 0 when none is named.
    fn length(&self) -> Result<u64, BadHead> {
        let mut lengths = self.0.iter().filter(|(name, _)| name == "content-length");
        let length = lengths.next();
        if lengths.next().is_some() || self.get("transfer-encoding").is_some() {
            return Err(BadHead);
        }
        let Some((_, text)) = length else { return Ok(0) };
        let plain = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten().ok_or(BadHead)
    }
}

/// The head of a request without a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// Its fields.
    pub fields: Fields,
    /// Whether this is the connection's last request.
    pub last: bool,
}

/// The head of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Such as 200.
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// Its fields.
    pub fields: Fields,
    /// Whether this is the connection's last reply.
    pub last: bool,
}

/// Reads a request's head from the front of `bytes`, and how many of them it has;
/// `None`: there is more to come.
///
/// # Errors
/// [`BadHead`]; also for a request with a body.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let parsed = head.parse(bytes).map_err(|_| BadHead)?;
    let httparse::Status::Complete(length) = parsed else { return unfinished(bytes) };
    let fields = Fields::read(head.headers)?;
    let (Some(method), Some(target)) = (head.method, head.path) else { return Err(BadHead) };
    if fields.length()? != 0 || length > HEAD_BYTES_MAX {
        return Err(BadHead);
    }
    let last = fields.closes() || head.version != Some(1);
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some((Request { method, target, fields, last }, length)))
}

/// Reads a reply's head from the front of `bytes`, and how many of them it has;
/// `None`: there is more to come.
///
/// # Errors
/// [`BadHead`]; also for a body of unknown length.
pub fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let parsed = head.parse(bytes).map_err(|_| BadHead)?;
    let httparse::Status::Complete(length) = parsed else { return unfinished(bytes) };
    let fields = Fields::read(head.headers)?;
    let status = head.code.filter(|code| (200..600).contains(code)).ok_or(BadHead)?;
    if length > HEAD_BYTES_MAX {
        return Err(BadHead);
    }
    let last = fields.closes() || head.version != Some(1);
    Ok(Some((Reply { status, length: fields.length()?, fields, last }, length)))
}

fn unfinished<T>(bytes: &[u8]) -> Result<Option<T>, BadHead> {
    if bytes.len() >= HEAD_BYTES_MAX { Err(BadHead) } else { Ok(None) }
}

/// One connection: heads and bodies in turn. What a read brought beyond a head is
/// kept for what follows it.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    ahead: Vec<u8>,
    narrow: bool,
}

impl Conversation {
    /// Begins on a new connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: vec![], narrow: false }
    }

    /// The socket, to write to.
    #[must_use]
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Lets about `bytes` be on their way to this end at once. From then on the kernel
    /// does not find a measure of its own.
    pub fn narrow(&mut self, bytes: usize) {
        self.narrow |= SockRef::from(&self.stream).set_recv_buffer_size(bytes).is_ok();
    }

    /// Whether [`Self::narrow`] was called.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// The next head, by [`request`] or [`reply`]; `None`: the other side closed the
    /// connection instead.
    ///
    /// # Errors
    /// When the connection breaks, or brings no head.
    pub async fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, BadHead>,
    ) -> io::Result<Option<T>> {
        let bad = |e: BadHead| io::Error::new(io::ErrorKind::InvalidData, e);
        loop {
            if !self.ahead.is_empty()
                && let Some((head, length)) = parse(&self.ahead).map_err(bad)?
            {
                self.ahead.drain(..length);
                return Ok(Some(head));
            }
            self.ahead.reserve(HEAD_READ_BYTES);
            let mut some = (&mut self.stream).take(HEAD_READ_BYTES as u64);
            if some.read_buf(&mut self.ahead).await? == 0 {
                let half = !self.ahead.is_empty();
                return if half { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        }
    }

    /// The next line of a body without its end, of at most `most` bytes; `None`: the body
    /// ended with its connection.
    ///
    /// # Errors
    /// When the connection breaks, or the line is longer or no text.
    pub async fn line(&mut self, most: usize) -> io::Result<Option<String>> {
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=end).collect();
                line.pop();
                return String::from_utf8(line).map(Some).map_err(|_| bad());
            }
            if self.ahead.len() > most {
                return Err(bad());
            }
            self.ahead.reserve(HEAD_READ_BYTES);
            let mut some = (&mut self.stream).take(HEAD_READ_BYTES as u64);
            if some.read_buf(&mut self.ahead).await? == 0 {
                let half = !self.ahead.is_empty();
                return if half { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        }
    }

    /// Some of the body's next bytes, at least one; `into` is not empty.
    ///
    /// # Errors
    /// When the connection breaks or ends.
    pub async fn body(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            self.ahead = vec![];
            let length = self.stream.read(into).await?;
            return if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(length) };
        }
        let length = self.ahead.len().min(into.len());
        into[..length].copy_from_slice(&self.ahead[..length]);
        self.ahead.drain(..length);
        Ok(length)
    }

    /// Whether nothing came that nobody asked for.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let nothing = self.stream.try_read(&mut byte);
        self.ahead.is_empty() && nothing.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_ends_where_its_body_begins() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRetry-After-Ms: 20\r\n\r\nhello";
        let (head, length) = reply(bytes).unwrap().unwrap();
        assert_eq!((head.status, head.length, &bytes[length..]), (200, 5, &b"hello"[..]));
        assert_eq!((head.fields.get("retry-after-ms"), head.last), (Some("20"), false));
        let bytes = b"GET /a?b=1 HTTP/1.1\r\nConnection: close\r\n\r\n";
        let (head, length) = request(bytes).unwrap().unwrap();
        assert_eq!((head.target.as_str(), head.last, length), ("/a?b=1", true, bytes.len()));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"\0\0\0\0",
        ] {
            assert_eq!(reply(bytes), Err(BadHead), "{}", String::from_utf8_lossy(bytes));
        }
        for bytes in [
            &b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /\r\n\r\n",
        ] {
            assert_eq!(request(bytes), Err(BadHead), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(request(&[b'a'; HEAD_BYTES_MAX]), Err(BadHead));
        let endless = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(request(&endless), Err(BadHead));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for start in ["", "GET /v1 HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\nContent-Length: "] {
                let whole = [start.as_bytes(), &bytes].concat();
                for length in [request(&whole).ok().flatten().map(|(_, length)| length),
                    reply(&whole).ok().flatten().map(|(_, length)| length)].into_iter().flatten() {
                    prop_assert!(length <= whole.len());
                }
            }
        }

        #[test]
        fn a_head_cut_short_waits_for_the_rest(cut in 0usize..60) {
            let whole = b"GET /v1/peer/a/have?since=1 HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n";
            let cut = cut.min(whole.len() - 1);
            prop_assert_eq!(request(&whole[..cut]), Ok(None));
            prop_assert!(request(whole).unwrap().is_some());
        }
    }
}
