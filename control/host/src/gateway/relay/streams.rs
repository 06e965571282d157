//! Relay of TCP: data in both directions, and the end of each.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    select,
    task::JoinSet,
    time::sleep,
};

use super::AT_ONCE;

/// Pause after a failed accept: without free descriptors, retrying at once is useless.
const PAUSE: Duration = Duration::from_millis(100);

/// Relays connections to `to`; they end with it.
pub(super) async fn carry(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        select! {
            accepted = listener.accept(), if connections.len() < AT_ONCE => match accepted {
                Ok((near, _)) => drop(connections.spawn(connect(near, to))),
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection. Its errors are reported to its two ends by closing them.
async fn connect(mut near: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut far = match TcpStream::connect(to).await {
        Ok(far) => far,
        Err(error) => {
            // A refusal there becomes a reset here, as far as that is still possible.
            near.set_zero_linger()?;
            return Err(error);
        }
    };
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
