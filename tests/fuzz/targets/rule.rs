//! See [`fuzz::rule`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::rule::check(data));
