//! The process: its exit codes and what it prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use support::{SECRET, redis_urls};

#[test]
fn bad_configuration_exits_64_with_all_problems_and_no_secret() {
    let output = backend()
        .env("SLOTCAST_JWT_SECRET", "too short a secret")
        .env("SLOTCAST_REDIS_URLS", "nonsense")
        .env("SLOTCAST_LISTEN", "nowhere")
        .env("SLOTCAST_DRAIN_SECONDS", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
    for name in ["JWT_SECRET", "REDIS_URLS", "LISTEN", "DRAIN_SECONDS"] {
        assert!(
            text.contains(&format!("configuration: SLOTCAST_{name} ")),
            "{text}"
        );
    }
    assert!(!text.contains("too short a secret"));
}

#[test]
fn bad_log_filter_exits_64() {
    let output = good().env("SLOTCAST_LOG", "a=b=c").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn busy_port_exits_1_and_is_named() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let output = good().env("SLOTCAST_LISTEN", &address).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!("cannot listen on {address}")),
        "{text}"
    );
}

#[test]
fn terminated_process_says_ready_drains_and_exits_0() {
    let mut process = good().stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("\"message\":\"ready\"") {
        assert_ne!(
            lines.read_line(&mut seen).unwrap(),
            0,
            "it ended early: {seen}"
        );
    }
    assert!(
        seen.contains("SLOTCAST_JWT_SECRET=***") && !seen.contains(SECRET),
        "{seen}"
    );
    terminate(&process);
    assert_eq!(process.wait().unwrap().code(), Some(0));
    lines.read_to_string(&mut seen).unwrap();
    assert!(
        seen.contains("draining") && seen.contains("stopped"),
        "{seen}"
    );
}

#[test]
fn process_without_redis_is_never_ready_and_still_ends() {
    let mut command = good();
    command.env("SLOTCAST_REDIS_URLS", "redis://127.0.0.1:1");
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("Redis did not answer") {
        assert_ne!(
            lines.read_line(&mut seen).unwrap(),
            0,
            "it ended early: {seen}"
        );
    }
    terminate(&process);
    assert_eq!(process.wait().unwrap().code(), Some(0));
    assert!(!seen.contains("\"message\":\"ready\""), "{seen}");
}

fn backend() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backend"));
    command.env_clear();
    command
}

fn good() -> Command {
    let mut command = backend();
    command
        .env("SLOTCAST_REDIS_URLS", redis_urls())
        .env("SLOTCAST_JWT_SECRET", SECRET)
        .env("SLOTCAST_LISTEN", "127.0.0.1:0")
        .env("SLOTCAST_ADMIN_LISTEN", "127.0.0.1:0")
        .env("SLOTCAST_LOG_FORMAT", "json");
    command
}

fn terminate(process: &Child) {
    let id = process.id().to_string();
    let status = Command::new("kill").args(["-TERM", &id]).status();
    assert!(status.unwrap().success());
}
