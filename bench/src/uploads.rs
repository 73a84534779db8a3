//! Memory of a backend through which many forms with files stream at once.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, future::try_join_all, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request,
    body::Frame,
    client::conn::http1,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::sleep};

use crate::{
    process::{PeakWatch, cpu_seconds, resident_kib},
    report::Report,
};

/// Options of `bench uploads`.
#[derive(Args)]
pub(crate) struct Options {
    /// Backend to upload to, `host:port`.
    #[arg(long, default_value = "127.0.0.1:5001")]
    backend: String,
    /// Process id of that backend.
    #[arg(long)]
    pid: u32,
    /// Uploads at once; the backend takes `SLOTCAST_MAX_UPLOADS`.
    #[arg(long, default_value_t = 50)]
    uploads: usize,
    /// MiB of each file, at most 50.
    #[arg(long, default_value_t = 20)]
    size_mib: usize,
    /// Seconds of rest before the last reading.
    #[arg(long, default_value_t = 3)]
    rest_seconds: u64,
    /// File for the report.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Anonymous resident memory (`RssAnon`) and time of the backend.
#[derive(Debug, Serialize)]
struct Figures {
    uploads: usize,
    size_mib: usize,
    idle_kib: u64,
    peak_kib: u64,
    rested_kib: u64,
    /// Peak over idle, for each upload.
    kib_per_upload: u64,
    seconds: f64,
    mib_per_second: f64,
    backend_cpu_seconds_per_gib: f64,
}

const MIB: usize = 1024 * 1024;

/// What a client has in memory of a file.
static CHUNK: [u8; 64 * 1024] = [7; 64 * 1024];

const BEGIN: &str = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"clip.mp4\"\r\n\
    Content-Type: video/mp4\r\n\r\n";
const END: &str = "\r\n--B--\r\n";

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

pub(crate) async fn run(options: Options) -> Result<()> {
    ensure!(options.uploads > 0, "uploads must not be 0");
    ensure!((1..=50).contains(&options.size_mib), "size-mib is 1 to 50");
    let token = register(&options.backend).await?;
    let idle_kib = resident_kib(options.pid)?;
    let cpu_before = cpu_seconds(options.pid)?;
    let watch = PeakWatch::start(options.pid);
    let begun = Instant::now();
    let size = options.size_mib * MIB;
    let uploads = (0..options.uploads).map(|_| upload(&options.backend, &token, size));
    try_join_all(uploads).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let peak_kib = watch.stop();
    let cpu = cpu_seconds(options.pid)? - cpu_before;
    sleep(Duration::from_secs(options.rest_seconds)).await;
    let mib = f64::from(u32::try_from(options.uploads * options.size_mib)?);
    let report = Report::new(Figures {
        uploads: options.uploads,
        size_mib: options.size_mib,
        idle_kib,
        peak_kib,
        rested_kib: resident_kib(options.pid)?,
        kib_per_upload: peak_kib.saturating_sub(idle_kib) / options.uploads as u64,
        seconds,
        mib_per_second: mib / seconds,
        backend_cpu_seconds_per_gib: cpu * 1024.0 / mib,
    });
    report.print()?;
    match &options.report {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

/// The token of a new user.
async fn register(backend: &str) -> Result<String> {
    let email = format!("bench-{:032x}@example.com", fastrand::u128(..));
    let form = json!({"name": "bench", "email": email, "password": "Passw0rd!"}).to_string();
    let request = Request::builder()
        .uri("/api/auth/register")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(form).boxed_unsync())?;
    let answer = send(backend, request).await?;
    let token = answer
        .pointer("/token")
        .and_then(Value::as_str)
        .context("no token")?;
    Ok(token.to_owned())
}

/// Uploads one file, made as it is sent, and checks the answer.
async fn upload(backend: &str, token: &str, size: usize) -> Result<()> {
    let file = std::iter::repeat_n(Bytes::from_static(&CHUNK), size / CHUNK.len());
    let form = std::iter::once(Bytes::from_static(BEGIN.as_bytes()))
        .chain(file)
        .chain(std::iter::once(Bytes::from_static(END.as_bytes())));
    let form = stream::iter(form);
    let request = Request::builder()
        .uri("/api/files/upload")
        .header("x-auth-token", token)
        .header(CONTENT_TYPE, "multipart/form-data; boundary=B")
        .header(CONTENT_LENGTH, BEGIN.len() + size + END.len())
        .body(StreamBody::new(form.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync())?;
    let answer = send(backend, request).await?;
    let stored = answer.pointer("/file/size").and_then(Value::as_u64);
    ensure!(
        stored == Some(size as u64),
        "stored {stored:?} of {size} bytes"
    );
    Ok(())
}

/// Posts on a connection of its own; the JSON of an answer that is a success.
async fn send(backend: &str, mut request: Request<Body>) -> Result<Value> {
    let stream = TcpStream::connect(backend).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(HOST, backend.parse()?);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let text = response.into_body().collect().await?.to_bytes();
    ensure!(
        status.is_success(),
        "{status}: {}",
        String::from_utf8_lossy(&text)
    );
    drop(sender);
    connection.await??;
    Ok(serde_json::from_slice(&text)?)
}
