//! Responses without an end of their own.

use std::io;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::JoinHandle};

use super::{ANSWER_LIMIT, Client, ClientError, connect_error};
use vswitch_model::{
    Error,
    api::{CAPTURE_ID, capture::CaptureRequest},
};

/// A capture that runs until it is ended or dropped.
#[derive(Debug)]
pub struct CaptureBody {
    /// Its id.
    pub id: u64,
    body: Incoming,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    /// Starts a capture.
    pub async fn capture(&self, request: &CaptureRequest) -> Result<CaptureBody, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(error))?;
        let (response, connection) =
            open(self, body.into()).await.map_err(|error| connect_error(&self.socket, error))?;
        let (status, id) = (response.status(), response.headers().get(CAPTURE_ID).cloned());
        if let Some(id) = id.as_ref().and_then(|id| id.to_str().ok()?.parse().ok()) {
            return Ok(CaptureBody { id, body: response.into_body(), connection });
        }
        let refusal = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let refusal = refusal.map_err(|error| self.broken(error))?.to_bytes();
        let refusal: Result<Error, _> = serde_json::from_slice(&refusal);
        Err(refusal.map_or_else(|_| self.broken(format_args!("it answered {status}")), ClientError::Refused))
    }
}

impl CaptureBody {
    /// The next piece of pcapng; `None` when the capture has ended.
    ///
    /// # Errors
    /// The daemon has ended.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Drop for CaptureBody {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

type Opened = (hyper::Response<Incoming>, JoinHandle<hyper::Result<()>>);

async fn open(client: &Client, body: Bytes) -> io::Result<Opened> {
    let stream = UnixStream::connect(&client.socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/captures")
        .header(HOST, "localhost")
        .body(Full::new(body))
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    Ok((response, connection))
}
