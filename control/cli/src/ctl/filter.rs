//! Capture filters: expressions in the language of tcpdump, compiled by libpcap into programs that the switch runs.
//!
//! Without the feature `filters` nothing here needs libpcap, so that a static binary can be built; an expression is then refused.

#[cfg(feature = "filters")]
use pcap::{Capture as Libpcap, Linktype};
use vswitch_model::Error;

use crate::client::ClientError;

/// Instructions of classic BPF: code, jump if true, jump if false, operand.
pub(super) type Program = Vec<(u16, u8, u8, u32)>;

/// The program that libpcap makes of an expression.
#[cfg(feature = "filters")]
pub(super) fn compile(expression: &str) -> Result<Program, ClientError> {
    let wrong = |error: pcap::Error| {
        let why = error.to_string();
        let why = why.strip_prefix("libpcap error: ").unwrap_or(&why);
        Error::invalid(format!("the filter {expression:?} is invalid: {why}; see pcap-filter(7)"))
    };
    let dead = Libpcap::dead(Linktype::ETHERNET).map_err(wrong)?;
    let program = dead.compile(expression, true).map_err(wrong)?;
    let instruction = |text: String| {
        // The crate exposes an instruction only by its Display: code, jt, jf and k.
        let mut numbers = text.split_whitespace();
        let mut number = || numbers.next()?.parse::<u32>().ok();
        let (code, jt, jf, k) = (number()?, number()?, number()?, number()?);
        Some((u16::try_from(code).ok()?, u8::try_from(jt).ok()?, u8::try_from(jf).ok()?, k))
    };
    let program =
        program.get_instructions().iter().map(|it| instruction(it.to_string())).collect::<Option<_>>();
    Ok(program.ok_or_else(|| Error::internal("libpcap made a program that cannot be read"))?)
}

/// Refuses: there is no libpcap here to ask.
#[cfg(not(feature = "filters"))]
pub(super) fn compile(expression: &str) -> Result<Program, ClientError> {
    Err(Error::invalid(format!(
        "the filter {expression:?} cannot be compiled: this vswitchctl was built without libpcap (feature filters); \
         leave the filter out, or pipe the capture to tcpdump -r - {expression:?}"
    ))
    .into())
}

#[cfg(all(test, feature = "filters"))]
mod tests {
    use super::*;

    #[test]
    fn libpcap_compiles_and_explains() {
        assert_eq!(compile("arp").unwrap()[0], (0x28, 0, 0, 12));
        let error = compile("tcp prot 80").unwrap_err().to_string();
        assert!(error.contains("\"tcp prot 80\" is invalid"), "{error}");
    }
}
