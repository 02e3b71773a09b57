//! What every object for the kernel ends with.

/// Nothing may panic, and the verifier proves it: it refuses a program that can come here, as it would
/// never end.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that we call are open to any licence, but those that aya-log may call are not.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
