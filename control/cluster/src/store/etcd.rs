//! The engine etcd: versions 3.4 to 3.6, by gRPC.
//!
//! A handle makes calls; it does not try again. Who uses it decides what a failure means: every call has a deadline, a stream
//! that ends has ended, and a connection that is dead is noticed within seconds by pings of HTTP/2.
//!
//! Not the crate `etcd-client`: it needs `protoc` on every machine that builds, follows endpoints by itself, and its
//! keep-alive stream tells a lost lease and a lost connection apart only by reading answers that are no errors.

mod trouble;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};
use tonic::{
    Code, GrpcMethod, IntoStreamingRequest, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{
    Batch, Census, Compare, Done, Event, KeyValue, LeaseId, Listing, Op, Revision, Store, StoreError, Txn,
    Watch, proto,
};

/// Deadline of a call: a disk that is busy holds up a write for seconds. A store that is gone is noticed by pings.
const DEADLINE: Duration = Duration::from_secs(5);

/// Keys of one page of a listing: answers over 4 MiB are refused by every client's default.
const PAGE: i64 = 4000;

/// Longest answer that is read, in bytes: a page of the longest records.
const LONGEST: usize = 32 << 20;

/// How a store is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its members: `https://10.8.0.1:2379`, `http://` only on a network without other listeners.
    pub members: Vec<String>,
    /// Certificates, unless it is reached without TLS.
    pub tls: Option<Files>,
}

/// Paths of PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The authority that has signed the store's certificate.
    pub authority: PathBuf,
    /// This host's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A handle to an etcd.
#[derive(Clone)]
pub struct Etcd {
    channel: Channel,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").finish_non_exhaustive()
    }
}

impl Etcd {
    /// A handle; connections are made by the first call.
    ///
    /// # Errors
    /// An address is none, or a file cannot be read: a sentence.
    pub fn new(access: &Access) -> Result<Self, String> {
        let tls = access.tls.as_ref().map(tls).transpose()?;
        let endpoint = |member: &String| {
            let endpoint = Endpoint::from_shared(member.clone())
                .map_err(|error| format!("{member} is not an address of a store: {error}"))?
                .connect_timeout(DEADLINE)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(2))
                .keep_alive_while_idle(true);
            match &tls {
                Some(tls) => endpoint.tls_config(tls.clone()).map_err(|error| {
                    format!("the certificates for {member} cannot be used: {}", innermost(&error))
                }),
                None => Ok(endpoint),
            }
        };
        let endpoints = access.members.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let channel = match &endpoints[..] {
            [] => return Err("there is no address of a store".into()),
            [one] => one.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        Ok(Self { channel })
    }

    async fn call<Q, A>(&self, service: &'static str, method: &'static str, query: Q) -> Result<A, StoreError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(LONGEST);
        let answer = async {
            grpc.ready().await.map_err(|error| trouble::of(innermost(&error)))?;
            let mut request = tonic::Request::new(query);
            request.extensions_mut().insert(GrpcMethod::new(service, method));
            let answer = grpc.unary(request, path(service, method), ProstCodec::default()).await;
            answer.map(tonic::Response::into_inner).map_err(failure)
        };
        within(answer).await
    }

    /// Reads all keys below `prefix`, page by page, at one revision: that one, or the present one for 0. Returns the identity of
    /// the store, and the revision.
    async fn pages(
        &self,
        prefix: &str,
        revision: Revision,
        keys_only: bool,
        mut each: impl FnMut(proto::KeyValue),
    ) -> Result<(u64, Revision), StoreError> {
        let mut at = revision;
        let mut from = prefix.as_bytes().to_vec();
        loop {
            let range_end = end_of(prefix);
            let page = proto::RangeRequest { key: from, range_end, limit: PAGE, revision: at, keys_only };
            let page: proto::RangeResponse = self.call("etcdserverpb.KV", "Range", page).await?;
            let header = page.header.unwrap_or_default();
            if at == 0 {
                at = header.revision;
            }
            let last = page.kvs.last().map(|entry| entry.key.clone());
            page.kvs.into_iter().for_each(&mut each);
            match last.filter(|_| page.more) {
                // The key that follows at once.
                Some(mut last) => {
                    last.push(0);
                    from = last;
                }
                None => return Ok((header.cluster_id, at)),
            }
        }
    }

    /// Opens a stream in both directions; what is sent to the sender goes to the store.
    async fn open<Q, A>(
        &self,
        service: &'static str,
        method: &'static str,
        first: Q,
    ) -> Result<(mpsc::Sender<Q>, Streaming<A>), StoreError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let (sender, mut queue) = mpsc::channel(4);
        // There is room for four.
        let _ = sender.try_send(first);
        let requests = futures(move |context| queue.poll_recv(context));
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(LONGEST);
        let stream = within(async {
            grpc.ready().await.map_err(|error| trouble::of(innermost(&error)))?;
            let mut request = requests.into_streaming_request();
            request.extensions_mut().insert(GrpcMethod::new(service, method));
            let answer = grpc.streaming(request, path(service, method), ProstCodec::default()).await;
            answer.map(tonic::Response::into_inner).map_err(failure)
        });
        Ok((sender, stream.await?))
    }
}

impl Store for Etcd {
    type Watch = EtcdWatch;

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut entries = Vec::new();
        let (store, revision) = self.pages(prefix, 0, false, |entry| entries.push(key_value(entry))).await?;
        Ok(Listing { store, revision, entries })
    }

    async fn census(&self, prefix: &str, revision: Revision) -> Result<Census, StoreError> {
        let mut modified = Vec::new();
        self.pages(prefix, revision, true, |entry| modified.push(entry.mod_revision)).await?;
        Ok(Census::of(modified))
    }

    async fn transact(&self, txn: Txn) -> Result<Done, StoreError> {
        let request = proto::TxnRequest {
            compare: txn.when.into_iter().map(compare).collect(),
            success: txn.then.into_iter().map(op).collect(),
        };
        let answer: proto::TxnResponse = self.call("etcdserverpb.KV", "Txn", request).await?;
        let header = answer.header.unwrap_or_default();
        Ok(Done { succeeded: answer.succeeded, store: header.cluster_id, revision: header.revision })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<EtcdWatch, StoreError> {
        let create = proto::WatchCreateRequest {
            key: prefix.as_bytes().to_vec(),
            range_end: end_of(prefix),
            start_revision: from,
            fragment: true,
        };
        let create = proto::WatchRequest { request_union: Some(proto::WatchUnion::Create(create)) };
        let (requests, stream) = self.open("etcdserverpb.Watch", "Watch", create).await?;
        Ok(EtcdWatch { requests, stream, asked: false })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = proto::LeaseGrantRequest { ttl: seconds };
        let answer: proto::LeaseGrantResponse =
            self.call("etcdserverpb.Lease", "LeaseGrant", request).await?;
        Ok(answer.id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let request = proto::LeaseKeepAliveRequest { id: lease };
        let (_open, mut stream) = self
            .open::<_, proto::LeaseKeepAliveResponse>("etcdserverpb.Lease", "LeaseKeepAlive", request)
            .await?;
        let answer = within(async { stream.message().await.map_err(failure) }).await?;
        // A lease that has ended is an answer as well, with no time left.
        Ok(answer.is_some_and(|answer| answer.ttl > 0))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = proto::LeaseRevokeRequest { id: lease };
        let done = self.call("etcdserverpb.Lease", "LeaseRevoke", request).await;
        match done {
            Ok(proto::LeaseRevokeResponse {}) => Ok(()),
            Err(StoreError::Refused(why)) if why.contains("lease not found") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let request = proto::CompactionRequest { revision };
        let proto::CompactionResponse {} = self.call("etcdserverpb.KV", "Compact", request).await?;
        Ok(())
    }
}

/// Silence after which a watch is asked how far it is, and again before it counts as lost.
const SILENCE: Duration = Duration::from_secs(15);

/// The watch of an [`Etcd`].
pub struct EtcdWatch {
    /// While it is there, the stream is open.
    requests: mpsc::Sender<proto::WatchRequest>,
    stream: Streaming<proto::WatchResponse>,
    /// Whether it was asked how far it is, and has not answered.
    asked: bool,
}

impl fmt::Debug for EtcdWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdWatch").finish_non_exhaustive()
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        let mut events = Vec::new();
        loop {
            let Ok(answer) = timeout(SILENCE, self.stream.message()).await else {
                if self.asked {
                    return Err(StoreError::Unreachable("the watch has fallen silent".into()));
                }
                let progress = proto::WatchUnion::Progress(proto::WatchProgressRequest {});
                let _ = self.requests.try_send(proto::WatchRequest { request_union: Some(progress) });
                self.asked = true;
                continue;
            };
            let answer = answer.map_err(failure)?;
            let answer = answer.ok_or_else(|| StoreError::Unreachable("the watch has ended".into()))?;
            self.asked = false;
            if answer.compact_revision > 0 {
                return Err(StoreError::Compacted(answer.compact_revision));
            }
            if answer.canceled {
                let why = format!("the watch was cancelled: {}", answer.cancel_reason);
                return Err(StoreError::Refused(why));
            }
            if answer.created {
                continue;
            }
            events.extend(answer.events.into_iter().filter_map(event));
            // An answer without events only tells that the store is there: before 3.4.25 its revision may be ahead of events
            // that are still to come (etcd-io/etcd#15220).
            if !answer.fragment && !events.is_empty() {
                let of = |event: &Event| match event {
                    Event::Put(entry) => entry.modified,
                    Event::Delete { revision, .. } => *revision,
                };
                let revision = events.iter().map(of).max().unwrap_or(0);
                return Ok(Batch { revision, events });
            }
        }
    }
}

/// A stream of what `poll` gives.
fn futures<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
) -> impl tonic::codegen::tokio_stream::Stream<Item = T> {
    struct Polled<F>(F);
    impl<T, F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin>
        tonic::codegen::tokio_stream::Stream for Polled<F>
    {
        type Item = T;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(context)
        }
    }
    Polled(poll)
}

fn tls(files: &Files) -> Result<ClientTlsConfig, String> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    let authority = Certificate::from_pem(read(&files.authority)?);
    Ok(ClientTlsConfig::new().ca_certificate(authority).identity(identity))
}

fn path(service: &str, method: &str) -> PathAndQuery {
    format!("/{service}/{method}").parse().expect("names of services and methods make a path")
}

async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = || Err(StoreError::Unreachable(format!("no answer within {} s", DEADLINE.as_secs())));
    timeout(DEADLINE, call).await.unwrap_or_else(|_| late())
}

/// What a status of gRPC means to us.
fn failure(status: Status) -> StoreError {
    let message = status.message();
    match status.code() {
        // The store has decided, and says why: nothing was done.
        Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unauthenticated => StoreError::Refused(trouble::refusal(message)),
        Code::OutOfRange if message.contains("compacted") => StoreError::Compacted(0),
        Code::OutOfRange => StoreError::Refused(message.to_owned()),
        _ => {
            let source = std::error::Error::source(&status).map(innermost);
            trouble::of(source.unwrap_or_else(|| message.to_owned()))
        }
    }
}

/// The cause at the bottom of an error: "invalid peer certificate: Expired" rather than "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    // rustls adds the address of its manual.
    text.split(": https://docs.rs").next().unwrap_or_default().to_owned()
}

/// The end of the range of keys that begin with `prefix`: its last byte counted up, as etcd wants it.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // ASCII letters only: there is always a next one.
        *last += 1;
    }
    end
}

fn key_value(entry: proto::KeyValue) -> KeyValue {
    let key = String::from_utf8_lossy(&entry.key).into_owned();
    KeyValue { key, value: entry.value, modified: entry.mod_revision }
}

fn event(event: proto::Event) -> Option<Event> {
    let entry = event.kv?;
    Some(match event.kind {
        kind if kind == i32::from(proto::EventType::Delete) => {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            Event::Delete { key, revision: entry.mod_revision }
        }
        _ => Event::Put(key_value(entry)),
    })
}

fn compare(compare: Compare) -> proto::Compare {
    use proto::{CompareResult, CompareTarget, TargetUnion};
    let of = |key: &str, result: CompareResult, target: CompareTarget, union| proto::Compare {
        result: result.into(),
        target: target.into(),
        key: key.as_bytes().to_vec(),
        target_union: Some(union),
        range_end: Vec::new(),
    };
    let version = TargetUnion::Version(0);
    match &compare {
        Compare::Absent(key) => of(key, CompareResult::Equal, CompareTarget::Version, version),
        Compare::Present(key) => of(key, CompareResult::Greater, CompareTarget::Version, version),
        Compare::NoneBelow(prefix) => proto::Compare {
            range_end: end_of(prefix),
            ..of(prefix, CompareResult::Equal, CompareTarget::Version, version)
        },
        Compare::Modified(key, revision) => {
            of(key, CompareResult::Equal, CompareTarget::Mod, TargetUnion::ModRevision(*revision))
        }
    }
}

fn op(op: Op) -> proto::RequestOp {
    let request = match op {
        Op::Put { key, value, lease } => {
            proto::Request::Put(proto::PutRequest { key: key.into_bytes(), value, lease: lease.unwrap_or(0) })
        }
        Op::Delete(key) => proto::Request::DeleteRange(proto::DeleteRangeRequest {
            key: key.into_bytes(),
            range_end: Vec::new(),
        }),
        Op::DeleteBelow(prefix) => {
            let range_end = end_of(&prefix);
            proto::Request::DeleteRange(proto::DeleteRangeRequest { key: prefix.into_bytes(), range_end })
        }
    };
    proto::RequestOp { request: Some(request) }
}
