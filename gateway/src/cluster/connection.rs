//! One connection to one node, for commands and subscriptions alike.
//!
//! ```text
//!  callers --- bytes --> outgoing --- whoever comes first writes ---> node
//!     ^                                                                |
//!     '--- answers, in the order of the calls --- reader <-------------'
//!                                                   '--- pushes ---> subscriber
//! ```
//!
//! RESP3 carries answers and pushes on one socket, so a node needs no second one, and who has sent a message
//! to a room reads its answer and its publication with one system call. Client libraries lose sharded
//! subscriptions when a slot moves and mix up unsolicited `sunsubscribe` pushes with answers; so this is
//! ours. A caller writes for itself: no other task has to wake for that.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::{
    collections::VecDeque,
    io,
    net::Shutdown,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures_util::future::BoxFuture;
use redis::{Cmd, RedisConnectionInfo, RedisError, RedisResult, Value, cmd};
use socket2::SockRef;
use thiserror::Error;
use tokio::{
    io::AsyncReadExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Address,
    resp::{self, Malformed, Reply},
};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A silent node is probed this often; a probe without any byte in return until the next one ends
/// the connection. A hung node sends no end of file: only this tells.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Further commands wait until the node has answered something, and leave in one write.
const UNANSWERED_MAX: usize = 32;

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// The least room for a read.
const READ_BYTES_MIN: usize = 16 * 1024;

/// A buffer that has grown beyond this is given back when it is empty.
const BUFFER_BYTES_KEPT: usize = 256 * 1024;

/// What Redis shows of the connection in `CLIENT LIST`.
const CLIENT_NAME: &str = "slotcast-gateway";

/// Takes what a node says of subscriptions.
pub(crate) trait Subscriber: Send + Sync {
    /// Takes what has come at once: the payloads of shard messages, and whatever else the node said of
    /// subscriptions.
    ///
    /// # Errors
    /// Why the connection must end.
    fn receive<'a>(
        &'a self,
        messages: &'a [&'a [u8]],
        replies: &'a [Reply<'a>],
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// Why a connection ended.
#[derive(Debug, Error)]
enum Ended {
    #[error("lost the connection: {0}")]
    Io(#[from] io::Error),
    #[error("fell silent")]
    Silent,
    #[error("sent bytes that are not RESP3")]
    Malformed(#[from] Malformed),
    #[error("answered what it was not asked")]
    Unasked,
    #[error("{0}")]
    Subscriber(String),
}

/// The end that callers have.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    writer: OwnedWriteHalf,
    outgoing: Mutex<Outgoing>,
    /// Tells the reader that the socket takes no more, or that it is over.
    changed: Notify,
    subscriber: Mutex<Option<Arc<dyn Subscriber>>>,
    /// Why the connection is over.
    ended: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    /// Who waits for answers, oldest first: Redis answers in order.
    unanswered: VecDeque<Unanswered>,
    /// Somebody is at it, and takes along what is added.
    is_writing: bool,
    /// The socket takes no more at the moment; the reader waits until it does.
    is_blocked: bool,
    is_over: bool,
}

enum Unanswered {
    Call {
        /// Answers before the one that is wanted.
        others: usize,
        answer: oneshot::Sender<RedisResult<Value>>,
    },
    /// A command about a subscription, which is answered by a push or an error, and the `ECHO` behind it.
    Subscription,
    Probe,
}

impl Connection {
    /// Connects and greets.
    ///
    /// # Errors
    /// What the system or the node says.
    pub(super) async fn open(
        address: &Address,
        settings: &RedisConnectionInfo,
    ) -> RedisResult<Self> {
        let connecting = TcpStream::connect((address.host(), address.port()));
        let stream = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut)))??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Shared {
            writer,
            outgoing: Mutex::default(),
            changed: Notify::new(),
            subscriber: Mutex::default(),
            ended: watch::Sender::new(None),
        });
        tokio::spawn(read(Arc::clone(&shared), reader));
        let connection = Self { shared };
        if let Err(error) = connection.call(&hello(settings)).await {
            connection.close();
            return Err(error);
        }
        Ok(connection)
    }

    /// Runs a command. Waits as long as the node says anything at all: answers come in order, so a node that
    /// is merely busy will come to this one, and to repeat it elsewhere would add to the work.
    ///
    /// # Errors
    /// What the node says; the end of the connection.
    pub(super) async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        self.call_last(&command.get_packed_command(), 0).await
    }

    /// Runs a command for a slot that the node is importing.
    ///
    /// # Errors
    /// Those of [`Connection::call`].
    pub(super) async fn call_asking(&self, command: &Cmd) -> RedisResult<Value> {
        let mut both = cmd("ASKING").get_packed_command();
        both.extend(command.get_packed_command());
        self.call_last(&both, 1).await
    }

    /// Runs several commands; the last one's answer.
    async fn call_last(&self, commands: &[u8], others: usize) -> RedisResult<Value> {
        let (answer, answered) = oneshot::channel();
        let call = Unanswered::Call { others, answer };
        if !self.shared.send(commands, call) {
            return Err(broken());
        }
        answered.await.unwrap_or_else(|_| Err(broken()))
    }

    /// Sends a command about a subscription and its `ECHO`, whose answers go to the subscriber.
    pub(crate) fn ask(&self, command: &[&str], echo: &str) {
        let mut both = pack(command);
        both.extend(pack(&["ECHO", echo]));
        // If it is over, the subscriber hears of that.
        self.shared.send(&both, Unanswered::Subscription);
    }

    /// From now on the subscriber gets the pushes, instead of the one before.
    pub(crate) fn attach(&self, subscriber: Arc<dyn Subscriber>) {
        *self.shared.subscriber() = Some(subscriber);
    }

    /// Ends with the connection; why it did.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(), // this end holds the sender
        }
    }

    /// Whether commands are of no use any more.
    pub(super) fn is_over(&self) -> bool {
        self.shared.outgoing().is_over
    }

    /// Ends the connection; whoever waits for an answer gets none.
    pub(super) fn close(&self) {
        self.shared.end("was given up");
    }
}

impl Shared {
    /// Sends as soon as may be; false if the connection is over.
    fn send(&self, commands: &[u8], unanswered: Unanswered) -> bool {
        let mut outgoing = self.outgoing();
        if outgoing.is_over {
            return false;
        }
        outgoing.bytes.extend_from_slice(commands);
        let is_probe = matches!(unanswered, Unanswered::Probe);
        outgoing.unanswered.push_back(unanswered);
        if is_probe || outgoing.unanswered.len() <= UNANSWERED_MAX {
            self.write(outgoing);
        }
        true
    }

    /// Writes what there is, unless somebody does already or the socket takes nothing.
    fn write<'a>(&'a self, mut outgoing: MutexGuard<'a, Outgoing>) {
        if outgoing.is_writing || outgoing.is_blocked {
            return;
        }
        outgoing.is_writing = true;
        while !outgoing.bytes.is_empty() && !outgoing.is_blocked {
            let mut bytes = std::mem::take(&mut outgoing.bytes);
            drop(outgoing);
            let written = match self.writer.try_write(&bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return self.end(&Ended::from(error).to_string()),
            };
            outgoing = self.outgoing();
            bytes.drain(..written);
            outgoing.is_blocked = !bytes.is_empty();
            bytes.append(&mut outgoing.bytes);
            outgoing.bytes = bytes;
        }
        outgoing.is_writing = false;
        outgoing.bytes.shrink_to(BUFFER_BYTES_KEPT);
        if outgoing.is_blocked {
            self.changed.notify_one();
        }
    }

    /// The socket takes more again.
    fn unblock(&self) {
        let mut outgoing = self.outgoing();
        outgoing.is_blocked = false;
        self.write(outgoing);
    }

    /// Gives an answer to whoever waits for it; true if it is the subscriber's.
    fn answer(&self, reply: &Reply<'_>) -> Result<bool, Ended> {
        let mut outgoing = self.outgoing();
        match outgoing.unanswered.front_mut().ok_or(Ended::Unasked)? {
            Unanswered::Call { others, .. } if *others > 0 => {
                *others -= 1;
                return Ok(false);
            }
            // Only the echo is a text: it is the last answer.
            Unanswered::Subscription if !matches!(reply, Reply::Text(_)) => return Ok(true),
            Unanswered::Call { .. } | Unanswered::Subscription | Unanswered::Probe => {}
        }
        let answered = outgoing.unanswered.pop_front();
        drop(outgoing);
        match answered {
            // Who gave up meanwhile needs no answer.
            Some(Unanswered::Call { answer, .. }) => drop(answer.send(outcome(reply))),
            Some(Unanswered::Subscription) => return Ok(true),
            Some(Unanswered::Probe) | None => {}
        }
        Ok(false)
    }

    fn end(&self, reason: &str) {
        let unanswered = {
            let mut outgoing = self.outgoing();
            outgoing.is_over = true;
            outgoing.bytes = Vec::new();
            std::mem::take(&mut outgoing.unanswered)
        };
        drop(unanswered);
        // One that is closed already needs no more.
        let _ = SockRef::from(self.writer.as_ref()).shutdown(Shutdown::Both);
        self.changed.notify_one();
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriber(&self) -> MutexGuard<'_, Option<Arc<dyn Subscriber>>> {
        self.subscriber
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the connection ends.
async fn read(shared: Arc<Shared>, reader: OwnedReadHalf) {
    if let Err(ended) = (Reader {
        shared: &shared,
        reader,
    })
    .run()
    .await
    {
        shared.end(&ended.to_string());
    }
    // It may refer to the connection.
    *shared.subscriber() = None;
}

struct Reader<'a> {
    shared: &'a Shared,
    reader: OwnedReadHalf,
}

impl Reader<'_> {
    async fn run(&mut self) -> Result<(), Ended> {
        let mut buffer = BytesMut::with_capacity(READ_BUFFER_BYTES);
        let mut probes = interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_heard = true;
        loop {
            let (is_blocked, is_over) = {
                let outgoing = self.shared.outgoing();
                (outgoing.is_blocked, outgoing.is_over)
            };
            if is_over {
                return Ok(());
            }
            buffer.reserve(READ_BYTES_MIN);
            // Every arm is cancel-safe: a note, readiness, a read into the buffer, a ticker. In this order: when
            // it is this process that stood still, what waits to be read comes before the probe that is due.
            tokio::select! {
                biased;
                () = self.shared.changed.notified() => {}
                writable = self.shared.writer.writable(), if is_blocked => {
                    writable?;
                    self.shared.unblock();
                }
                read = self.reader.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    is_heard = true;
                    self.take(&mut buffer).await?;
                }
                _ = probes.tick() => {
                    if !is_heard {
                        return Err(Ended::Silent);
                    }
                    is_heard = false;
                    self.shared.send(&pack(&["PING"]), Unanswered::Probe);
                }
            }
        }
    }

    /// Takes every whole value out of the buffer: answers to their callers, the rest to the subscriber.
    async fn take(&self, buffer: &mut BytesMut) -> Result<(), Ended> {
        let mut messages = Vec::new();
        let mut replies = Vec::new();
        let mut taken = 0;
        while let Some((reply, length)) = resp::parse(buffer.get(taken..).unwrap_or_default())? {
            taken += length;
            if let Some(message) = shard_message(&reply) {
                messages.push(message);
            } else if matches!(reply, Reply::Push(_)) || self.shared.answer(&reply)? {
                replies.push(reply);
            }
        }
        // What waited for answers leaves before messages are delivered, which may take a while.
        self.shared.write(self.shared.outgoing());
        if !messages.is_empty() || !replies.is_empty() {
            let subscriber = self.shared.subscriber().clone();
            if let Some(subscriber) = subscriber {
                let received = subscriber.receive(&messages, &replies).await;
                received.map_err(Ended::Subscriber)?;
            }
        }
        buffer.advance(taken);
        if buffer.is_empty() && buffer.capacity() > BUFFER_BYTES_KEPT {
            *buffer = BytesMut::with_capacity(READ_BUFFER_BYTES);
        }
        Ok(())
    }
}

/// The payload of a message on a shard channel.
fn shard_message<'a>(reply: &Reply<'a>) -> Option<&'a [u8]> {
    let Reply::Push(items) = reply else {
        return None;
    };
    match items.as_slice() {
        [
            Reply::Text(b"smessage"),
            Reply::Text(_),
            Reply::Text(message),
        ] => Some(*message),
        _ => None,
    }
}

fn outcome(reply: &Reply<'_>) -> RedisResult<Value> {
    let Reply::Error(text) = reply else {
        return Ok(value(reply));
    };
    // Which code it bears and what that means, the client library knows.
    let error = [b"-", *text, b"\r\n"].concat();
    redis::parse_redis_value(&error)?.extract_error()
}

fn value(reply: &Reply<'_>) -> Value {
    match reply {
        Reply::Text(text) | Reply::Error(text) => Value::BulkString(text.to_vec()),
        Reply::Integer(number) => Value::Int(*number),
        Reply::Null => Value::Nil,
        Reply::Items(items) | Reply::Push(items) => Value::Array(items.iter().map(value).collect()),
    }
}

/// `HELLO 3`, with user and password when the cluster wants them.
fn hello(settings: &RedisConnectionInfo) -> Cmd {
    let mut hello = cmd("HELLO");
    hello.arg(3);
    if let Some(password) = settings.password() {
        let user = settings.username().unwrap_or("default");
        hello.arg("AUTH").arg(user).arg(password);
    }
    hello.arg("SETNAME").arg(CLIENT_NAME).to_owned()
}

fn pack(words: &[&str]) -> Vec<u8> {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command.get_packed_command()
}

fn broken() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, Write as _},
        sync::mpsc as blocking,
        thread,
    };

    use futures_util::{FutureExt, future::join_all};
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
        sync::mpsc,
        task::yield_now,
        time,
    };

    use super::{
        super::fake::{self, FakeNode, error, ok},
        *,
    };

    const MESSAGE: &str = ">3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";
    /// More than the grain of timers.
    const A_MOMENT: Duration = Duration::from_millis(2);
    const PROBE_DUE: Duration = PROBE_INTERVAL.saturating_add(A_MOMENT);
    const SUBSCRIBED: &str = ">3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n:1\r\n";

    #[tokio::test]
    async fn answers_go_to_their_callers_and_pushes_to_the_subscriber() {
        let node = FakeNode::start(|words, _| match words[0].as_str() {
            "SSUBSCRIBE" if words[1] == "refused" => error("MOVED 7 127.0.0.1:1"),
            "SSUBSCRIBE" => say(SUBSCRIBED),
            "PUBLISH" => say(&format!("{MESSAGE}:7\r\n{MESSAGE}")),
            _ => say(&format!("${}\r\n{}\r\n", words[1].len(), words[1])),
        })
        .await;
        let connection = open(&node.address).await;
        let (heard, mut hears) = mpsc::channel(16);
        connection.attach(Arc::new(Ear(heard)));
        connection.ask(&["SSUBSCRIBE", "refused"], "refused");
        connection.ask(&["SSUBSCRIBE", "c"], "c");
        let calls = ["PUBLISH 1", "ECHO b", "ECHO a"].map(|line| {
            let command = command(line);
            let connection = connection.clone();
            async move { connection.call(&command).await.unwrap() }
        });
        let text = |text: &str| Value::BulkString(text.into());
        assert_eq!(join_all(calls).await, [Value::Int(7), text("b"), text("a")]);
        let mut all = Vec::new();
        while all.len() < 6 {
            all.extend(hears.recv().await.unwrap());
        }
        all.retain(|one| one != "message hi");
        assert_eq!(
            all,
            [
                r#"Error("MOVED 7 127.0.0.1:1")"#,
                r#"Text("refused")"#,
                r#"Push([Text("ssubscribe"), Text("c"), Integer(1)])"#,
                r#"Text("c")"#,
            ]
        );
    }

    #[tokio::test]
    async fn error_is_the_answer_of_its_own_call() {
        let node = FakeNode::start(|words, _| match words[0].as_str() {
            "BAD" => error("WRONGTYPE no"),
            _ => ok(),
        })
        .await;
        let connection = open(&node.address).await;
        let (good, bad) = (command("GOOD 1"), command("BAD 1"));
        let (asking, bad) = tokio::join!(connection.call_asking(&good), connection.call(&bad));
        assert_eq!(asking.unwrap(), Value::BulkString("OK".into()));
        assert_eq!(bad.unwrap_err().code(), Some("WRONGTYPE"));
        assert_eq!(node.heard(), ["ASKING", "GOOD 1", "BAD 1"]);
    }

    #[tokio::test]
    async fn node_that_falls_silent_ends_the_connection_and_all_that_wait() {
        let node = FakeNode::start(|_, _| fake::Reply::Silence).await;
        let connection = open(&node.address).await;
        let lines = [command("WRITE 1"), command("WRITE 2")];
        let outcomes = join_all(lines.iter().map(|line| connection.call(line))).await;
        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(connection.ended().await, "fell silent");
        assert!(connection.is_over());
        let after = connection.call(&lines[0]).now_or_never();
        assert!(after.unwrap().is_err(), "nothing is sent any more");
    }

    #[tokio::test]
    async fn node_whose_answer_waits_to_be_read_is_not_silent() {
        const STALLS: usize = 32;
        let (probe, probed) = blocking::channel();
        let (allow, allowed) = blocking::channel();
        let (answer, answered) = blocking::channel();
        let address = on_a_thread(move |line, socket| {
            if line == "PING" && probe.send(()).is_ok() && allowed.recv().is_ok() {
                socket.write_all(b"+PONG\r\n").unwrap();
                answer.send(()).unwrap();
            }
        });
        let connection = open(&address).await;
        time::pause();
        time::advance(A_MOMENT).await; // the first probe is due
        for _ in 0..STALLS {
            while probed.try_recv().is_err() {
                assert!(!connection.is_over());
                yield_now().await;
            }
            // From here to the end of the time this runtime stands still.
            allow.send(()).unwrap();
            answered.recv().unwrap();
            time::advance(PROBE_DUE).await;
        }
    }

    #[tokio::test]
    async fn node_that_is_merely_busy_is_waited_for() {
        let (allow, allowed) = blocking::channel();
        let address = on_a_thread(move |line, socket| {
            if line == "WRITE" {
                while allowed.recv().is_ok() {
                    socket.write_all(MESSAGE.as_bytes()).unwrap();
                }
            }
            if line == "WRITE" || line == "PING" {
                socket.write_all(b"+OK\r\n").unwrap();
            }
        });
        let connection = open(&address).await;
        let (heard, mut hears) = mpsc::channel(16);
        connection.attach(Arc::new(Ear(heard)));
        let write = command("WRITE 1");
        let mut call = connection.call(&write).boxed();
        time::pause();
        for _ in 0..8 {
            assert!((&mut call).now_or_never().is_none());
            allow.send(()).unwrap();
            while hears.try_recv().is_err() {
                assert!(!connection.is_over());
                yield_now().await;
            }
            time::advance(PROBE_DUE).await;
        }
        time::resume();
        drop(allow);
        call.await.unwrap();
    }

    #[tokio::test]
    async fn subscriber_may_end_the_connection() {
        let node = FakeNode::start(|_, _| say(MESSAGE)).await;
        let connection = open(&node.address).await;
        let (heard, hears) = mpsc::channel(16);
        drop(hears);
        connection.attach(Arc::new(Ear(heard)));
        assert!(connection.call(&command("WRITE 1")).await.is_err());
        assert_eq!(connection.ended().await, "nobody listens");
    }

    #[tokio::test]
    async fn answer_that_nobody_asked_for_ends_the_connection() {
        let node = FakeNode::start(|_, _| say("+OK\r\n+OK\r\n")).await;
        let connection = open(&node.address).await;
        connection.call(&command("WRITE 1")).await.unwrap();
        assert_eq!(connection.ended().await, "answered what it was not asked");
    }

    #[tokio::test]
    async fn socket_that_takes_nothing_more_ends_the_connection() {
        let node = FakeNode::start(|_, _| ok()).await;
        let connection = open(&node.address).await;
        let socket = SockRef::from(connection.shared.writer.as_ref());
        socket.shutdown(Shutdown::Write).unwrap();
        let outcome = connection.call(&command("WRITE 1")).now_or_never();
        assert!(outcome.unwrap().is_err());
        let reason = connection.ended().await;
        assert!(reason.starts_with("lost the connection: "), "{reason}");
    }

    #[tokio::test]
    async fn commands_that_the_node_does_not_read_yet_leave_when_it_does() {
        const COUNT: usize = 40;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
        let (begin, begun) = oneshot::channel();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = socket.split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(b"%0\r\n").await.unwrap();
            begun.await.unwrap();
            while let Some(line) = lines.next_line().await.unwrap() {
                let answer = match line.as_str() {
                    "PING" => "+PONG\r\n",
                    "WRITE" => "+OK\r\n",
                    _ => continue,
                };
                writer.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let connection = open(&address).await;
        let mut write = cmd("WRITE");
        write.arg("x".repeat(512 * 1024));
        let calls = (0..COUNT).map(|_| connection.call(&write).boxed());
        let mut calls = join_all(calls).boxed();
        assert!((&mut calls).now_or_never().is_none());
        assert!(connection.shared.outgoing().is_blocked);
        begin.send(()).unwrap();
        assert!(calls.await.iter().all(Result::is_ok));
    }

    /// A node for one connection, on a thread of its own: it goes on while the runtime stands still. It
    /// greets, and does this with each line that comes.
    fn on_a_thread(
        mut hear: impl FnMut(&str, &mut std::net::TcpStream) + Send + 'static,
    ) -> Address {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let lines = io::BufReader::new(socket.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                if line == "HELLO" {
                    socket.write_all(b"%0\r\n").unwrap();
                }
                hear(&line, &mut socket);
            }
        });
        address
    }

    /// A subscriber that tells what it gets.
    struct Ear(mpsc::Sender<Vec<String>>);

    impl Subscriber for Ear {
        fn receive<'a>(
            &'a self,
            messages: &'a [&'a [u8]],
            replies: &'a [Reply<'a>],
        ) -> BoxFuture<'a, Result<(), String>> {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let messages = messages
                .iter()
                .map(|message| format!("message {}", text(message)));
            let all = messages.chain(replies.iter().map(show)).collect();
            let told = self
                .0
                .try_send(all)
                .map_err(|_| "nobody listens".to_owned());
            std::future::ready(told).boxed()
        }
    }

    fn show(reply: &Reply<'_>) -> String {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match reply {
            Reply::Text(bytes) => format!("Text({:?})", text(bytes)),
            Reply::Error(bytes) => format!("Error({:?})", text(bytes)),
            Reply::Push(items) => {
                let items: Vec<_> = items.iter().map(show).collect();
                format!("Push([{}])", items.join(", "))
            }
            Reply::Integer(_) | Reply::Null | Reply::Items(_) => format!("{reply:?}"),
        }
    }

    async fn open(address: &Address) -> Connection {
        let settings = RedisConnectionInfo::default();
        Connection::open(address, &settings).await.unwrap()
    }

    fn command(line: &str) -> Cmd {
        let mut command = Cmd::new();
        for word in line.split(' ') {
            command.arg(word);
        }
        command
    }

    fn say(text: &str) -> fake::Reply {
        fake::Reply::Say(text.to_owned())
    }
}
