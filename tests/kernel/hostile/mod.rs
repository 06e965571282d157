//! Local users, callers and containers that wish the switch ill: each harms itself at most.

mod handed;
mod limits;
mod names;
