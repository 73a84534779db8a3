//! What a Redis node's replies say about the subscriptions of a link: pure.
//!
//! A `sunsubscribe` push looks the same whether it was asked for or the node lost the slot, and an
//! error names no channel. So every command is followed by an `ECHO` of its channel, which no node
//! refuses: pushes tell what is subscribed, the echo tells that the command is done.

use std::collections::{HashSet, VecDeque};

use slotcast_proto::schema::key::Channel;
use thiserror::Error;

use super::link::{Command, News};
use crate::cluster::resp::Reply;

/// A node that does not serve the slot refuses to end a subscription, yet keeps it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("keeps the subscription to {0}")]
pub(super) struct Kept(Channel);

/// One connection's subscriptions and what is asked about them.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Commands sent whose echo has not come, oldest first: Redis answers in order.
    pending: VecDeque<Pending>,
    subscribed: HashSet<Channel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    command: Command,
    /// A push has answered it.
    confirmed: bool,
}

impl Answers {
    /// Notes a command that is sent together with its echo.
    pub(super) fn sent(&mut self, command: Command) {
        self.pending.push_back(Pending {
            command,
            confirmed: false,
        });
    }

    /// Takes a reply in.
    ///
    /// # Errors
    /// [`Kept`] when a subscription can only be ended with the connection.
    pub(super) fn take(&mut self, reply: &Reply<'_>) -> Result<Option<News>, Kept> {
        match reply {
            Reply::Push(items) => {
                let [Reply::Text(kind), Reply::Text(channel), ..] = items.as_slice() else {
                    return Ok(None);
                };
                Ok(parse_channel(channel).and_then(|channel| self.pushed(kind, channel)))
            }
            Reply::Text(echo) => match parse_channel(echo) {
                Some(channel) => self.echoed(channel),
                None => Ok(None),
            },
            Reply::Error(_) | Reply::Integer(_) | Reply::Null | Reply::Items(_) => Ok(None),
        }
    }

    fn pushed(&mut self, kind: &[u8], channel: Channel) -> Option<News> {
        let oldest = self.pending.front_mut();
        match kind {
            b"ssubscribe" => {
                self.subscribed.insert(channel);
                if let Some(pending) = oldest
                    && pending.command == Command::Subscribe(channel)
                {
                    pending.confirmed = true;
                }
                Some(News::Live(channel))
            }
            b"sunsubscribe" => {
                let is_news = self.subscribed.remove(&channel);
                let is_asked =
                    oldest.is_some_and(|pending| pending.command == Command::Unsubscribe(channel));
                (is_news && !is_asked).then_some(News::Lost(channel))
            }
            _ => None,
        }
    }

    /// The oldest command is done.
    fn echoed(&mut self, channel: Channel) -> Result<Option<News>, Kept> {
        let done = self
            .pending
            .pop_front_if(|pending| pending.command.channel() == channel);
        match done {
            Some(Pending {
                command: Command::Subscribe(_),
                confirmed: false,
            }) => Ok(Some(News::Lost(channel))),
            Some(Pending {
                command: Command::Unsubscribe(_),
                ..
            }) => match self.subscribed.contains(&channel) {
                true => Err(Kept(channel)),
                false => Ok(Some(News::Left(channel))),
            },
            Some(Pending {
                confirmed: true, ..
            })
            | None => Ok(None),
        }
    }
}

fn parse_channel(name: &[u8]) -> Option<Channel> {
    Channel::parse(std::str::from_utf8(name).ok()?)
}

#[cfg(test)]
mod tests {
    use slotcast_proto::slot::Slot;

    use super::*;

    #[test]
    fn confirmed_subscription_is_live_and_reported_once() {
        let mut answers = Answers::default();
        answers.sent(Command::Subscribe(room()));
        assert_eq!(subscribe_push(&mut answers), Ok(Some(News::Live(room()))));
        assert_eq!(echo(&mut answers, room()), Ok(None));
    }

    #[test]
    fn refused_subscription_is_lost() {
        let mut answers = Answers::default();
        answers.sent(Command::Subscribe(room()));
        assert_eq!(answers.take(&Reply::Error(b"MOVED 1 a:1")), Ok(None));
        assert_eq!(echo(&mut answers, room()), Ok(Some(News::Lost(room()))));
    }

    #[test]
    fn subscription_taken_away_is_lost_once() {
        let mut answers = live();
        assert_eq!(unsubscribe_push(&mut answers), Ok(Some(News::Lost(room()))));
        assert_eq!(unsubscribe_push(&mut answers), Ok(None));
    }

    #[test]
    fn subscription_confirmed_and_taken_away_before_its_echo_is_lost_once() {
        let mut answers = Answers::default();
        answers.sent(Command::Subscribe(room()));
        assert_eq!(subscribe_push(&mut answers), Ok(Some(News::Live(room()))));
        assert_eq!(unsubscribe_push(&mut answers), Ok(Some(News::Lost(room()))));
        assert_eq!(echo(&mut answers, room()), Ok(None));
    }

    #[test]
    fn asked_end_is_answered_by_the_echo() {
        let mut answers = live();
        answers.sent(Command::Unsubscribe(room()));
        assert_eq!(unsubscribe_push(&mut answers), Ok(None));
        assert_eq!(echo(&mut answers, room()), Ok(Some(News::Left(room()))));
    }

    #[test]
    fn end_that_comes_unasked_is_not_taken_for_the_answer() {
        let mut answers = live();
        answers.sent(Command::Unsubscribe(room()));
        answers.sent(Command::Subscribe(Channel::Lobby));
        assert_eq!(unsubscribe_push(&mut answers), Ok(None), "the slot moved");
        assert_eq!(answers.take(&Reply::Error(b"MOVED 1 a:1")), Ok(None));
        assert_eq!(echo(&mut answers, room()), Ok(Some(News::Left(room()))));
        let push = [&b"ssubscribe"[..], b"{lobby}:lobby"].map(Reply::Text);
        assert_eq!(
            answers.take(&Reply::Push(push.to_vec())),
            Ok(Some(News::Live(Channel::Lobby))),
            "the error was not the next command's"
        );
        assert_eq!(echo(&mut answers, Channel::Lobby), Ok(None));
    }

    #[test]
    fn channel_asked_for_again_after_both_ends_is_live() {
        let mut answers = live();
        answers.sent(Command::Unsubscribe(room()));
        assert_eq!(unsubscribe_push(&mut answers), Ok(None), "unasked");
        assert_eq!(unsubscribe_push(&mut answers), Ok(None), "the answer");
        answers.sent(Command::Subscribe(room()));
        assert_eq!(echo(&mut answers, room()), Ok(Some(News::Left(room()))));
        assert_eq!(subscribe_push(&mut answers), Ok(Some(News::Live(room()))));
        assert_eq!(echo(&mut answers, room()), Ok(None));
    }

    #[test]
    fn end_refused_by_a_node_that_keeps_the_subscription_is_an_error() {
        let mut answers = live();
        answers.sent(Command::Unsubscribe(room()));
        assert_eq!(answers.take(&Reply::Error(b"MOVED 1 a:1")), Ok(None));
        assert_eq!(echo(&mut answers, room()), Err(Kept(room())));
    }

    #[test]
    fn answers_to_probes_are_no_news() {
        let mut answers = Answers::default();
        answers.sent(Command::Subscribe(room()));
        for reply in [Reply::Text(b"PONG"), Reply::Error(b"LOADING"), Reply::Null] {
            assert_eq!(answers.take(&reply), Ok(None));
        }
        assert_eq!(subscribe_push(&mut answers), Ok(Some(News::Live(room()))));
    }

    fn room() -> Channel {
        Channel::Rooms(Slot::new(7).unwrap())
    }

    fn live() -> Answers {
        let mut answers = Answers::default();
        answers.sent(Command::Subscribe(room()));
        subscribe_push(&mut answers).unwrap();
        echo(&mut answers, room()).unwrap();
        answers
    }

    fn subscribe_push(answers: &mut Answers) -> Result<Option<News>, Kept> {
        push(answers, b"ssubscribe")
    }

    fn unsubscribe_push(answers: &mut Answers) -> Result<Option<News>, Kept> {
        push(answers, b"sunsubscribe")
    }

    fn push(answers: &mut Answers, kind: &[u8]) -> Result<Option<News>, Kept> {
        let name = room().to_string();
        let items = vec![
            Reply::Text(kind),
            Reply::Text(name.as_bytes()),
            Reply::Integer(1),
        ];
        answers.take(&Reply::Push(items))
    }

    fn echo(answers: &mut Answers, channel: Channel) -> Result<Option<News>, Kept> {
        answers.take(&Reply::Text(channel.to_string().as_bytes()))
    }
}
