//! See [`fuzz::parser`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::parser::check(data));
