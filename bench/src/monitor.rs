//! What clients ask Redis for, command by command, as `MONITOR` shows it. Redis counts commands by name
//! only, and does not tell those that clients sent from those that functions called.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use redis::Client;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    cost::Role,
    node::{Counts, Group, Node},
};

/// Listens to all nodes of a cluster. It costs them CPU time: what is measured is another time.
pub(crate) struct Monitor {
    listeners: Vec<(Role, Listener)>,
}

struct Listener {
    end: oneshot::Sender<()>,
    task: JoinHandle<BTreeMap<String, u32>>,
}

impl Monitor {
    pub(crate) async fn start(nodes: &[Node]) -> Result<Self> {
        let addresses = nodes.iter().map(|node| node.address.clone());
        let addresses: Arc<HashSet<_>> = Arc::new(addresses.collect());
        let mut listeners = Vec::new();
        for node in nodes {
            let listener = Listener::start(node, Arc::clone(&addresses)).await?;
            listeners.push((node.role, listener));
        }
        Ok(Self { listeners })
    }

    /// What clients sent to the nodes of each role.
    pub(crate) async fn stop(self) -> Result<BTreeMap<Role, Counts>> {
        let mut roles = BTreeMap::<Role, Counts>::new();
        for (role, listener) in self.listeners {
            let sent = roles.entry(role).or_default().entry(Group::Sent);
            let sent = sent.or_default();
            // One that has ended has said what it heard.
            let _ = listener.end.send(());
            for (command, count) in listener.task.await? {
                *sent.entry(command).or_default() += f64::from(count);
            }
        }
        Ok(roles)
    }
}

impl Listener {
    async fn start(node: &Node, nodes: Arc<HashSet<String>>) -> Result<Self> {
        let client = Client::open(format!("redis://{}", node.address))?;
        let monitor = client.get_async_monitor().await;
        let monitor = monitor.with_context(|| format!("cannot listen to {}", node.address))?;
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut sent = BTreeMap::new();
            let mut lines = Box::pin(monitor.into_on_message::<String>().take_until(ended));
            while let Some(line) = lines.next().await {
                if let Some(command) = sent_command(&line, &nodes) {
                    *sent.entry(command).or_default() += 1;
                }
            }
            sent
        });
        Ok(Self { end, task })
    }
}

/// Commands of which the second word says what they do.
const CONTAINERS: [&str; 4] = ["client", "cluster", "config", "function"];

/// What a client sent, if the line is not of what a function called or a node passed on:
/// `1339518083.107412 [0 127.0.0.1:60866] "FCALL" "append_message_52d36519c886" "1" ...`.
fn sent_command(line: &str, nodes: &HashSet<String>) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    let (source, rest) = rest.split_once(']')?;
    let (_, source) = source.split_once(' ')?;
    if source == "lua" || nodes.contains(source) {
        return None;
    }
    // None of the words that are looked at holds a quotation mark.
    let mut words = rest.split('"').skip(1).step_by(2);
    let mut command = words.next()?.to_ascii_lowercase();
    if command.starts_with("fcall") {
        let function = words.next()?;
        // Its name ends in the version of the library.
        let name = function.rsplit_once('_').map_or(function, |(name, _)| name);
        command = format!("{command} {name}");
    } else if CONTAINERS.contains(&command.as_str()) {
        command = format!("{command} {}", words.next()?.to_ascii_lowercase());
    }
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_clients_are_told_from_those_of_functions_and_masters() {
        let nodes = HashSet::from(["127.0.0.1:7000".to_owned()]);
        let command = |line| sent_command(line, &nodes);
        let line = r#"1339518083.107412 [0 127.0.0.1:60866] "FCALL" "append_message_52d3" "1" "say \"hi\"""#;
        assert_eq!(command(line).as_deref(), Some("fcall append_message"));
        let line = r#"1339518083.1 [0 127.0.0.1:60866] "CLUSTER" "SLOTS""#;
        assert_eq!(command(line).as_deref(), Some("cluster slots"));
        assert_eq!(command(r#"1339518083.1 [0 lua] "TIME""#), None);
        assert_eq!(
            command(r#"1339518083.1 [0 127.0.0.1:7000] "XADD" "{a}""#),
            None
        );
        assert_eq!(command("OK"), None);
    }
}
