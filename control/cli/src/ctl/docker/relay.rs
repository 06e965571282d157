//! What runs in the managed plugin: each connection of Docker becomes one to vswitchd.

use std::{convert::Infallible, io, path::Path, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};

use crate::client::ClientError;
use vswitch_model::Error;

/// How long vswitchd is waited for, as while it restarts. A connection that breaks makes Docker repeat the call without its words.
const PATIENCE: Duration = Duration::from_secs(15);

/// Interval of the attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// Passes connections at `listen` on to `to`, without end.
pub(super) async fn relay(listen: &Path, to: &Path) -> Result<String, ClientError> {
    let Err(error) = serve(listen, to).await;
    Err(Error::from(io::Error::new(error.kind(), format!("{}: {error}", listen.display()))).into())
}

async fn serve(listen: &Path, to: &Path) -> io::Result<Infallible> {
    // Left by the container before.
    let _ = std::fs::remove_file(listen);
    let listener = UnixListener::bind(listen)?;
    loop {
        let (mut engine, _) = listener.accept().await?;
        let to = to.to_owned();
        tokio::spawn(async move {
            let mut daemon = connect(&to).await?;
            copy_bidirectional(&mut engine, &mut daemon).await
        });
    }
}

async fn connect(to: &Path) -> io::Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(to).await {
            Err(_) if begun.elapsed() < PATIENCE => sleep(AGAIN).await,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_said_reaches_a_daemon_that_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let [listen, to] = ["listen", "to"].map(|name| folder.path().join(name));
        let task = tokio::spawn({
            let (listen, to) = (listen.clone(), to.clone());
            async move { relay(&listen, &to).await }
        });
        let mut engine = connect(&listen).await.unwrap();
        engine.write_all(b"call").await.unwrap();
        engine.shutdown().await.unwrap();
        let daemon = UnixListener::bind(&to).unwrap();
        let (mut stream, _) = daemon.accept().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        drop(stream);
        engine.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "callanswer");
        task.abort();
    }
}
