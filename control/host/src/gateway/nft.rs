//! Runs nft(8), in the network namespace of the calling thread.
//!
//! The types are those of [`nftables`], which could run nft as well, but leaves nft's error messages on our standard error
//! instead of returning them.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use nftables::schema::Nftables;
use serde_json::Value;

use super::GatewayError;

/// Runs a transaction, atomically. Returns the id of the process that has made it.
pub(super) fn apply(transaction: &Nftables<'_>) -> Result<u32, GatewayError> {
    let json = serde_json::to_vec(transaction).map_err(|error| GatewayError::Run(error.into()))?;
    Ok(run(&["-j", "-f", "-"], &json)?.0)
}

/// Runs `nft list`.
///
/// Untyped: tables of others have expressions that [`nftables`] does not model.
pub(super) fn list(what: &[&str]) -> Result<Value, GatewayError> {
    let (_, shown) = run(&[&["-j", "list"], what].concat(), &[])?;
    serde_json::from_slice(&shown).map_err(|error| GatewayError::Run(error.into()))
}

/// Returns the process's id, and what it has written.
fn run(arguments: &[&str], input: &[u8]) -> Result<(u32, Vec<u8>), GatewayError> {
    let mut nft = Command::new("nft");
    nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => GatewayError::NoNft,
        _ => GatewayError::Run(error),
    })?;
    let id = child.id();
    // nft reads all input before it writes, so this cannot deadlock. If it exits before, its output says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let output = child.wait_with_output().map_err(GatewayError::Run)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() { output.status.to_string().into() } else { said };
        return Err(GatewayError::nft(&said));
    }
    written.map_err(GatewayError::Run)?;
    Ok((id, output.stdout))
}
