//! Relay of TCP: data in both directions, and the end of each.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    select,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::io::InspectReader;

use super::places::{Place, Places};

/// Pause after a failed accept: without free descriptors, retrying at once is useless.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a container may take to accept a connection: five tries of the kernel's.
const CONNECT: Duration = Duration::from_secs(30);

/// A peer that is silent is asked whether it is still there after this time and again after each further one, and given up
/// after [`PROBES`] without an answer. Docker's proxy does the same (Go's default).
const KEEPALIVE: Duration = Duration::from_secs(15);
const PROBES: u32 = 5;

/// Relays connections to `to`; they end with it.
pub(super) async fn carry(listener: &TcpListener, to: SocketAddr, places: Arc<Places>) {
    let mut connections = JoinSet::new();
    loop {
        select! {
            accepted = listener.accept() => match accepted {
                Ok((near, from)) => {
                    let place = places.take(from.ip());
                    connections.spawn(async move {
                        select! {
                            // Its errors are reported to its two ends by closing them.
                            _ = connect(near, to, &place) => {}
                            () = place.evicted() => {}
                        }
                    });
                }
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection.
async fn connect(near: TcpStream, to: SocketAddr, place: &Place) -> io::Result<()> {
    let far = match timeout(CONNECT, TcpStream::connect(to)).await.map_err(io::Error::from).flatten() {
        Ok(far) => far,
        Err(error) => {
            // A refusal there becomes a reset here, as far as that is still possible.
            near.set_zero_linger()?;
            return Err(error);
        }
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        let keepalive =
            TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(PROBES);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    }
    let mut near = InspectReader::new(near, |_: &[u8]| place.note());
    let mut far = InspectReader::new(far, |_: &[u8]| place.note());
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
