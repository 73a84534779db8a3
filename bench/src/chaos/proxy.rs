//! TCP proxies in front of the Redis nodes: links that can be slow, silent or cut. The nodes announce
//! the proxies' ports, so gateways find nothing else. Replication passes the same way and is left alone.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// How the links to a node are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Open,
    /// Every piece of data takes so long, each way.
    Slow(Duration),
    /// Nothing passes, and nobody is told.
    Silent,
    /// Connections are closed, new ones too.
    Cut,
}

/// What one read takes.
const CHUNK: usize = 16 * 1024;

/// One proxy for each node; ended when dropped.
pub(crate) struct Proxies {
    links: Vec<NodeLink>,
    _accepting: JoinSet<()>,
}

struct NodeLink {
    node: u16,
    link: watch::Sender<Link>,
    /// Connections so far that were not for replication.
    relayed: Arc<AtomicU64>,
}

impl Proxies {
    /// Listens on the ports from `first` for the nodes on `nodes`, in order.
    pub(crate) async fn start(first: u16, nodes: impl Iterator<Item = u16>) -> Result<Self> {
        let (mut links, mut accepting) = (Vec::new(), JoinSet::new());
        for (port, node) in (first..).zip(nodes) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            let (link, watched) = watch::channel(Link::Open);
            let relayed = Arc::new(AtomicU64::new(0));
            accepting.spawn(accept(listener, node, watched, Arc::clone(&relayed)));
            links.push(NodeLink {
                node,
                link,
                relayed,
            });
        }
        Ok(Self {
            links,
            _accepting: accepting,
        })
    }

    /// Changes the links to a node. Fails when none ever came this way: then it would change nothing.
    pub(crate) fn set(&self, node: u16, link: Link) -> Result<()> {
        let found = self.links.iter().find(|found| found.node == node);
        let found = found.context("no proxy for this node")?;
        let relayed = found.relayed.load(Ordering::Relaxed);
        ensure!(relayed > 0, "no connection to node {node} passes its proxy");
        found.link.send_replace(link);
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    node: u16,
    link: watch::Receiver<Link>,
    relayed: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(relay(stream, node, link.clone(), Arc::clone(&relayed)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes data both ways until one end closes or the link is cut.
async fn relay(client: TcpStream, node: u16, link: watch::Receiver<Link>, relayed: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, node)).await else {
        return;
    };
    // A socket that has ended already needs no options.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let exempt = AtomicBool::new(false);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = link.clone();
    let is_cut = async {
        while exempt.load(Ordering::Relaxed) || *cut.borrow_and_update() != Link::Cut {
            if cut.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = pump(from_client, to_server, link.clone(), &exempt, Some(&relayed)) => {}
        () = pump(from_server, to_client, link, &exempt, None) => {}
        () = is_cut => {}
    }
}

async fn pump(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    exempt: &AtomicBool,
    relayed: Option<&AtomicU64>,
) {
    let mut chunk = vec![0; CHUNK];
    let mut pieces = 0_u64;
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let data = chunk.get(..count).unwrap_or_default();
        if is_replication(data) {
            exempt.store(true, Ordering::Relaxed);
        }
        if !exempt.load(Ordering::Relaxed) {
            pieces += 1;
            // Of a replica, which shows itself by its second piece, there is only a first here.
            if let (2, Some(relayed)) = (pieces, relayed) {
                relayed.fetch_add(1, Ordering::Relaxed);
            }
            let state = *link.borrow();
            if let Link::Slow(delay) = state {
                sleep(delay).await;
            }
            if link.wait_for(|link| *link != Link::Silent).await.is_err() {
                return;
            }
        }
        if to.write_all(data).await.is_err() {
            return;
        }
    }
}

/// Whether a replica begins to follow its master on this connection.
fn is_replication(data: &[u8]) -> bool {
    const COMMAND: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n";
    data.windows(COMMAND.len()).any(|part| part == COMMAND)
}
