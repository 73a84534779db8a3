//! What the socket side needs of the gateway, and what it tells the gateway's handlers.

use std::sync::Arc;

use slotcast_proto::wire::{
    event::{ClientEvent, EventName},
    peer::ConnectAuth,
    socketio::AckId,
};

use crate::{
    app::App, close::Close, config::Config, connection::Connection, handler, metrics::Metrics,
    sockets::Sockets,
};

/// The gateway as its connections see it: [`App`] with the handlers, or a script of a test.
pub(crate) trait Chat: Send + Sync + 'static {
    /// A client that may come in.
    type Accepted: Send + 'static;

    /// The settings.
    fn config(&self) -> &Config;

    /// What is counted.
    fn metrics(&self) -> &Metrics;

    /// What all connections share.
    fn sockets(&self) -> &Sockets;

    /// Public and private id of an accepted client's session.
    fn ids(accepted: &Self::Accepted) -> (&str, &str);

    /// Authenticates; `Err` is the text of the `connect_error`.
    fn connect(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        auth: ConnectAuth,
    ) -> impl Future<Output = Result<Self::Accepted, &'static str>> + Send;

    /// Called when the accept packet is on its way.
    fn connected(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        accepted: Self::Accepted,
    ) -> impl Future<Output = ()> + Send;

    /// One event of a client; one at a time.
    fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        event: ClientEvent,
        ack: Option<AckId>,
    ) -> impl Future<Output = ()> + Send;

    /// An event whose payload is not what its name needs.
    fn handle_undecodable(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        name: EventName,
        ack: Option<AckId>,
    );

    /// The end of a connection. Always called, also after a panic of a handler, and even if the client
    /// was never accepted.
    fn disconnected(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        close: Close,
    ) -> impl Future<Output = ()> + Send;
}

impl Chat for App {
    type Accepted = handler::Accepted;

    fn config(&self) -> &Config {
        &self.config
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    fn ids(accepted: &handler::Accepted) -> (&str, &str) {
        (&accepted.sid, &accepted.pid)
    }

    fn connect(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        auth: ConnectAuth,
    ) -> impl Future<Output = Result<handler::Accepted, &'static str>> + Send {
        handler::connect(self, connection, auth)
    }

    fn connected(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        accepted: handler::Accepted,
    ) -> impl Future<Output = ()> + Send {
        handler::connected(self, connection, accepted)
    }

    fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        event: ClientEvent,
        ack: Option<AckId>,
    ) -> impl Future<Output = ()> + Send {
        handler::handle(self, connection, event, ack)
    }

    fn handle_undecodable(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        name: EventName,
        ack: Option<AckId>,
    ) {
        handler::handle_undecodable(self, connection, name, ack);
    }

    fn disconnected(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        close: Close,
    ) -> impl Future<Output = ()> + Send {
        handler::disconnected(self, connection, close)
    }
}
