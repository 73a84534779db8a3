//! One task per socket, and the half of a connection that others share.
//!
//! The task owns the protocol's state and everything that reads. Whoever has something for the client
//! holds an [`Arc<Connection>`] and writes through its outbox. An idle connection owns no buffer: reads
//! go through one buffer per thread, and only what is no complete frame stays.

use std::{
    cell::Cell,
    future::Future,
    io::{self, Read as _},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{
    FutureExt as _,
    future::{join, poll_fn},
    task::AtomicWaker,
};
use rustix::net::{SendFlags, send};
use slotcast_proto::{
    id::RoomId,
    limits::{PING_TIMEOUT_MS_DEFAULT, UNACCEPTED_PAYLOAD_BYTES_MAX},
    wire::{
        Millis,
        offset::Cursor,
        peer::{Peer, PeerClosed, PeerEvent},
    },
};
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::TcpStream,
    task::coop::consume_budget,
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{
    admission::Admission,
    chat::Chat,
    close::Close,
    connections::ConnectionId,
    feed::Part,
    outbox::{Opening, Outbox, Pushed, is_transient},
    session::Session,
    sockets::Sockets,
    websocket::{Assembler, Message, close_frame, pong_frame, text_frame},
};

/// How long a handler may run, in milliseconds. Its connection is not read meanwhile, so it must be over
/// before a client that answers every heartbeat looks silent.
pub(crate) const HANDLER_TIMEOUT_MS: u32 = 20_000;
const _: () = assert!(HANDLER_TIMEOUT_MS < PING_TIMEOUT_MS_DEFAULT);

/// How long a closing connection may take to write what waits and to hear that the client closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is read and thrown away while waiting for a client to close, in bytes.
const FAREWELL_BYTES_MAX: usize = 1 << 20;

/// Size of a thread's read buffer, in bytes.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Longest header that is kept of what a client says about itself, in bytes.
pub(crate) const CLIENT_TEXT_BYTES_MAX: usize = 256;

#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

/// What a client said about itself when it connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    /// `User-Agent`, at most [`CLIENT_TEXT_BYTES_MAX`] bytes.
    pub(crate) user_agent: Option<Box<str>>,
    /// Address: the first of `X-Forwarded-For`, else `X-Real-IP`, else the socket's.
    pub(crate) address: Box<str>,
}

/// The half of a connection that others share.
pub(crate) struct Connection {
    id: ConnectionId,
    stream: TcpStream,
    client: Client,
    session: OnceLock<Session>,
    closing: OnceLock<Close>,
    outbox: Mutex<Outbox>,
    /// Whether frames wait in the outbox; changed under its lock.
    has_queued: AtomicBool,
    /// Wakes the task, for frames that wait and for closing.
    task: AtomicWaker,
}

impl Connection {
    /// The shared half of a connection over `stream`.
    pub(crate) fn new(sockets: &Sockets, stream: TcpStream, client: Client) -> Self {
        Self {
            id: sockets.connections.next_id(),
            stream,
            client,
            session: OnceLock::new(),
            closing: OnceLock::new(),
            outbox: Mutex::new(Outbox::new(Arc::clone(&sockets.budget))),
            has_queued: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }

    /// The connection's number.
    pub(crate) const fn id(&self) -> ConnectionId {
        self.id
    }

    /// What the client said about itself.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The login, set when the client is let in.
    pub(crate) const fn session(&self) -> &OnceLock<Session> {
        &self.session
    }

    /// Writes complete WebSocket frames, or queues them behind others. Never blocks.
    pub(crate) fn send(&self, frames: &Bytes) {
        let mut outbox = self.outbox();
        let pushed = outbox.push(frames, |bytes| self.write(bytes));
        self.settle(pushed, outbox);
    }

    /// Sends an event with the client's offset behind it. The official client takes the last text of any
    /// event for its offset, be it the event's name.
    pub(crate) fn send_with_offset(&self, event: &str) {
        let mut outbox = self.outbox();
        let pushed = outbox.push_with_offset(event, |bytes| self.write(bytes));
        self.settle(pushed, outbox);
    }

    /// Ends the connection. The first reason wins.
    pub(crate) fn close(&self, close: Close) {
        if self.closing.set(close).is_ok() {
            self.task.wake();
        }
    }

    /// Whether the connection is about to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Makes the frames of `room` wait, so that the answer to a join comes before them.
    pub(crate) fn hold(&self, room: RoomId) {
        self.outbox().hold(room);
    }

    /// Has the processor fetch this record while it does something else: whoever writes to thousands of
    /// connections in turn would wait for memory at each.
    #[expect(unsafe_code, reason = "there is no safe call for the instruction")]
    #[cfg_attr(not(target_arch = "x86_64"), expect(clippy::unused_self))]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for at in (0..size_of::<Self>()).step_by(CACHE_LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = std::ptr::from_ref(self).cast::<i8>().wrapping_add(at);
            // SAFETY: it is a hint: it reads nothing, writes nothing and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
    }

    /// Sends a batch of frames of a room, given as one buffer and one by one; while the room is held
    /// they wait one by one.
    pub(crate) fn deliver(&self, room: RoomId, all: &Bytes, parts: &[Part]) {
        let mut outbox = self.outbox();
        let pushed = outbox.deliver(room, all, parts, |bytes| self.write(bytes));
        self.settle(pushed, outbox);
    }

    /// Notes that the client has got as far as `cursor` in `room`: nothing up to there is sent again.
    pub(crate) fn note_cursor(&self, room: RoomId, cursor: Cursor) {
        self.outbox().note_cursor(room, cursor);
    }

    /// Ends the hold of `room`: the answer goes first, then what was missed, then what waited; nothing
    /// twice.
    pub(crate) fn release(&self, room: RoomId, opening: Opening<'_>) {
        let mut outbox = self.outbox();
        let pushed = outbox.release(room, opening, |bytes| self.write(bytes));
        self.settle(pushed, outbox);
    }

    /// Forgets `room` and what waited of it: the join failed, or the client has left.
    pub(crate) fn forget(&self, room: RoomId) {
        self.outbox().forget(room);
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, pushed: Pushed, outbox: MutexGuard<'_, Outbox>) {
        let is_news = pushed == Pushed::Queued && !self.has_queued.swap(true, Ordering::AcqRel);
        drop(outbox);
        match pushed {
            Pushed::Done => {}
            Pushed::Queued if is_news => self.task.wake(),
            Pushed::Queued => {}
            Pushed::Overflow => self.close(Close::Slow),
            Pushed::Lost => self.close(Close::ConnectionLost),
        }
    }

    fn has_queued(&self) -> bool {
        self.has_queued.load(Ordering::Acquire)
    }

    /// One write to the socket, without a look at what tokio knows of its readiness: it is ready nearly
    /// always, and where it is not, what waits is flushed through tokio.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.stream, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Writes what waits; whether the socket took any of it.
    fn flush(&self) -> io::Result<bool> {
        let mut outbox = self.outbox();
        let flushed = outbox.flush(|slices| self.stream.try_write_vectored(slices))?;
        self.has_queued.store(!flushed.is_empty, Ordering::Release);
        Ok(flushed.has_progressed)
    }

    /// Reads what the kernel has. A read that leaves room in the buffer has taken everything, so it
    /// also ends the readiness that would cost another call to find out.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut received = None;
        let outcome = self.stream.try_io(Interest::READABLE, || {
            let bytes = (&*SockRef::from(&self.stream)).read(buffer)?;
            received = Some(bytes);
            if (1..buffer.len()).contains(&bytes) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match (received, outcome) {
            (Some(bytes), _) => Ok(bytes),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What a handler's end means for the protocol.
enum Outcome<A> {
    /// A CONNECT was decided on.
    Decided(Result<A, &'static str>),
    /// An event was handled.
    Handled,
}

type Handler<A> = Pin<Box<dyn Future<Output = Outcome<A>> + Send>>;

/// Bytes of a client that wait. Boxed: for nearly all connections at nearly all times there are none.
pub(crate) type Unread = Option<Box<BytesMut>>;

/// How a connection ended.
struct End<A> {
    close: Close,
    /// The code of the client's close frame, to be said back.
    echo: Option<u16>,
    /// A handler that is still under way.
    handler: Option<Handler<A>>,
}

/// Runs a connection from its upgrade to its end. `unread` is what the client sent behind its request.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, in every task"
)]
pub(crate) fn run<C: Chat>(
    admission: Admission<C>,
    connection: Arc<Connection>,
    unread: Unread,
) -> impl Future<Output = ()> + Send {
    async move {
        let chat = admission.chat();
        chat.sockets().connections.insert(Arc::clone(&connection));
        let driver = Driver::new(chat, &connection, unread);
        let served = AssertUnwindSafe(serve(driver)).catch_unwind().await;
        let end = served.unwrap_or_else(|_| {
            chat.metrics().task_panics.inc();
            End {
                close: Close::Panicked,
                echo: None,
                handler: None,
            }
        });
        Box::pin(leave(chat, &connection, end)).await;
        chat.sockets().connections.remove(connection.id());
    }
}

/// The loop of a connection. It waits until at least one of five things is ready, then does all that
/// are, in this order; so none starves another:
///
/// 1. somebody ends the connection: kicked, draining, too slow;
/// 2. frames wait and the socket takes bytes: one batch leaves;
/// 3. the handler under way is done: its outcome goes to the peer;
/// 4. a deadline has come: a heartbeat, a silent peer, a stalled write, a stuck handler;
/// 5. the socket has bytes, asked only while no handler is under way: that is all the back-pressure.
///
/// Waiting keeps nothing but the two wakers of the socket and one timer, and is cancel-safe: what is
/// ready is taken by a call that does not wait.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, in every task"
)]
fn serve<C: Chat>(mut driver: Driver<'_, C>) -> impl Future<Output = End<C::Accepted>> + Send {
    async move {
        let mut timer = pin!(sleep_until(driver.deadline()));
        loop {
            if let Err(close) = driver.advance() {
                return driver.end(close);
            }
            let deadline = driver.deadline();
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            let ready = poll_fn(|context| driver.poll_ready(timer.as_mut(), context)).await;
            if let Err(close) = driver.react(ready) {
                return driver.end(close);
            }
            // A client whose events never wait must not keep its thread from the others.
            consume_budget().await;
        }
    }
}

/// The half of a connection that its task owns.
struct Driver<'a, C: Chat> {
    chat: &'a Arc<C>,
    connection: &'a Arc<Connection>,
    peer: Peer,
    assembler: Assembler,
    /// Bytes of the client that no complete message was in, or that wait for the handler under way.
    unread: Unread,
    handler: Option<Handler<C::Accepted>>,
    handler_until: Millis,
    /// When a socket that takes nothing is given up; `NEVER` while nothing waits.
    stalled_at: Millis,
    echo: Option<u16>,
    is_accepted: bool,
    was_refused: bool,
}

/// Which arms of the loop are ready.
struct Ready<A> {
    is_closing: bool,
    /// Frames began to wait; their deadline must be set.
    is_queueing: bool,
    is_writable: bool,
    outcome: Option<Outcome<A>>,
    is_due: bool,
    is_readable: bool,
}

impl<'a, C: Chat> Driver<'a, C> {
    fn new(chat: &'a Arc<C>, connection: &'a Arc<Connection>, unread: Unread) -> Self {
        let sid = format!("{:024x}", fastrand::u128(..) >> 32);
        Self {
            chat,
            connection,
            peer: Peer::new(&sid, &chat.sockets().peer, chat.sockets().now()),
            assembler: Assembler::default(),
            unread,
            handler: None,
            handler_until: Millis::NEVER,
            stalled_at: Millis::NEVER,
            echo: None,
            is_accepted: false,
            was_refused: false,
        }
    }

    /// When the next deadline comes.
    fn deadline(&self) -> Instant {
        let moment = self
            .peer
            .poll_timeout()
            .min(self.handler_until)
            .min(self.stalled_at);
        self.chat.sockets().instant(moment)
    }

    /// Takes everything out of the peer, and puts what was read and waits into it.
    fn advance(&mut self) -> Result<(), Close> {
        self.transmit();
        self.take_events()?;
        while self.handler.is_none()
            && let Some(mut unread) = self.unread.take()
        {
            let before = unread.len();
            let mut input = unread.as_mut().as_mut();
            let outcome = self.digest(&mut input);
            let left = input.len();
            unread.advance(before - left);
            if left > 0 {
                self.unread = Some(unread);
            }
            outcome?;
            if left == before {
                break;
            }
        }
        Ok(())
    }

    fn poll_ready(
        &mut self,
        timer: Pin<&mut Sleep>,
        context: &mut Context<'_>,
    ) -> Poll<Ready<C::Accepted>> {
        let connection = self.connection;
        connection.task.register(context.waker());
        let has_queued = connection.has_queued();
        let outcome = match self
            .handler
            .as_mut()
            .map(|handler| handler.as_mut().poll(context))
        {
            Some(Poll::Ready(outcome)) => {
                self.handler = None;
                Some(outcome)
            }
            Some(Poll::Pending) | None => None,
        };
        let ready = Ready {
            is_closing: connection.is_closing(),
            is_queueing: has_queued && self.stalled_at == Millis::NEVER,
            is_writable: has_queued && connection.stream.poll_write_ready(context).is_ready(),
            is_readable: self.handler.is_none()
                && outcome.is_none()
                && connection.stream.poll_read_ready(context).is_ready(),
            is_due: timer.poll(context).is_ready(),
            outcome,
        };
        let is_any = ready.is_closing
            || ready.is_queueing
            || ready.is_writable
            || ready.outcome.is_some()
            || ready.is_due
            || ready.is_readable;
        if is_any {
            Poll::Ready(ready)
        } else {
            Poll::Pending
        }
    }

    fn react(&mut self, ready: Ready<C::Accepted>) -> Result<(), Close> {
        if let Some(close) = self.connection.closing.get() {
            return Err(*close);
        }
        let now = self.chat.sockets().now();
        if ready.is_queueing || ready.is_writable {
            self.flush(now)?;
        }
        if let Some(outcome) = ready.outcome {
            self.conclude(outcome);
        }
        if ready.is_due {
            self.check_deadlines(now)?;
        }
        if ready.is_readable {
            self.read()?;
        }
        Ok(())
    }

    fn flush(&mut self, now: Millis) -> Result<(), Close> {
        let has_progressed = self.connection.flush().map_err(|_| Close::ConnectionLost)?;
        if !self.connection.has_queued() {
            self.stalled_at = Millis::NEVER;
        } else if has_progressed || self.stalled_at == Millis::NEVER {
            self.stalled_at = now + self.chat.config().write_stall_ms;
        }
        Ok(())
    }

    fn check_deadlines(&mut self, now: Millis) -> Result<(), Close> {
        if self.stalled_at <= now {
            return Err(Close::Slow);
        }
        if self.handler_until <= now {
            self.handler = None;
            self.chat.metrics().handler_timeouts.inc();
            return Err(Close::Overloaded);
        }
        self.peer.handle_timeout(now);
        Ok(())
    }

    fn read(&mut self) -> Result<(), Close> {
        let mut buffer = ReadBuffer::take();
        let received = match self.connection.receive(&mut buffer.bytes) {
            Ok(0) => return Err(Close::ConnectionLost),
            Ok(received) => received,
            Err(error) if is_transient(&error) => return Ok(()),
            Err(_) => return Err(Close::ConnectionLost),
        };
        let mut input = buffer.bytes.get_mut(..received).unwrap_or_default();
        if self.unread.is_none() {
            self.digest(&mut input)?;
        }
        if !input.is_empty() {
            self.unread.get_or_insert_default().extend_from_slice(input);
        }
        Ok(())
    }

    /// Hands complete messages to the peer until there are no more or one started a handler.
    fn digest(&mut self, input: &mut &mut [u8]) -> Result<(), Close> {
        let mut pong = None;
        let outcome = self.digest_messages(input, &mut pong);
        if let Some(pong) = pong {
            self.connection.send(&pong);
        }
        outcome
    }

    /// Only the last of several pings is answered (RFC 6455, 5.5.3): a flood costs one write a read.
    fn digest_messages(
        &mut self,
        input: &mut &mut [u8],
        pong: &mut Option<Bytes>,
    ) -> Result<(), Close> {
        let now = self.chat.sockets().now();
        let bytes_max = if self.is_accepted {
            self.chat.config().max_payload_bytes
        } else {
            self.chat
                .config()
                .max_payload_bytes
                .min(UNACCEPTED_PAYLOAD_BYTES_MAX)
        } as usize;
        while self.handler.is_none() {
            match self
                .assembler
                .next(input, bytes_max)
                .map_err(Close::BadFrame)?
            {
                None => break,
                Some(Message::Text(text)) => {
                    self.peer
                        .handle_text(&text, now)
                        .map_err(Close::Violation)?;
                    self.transmit();
                    self.take_events()?;
                }
                Some(Message::Binary(bytes)) => {
                    self.peer
                        .handle_binary(&bytes, now)
                        .map_err(Close::Violation)?;
                    self.transmit();
                    self.take_events()?;
                }
                Some(Message::Ping(payload)) => *pong = Some(pong_frame(payload)),
                Some(Message::Pong) => {}
                Some(Message::Close(code)) => {
                    self.echo = Some(code.unwrap_or(1000));
                    return Err(match code {
                        Some(1000 | 1001) => Close::ClientClosed,
                        _ => Close::ConnectionLost,
                    });
                }
            }
        }
        Ok(())
    }

    fn transmit(&mut self) {
        while let Some(packet) = self.peer.poll_transmit() {
            self.connection.send(&text_frame(&packet));
        }
    }

    fn take_events(&mut self) -> Result<(), Close> {
        while let Some(event) = self.peer.poll_event() {
            match event {
                PeerEvent::Disconnect => return Err(Close::ClientDisconnected),
                PeerEvent::Closed(PeerClosed::ByClient) => return Err(Close::ClientClosed),
                PeerEvent::Closed(PeerClosed::Silent) => return Err(Close::Silent),
                PeerEvent::Closed(PeerClosed::ConnectTimeout) if self.was_refused => {
                    return Err(Close::Refused);
                }
                PeerEvent::Closed(PeerClosed::ConnectTimeout) => return Err(Close::ConnectTimeout),
                event @ (PeerEvent::Connect(_)
                | PeerEvent::Event { .. }
                | PeerEvent::Undecodable { .. }) => self.start(event),
            }
        }
        Ok(())
    }

    fn start(&mut self, event: PeerEvent) {
        debug_assert!(
            self.handler.is_none(),
            "the socket is not read while a handler runs"
        );
        let chat = Arc::clone(self.chat);
        let connection = Arc::clone(self.connection);
        match event {
            PeerEvent::Connect(auth) => self.start_handler(async move {
                Outcome::Decided(chat.connect(&connection, auth).await)
            }),
            PeerEvent::Event { event, ack } => self.start_handler(async move {
                chat.handle(&connection, event, ack).await;
                Outcome::Handled
            }),
            PeerEvent::Undecodable { name, ack } => self.start_handler(async move {
                chat.handle_undecodable(&connection, name, ack);
                Outcome::Handled
            }),
            PeerEvent::Disconnect | PeerEvent::Closed(_) => {}
        }
    }

    fn start_handler(
        &mut self,
        handler: impl Future<Output = Outcome<C::Accepted>> + Send + 'static,
    ) {
        self.handler = Some(Box::pin(handler));
        self.handler_until = self.chat.sockets().now() + HANDLER_TIMEOUT_MS;
    }

    fn conclude(&mut self, outcome: Outcome<C::Accepted>) {
        self.handler_until = Millis::NEVER;
        match outcome {
            Outcome::Handled => {}
            Outcome::Decided(Err(message)) => {
                self.was_refused = true;
                self.peer.refuse(message);
            }
            Outcome::Decided(Ok(accepted)) => {
                self.is_accepted = true;
                let (sid, pid) = C::ids(&accepted);
                self.peer.accept(sid, Some(pid));
                self.transmit();
                let chat = Arc::clone(self.chat);
                let connection = Arc::clone(self.connection);
                self.start_handler(async move {
                    chat.connected(&connection, accepted).await;
                    Outcome::Handled
                });
            }
        }
    }

    /// Everything that outlives the loop.
    fn end(mut self, close: Close) -> End<C::Accepted> {
        if close == Close::Replaced {
            self.peer.disconnect();
            self.transmit();
        }
        End {
            close,
            echo: self.echo,
            handler: self.handler,
        }
    }
}

/// Says goodbye to the client and to the chat, at the same time.
async fn leave<C: Chat>(chat: &Arc<C>, connection: &Arc<Connection>, end: End<C::Accepted>) {
    let End {
        close,
        echo,
        handler,
    } = end;
    connection.close(close);
    chat.metrics().count_close(close);
    tracing::debug!(
        connection = connection.id().number(),
        close = close.label(),
        "closed"
    );
    let frame = match echo {
        Some(code) => Some(close_frame(code, "")),
        None => close.frame(),
    };
    let goodbye = AssertUnwindSafe(async {
        if let Some(handler) = handler {
            // What it has begun in Redis is finished before the connection is forgotten.
            let _ = timeout(Duration::from_millis(HANDLER_TIMEOUT_MS.into()), handler).await;
        }
        chat.disconnected(connection, close).await;
    });
    let (_, said) = join(part(connection, close, frame), goodbye.catch_unwind()).await;
    if said.is_err() {
        chat.metrics().task_panics.inc();
    }
}

/// Writes what waits and the close frame, and waits until the client has closed, all within
/// [`FAREWELL`]. Closing a socket with unread bytes resets it, and the client may never see why.
async fn part(connection: &Connection, close: Close, frame: Option<Bytes>) {
    let has_reader = frame.is_some();
    {
        let mut outbox = connection.outbox();
        if close == Close::Slow {
            outbox.discard();
        }
        outbox.shut(frame);
    }
    let socket = SockRef::from(&connection.stream);
    let is_over = !has_reader || timeout(FAREWELL, farewell(connection)).await.is_ok();
    if !is_over && close == Close::Slow {
        // Resets the socket: what its client does not read would keep kernel memory.
        let _ = socket.set_linger(Some(Duration::ZERO));
    } else {
        // Fails where the client has closed already, which is the aim.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

async fn farewell(connection: &Connection) {
    loop {
        if connection.flush().is_err() {
            return;
        }
        if !connection.has_queued() {
            break;
        }
        if connection.stream.writable().await.is_err() {
            return;
        }
    }
    if SockRef::from(&connection.stream)
        .shutdown(std::net::Shutdown::Write)
        .is_err()
    {
        return;
    }
    let mut discarded = 0;
    while discarded < FAREWELL_BYTES_MAX && connection.stream.readable().await.is_ok() {
        match connection.receive(&mut ReadBuffer::take().bytes) {
            Ok(0) => return,
            Ok(bytes) => discarded += bytes,
            Err(error) if is_transient(&error) => {}
            Err(_) => return,
        }
    }
}

thread_local! {
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The thread's read buffer, back in its place when dropped.
struct ReadBuffer {
    bytes: Box<[u8]>,
}

impl ReadBuffer {
    fn take() -> Self {
        let bytes = READ_BUFFER
            .take()
            .unwrap_or_else(|| vec![0; READ_BUFFER_BYTES].into());
        Self { bytes }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        READ_BUFFER.set(Some(std::mem::take(&mut self.bytes)));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, atomic::AtomicUsize},
    };

    use slotcast_proto::{
        id::StreamPosition,
        slot::Slot,
        wire::{
            event::{ClientEvent, EventName},
            peer::ConnectAuth,
            socketio::AckId,
        },
    };
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpSocket},
        sync::Notify,
        task::{JoinHandle, yield_now},
        time::advance,
    };

    use super::*;
    use crate::{
        admission::NoPlace,
        config::{self, Config},
        feed::Item,
        metrics::Metrics,
        store::Missed,
        websocket::tests::client_frame,
    };

    /// Handlers that do what their test says.
    struct Script {
        config: Config,
        metrics: Metrics,
        sockets: Sockets,
        /// Events handled, in order.
        handled: Mutex<Vec<ClientEvent>>,
        /// Where a handler of `leaveRoom` waits.
        gate: Notify,
        /// The ends of connections.
        ended: Mutex<Vec<Close>>,
        /// Handlers under way.
        under_way: AtomicUsize,
    }

    impl Script {
        fn new(vars: &[(&str, &str)]) -> Arc<Self> {
            let config = config::tests::config(vars).unwrap();
            Arc::new(Self {
                sockets: Sockets::new(&config),
                metrics: Metrics::new(),
                handled: Mutex::default(),
                gate: Notify::new(),
                ended: Mutex::default(),
                under_way: AtomicUsize::new(0),
                config,
            })
        }
    }

    impl Chat for Script {
        type Accepted = ();

        fn config(&self) -> &Config {
            &self.config
        }

        fn metrics(&self) -> &Metrics {
            &self.metrics
        }

        fn sockets(&self) -> &Sockets {
            &self.sockets
        }

        fn ids((): &()) -> (&str, &str) {
            ("public", "private")
        }

        async fn connect(
            self: &Arc<Self>,
            _connection: &Arc<Connection>,
            auth: ConnectAuth,
        ) -> Result<(), &'static str> {
            if auth.token.is_some() {
                Ok(())
            } else {
                Err("Invalid token")
            }
        }

        async fn connected(self: &Arc<Self>, connection: &Arc<Connection>, (): ()) {
            connection.send(&text_frame("42[\"welcome\"]"));
        }

        async fn handle(
            self: &Arc<Self>,
            connection: &Arc<Connection>,
            event: ClientEvent,
            _ack: Option<AckId>,
        ) {
            assert_eq!(
                self.under_way.fetch_add(1, Ordering::SeqCst),
                0,
                "one at a time"
            );
            if matches!(event, ClientEvent::LeaveRoom(_)) {
                self.gate.notified().await;
            } else if matches!(event, ClientEvent::ForceLogin { .. }) {
                panic!("a handler's bug");
            } else if event == ClientEvent::Ping {
                connection.send(&text_frame("42[\"pong\"]"));
            }
            self.handled.lock().unwrap().push(event);
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }

        fn handle_undecodable(
            self: &Arc<Self>,
            _connection: &Arc<Connection>,
            _name: EventName,
            _ack: Option<AckId>,
        ) {
        }

        async fn disconnected(self: &Arc<Self>, _connection: &Arc<Connection>, close: Close) {
            self.ended.lock().unwrap().push(close);
        }
    }

    /// A client of a running connection.
    struct Client {
        stream: TcpStream,
        unread: VecDeque<u8>,
        connection: Arc<Connection>,
        task: JoinHandle<()>,
        script: Arc<Script>,
    }

    /// A frame of the server.
    #[derive(Debug, PartialEq, Eq)]
    enum Frame {
        Text(String),
        Pong(Vec<u8>),
        Close(u16, String),
    }

    fn text(text: &str) -> Frame {
        Frame::Text(text.into())
    }

    impl Client {
        /// Upgraded, with the handshake's packet taken.
        async fn open(script: &Arc<Script>) -> Self {
            let mut client = Self::open_unread(script).await;
            let Frame::Text(open) = client.next().await else {
                panic!("no open packet")
            };
            assert!(open.starts_with("0{\"sid\":\""), "{open}");
            client
        }

        async fn open_unread(script: &Arc<Script>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // A window that does not grow: what a client does not read stays with the server.
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let (stream, accepted) = tokio::join!(socket.connect(address), listener.accept());
            let accepted = accepted.unwrap().0;
            SockRef::from(&accepted).set_send_buffer_size(4096).unwrap();
            let client = super::Client::default();
            let connection = Arc::new(Connection::new(&script.sockets, accepted, client));
            let admission = Admission::take(script, "192.0.2.1").unwrap();
            let task = tokio::spawn(run(admission, Arc::clone(&connection), None));
            Self {
                stream: stream.unwrap(),
                unread: VecDeque::new(),
                connection,
                task,
                script: Arc::clone(script),
            }
        }

        /// Upgraded and accepted.
        async fn accepted(script: &Arc<Script>) -> Self {
            let mut client = Self::open(script).await;
            client.say(r#"40{"token":"t","sessionId":"s"}"#).await;
            let accepted = r#"40{"sid":"public","pid":"private"}"#;
            assert_eq!(client.next().await, text(accepted));
            assert_eq!(client.next().await, text("42[\"welcome\"]"));
            client
        }

        async fn say(&mut self, packet: &str) {
            self.write(&client_frame(0x81, packet.as_bytes())).await;
        }

        /// Does not wait while it writes or reads: a paused clock would leap to the next deadline.
        async fn write(&mut self, mut bytes: &[u8]) {
            while !bytes.is_empty() {
                match self.stream.try_write(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) => assert!(is_transient(&error), "{error}"),
                }
                yield_now().await;
            }
        }

        async fn byte(&mut self) -> Option<u8> {
            while self.unread.is_empty() {
                let mut buffer = [0; 4096];
                match self.stream.try_read(&mut buffer) {
                    Ok(0) => return None,
                    Ok(received) => self.unread.extend(&buffer[..received]),
                    Err(error) if is_transient(&error) => yield_now().await,
                    Err(_) => return None,
                }
            }
            self.unread.pop_front()
        }

        async fn bytes(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = Vec::new();
            while bytes.len() < count {
                bytes.push(self.byte().await.expect("the stream goes on"));
            }
            bytes
        }

        async fn next(&mut self) -> Frame {
            let header = self.bytes(2).await;
            let length = match header[1] {
                126 => {
                    let length = self.bytes(2).await;
                    usize::from(u16::from_be_bytes([length[0], length[1]]))
                }
                short => usize::from(short),
            };
            let payload = self.bytes(length).await;
            match header[0] {
                0x81 => Frame::Text(String::from_utf8(payload).unwrap()),
                0x8a => Frame::Pong(payload),
                0x88 => {
                    let reason = String::from_utf8(payload[2..].to_vec()).unwrap();
                    Frame::Close(u16::from_be_bytes([payload[0], payload[1]]), reason)
                }
                other => panic!("a frame of kind {other:x}"),
            }
        }

        /// Makes sure that the connection lives: a WebSocket ping is answered.
        async fn is_alive(&mut self) {
            self.write(&client_frame(0x89, b"alive?")).await;
            assert_eq!(self.next().await, Frame::Pong(b"alive?".into()));
        }

        /// Waits until a handler is under way.
        async fn is_busy(&self) {
            while self.script.under_way.load(Ordering::SeqCst) == 0 {
                yield_now().await;
            }
        }

        /// Waits for the end of the connection, and says why it ended.
        async fn ended(mut self) -> Close {
            while self.byte().await.is_some() {}
            drop(self.stream);
            self.task.await.unwrap();
            assert_eq!(self.script.sockets.connections.len(), 0);
            drop(self.connection);
            assert_eq!(self.script.sockets.budget.bytes(), 0);
            let ended = self.script.ended.lock().unwrap();
            assert_eq!(ended.len(), 1, "the end is told once");
            ended[0]
        }
    }

    #[tokio::test]
    async fn a_client_is_let_in_and_heard() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        client.say(r#"42["ping",null]"#).await;
        assert_eq!(client.next().await, text("42[\"pong\"]"));
        client.say("41").await;
        assert_eq!(
            client.next().await,
            Frame::Close(1000, "client_disconnected".into())
        );
        let close = client.ended().await;
        assert_eq!(close, Close::ClientDisconnected);
        assert!(close.is_orderly());
    }

    #[tokio::test]
    async fn a_refused_client_hears_why() {
        let script = Script::new(&[("SLOTCAST_CONNECT_TIMEOUT_MS", "50")]);
        let mut client = Client::open(&script).await;
        client.say("40{}").await;
        assert_eq!(
            client.next().await,
            text(r#"44{"message":"Invalid token"}"#)
        );
        assert_eq!(client.next().await, Frame::Close(1008, "refused".into()));
        assert_eq!(client.ended().await, Close::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_connects_is_closed() {
        let script = Script::new(&[]);
        let mut client = Client::open(&script).await;
        advance(Duration::from_millis(44_999)).await;
        assert_eq!(client.next().await, text("2"));
        client.is_alive().await;
        advance(Duration::from_millis(1)).await;
        assert_eq!(
            client.next().await,
            Frame::Close(1008, "connect_timeout".into())
        );
        assert_eq!(client.ended().await, Close::ConnectTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_closed_after_interval_and_timeout() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        advance(Duration::from_millis(25_000)).await;
        assert_eq!(client.next().await, text("2"));
        advance(Duration::from_millis(59_999)).await;
        client.is_alive().await;
        advance(Duration::from_millis(1)).await;
        assert_eq!(client.next().await, Frame::Close(1001, "silent".into()));
        assert_eq!(client.ended().await, Close::Silent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_heartbeats_stays() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        for _ in 0..20 {
            advance(Duration::from_millis(25_000)).await;
            assert_eq!(client.next().await, text("2"));
            client.say("3").await;
            client.is_alive().await;
        }
        client.say("1").await;
        assert_eq!(
            client.next().await,
            Frame::Close(1000, "client_closed".into())
        );
        assert_eq!(client.ended().await, Close::ClientClosed);
    }

    #[tokio::test]
    async fn close_frames_are_echoed() {
        let cases = [
            (&[3, 0xe8][..], 1000, Close::ClientClosed),
            (&[3, 0xe9], 1001, Close::ClientClosed),
            (&[], 1000, Close::ConnectionLost),
            (&[0x0f, 0xa0], 4000, Close::ConnectionLost),
        ];
        for (payload, echo, close) in cases {
            let script = Script::new(&[]);
            let mut client = Client::accepted(&script).await;
            client.write(&client_frame(0x88, payload)).await;
            assert_eq!(client.next().await, Frame::Close(echo, String::new()));
            assert_eq!(client.ended().await, close);
        }
    }

    #[tokio::test]
    async fn violations_are_answered_with_their_code() {
        let unmasked = vec![0x81, 1, b'2'];
        let too_big = vec![0x81, 0xff, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0];
        let cases = [
            (unmasked, Frame::Close(1002, "frame_unmasked".into())),
            (too_big, Frame::Close(1009, "frame_too_big".into())),
            (
                client_frame(0x81, &[0xff]),
                Frame::Close(1007, "frame_utf8".into()),
            ),
            (
                client_frame(0x81, b"9"),
                Frame::Close(1002, "engine_type".into()),
            ),
            (
                client_frame(0x82, b"x"),
                Frame::Close(1002, "unannounced_binary".into()),
            ),
        ];
        for (bytes, expected) in cases {
            let script = Script::new(&[]);
            let mut client = Client::accepted(&script).await;
            client.write(&bytes).await;
            assert_eq!(client.next().await, expected);
            let close = client.ended().await;
            assert!(
                matches!(close, Close::BadFrame(_) | Close::Violation(_)),
                "{close:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_stranger_may_not_send_what_an_accepted_client_may() {
        let script = Script::new(&[]);
        let mut client = Client::open(&script).await;
        let header = client_frame(0x81, &[b'x'; 20_000]);
        client.write(&header[..8]).await;
        assert_eq!(
            client.next().await,
            Frame::Close(1009, "frame_too_big".into())
        );
        client.ended().await;
    }

    #[tokio::test]
    async fn half_a_frame_and_the_end_of_the_stream_is_a_lost_connection() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        client
            .write(&client_frame(0x81, b"42[\"ping\"]")[..7])
            .await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.ended().await, Close::ConnectionLost);
    }

    #[tokio::test]
    async fn frames_come_in_any_pieces() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        for byte in client_frame(0x81, br#"42["ping"]"#) {
            client.write(&[byte]).await;
            yield_now().await;
        }
        assert_eq!(client.next().await, text("42[\"pong\"]"));
    }

    #[tokio::test]
    async fn events_of_one_read_are_handled_in_order_and_one_at_a_time() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        let mut burst = Vec::new();
        for number in 0..50 {
            let packet = format!(r#"42["joinRoom","{number}"]"#);
            burst.extend(client_frame(0x81, packet.as_bytes()));
        }
        burst.extend(client_frame(0x81, br#"42["ping"]"#));
        client.write(&burst).await;
        assert_eq!(client.next().await, text("42[\"pong\"]"));
        let expected: Vec<_> = (0..50)
            .map(|number| ClientEvent::JoinRoom(number.to_string()))
            .collect();
        assert_eq!(script.handled.lock().unwrap()[..50], expected);
    }

    #[tokio::test]
    async fn room_traffic_passes_a_handler_and_the_socket_is_not_read_meanwhile() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        client.say(r#"42["leaveRoom","slow"]"#).await;
        client.is_busy().await;
        client.say(r#"42["ping"]"#).await;
        client.connection.send(&text_frame("42[\"message\"]"));
        assert_eq!(client.next().await, text("42[\"message\"]"));
        assert!(script.handled.lock().unwrap().is_empty());
        script.gate.notify_one();
        assert_eq!(client.next().await, text("42[\"pong\"]"));
        assert_eq!(script.handled.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_handler_under_way_is_finished_when_its_connection_ends() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        client.say(r#"42["leaveRoom","slow"]"#).await;
        client.is_busy().await;
        client.connection.close(Close::Replaced);
        assert_eq!(client.next().await, text("41"));
        assert_eq!(client.next().await, Frame::Close(1000, "replaced".into()));
        assert!(script.ended.lock().unwrap().is_empty());
        script.gate.notify_one();
        assert_eq!(client.ended().await, Close::Replaced);
        assert_eq!(script.handled.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_never_ends_is_given_up() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        client.say(r#"42["leaveRoom","stuck"]"#).await;
        client.is_busy().await;
        advance(Duration::from_millis(HANDLER_TIMEOUT_MS.into())).await;
        assert_eq!(client.next().await, Frame::Close(1013, "overloaded".into()));
        assert_eq!(client.ended().await, Close::Overloaded);
    }

    #[tokio::test]
    async fn a_panic_of_a_handler_ends_its_connection_alone() {
        let script = Script::new(&[]);
        let mut other = Client::accepted(&script).await;
        let mut client = Client::accepted(&script).await;
        client.say(r#"42["force_login",{"token":"t"}]"#).await;
        assert_eq!(client.next().await, Frame::Close(1011, "panicked".into()));
        drop(client.stream);
        client.task.await.unwrap();
        assert_eq!(*script.ended.lock().unwrap(), [Close::Panicked]);
        assert_eq!(script.metrics.task_panics.get(), 1);
        script.under_way.store(0, Ordering::SeqCst);
        other.say(r#"42["ping"]"#).await;
        assert_eq!(other.next().await, text("42[\"pong\"]"));
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_overflows() {
        let script = Script::new(&[("SLOTCAST_OUTBOX_MAX_BYTES", "65536")]);
        let client = Client::accepted(&script).await;
        let frame = text_frame(&"x".repeat(10_000));
        while !client.connection.is_closing() {
            client.connection.send(&frame);
            yield_now().await;
        }
        assert_eq!(client.ended().await, Close::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_for_long_is_slow() {
        let script = Script::new(&[("SLOTCAST_OUTBOX_MAX_BYTES", "100000000")]);
        let client = Client::accepted(&script).await;
        let frame = text_frame(&"x".repeat(60_000));
        for _ in 0..100 {
            client.connection.send(&frame);
        }
        for _ in 0..10_000 {
            yield_now().await;
        }
        let started = Instant::now();
        let Client {
            stream,
            connection,
            task,
            ..
        } = client;
        task.await.unwrap();
        drop((stream, connection));
        assert_eq!(*script.ended.lock().unwrap(), [Close::Slow]);
        assert_eq!(started.elapsed(), Duration::from_secs(20) + FAREWELL);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_of_many_senders_never_interleave() {
        let script = Script::new(&[("SLOTCAST_OUTBOX_MAX_BYTES", "100000000")]);
        let mut client = Client::accepted(&script).await;
        let senders: Vec<_> = (0..4_u8)
            .map(|sender| {
                let connection = Arc::clone(&client.connection);
                tokio::spawn(async move {
                    for number in 0..500_usize {
                        let letter = String::from(char::from(b'a' + sender));
                        connection.send(&text_frame(&letter.repeat(1 + number * 7 % 3000)));
                        if number % 16 == 0 {
                            yield_now().await;
                        }
                    }
                })
            })
            .collect();
        let mut numbers = [0; 4];
        for _ in 0..4 * 500 {
            let Frame::Text(text) = client.next().await else {
                panic!("a text")
            };
            let first = text.as_bytes()[0];
            assert!(text.bytes().all(|byte| byte == first));
            let number = &mut numbers[usize::from(first - b'a')];
            assert_eq!(
                text.len(),
                1 + *number * 7 % 3000,
                "in the order of its sender"
            );
            *number += 1;
        }
        for sender in senders {
            sender.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_held_room_waits_for_the_answer() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        let room = RoomId::new(Slot::new(1).unwrap(), 2);
        let cursor = |number| Cursor {
            message: StreamPosition { epoch: 1, number },
            ..Cursor::default()
        };
        let missed = Missed {
            messages: [1, 2]
                .map(|number| (cursor(number).message, format!("{{\"n\":{number}}}")))
                .into(),
            ..Missed::default()
        };
        client.connection.hold(room);
        for item in Item::missed(&missed, cursor(0)) {
            let part = item.part(room, cursor(0));
            client
                .connection
                .deliver(room, &part.frames.clone(), &[part]);
        }
        client.connection.send(&text_frame("other"));
        let opening = Opening {
            cursor: cursor(1),
            answer: Some(r#"42["answer"]"#),
            missed: &[],
        };
        client.connection.release(room, opening);
        let answer = r#"42["answer","000100000002:1-1:0-0"]"#;
        let new = r#"42["message",{"n":2},"000100000002:1-2:0-0"]"#;
        for expected in ["other", answer, new] {
            assert_eq!(client.next().await, text(expected));
        }
    }

    #[tokio::test]
    async fn a_flood_of_pings_costs_one_answer_a_read() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        let mut flood = Vec::new();
        for number in 0..10_000_u32 {
            flood.extend(client_frame(0x89, &number.to_be_bytes()));
        }
        client.write(&flood).await;
        let mut answers = 0;
        loop {
            answers += 1;
            let Frame::Pong(payload) = client.next().await else {
                panic!("a pong")
            };
            if payload == 9_999_u32.to_be_bytes() {
                break;
            }
        }
        assert!(answers < 1000, "{answers}");
    }

    #[tokio::test]
    async fn a_draining_gateway_says_so_without_ending_the_session() {
        let script = Script::new(&[]);
        let mut client = Client::accepted(&script).await;
        client.connection.close(Close::Draining);
        client.connection.close(Close::Slow);
        assert_eq!(client.next().await, Frame::Close(1012, "draining".into()));
        assert_eq!(client.ended().await, Close::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_free_again_when_connections_end() {
        let script = Script::new(&[
            ("SLOTCAST_MAX_CONNECTIONS", "2"),
            ("SLOTCAST_CONNECTIONS_PER_ADDRESS", "1"),
            ("SLOTCAST_CONNECTIONS_PER_SECOND", "3"),
        ]);
        let take = |address| Admission::take(&script, address);
        let client = Client::accepted(&script).await;
        assert_eq!(take("192.0.2.1").err(), Some(NoPlace::Address));
        let other = take("192.0.2.2").unwrap();
        assert_eq!(take("192.0.2.3").err(), Some(NoPlace::Full));
        client.connection.close(Close::Draining);
        client.ended().await;
        drop(take("192.0.2.1").unwrap());
        drop(other);
        assert_eq!(take("192.0.2.1").err(), Some(NoPlace::Rate));
        advance(Duration::from_secs(1)).await;
        let all = [take("192.0.2.1"), take("192.0.2.2")];
        assert!(
            all.iter().all(Result::is_ok),
            "what was refused left nothing"
        );
    }

    #[test]
    fn an_idle_connection_is_small() {
        fn size_of_future<F: Future>(
            _: impl FnOnce(Admission<Script>, Arc<Connection>) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let task = size_of_future(|admission, connection| run(admission, connection, None));
        println!(
            "task {task} connection {} outbox {} peer {} sleep {}",
            size_of::<Connection>(),
            size_of::<Outbox>(),
            size_of::<Peer>(),
            size_of::<Sleep>()
        );
        // With the 112 bytes that tokio adds, half a KiB.
        assert!(task <= 400, "{task}");
        assert!(
            size_of::<Connection>() <= 328,
            "{}",
            size_of::<Connection>()
        );
    }
}
