//! Other servers: the same bytes to them, their bytes back.
//!
//! Each query has a socket of its own, and so a port that the kernel chooses at random, and an id of its own, as RFC 5452 section 4.5
//! wants it. The socket is connected: the kernel drops what comes from elsewhere. A response counts if it has our id and the question
//! of the query, in the same case. It is passed on unchanged but for the id. A client that asked by stream has its query sent by
//! stream, so a response that is cut leads the client, not us, to ask again.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{answer::Transport, reply::is_answer};

/// Time limit of a query, shared by the servers.
const LIMIT: Duration = Duration::from_secs(5);

/// Time after which the next server is asked as well.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// Response codes for which the next server is asked: it did not say whether there is such a name.
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// The name servers of a resolv.conf(5); none if it cannot be read.
pub(super) fn servers(path: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        address.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53))
    };
    text.lines().filter_map(server).collect()
}

/// The first response of `servers` that says something; failing that, one that does not.
///
/// The next server is asked when one fails, and after a second in any case.
pub(super) async fn ask(servers: &[SocketAddr], query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let each = LIMIT / u32::try_from(servers.len().max(1)).unwrap_or(1);
    let mut waiting = servers.iter();
    let mut asked = JoinSet::new();
    let mut excuse = None;
    loop {
        let next = waiting.next();
        if let Some(server) = next {
            let (server, query) = (*server, query.to_vec());
            asked.spawn(async move { timeout(each.max(IMPATIENCE), one(server, query, transport)).await });
        }
        let response = tokio::select! {
            done = asked.join_next() => done?,
            () = sleep(IMPATIENCE), if waiting.len() > 0 => continue,
        };
        match response {
            Ok(Ok(Ok(response))) if matches!(response[3] & 0xf, SERVFAIL | REFUSED) => {
                excuse = Some(response)
            }
            Ok(Ok(Ok(response))) => return Some(response),
            // It does not answer, or not in time.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => {}
        }
        if asked.is_empty() && waiting.len() == 0 {
            return excuse;
        }
    }
}

/// Asks one server.
async fn one(server: SocketAddr, query: Vec<u8>, transport: Transport) -> io::Result<Vec<u8>> {
    let id = [query[0], query[1]];
    let mut ours = query;
    rustix::rand::getrandom(&mut ours[..2], rustix::rand::GetRandomFlags::empty())?;
    let mut response = match transport {
        Transport::Udp => by_datagram(server, &ours).await?,
        Transport::Tcp => by_stream(server, &ours).await?,
    };
    response[..2].copy_from_slice(&id);
    Ok(response)
}

async fn by_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    loop {
        socket.readable().await?;
        match received(&socket) {
            Ok(response) if is_answer(query, &response) => return Ok(response),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}

/// What has come. A thousand queries may wait, so room for the longest response is there while one is read, and no longer.
fn received(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; u16::MAX as usize];
    let length = socket.try_recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

async fn by_stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; length.into()];
    stream.read_exact(&mut response).await?;
    if is_answer(query, &response) { Ok(response) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        assert!(servers(&path).is_empty());
        fs::write(
            &path,
            "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1\nnameserver\tfd00::1 x\nnameserver x\n",
        )
        .unwrap();
        let expected: [SocketAddr; 2] = ["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(servers(&path), expected);
    }
}
