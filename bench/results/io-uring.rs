//! Frames to sockets on loopback: one `write` each, and `send`s that io_uring takes over together.
//!
//! `io-uring SOCKETS TURNS`, a turn of each is a second; dependencies io-uring 0.7 and libc 0.2. A second process reads.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Instant,
};

use io_uring::{IoUring, opcode, types};

const FRAME: [u8; 464] = [b'x'; 464];
const TOGETHER: [usize; 3] = [10, 100, 1000];

fn main() {
    let mut options = std::env::args().skip(1);
    let mut option = || {
        options
            .next()
            .expect("SOCKETS TURNS")
            .parse::<usize>()
            .unwrap()
    };
    let (sockets, turns) = (option(), option());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut pipe = [0; 2];
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    if unsafe { libc::fork() } == 0 {
        return read(address, sockets, pipe[1]);
    }
    let mut sockets: Vec<_> = (0..sockets).map(|_| listener.accept().unwrap().0).collect();
    sockets
        .iter()
        .for_each(|socket| socket.set_nodelay(true).unwrap());
    let fds: Vec<_> = sockets.iter().map(TcpStream::as_raw_fd).collect();
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    let mut ring: IoUring = builder.build(4096).unwrap();
    ring.submitter().register_files(&fds).unwrap();
    let mut costs = vec![Vec::new(); 1 + TOGETHER.len()];
    for _ in 0..turns {
        costs[0].push(cost(fds.len(), pipe[0], || {
            for socket in &mut sockets {
                socket.write_all(&FRAME).unwrap();
            }
        }));
        for (costs, together) in costs[1..].iter_mut().zip(TOGETHER) {
            costs.push(cost(fds.len(), pipe[0], || {
                let places: Vec<_> = (0..fds.len() as u32).collect();
                for places in places.chunks(together) {
                    send(&mut ring, places);
                }
            }));
        }
    }
    let medians: Vec<_> = costs.iter_mut().map(|costs| median(costs)).collect();
    println!("write: {:.2} us", medians[0]);
    for (median, together) in medians[1..].iter().zip(TOGETHER) {
        println!(
            "{together} sends together: {median:.2} us, {:.2}",
            median / medians[0]
        );
    }
}

fn median(costs: &mut [f64]) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

fn send(ring: &mut IoUring, places: &[u32]) {
    for place in places {
        let send = opcode::Send::new(types::Fixed(*place), FRAME.as_ptr(), FRAME.len() as u32);
        let send = send.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build();
        unsafe { ring.submission().push(&send) }.unwrap();
    }
    ring.submit_and_wait(places.len()).unwrap();
    assert!(
        ring.completion()
            .all(|sent| sent.result() == FRAME.len() as i32)
    );
}

/// Microseconds of this thread's CPU time for a frame; the next round begins when all have been read.
fn cost(sockets: usize, read: i32, mut round: impl FnMut()) -> f64 {
    let (begun, before) = (Instant::now(), cpu_seconds());
    let mut frames = 0;
    while begun.elapsed().as_secs() < 1 {
        round();
        frames += sockets;
        assert_eq!(
            unsafe { libc::read(read, [0_u8].as_mut_ptr().cast(), 1) },
            1
        );
    }
    (cpu_seconds() - before) / frames as f64 * 1e6
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Reads until the other end closes; says so after each round.
fn read(address: SocketAddr, count: usize, pipe: i32) {
    let epoll = unsafe { libc::epoll_create1(0) };
    let mut sockets: Vec<_> = (0..count)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for (place, socket) in sockets.iter().enumerate() {
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event {
            events,
            u64: place as u64,
        };
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) };
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
    let (mut buffer, mut bytes) = ([0; 65536], 0);
    loop {
        let ready = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 1024, -1) };
        for event in &events[..ready as usize] {
            match sockets[event.u64 as usize].read(&mut buffer) {
                Ok(read) if read > 0 => bytes += read,
                _ => return,
            }
        }
        while bytes >= count * FRAME.len() {
            bytes -= count * FRAME.len();
            unsafe { libc::write(pipe, [0_u8].as_ptr().cast(), 1) };
        }
    }
}
