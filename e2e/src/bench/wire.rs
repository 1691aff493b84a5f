//! As much of HTTP/1.1 as a load generator needs, at a few microseconds per call: it shares the machine with what it
//! measures. One call at a time on a connection that is kept.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

/// Largest answer: an order of one line takes half a kilobyte.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// A connection to the service.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What is read of an answer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The order that `Location` names.
    pub order: Option<Uuid>,
    /// Whether `Retry-After` is there.
    pub retry_after: bool,
    /// Whether the server closes the connection after it.
    pub closes: bool,
}

/// The head of an answer, with where its body ends.
struct Head {
    answer: Answer,
    end: usize,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When the service does not listen.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; MAX_ANSWER_BYTES] })
    }

    /// Sends a rendered request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not understood; the connection is of no use then.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(head) = parse(&self.buffer[..filled])? {
                while filled < head.end {
                    let read = self.stream.read(&mut self.buffer[filled..]).await?;
                    if read == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    filled += read;
                }
                return Ok(head.answer);
            }
        }
    }
}

/// The head, once all of it is there.
fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(blank) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() < MAX_ANSWER_BYTES { Ok(None) } else { Err(ErrorKind::InvalidData.into()) };
    };
    let text = std::str::from_utf8(&bytes[..blank]).map_err(|_| ErrorKind::InvalidData)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)).and_then(|status| status.parse().ok());
    let mut answer = Answer { status: status.ok_or(ErrorKind::InvalidData)?, ..Answer::default() };
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("location") {
            answer.order = value.strip_prefix("/orders/").and_then(|id| Uuid::parse_str(id).ok());
        } else if name.eq_ignore_ascii_case("retry-after") {
            answer.retry_after = true;
        } else if name.eq_ignore_ascii_case("connection") {
            answer.closes = value.eq_ignore_ascii_case("close");
        }
    }
    // The service never answers in chunks: every body of its own is in memory.
    let end = blank + 4 + length.ok_or(ErrorKind::InvalidData)?;
    if end > MAX_ANSWER_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(Some(Head { answer, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end_and_no_further() {
        let bytes = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nlocation: /orders/01927f5e-3c00-7000-8000-000000000001\r\n\r\n{}";
        let head = parse(bytes).unwrap().unwrap();
        assert_eq!(head.end, bytes.len());
        assert_eq!((head.answer.status, head.answer.retry_after, head.answer.closes), (201, false, false));
        assert_eq!(head.answer.order.unwrap().as_u128() & 0xff, 1);
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let head =
            parse(b"HTTP/1.1 503 x\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = head.unwrap().unwrap().answer;
        assert_eq!((answer.status, answer.order, answer.retry_after, answer.closes), (503, None, true, true));
    }

    #[test]
    fn half_a_head_is_waited_for_and_nonsense_is_an_error() {
        assert!(parse(b"HTTP/1.1 201 Created\r\nconte").unwrap().is_none());
        assert!(parse(b"hello there, world\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
