//! What a thread of the crowd makes of the bytes that arrive: a socket's next step, or a count. No
//! allocation a message, and no JSON: what matters is found by its place or by a search.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use memchr::memmem;

use super::{
    Plan, Step,
    mark::MarkLetter,
    member::Member,
    page::{EMPTY_PAGE, PAGE, PageLetter, REFUSED_PAGE},
    run::Run,
    sequence::Place,
    tag::{Tag, TagFinder},
    tally::Tally,
};
use crate::{
    clock::now_ns,
    stats::Latencies,
    websocket::{CLOSE, TEXT, close_reason, header, text_frame, upgrade_answer, upgrade_request},
};

/// What the thread's sockets have in common.
pub(super) struct Desk {
    pub(super) plan: Arc<Plan>,
    /// What the thread counts for.
    pub(super) run: Arc<Run>,
    pub(super) tally: Tally,
    /// Where sockets are to stop on their way into the rooms.
    pub(super) goal: Step,
    /// Sockets on their way.
    pub(super) under_way: usize,
    /// From a socket's beginning until its goal.
    pub(super) openings: Latencies,
    pub(super) mark_letter: MarkLetter,
    page_letter: PageLetter,
    tags: TagFinder,
    pong: Vec<u8>,
    /// When the bytes at hand were received, on the machine's clock.
    now_ns: u64,
    /// Messages of the run among them.
    batch: u32,
}

/// Largest frame that is put together if it arrives in pieces; of longer ones the start is looked at.
/// All sockets at once may hold so much.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Enough of a frame to know what it is.
const START_BYTES: usize = 64;

/// How every message begins. Its id follows: 12 digits of the room, 8 of the number, 4 of the epoch.
pub(crate) const MESSAGE: &[u8] = br#"42["message",{"_id":""#;

/// What a step waits for, how that begins, and the step that it completes.
const ANSWERS: [(Step, &[u8], Step); 3] = [
    (Step::Opening, b"0{", Step::Opened),
    (Step::Authenticating, b"40{", Step::Authenticated),
    (Step::Joining, br#"42["joinRoomSuccess""#, Step::Joined),
];

/// How a packet begins that turns a socket away on its way.
const REFUSALS: [&[u8]; 4] = [b"44", b"41", br#"42["joinRoomError""#, br#"42["error""#];

impl Desk {
    pub(super) fn new(plan: Arc<Plan>) -> Result<Self> {
        Ok(Self {
            plan,
            run: Arc::new(Run::none()),
            tally: Tally::default(),
            goal: Step::Joined,
            under_way: 0,
            openings: Latencies::default(),
            mark_letter: MarkLetter::new()?,
            page_letter: PageLetter::new()?,
            tags: TagFinder::new(),
            pong: text_frame(b"3")?,
            now_ns: 0,
            batch: 0,
        })
    }

    /// Reads what a socket has, until it has no more.
    pub(super) fn read(&mut self, buffer: &mut [u8], member: &mut Member) -> Result<()> {
        let capacity = buffer.len();
        while let Some(bytes) = member.read(buffer)? {
            self.now_ns = now_ns();
            let is_drained = bytes.len() < capacity;
            let outcome = self.take(member, bytes);
            self.count_batch();
            outcome?;
            if is_drained {
                break;
            }
        }
        Ok(())
    }

    fn count_batch(&mut self) {
        if self.batch == 0 {
            return;
        }
        self.run.receive(self.batch.into());
        let moment = self.run.since_origin(self.now_ns);
        if self.run.measures(moment) {
            self.tally.deliveries += u64::from(self.batch);
            self.tally.reads += 1;
        }
        self.batch = 0;
    }

    /// Takes whole frames off the front and keeps the rest for the next read.
    fn take(&mut self, member: &mut Member, mut bytes: &[u8]) -> Result<()> {
        loop {
            let skipped = member.skip.min(bytes.len());
            bytes = bytes.get(skipped..).unwrap_or_default();
            member.skip -= skipped;
            if member.step == Step::Upgrading {
                let Some(end) = upgrade_answer(bytes)? else {
                    break;
                };
                bytes = bytes.get(end..).unwrap_or_default();
                member.step = Step::Opening;
            }
            let Some(header) = header(bytes)? else {
                break;
            };
            let end = header.bytes + header.payload_bytes;
            if let Some(payload) = bytes.get(header.bytes..end) {
                self.take_frame(member, header.opcode, payload)?;
                bytes = bytes.get(end..).unwrap_or_default();
            } else if header.payload_bytes > KEPT_BYTES_MAX && bytes.len() > START_BYTES {
                let start = bytes.get(header.bytes..).unwrap_or_default();
                self.take_frame(member, header.opcode, start)?;
                member.skip = end;
            } else {
                break;
            }
        }
        member.keep(bytes);
        Ok(())
    }

    fn take_frame(&mut self, member: &mut Member, opcode: u8, payload: &[u8]) -> Result<()> {
        match opcode {
            TEXT if payload.starts_with(MESSAGE) => self.take_message(member, payload),
            TEXT if payload == b"2" => {
                member.write(&self.pong)?;
                Ok(())
            }
            TEXT => self.take_packet(member, payload),
            CLOSE => bail!("closed by the gateway: {}", close_reason(payload)),
            _ => Ok(()),
        }
    }

    fn take_message(&mut self, member: &mut Member, message: &[u8]) -> Result<()> {
        let number = message_number(message).context("a message without an id")?;
        match member.numbers.take(number) {
            Place::Ahead => member.unread.note(number, message),
            Place::Late => self.tally.reordered += 1,
            Place::Repeated => {
                self.tally.duplicated += 1;
                return Ok(());
            }
        }
        if let Some(tag) = self.tags.find(message).filter(|tag| tag.run == self.run.id) {
            self.tally.packet_bytes = message.len();
            self.take_tag(member, tag);
            if self.run.deed.marks_at_once() {
                self.mark(member, message)?;
            }
        }
        Ok(())
    }

    /// Marks a message that has just come.
    fn mark(&mut self, member: &mut Member, message: &[u8]) -> Result<()> {
        let Some(users) = &self.plan.users else {
            return Ok(());
        };
        let room = users.room(member.room)?;
        let frame = self.mark_letter.write_for(room, message);
        let is_written = member.write(frame.context("a message without a whole id")?)?;
        self.tally.marks += 1;
        self.tally.blocked_writes += u64::from(!is_written);
        Ok(())
    }

    /// Asks for a page of history.
    pub(super) fn ask_for_page(&mut self, member: &mut Member) -> Result<()> {
        let Some(users) = &self.plan.users else {
            return Ok(());
        };
        let frame = self.page_letter.write(users.room(member.room)?);
        self.run.add_page();
        self.tally.pages_asked += 1;
        member.pages_asked_ns.push_back(now_ns());
        let is_written = member.write(frame)?;
        self.tally.blocked_writes += u64::from(!is_written);
        Ok(())
    }

    fn take_tag(&mut self, member: &mut Member, tag: Tag) {
        member.received += 1;
        self.batch += 1;
        if tag.sender == member.index {
            match member.own.take(tag.number) {
                Place::Ahead => member.echoed += 1,
                Place::Late => {
                    member.echoed += 1;
                    self.tally.stored_out_of_order += 1;
                }
                Place::Repeated => self.tally.stored_twice += 1,
            }
        }
        let moment = self.run.since_origin(self.now_ns);
        if self.run.measures(tag.intended_ns) {
            let ns = moment.saturating_sub(tag.intended_ns);
            self.tally.latency.record_ns(ns);
        }
        self.run.note_receipt(tag, moment);
    }

    fn take_packet(&mut self, member: &mut Member, packet: &[u8]) -> Result<()> {
        let is_answer = |(awaiting, start, _): &&(Step, &[u8], Step)| {
            member.step == *awaiting && packet.starts_with(start)
        };
        if let Some((_, _, reached)) = ANSWERS.iter().find(is_answer) {
            return self.reach(member, *reached);
        }
        if packet.starts_with(br#"42["messagesRead""#) {
            self.tally.marks_told += 1;
        } else if packet.starts_with(PAGE) {
            self.take_page(member, packet);
        } else if packet.starts_with(br#"42["participantsUpdate""#) {
            self.take_participants(member, packet);
        } else if packet.starts_with(br#"42["error""#) && member.step == Step::Joined {
            self.take_refusal(member, packet);
        } else if REFUSALS.iter().any(|start| packet.starts_with(start)) {
            bail!("turned away: {}", String::from_utf8_lossy(packet));
        }
        Ok(())
    }

    fn take_participants(&self, member: &mut Member, list: &[u8]) {
        let before = member.participants;
        member.participants = memmem::find_iter(list, br#""_id":"#).count();
        let members = self.plan.members_of(member.room);
        self.plan.lists.note(before, member.participants, members);
    }

    /// Counts an answer: they come in the order of the questions.
    fn take_page(&mut self, member: &mut Member, page: &[u8]) {
        let Some(asked_ns) = member.pages_asked_ns.pop_front() else {
            return;
        };
        self.run.receive(1);
        self.tally.pages_answered += 1;
        self.tally.pages_empty += u64::from(page.starts_with(EMPTY_PAGE));
        if self.run.measures(self.run.since_origin(asked_ns)) {
            let ns = self.now_ns.saturating_sub(asked_ns);
            self.tally.page_latency.record_ns(ns);
        }
    }

    /// A page of history was refused, or else a message, since nothing more is asked for.
    fn take_refusal(&mut self, member: &mut Member, error: &[u8]) {
        let code = error_code(error).unwrap_or("without a code");
        if code == REFUSED_PAGE {
            if member.pages_asked_ns.pop_front().is_some() {
                self.run.receive(1);
            }
            return;
        }
        member.refused += 1;
        self.run.refuse(member.room);
        *self.tally.refused.entry(code.to_owned()).or_default() += 1;
    }

    /// A step is done: on to the next, unless this was the goal.
    fn reach(&mut self, member: &mut Member, step: Step) -> Result<()> {
        member.step = step;
        if step < self.goal {
            return self.proceed(member);
        }
        self.under_way -= 1;
        let ns = now_ns().saturating_sub(member.begun_ns);
        self.openings.record_ns(ns);
        Ok(())
    }

    /// Asks for the next step.
    pub(super) fn proceed(&mut self, member: &mut Member) -> Result<()> {
        let Some(users) = &self.plan.users else {
            return self.reach(member, Step::Joined);
        };
        let (request, step) = match member.step {
            Step::Connecting => {
                let request = upgrade_request(self.plan.server(member.index)?);
                (request.into_bytes(), Step::Upgrading)
            }
            Step::Opened => (users.connect(member.index)?, Step::Authenticating),
            Step::Authenticated => (users.join(member.room)?, Step::Joining),
            step @ (Step::Absent
            | Step::Upgrading
            | Step::Opening
            | Step::Authenticating
            | Step::Joining
            | Step::Joined
            | Step::Closed) => bail!("no next step after {step:?}"),
        };
        member.step = step;
        member.write(&request)?;
        Ok(())
    }

    /// Ends a socket that failed.
    pub(super) fn part(&mut self, member: &mut Member, reason: &anyhow::Error) {
        let reason = || format!("socket {} ({:?}): {reason}", member.index, member.step);
        self.tally.closed_reason.get_or_insert_with(reason);
        member.close();
    }

    /// Adds up what a member has of a run, at its end.
    pub(super) fn settle(&mut self, member: &Member) {
        let due = self.run.due(member.room);
        self.tally.due += u64::from(due);
        self.tally.received += u64::from(member.received);
        self.tally.lost += u64::from(due.saturating_sub(member.received));
        self.tally.closed += u64::from(member.step == Step::Closed);
        self.tally.gaps += member.numbers.missing();
        self.tally.sent += u64::from(member.sent);
        let accepted = member.sent.saturating_sub(member.refused);
        self.tally.unanswered += u64::from(accepted.saturating_sub(member.echoed));
    }
}

/// The number of a message in its room's log.
pub(crate) fn message_number(message: &[u8]) -> Option<u32> {
    let number = message.get(MESSAGE.len() + 12..MESSAGE.len() + 20)?;
    number.iter().try_fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | digit)
    })
}

fn error_code(error: &[u8]) -> Option<&str> {
    let error = std::str::from_utf8(error).ok()?;
    let (_, code) = error.split_once(r#""code":""#)?;
    code.split_once('"').map(|(code, _)| code)
}
