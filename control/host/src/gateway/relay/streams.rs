//! TCP, carried on: what one side says the other hears, and the end as well.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    select,
    task::JoinSet,
    time::sleep,
};

use super::AT_ONCE;

/// After a connection could not be taken: without descriptors, asking at once would be of no use.
const PAUSE: Duration = Duration::from_millis(100);

/// Carries connections on to `to`; they end with it.
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

/// One connection, from its other end to the container. Its errors are those of its ends, who hear of them.
async fn connect(mut near: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut far = match TcpStream::connect(to).await {
        Ok(far) => far,
        Err(error) => {
            // Who is refused there is refused here, as far as this can still be told.
            near.set_zero_linger()?;
            return Err(error);
        }
    };
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
