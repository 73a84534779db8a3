//! A Redis node that says what a test wants it to say.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::Address;

/// What every node's clock shows.
pub(super) const NOW_SECONDS: u64 = 1_700_000_000;

/// What a node does with a command.
pub(super) enum Reply {
    /// Answers with these bytes of RESP.
    Say(String),
    /// Never answers, nor what comes after it on the connection.
    Silence,
    /// Closes the connection.
    Close,
}

pub(super) fn ok() -> Reply {
    Reply::Say("+OK\r\n".to_owned())
}

pub(super) fn error(text: &str) -> Reply {
    Reply::Say(format!("-{text}\r\n"))
}

/// Answers a command; also learns how many of the same first word came before.
type Script = dyn Fn(&[String], usize) -> Reply + Send + Sync;

/// Accepts connections until dropped.
pub(super) struct FakeNode {
    pub(super) address: Address,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Box<Script>,
    /// The master of all slots, as this node tells it.
    owner: Mutex<Address>,
    slot_maps: AtomicUsize,
    heard: Mutex<Vec<Vec<String>>>,
    counts: Mutex<HashMap<String, usize>>,
}

impl FakeNode {
    pub(super) async fn start(
        script: impl Fn(&[String], usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Address::new("127.0.0.1", port);
        let shared = Arc::new(Shared {
            script: Box::new(script),
            owner: Mutex::new(address.clone()),
            slot_maps: AtomicUsize::new(0),
            heard: Mutex::default(),
            counts: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            for id in 1_u32.. {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, id, Arc::clone(&serving)));
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// Lets the node tell that another one owns every slot.
    pub(super) fn name_owner(&self, owner: &Address) {
        *self.shared.owner.lock().unwrap() = owner.clone();
    }

    /// How often it told the slot map.
    pub(super) fn slot_maps(&self) -> usize {
        self.shared.slot_maps.load(Ordering::Relaxed)
    }

    /// The commands that it got so far, without those of connecting.
    pub(super) fn heard(&self) -> Vec<String> {
        let heard = self.shared.heard.lock().unwrap();
        heard.iter().map(|words| words.join(" ")).collect()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: TcpStream, id: u32, node: Arc<Shared>) {
    let mut socket = BufReader::new(socket);
    let mut is_silent = false;
    while let Some(words) = read_command(&mut socket).await {
        let reply = match (words[0].as_str(), words.get(1).map(String::as_str)) {
            ("CLIENT", Some("INFO")) => bulk(&format!("id={id} addr=127.0.0.1:{id} fd=8")),
            ("CLIENT", Some("KILL")) => {
                node.heard.lock().unwrap().push(words);
                Reply::Say(":1\r\n".to_owned())
            }
            ("CLIENT", _) => ok(),
            ("HELLO", _) => Reply::Say("%0\r\n".to_owned()),
            ("PING", _) => Reply::Say("+PONG\r\n".to_owned()),
            ("TIME", _) => Reply::Say(format!("*2\r\n$10\r\n{NOW_SECONDS}\r\n$1\r\n0\r\n")),
            ("CLUSTER", _) => {
                node.slot_maps.fetch_add(1, Ordering::Relaxed);
                slot_map(&node.owner.lock().unwrap())
            }
            _ => node.answer(words),
        };
        match reply {
            Reply::Say(_) if is_silent => {}
            Reply::Say(text) => socket.get_mut().write_all(text.as_bytes()).await.unwrap(),
            Reply::Silence => is_silent = true,
            Reply::Close => return,
        }
    }
}

impl Shared {
    fn answer(&self, words: Vec<String>) -> Reply {
        let before = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(words[0].clone()).or_default();
            *count += 1;
            *count - 1
        };
        let reply = (self.script)(&words, before);
        self.heard.lock().unwrap().push(words);
        reply
    }
}

fn bulk(text: &str) -> Reply {
    Reply::Say(format!("${}\r\n{text}\r\n", text.len()))
}

fn slot_map(owner: &Address) -> Reply {
    let host = owner.host();
    Reply::Say(format!(
        "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n${}\r\n{host}\r\n:{}\r\n$2\r\nid\r\n",
        host.len(),
        owner.port()
    ))
}

/// Reads an array of bulk strings; `None` at the end of the connection.
async fn read_command(socket: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = read_length(socket).await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; read_length(socket).await? + 2];
        socket.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).unwrap());
    }
    Some(words)
}

async fn read_length(socket: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    let read = socket.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line[1..].trim_end().parse().unwrap())
}
