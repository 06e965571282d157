//! Any bytes as what another server says to a query.

use vswitch_names::reply::is_answer;

/// Bytes of a header.
const HEADER: usize = 12;

/// A response that is taken has the query's id, and its question, or none and an error. The first byte says how long the query is.
pub fn replies(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let Some((query, response)) = rest.split_at_checked(usize::from(*length)) else { return };
    if query.len() < HEADER || !is_answer(query, response) {
        return;
    }
    assert!(response.len() >= HEADER && response[2] & 0x80 != 0, "a response");
    assert_eq!(response[..2], query[..2], "the query's id");
    match (response[4], response[5]) {
        (0, 0) => assert_ne!(response[3] & 0xf, 0, "without a question it is an error"),
        (0, 1) => {
            // The root's label ends a name; type and class follow.
            let name = query[HEADER..].iter().position(|byte| *byte == 0).expect("a name ends");
            assert!(response[HEADER..].starts_with(&query[HEADER..][..name]), "another question");
        }
        count => panic!("{count:?} questions"),
    }
}
