//! The HTTP server of every socket: axum's, with limits on what a client can use.
//!
//! A client that connects and sends nothing, does not read its answers, or connects a thousand times costs a bounded number
//! of descriptors and bytes, for a bounded time. If all connections are in use, a new one replaces the one that has waited
//! longest for a request, or whose answer takes longer than is [decent](DECENT).

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    serve::Listener,
};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Limits of a socket's clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of connections.
    pub(crate) connections: usize,
    /// Maximum number of answers in progress; further requests wait.
    pub(crate) answers: usize,
    /// Time limit for a request and its head to arrive.
    pub(crate) idle: Option<Duration>,
    /// Time limit for an answer, from reading the request to sending; `None` if answers may be endless streams.
    pub(crate) answer: Option<Duration>,
}

/// Duration of an answer after which a new connection may replace this one.
const DECENT: Duration = Duration::from_secs(10);

/// Interval of checks.
const TICK: Duration = Duration::from_secs(1);

/// Length of a body's chunks in bytes: what is not passed on counts as not sent.
const CHUNK: usize = 64 * 1024;

/// Serves `router` until `stop` resolves, then finishes pending requests. When dropped, all connections end.
///
/// What `introduce` tells of a connection is an extension of its requests.
pub(crate) async fn serve<L: Listener, C: Clone + Send + Sync + 'static>(
    mut listener: L,
    router: Router,
    limits: Limits,
    introduce: impl Fn(&L::Io) -> C,
    stop: impl Future<Output = ()>,
) {
    let answers = Arc::new(Semaphore::new(limits.answers));
    let closing = CancellationToken::new();
    let mut connections = Connections::default();
    let mut stop = pin!(stop);
    loop {
        let is_full = connections.places.len() >= limits.connections;
        tokio::select! {
            () = &mut stop => break,
            (stream, _) = listener.accept(), if !is_full || connections.least().is_some() => {
                if is_full {
                    connections.evict();
                }
                let place = Arc::new(Place::new());
                let (router, answers, closing) = (router.clone(), Arc::clone(&answers), closing.clone());
                let client = introduce(&stream);
                let stream = TokioIo::new(stream);
                let task = converse(stream, client, router, Arc::clone(&place), limits, answers, closing);
                connections.spawn(place, task);
            }
            Some(()) = connections.ended() => {}
            () = sleep(TICK), if is_full => {}
        }
    }
    drop(listener);
    closing.cancel();
    while connections.ended().await.is_some() {}
}

/// Serves one connection.
async fn converse<S, C: Clone + Send + Sync + 'static>(
    stream: TokioIo<S>,
    client: C,
    router: Router,
    place: Arc<Place>,
    limits: Limits,
    answers: Arc<Semaphore>,
    closing: CancellationToken,
) where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(client.clone());
        let busy = Busy::begin(Arc::clone(&place));
        let (router, answers) = (router.clone(), Arc::clone(&answers));
        async move {
            // Never closed.
            let permit = answers.acquire_owned().await.ok();
            let answer = router.call(request).await?;
            Ok::<_, Infallible>(answer.map(|body| Sent { body, rest: Bytes::new(), _held: (permit, busy) }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.idle);
    let mut connection = pin!(http.serve_connection(stream, service));
    let mut is_closing = false;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(TICK), if limits.idle.is_some() || limits.answer.is_some() => {
                // hyper does not count a head while it still sends.
                let limit = if place.is_busy.load(Relaxed) { limits.answer } else { limits.idle.map(|it| it + TICK) };
                if limit.is_some_and(|limit| place.lasts() > limit) {
                    return;
                }
            }
        }
    }
}

/// The activity of a connection, and since when.
#[derive(Debug)]
struct Place {
    start: Instant,
    is_busy: AtomicBool,
    /// Milliseconds after `start`.
    since: AtomicU64,
}

impl Place {
    fn new() -> Self {
        Self { start: Instant::now(), is_busy: AtomicBool::new(false), since: AtomicU64::new(0) }
    }

    fn set(&self, is_busy: bool) {
        self.since.store(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.is_busy.store(is_busy, Relaxed);
    }

    /// Time since its last change.
    fn lasts(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.since.load(Relaxed)))
    }

    /// Whether a new connection may replace it, and with which priority.
    fn worth(&self) -> Option<(bool, Duration)> {
        let is_idle = !self.is_busy.load(Relaxed);
        let lasts = self.lasts();
        (is_idle || lasts > DECENT).then_some((is_idle, lasts))
    }
}

/// Marks a request as being answered until it is dropped.
#[derive(Debug)]
struct Busy(Arc<Place>);

impl Busy {
    fn begin(place: Arc<Place>) -> Self {
        place.set(true);
        Self(place)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    places: Vec<(AbortHandle, Arc<Place>)>,
}

impl Connections {
    fn spawn(&mut self, place: Arc<Place>, task: impl Future<Output = ()> + Send + 'static) {
        self.places.push((self.tasks.spawn(task), place));
    }

    /// Waits until a connection has ended; `None` if there is none.
    async fn ended(&mut self) -> Option<()> {
        drop(self.tasks.join_next().await?);
        self.places.retain(|(task, _)| !task.is_finished());
        Some(())
    }

    /// The connection to be replaced next.
    fn least(&self) -> Option<usize> {
        let worth = self.places.iter().map(|(_, place)| place.worth());
        worth.enumerate().filter_map(|(index, worth)| Some((worth?, index))).max().map(|(_, index)| index)
    }

    fn evict(&mut self) {
        if let Some(index) = self.least() {
            self.places.swap_remove(index).0.abort();
        }
    }
}

/// A body in chunks, with values that are held until it is sent.
#[derive(Debug)]
struct Sent {
    body: Body,
    rest: Bytes,
    _held: (Option<OwnedSemaphorePermit>, Busy),
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let len = self.rest.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        match hint.exact() {
            Some(exact) => hint.set_exact(exact + rest),
            None => hint.set_lower(hint.lower() + rest),
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    /// Of an answer that no socket buffer takes whole.
    const LONG: usize = 32 << 20;

    const LIMITS: Limits = Limits {
        connections: 4,
        answers: 2,
        idle: Some(Duration::from_secs(60)),
        answer: Some(Duration::from_secs(60)),
    };

    async fn server(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            Router::new().route("/", get(async || "hello")).route("/long", get(async || vec![b'x'; LONG]));
        tokio::spawn(serve(listener, router, limits, |_| (), std::future::pending()));
        address
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn body(mut stream: TcpStream) -> Vec<u8> {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let head = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        answer.split_off(head + 4)
    }

    /// Whether the other end closes the connection.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        let read = timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn answers_are_whole() {
        let address = server(LIMITS).await;
        assert_eq!(body(ask(address, "/").await).await, b"hello");
        assert_eq!(body(ask(address, "/long").await).await.len(), LONG);
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_who_says_nothing() {
        let address = server(LIMITS).await;
        let mut silent = Vec::new();
        for _ in 0..40 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            silent.push(stream);
        }
        assert_eq!(body(ask(address, "/").await).await, b"hello");
        assert!(is_closed(&mut silent[0]).await, "the oldest goes first");
    }

    #[tokio::test]
    async fn who_does_not_read_an_answer_loses_it() {
        let limits = Limits { answer: Some(Duration::from_secs(2)), ..LIMITS };
        let address = server(limits).await;
        // Both places for answers are taken by clients that do not read.
        let _lazy = [ask(address, "/long").await, ask(address, "/long").await];
        let late = timeout(Duration::from_secs(20), body(ask(address, "/").await)).await;
        assert_eq!(late.unwrap(), b"hello", "it waited for a place among the answers");
    }

    #[tokio::test]
    async fn who_sends_nothing_is_let_go() {
        let limits = Limits { idle: Some(Duration::from_secs(1)), ..LIMITS };
        let address = server(limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut silent).await);
    }
}
