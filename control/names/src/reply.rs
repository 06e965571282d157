//! Whether a response of another server belongs to a query: what RFC 5452 section 9.1 wants to be compared, beyond the addresses and
//! ports that the kernel compares.

/// Bytes of a header.
const HEADER: usize = 12;

/// Whether `response` is to `query`: a response with its id and its question, to the byte. A server that does not understand the
/// query may leave the question out. `query` has a header at least; `response` is any bytes.
pub fn is_answer(query: &[u8], response: &[u8]) -> bool {
    if response.len() < HEADER || response[..2] != query[..2] || response[2] & 0x80 == 0 {
        return false;
    }
    let Some(end) = question_end(query) else { return false };
    let without = response[4..6] == [0, 0] && response[3] & 0xf != 0;
    without || response[4..6] == [0, 1] && response.get(HEADER..end) == Some(&query[HEADER..end])
}

/// Where the first question ends: labels up to the root's, type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            // A pointer, where nothing is to point to.
            length if length > 63 => return None,
            length => at += 1 + usize::from(length),
        }
    }
    Some(at + 5).filter(|end| *end <= message.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02dB\0\0\x01\0\x01";

    fn response(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut response = QUERY.to_vec();
        response[2] |= 0x80;
        change(&mut response);
        response
    }

    #[test]
    fn a_forged_response_is_not_taken() {
        assert!(is_answer(QUERY, &response(|_| {})));
        assert!(!is_answer(QUERY, QUERY), "no response at all");
        assert!(!is_answer(QUERY, &response(|it| it[1] ^= 1)), "another id");
        assert!(!is_answer(QUERY, &response(|it| it[13] = b'D')), "another case");
        assert!(!is_answer(QUERY, &response(|it| it[17] = 28)), "another type");
        assert!(!is_answer(QUERY, &response(|it| it.truncate(15))), "cut");
        let refusal = response(|it| {
            it.truncate(12);
            (it[3], it[5]) = (1, 0);
        });
        assert!(is_answer(QUERY, &refusal), "it did not understand the question");
    }
}
