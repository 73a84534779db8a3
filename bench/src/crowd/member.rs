//! One socket of the crowd.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{mark::Unread, sequence::Sequence};

/// Sockets of one source address: fewer than it has ports.
const SOCKETS_PER_ADDRESS: u32 = 20_000;

/// How far a socket has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Not begun.
    Absent,
    /// The TCP handshake is under way.
    Connecting,
    /// The HTTP request is out.
    Upgrading,
    /// The WebSocket is there, the OPEN packet not yet.
    Opening,
    Opened,
    /// CONNECT is out.
    Authenticating,
    Authenticated,
    /// `joinRoom` is out.
    Joining,
    /// In its room: what happens there arrives.
    Joined,
    Closed,
}

/// A socket, and what it has seen.
pub(super) struct Member {
    pub(super) index: u32,
    pub(super) room: usize,
    pub(super) step: Step,
    stream: Option<TcpStream>,
    /// The beginning of a frame whose end has not arrived.
    incoming: Vec<u8>,
    /// Bytes to come of a long frame that nobody reads.
    pub(super) skip: usize,
    /// What the kernel has not taken yet.
    outgoing: Vec<u8>,
    /// When its opening began, on the machine's clock.
    pub(super) begun_ns: u64,
    /// Participants in the last list.
    pub(super) participants: usize,

    /// Numbers of its room's messages.
    pub(super) numbers: Sequence,
    pub(super) unread: Unread,
    /// When pages of history were asked for that have not come, on the machine's clock.
    pub(super) pages_asked_ns: VecDeque<u64>,
    /// Numbers of its own messages of the run that came back.
    pub(super) own: Sequence,
    /// Of the run: messages sent, refused, seen again, and those of anybody received.
    pub(super) sent: u32,
    pub(super) refused: u32,
    pub(super) echoed: u32,
    pub(super) received: u32,
}

impl Member {
    pub(super) fn new(index: u32, room: usize) -> Self {
        Self {
            index,
            room,
            step: Step::Absent,
            stream: None,
            incoming: Vec::new(),
            skip: 0,
            outgoing: Vec::new(),
            begun_ns: 0,
            participants: 0,
            numbers: Sequence::default(),
            unread: Unread::default(),
            pages_asked_ns: VecDeque::new(),
            own: Sequence::default(),
            sent: 0,
            refused: 0,
            echoed: 0,
            received: 0,
        }
    }

    /// Forgets the last run.
    pub(super) fn begin_run(&mut self) {
        self.numbers.forget_missing();
        self.pages_asked_ns.clear();
        self.own = Sequence::after(0);
        (self.sent, self.refused, self.echoed, self.received) = (0, 0, 0, 0);
    }

    /// Begins to connect. A server on loopback sees the crowd come from several addresses, each of
    /// which has ports of its own.
    pub(super) fn connect(
        &mut self,
        server: SocketAddr,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source(server, self.index) {
            socket.bind(&source.into())?;
        }
        match socket.connect(&SockAddr::from(server)) {
            Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.step = Step::Connecting;
        Ok(())
    }

    /// Whether the TCP handshake is done.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        let stream = self.stream()?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads behind the remainder of the last read; the bytes that are there now, `None` if none came.
    pub(super) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let held = self.incoming.len();
        let Some((remainder, space)) = buffer.split_at_mut_checked(held) else {
            return Err(ErrorKind::OutOfMemory.into());
        };
        let count = loop {
            match self.stream()?.read(space) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        if held > 0 {
            remainder.copy_from_slice(&self.incoming);
            self.incoming = Vec::new();
        }
        Ok(buffer.get(..held + count))
    }

    /// Keeps the beginning of a frame until its end arrives.
    pub(super) fn keep(&mut self, remainder: &[u8]) {
        self.incoming.extend_from_slice(remainder);
    }

    /// Sends a frame; false if some of it has to wait.
    pub(super) fn write(&mut self, frame: &[u8]) -> io::Result<bool> {
        let taken = if self.outgoing.is_empty() {
            self.write_now(frame)?
        } else {
            0
        };
        let rest = frame.get(taken..).unwrap_or_default();
        self.outgoing.extend_from_slice(rest);
        Ok(rest.is_empty())
    }

    /// Sends what had to wait.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let outgoing = std::mem::take(&mut self.outgoing);
        let taken = self.write_now(&outgoing)?;
        self.outgoing
            .extend_from_slice(outgoing.get(taken..).unwrap_or_default());
        Ok(())
    }

    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream()?.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            outcome => outcome,
        }
    }

    fn stream(&self) -> io::Result<&TcpStream> {
        self.stream
            .as_ref()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Ends with a reset, so that the port is free at once.
    pub(super) fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // A socket that has ended already needs no reset.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        self.step = Step::Closed;
    }
}

/// `EINPROGRESS`: a nonblocking connect has begun.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

/// Where a member connects from.
pub(crate) fn source(server: SocketAddr, index: u32) -> Option<SocketAddr> {
    let host = u8::try_from(1 + index / SOCKETS_PER_ADDRESS).ok()?;
    let is_loopback = server.is_ipv4() && server.ip().is_loopback();
    is_loopback.then(|| (IpAddr::V4(Ipv4Addr::new(127, 0, 1, host)), 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_reached_from_several_addresses() {
        let local = "127.0.0.1:80".parse().unwrap();
        let far = "192.0.2.1:80".parse().unwrap();
        let of = |index| source(local, index).map(|source| source.to_string());
        assert_eq!(of(19_999).as_deref(), Some("127.0.1.1:0"));
        assert_eq!(of(20_000).as_deref(), Some("127.0.1.2:0"));
        assert_eq!(source(far, 0), None);
    }
}
