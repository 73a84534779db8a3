//! The port for clients: opens it and accepts sockets.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Duration, sleep},
};

use crate::{chat::Chat, handshake};

/// Sockets that the kernel accepts for us while we are busy: a storm of reconnects must not meet SYN
/// time-outs. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Most sockets whose HTTP request is not over. Further ones wait in the backlog.
const HANDSHAKES_MAX: usize = 4096;

/// Pause after the first failed accept in a row; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Longest pause between two failed accepts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Descriptors that are not clients: Redis links, files, the admin port.
const DESCRIPTORS_RESERVED: usize = 512;

/// Opens a port. Sockets accepted from it inherit its send buffer and its lack of delay.
///
/// # Errors
/// The system's: in use, not permitted.
pub(crate) fn bind(address: SocketAddr, send_buffer_bytes: usize) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(send_buffer_bytes)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The sockets whose HTTP request is not over.
#[derive(Clone, Debug)]
pub(crate) struct Handshakes(Arc<Semaphore>);

impl Handshakes {
    /// None.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(HANDSHAKES_MAX)))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.available_permits() == HANDSHAKES_MAX
    }
}

/// Accepts sockets for ever; dropping the future ends it.
pub(crate) async fn accept<C: Chat>(
    chat: &Arc<C>,
    listener: &TcpListener,
    handshakes: &Handshakes,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let Ok(place) = Arc::clone(&handshakes.0).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = PAUSE_MIN;
                let chat = Arc::clone(chat);
                tokio::spawn(async move {
                    handshake::serve(chat, stream, address).await;
                    drop(place);
                });
            }
            Err(error) if is_of_one_socket(&error) => {}
            Err(error) => {
                chat.metrics().accept_errors.inc();
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept sockets");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Whether a failed accept says nothing about the next one: the client was gone already.
fn is_of_one_socket(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Lets the process open as many descriptors as it may, and says how many clients those allow.
pub(crate) fn connections_allowed() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let descriptors = current.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    });
    descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(1)
}
