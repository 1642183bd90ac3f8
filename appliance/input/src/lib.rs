//! Input: the key ledger, chords, and the traits of sources and sinks.
#![forbid(unsafe_code)]
