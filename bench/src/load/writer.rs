//! The other end of `bench limit`, a process of its own: nothing but a loop of writes to sockets. No
//! server that writes to its sockets one by one can be cheaper.

use std::{
    io::{self, BufRead, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::{
    clock::{now_ns, sleep_until},
    crowd::{MESSAGE, TAG_BYTES, Tag},
};

/// Options of the process.
#[derive(Args)]
pub(crate) struct Options {
    /// Sockets to accept.
    #[arg(long)]
    sockets: usize,
    /// Length of a message's packet.
    #[arg(long)]
    packet_bytes: usize,
}

/// What it is told to write: one line of JSON on its standard input. It answers with the number of
/// messages.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) run: u32,
    /// On the machine's clock.
    pub(super) origin_ns: u64,
    /// Since the origin.
    pub(super) until_ns: u64,
    /// Between two messages; without a pace, the next follows at once.
    pub(super) period_ns: Option<u64>,
    pub(super) frames_per_write: u32,
}

/// The kernel's send buffer of a socket, the same as a gateway asks for.
const SEND_BUFFER_BYTES: usize = 65_536;

/// Says its port, accepts, says the port again when all are there, and does what it is told until its
/// input ends.
#[expect(clippy::print_stdout, reason = "its parent reads it")]
pub(crate) fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    println!("{port}");
    let sockets = (0..options.sockets).map(|_| accept(&listener));
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    println!("{port}");
    let mut frame = Frame::new(options.packet_bytes)?;
    for line in io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        println!("{}", write_all(&sockets, &mut frame, job)?);
    }
    Ok(())
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    Ok(socket)
}

/// Writes every message to every socket, several messages at a time; how many messages.
fn write_all(sockets: &[TcpStream], frame: &mut Frame, job: Job) -> Result<u32> {
    let (mut sent, mut frames) = (0, Vec::new());
    loop {
        let intended_ns = match job.period_ns {
            Some(period_ns) => period_ns * u64::from(sent),
            None => now_ns().saturating_sub(job.origin_ns),
        };
        if intended_ns >= job.until_ns {
            return Ok(sent);
        }
        sleep_until(job.origin_ns + intended_ns);
        frames.clear();
        for _ in 0..job.frames_per_write {
            sent += 1;
            frame.append(&mut frames, job.run, intended_ns);
        }
        for mut socket in sockets {
            socket.write_all(&frames)?;
        }
    }
}

/// A frame as gateways send it, of messages with rising numbers.
struct Frame {
    bytes: Vec<u8>,
    number_at: usize,
    tag_at: usize,
    number: u32,
}

const ROOM: &[u8] = b"000000000000";
const EPOCH_AND_CONTENT: &[u8] = br#"0000","content":""#;
const PADDING: &[u8] = br#"","padding":""#;
const END: &[u8] = br#""}]"#;

/// Two bytes that a server's text frame of 126 to 65,535 bytes begins with; its length follows.
const TEXT_OF_TWO_LENGTH_BYTES: [u8; 2] = [0x81, 126];

impl Frame {
    fn new(packet_bytes: usize) -> Result<Self> {
        let length = u16::try_from(packet_bytes).context("a packet is shorter than 64 KiB")?;
        let mut bytes = TEXT_OF_TWO_LENGTH_BYTES.to_vec();
        bytes.extend(length.to_be_bytes());
        let header = bytes.len();
        bytes.extend([MESSAGE, ROOM].concat());
        let number_at = bytes.len();
        bytes.extend([b"00000000", EPOCH_AND_CONTENT].concat());
        let tag_at = bytes.len();
        bytes.extend([&[b'.'; TAG_BYTES][..], PADDING].concat());
        let padding = (header + packet_bytes).checked_sub(bytes.len() + END.len());
        let padding = padding.filter(|_| packet_bytes > 125);
        bytes.extend(vec![b'.'; padding.context("a packet is longer than that")?]);
        bytes.extend(END);
        ensure!(
            bytes.len() == header + packet_bytes,
            "a frame of its length"
        );
        Ok(Self {
            bytes,
            number_at,
            tag_at,
            number: 0,
        })
    }

    /// Appends the next message.
    fn append(&mut self, frames: &mut Vec<u8>, run: u32, intended_ns: u64) {
        self.number += 1;
        let tag = Tag {
            run,
            sender: 0,
            number: self.number,
            intended_ns,
        };
        let number = format!("{:08x}", self.number);
        let parts = [
            (self.number_at, number.as_bytes()),
            (self.tag_at, &tag.text()),
        ];
        for (at, part) in parts {
            if let Some(place) = self.bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
        frames.extend_from_slice(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::header;

    #[test]
    fn frames_have_the_length_of_the_real_ones_and_rising_numbers() {
        let mut frame = Frame::new(464).unwrap();
        let mut frames = Vec::new();
        frame.append(&mut frames, 1, 2);
        frame.append(&mut frames, 1, 2);
        let (first, second) = frames.split_at(468);
        assert_eq!(header(first).unwrap().unwrap().payload_bytes, 464);
        let event: serde_json::Value = serde_json::from_slice(&second[6..]).unwrap();
        assert_eq!(event[1]["_id"], "000000000000000000020000");
    }

    #[test]
    fn packets_too_short_or_too_long_are_refused() {
        assert!(Frame::new(100).is_err());
        assert!(Frame::new(70_000).is_err());
    }
}
