//! Verifies that the received bytes are those that were sent.
//!
//! A switch that mishandles offloads may be fast and wrong: between namespaces of one host an unfinished checksum is
//! never verified. So both sides generate the same pseudo-random stream and compare all of it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{
    error::{Doing, Error, Result},
    lab::{Container, Lab},
};

const PORT: u16 = 7008;
const BLOCK: usize = 64 * 1024;
/// 32 MiB in each direction.
const BLOCKS: usize = 512;
const LIMIT: Duration = Duration::from_secs(10);

/// Sends 32 MiB through one TCP connection in each direction and compares them.
///
/// # Errors
/// [`Error::Corrupt`] if a byte differs; also fails without a connection, or if it stalls for ten seconds.
pub fn verify(lab: &Lab) -> Result<()> {
    transfer(&lab.a, &lab.b)?;
    transfer(&lab.b, &lab.a)
}

fn transfer(from: &Container, to: &Container) -> Result<()> {
    let address = SocketAddr::from((to.address, PORT));
    let listener = to.namespace.enter(|| TcpListener::bind(address))?.doing("listen")?;
    let connect = || TcpStream::connect_timeout(&address, LIMIT);
    let sender = from.namespace.enter(connect)?.doing("connect through the switch")?;
    let (receiver, _) = listener.accept().doing("accept")?;
    sender.set_write_timeout(Some(LIMIT)).doing("prepare the sender")?;
    receiver.set_read_timeout(Some(LIMIT)).doing("prepare the receiver")?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(sender));
        let compared = compare(receiver);
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        compared
    })
}

fn send(mut to: TcpStream) -> Result<()> {
    let (mut noise, mut block) = (Noise::default(), vec![0; BLOCK]);
    for _ in 0..BLOCKS {
        noise.fill(&mut block);
        to.write_all(&block).doing("send through the switch")?;
    }
    Ok(())
}

fn compare(mut from: impl Read) -> Result<()> {
    let (mut noise, mut expected, mut got) = (Noise::default(), vec![0; BLOCK], vec![0; BLOCK]);
    for index in 0..BLOCKS {
        noise.fill(&mut expected);
        from.read_exact(&mut got).doing("receive through the switch")?;
        if got != expected {
            return Err(Error::Corrupt { offset: index * BLOCK });
        }
    }
    Ok(())
}

/// Xorshift64: no part of the stream repeats another, so moved or duplicated data is detected too.
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_bit_is_seen_and_placed() {
        let mut stream = vec![0; BLOCK * BLOCKS];
        Noise::default().fill(&mut stream);
        assert!(compare(stream.as_slice()).is_ok());
        stream[BLOCK * 7 + 1234] ^= 4;
        assert!(matches!(compare(stream.as_slice()), Err(Error::Corrupt { offset }) if offset == BLOCK * 7));
    }
}
